"""Every query of alerts and dashboard names a metric and labels that exist, and the manual has all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reconciler.engine.definitions import Attempt
from reconciler.model import Finding, Key, Kind, Severity
from reconciler.output.result import ObjectResult, Reporting, Result
from reconciler.planner.claims import Stock
from reconciler.pool.driver import PoolState, Space
from reconciler.registry.marks import Mark, What
from reconciler.telemetry.metrics import CLAIMED, Metrics, Pass

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "reconcile.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
NOT_OURS = {"up": {"job"}, "node_textfile_mtime_seconds": {"file"}}
"""Metrics of Prometheus and node_exporter, of which alerts need some where the reconciler is gone."""

OF_PROMETHEUS = {"instance", "le"}
"""Labels that are not ours: the target's, and a histogram's."""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's prometheus)")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every sample's name, with its labels, after a pass in which there was something of everything."""
    path = tmp_path_factory.mktemp("metrics") / "m.prom"
    state = PoolState(Space(100, 60, 10), {}, {}, (), metadata=Space(8, 4, 1))
    objects = (
        ObjectResult(Kind.IMAGE, "web", "record", "Ready", changed=True),
        ObjectResult(Kind.IMAGE, "db", "none", "Failed", "DigestMismatch", "words", ok=False),
    )
    result = Result(
        "host", objects, (Finding(Severity.WARNING, Key(Kind.POOL, "", "p"), "Foreign", "x"),), (), 1.5, pools={"p": state}
    )
    marks = {("web", What.SUSPENDED): Mark("web", What.SUSPENDED, since=1.0)}
    metrics = Metrics()
    told = Pass(result, 1, marks, (Attempt("volume", "downloading", "failed", "Cut", 1.0, 1.0),), 1, stuck={"p": 1})
    told = replace(told, reporting=Reporting(1.0, 2, "ReportSchemaMismatch"))
    metrics.record(replace(told, registries={("registry.example", 429): 2}, stocks={"web": Stock(ready=1, since=1.0)}))
    metrics.claim("web", CLAIMED, 0.01)
    metrics.write(path)
    samples = (sample for family in text_string_to_metric_families(path.read_text()) for sample in family.samples)
    ours = {sample.name: set(sample.labels) for sample in samples if not sample.name.endswith("_created")}
    return ours | NOT_OURS


def used(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it is selected by."""
    for name, selector in re.findall(r"\b(reconcile_\w+|up\b|node_textfile_mtime_seconds)(\{[^}]*\})?", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))


def grouped(query: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in labels.split(",")}


@pytest.mark.parametrize(("title", "query"), [*QUERIES, *((rule["alert"], rule["expr"]) for rule in RULES)])
def test_every_query_names_metrics_and_labels_that_exist(exported: dict[str, set[str]], title: str, query: str) -> None:
    found = list(used(query))

    assert found, title
    for name, labels in found:
        assert name in exported, f"{title} asks for {name}"
        assert labels <= exported[name] | OF_PROMETHEUS, f"{title}: {name} has no label {labels - exported[name] - OF_PROMETHEUS}"
    assert grouped(query) <= set().union(*(exported[name] for name, _ in found)) | OF_PROMETHEUS, title


def test_the_manual_has_every_metric_with_its_labels(exported: dict[str, set[str]]) -> None:
    table = re.findall(r"^\| `(reconcile_\w+)(?:\{([\w,]+)\})?` \|", (ROOT / "docs" / "observing.md").read_text(), re.MULTILINE)
    written = {name: set(labels.split(",")) - {""} for name, labels in table}
    plain = {
        re.sub(r"_(bucket|sum|count)$", "", name): labels - {"le"} for name, labels in exported.items() if name not in NOT_OURS
    }

    assert written == plain


def test_alerts_have_a_summary_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "`reconcile " in rule["annotations"]["description"] or "grow the pool" in rule["annotations"]["description"]


def test_no_panel_covers_another_and_all_fit_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= 24
        for x in range(where["x"], where["x"] + where["w"]):
            for y in range(where["y"], where["y"] + where["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@needs_promtool
def test_prometheus_accepts_rules_and_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$host", ".*").replace("$__rate_interval", "1m")}
        for number, (_, query) in enumerate(QUERIES)
    ]
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    for path in (PROMETHEUS / "alerts.yaml", tmp_path / "dashboard.yaml"):
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", PROMETHEUS / "alerts_test.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
