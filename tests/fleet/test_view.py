"""``fleet``: what all hosts come to, and the gate of a rollout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.main import main
from reconciler.fleet import address, rows, view
from reconciler.fleet.batch import Batch
from reconciler.fleet.sink import Sink
from tests.fleet.agents import Agent, manifests
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow

GOOD, BAD = "git:0123456789ab", "git:ba987654ba98"


@pytest.fixture
def url(postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RECONCILER_REPORT_TO", postgres.url(database))
    return postgres.url(database)


@pytest.fixture
def report(url: str) -> Callable[..., None]:
    """Let a host report; ``chain`` is that of its one image, ``used`` of 100 bytes of its pool."""
    numbers = iter(range(1, 1000))

    def send(name: str, ring: str = "1", revision: str = GOOD, chain: str = "c1", used: int = 10, **more: Any) -> None:
        good: Mapping[str, Any] = {"converged": True, "failed": 0, "faults": 0, "drifted": 0, "reason": "", "message": ""}
        told = rows.Host(name, {"ring": ring}, "1", 60.0, revision, chain, images=1, ready=1, **{**good, **more})
        ready = told.converged
        image = rows.Image("web", "p", "Ready" if ready else "Failed", told.reason, "", chain, 1, 2 if ready else 0, 2)
        pool = rows.Pool("p", "ready", "", 100, used, 100 - used, 0, 0, 0)
        with Sink(address.parse(url)).session(60.0) as session:
            session.apply(Batch(f"id-{name}", next(numbers), None, told, {"image": [image], "pool": [pool]}))

    return send


FAILED = {"converged": False, "failed": 1, "reason": "LayerCorrupt", "message": "layer is cut off"}


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main(["fleet", *words, "-o", "json"]) == code, capsys.readouterr()
    return json.loads(capsys.readouterr().out or "null")


def test_status_counts_hosts_by_state_and_names_those_that_need_you(
    postgres: Postgres, database: str, report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        report(f"good-{number}")
    report("broken", revision=BAD, **FAILED)
    report("slow", converged=False, reason="Progressing")
    report("gone")
    report("stuck", converged=False, reason="PoolFull", message="no space")
    report("full", used=95, drifted=1)
    postgres.query(database, "UPDATE reconcile.host SET reported_at = now() - interval '4 minutes' WHERE name = 'gone'")
    postgres.query(database, "UPDATE reconcile.host SET revision_at = now() - interval '20 minutes' WHERE name = 'stuck'")

    found = answer(capsys, "status")
    assert found["states"] == {"Converged": 4, "Converging": 1, "Stalled": 1, "Failed": 1, "Stale": 1}
    assert {one["revision"]: one["hosts"] for one in found["revisions"]} == {GOOD: 7, BAD: 1}
    assert {one["name"]: one["reason"] for one in found["troubles"]} == {
        "broken": "LayerCorrupt",
        "gone": None,
        "stuck": "PoolFull",
        "full": None,
    }
    assert next(one for one in found["troubles"] if one["name"] == "full")["warnings"] == ["Drifted", "NearlyFull: p"]
    assert main(["fleet", "status"]) == 0
    shown = capsys.readouterr().out
    assert "8 hosts: 4 converged, 1 converging, 1 stalled, 1 failed, 1 stale" in shown
    assert "LayerCorrupt: layer is cut off" in shown


def test_hosts_of_one_revision_with_other_layers_are_named(
    report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    report("a", chain="c1")
    report("b", chain="c1")
    report("c", chain="c2")
    report("other", revision=BAD, chain="c3")
    report("unfinished", chain="c4", converged=False)

    found = answer(capsys, "status")["differing"]
    assert found == [{"revision": GOOD, "image": "web", "chains": {"c1": ["a", "b"], "c2": ["c"]}}]


def test_an_image_is_shown_on_each_host(report: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    report("a")
    report("b", ring="2", **FAILED)

    assert [(one["host"], one["phase"]) for one in answer(capsys, "image", "web")["hosts"]] == [("a", "Ready"), ("b", "Failed")]
    assert [one["host"] for one in answer(capsys, "image", "web", "-l", "ring=2")["hosts"]] == ["b"]
    assert main(["fleet", "image", "nope"]) == 64


@pytest.mark.parametrize(
    ("given", "reported", "same"),
    [
        ("0123456789abcdef0123456789abcdef01234567", GOOD, True),
        ("0123456", GOOD, True),
        ("012345", GOOD, False),
        (GOOD, GOOD, True),
        ("0123456789ac", GOOD, False),
        ("2030-01", "link:2030-01", True),
        ("abc1234", "tree:abc123456789", False),
    ],
)
def test_a_revision_is_a_commit_or_what_hosts_report(given: str, reported: str, same: bool) -> None:
    assert view.is_same(given, reported) is same


def test_wait_ends_once_the_share_has_converged(report: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        report(f"good-{number}")
    report("behind", revision=BAD)
    report("next", ring="2", revision=BAD)

    wait = ("wait", "--revision", GOOD, "-l", "ring=1", "--timeout", "0")
    assert answer(capsys, *wait, "--percent", "75")["result"] == "converged"
    found = answer(capsys, *wait, "--percent", "76", code=6)
    assert (found["percent"], [one["name"] for one in found["waiting"]]) == (75.0, ["behind"])
    assert main(["fleet", "wait", "--revision", GOOD, "-l", "ring=3", "--timeout", "0"]) == 6


def test_wait_ends_at_once_where_a_host_of_the_ring_reports_a_failure(
    report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    report("good")
    report("broken", **FAILED)

    wait = ("wait", "--revision", GOOD, "--timeout", "10m")
    assert main(["fleet", *wait]) == 1
    assert "LayerCorrupt on 1 of 1 hosts, such as broken: layer is cut off" in capsys.readouterr().err
    assert answer(capsys, *wait, "--percent", "50", "--max-failed", "50%")["result"] == "converged"
    assert main(["fleet", *wait, "--max-failed", "many"]) == 64


def test_a_host_that_failed_before_the_rollout_does_not_end_it(
    report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    report("good")
    report("broken", revision=BAD, **FAILED)

    assert answer(capsys, "wait", "--revision", GOOD, "--timeout", "0", "--percent", "50")["converged"] == 1


def test_wait_reports_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("RECONCILER_REPORT_TO", f"postgresql://nobody@/x?host={tmp_path}")
    assert main(["fleet", "wait", "--revision", GOOD, "--timeout", "0"]) == 69


def test_a_bad_revision_stops_in_its_first_ring(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each ring follows a branch of its own; CI moves the next one once the gate opens."""
    rings = {ring: manifests(tmp_path / ring, "good") for ring in ("one", "two")}
    agents = [Agent(tmp_path / f"state-{ring}", where, url, f"ring={ring}") for ring, where in rings.items()]
    for agent in agents:
        assert agent.once().returncode == 0
    assert answer(capsys, "wait", "--revision", "good", "--timeout", "0")["converged"] == 2

    manifests(tmp_path / "one", "bad", source="missing.tar")
    agents[0].once()  # keeps its last known chain: nothing fails on the host
    assert answer(capsys, "wait", "--revision", "bad", "-l", "ring=one", "--timeout", "10m", code=1)["failed"] == 1
    assert answer(capsys, "wait", "--revision", "good", "-l", "ring=two", "--timeout", "0")["converged"] == 1
