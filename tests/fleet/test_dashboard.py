"""Each query of the dashboard on PostgreSQL is answered by the tables that hosts report to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reconciler.fleet import address, rows
from reconciler.fleet.batch import Batch
from reconciler.fleet.sink import Sink
from tests.fleet.test_batches import HOST, event
from tests.support.postgres import Postgres

BOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "fleet.json").read_text())
QUERIES = {panel["title"]: target["rawSql"] for panel in BOARD["panels"] for target in panel["targets"]}
QUERIES["the variable"] = BOARD["templating"]["list"][1]["query"]
EMPTY = {"Images that differ at one revision", "Why hosts have not converged"}


def filled(query: str, ring: str) -> str:
    """As Grafana sends it."""
    raw = "All" if ring == "All" else ring
    query = query.replace("${ring:sqlstring}", f"'{ring}'").replace("${ring:raw}", raw)
    query = query.replace("$__timeFrom()", "'2000-01-01T00:00:00Z'").replace("$__timeTo()", "'2099-01-01T00:00:00Z'")
    assert not re.search(r"\$\{?\w", query), query
    return query


@pytest.mark.parametrize("title", QUERIES)
def test_a_panel_is_answered(postgres: Postgres, migrated: str, title: str) -> None:
    image = rows.Image("web", "p", "Ready", "", "", "c1", 1, 2, 2)
    found = rows.Condition("Layer", "", "a.tar", "Unpinned", "note", "tracked by ETag")
    pool = rows.Pool("p", "ready", "", 100, 10, 90, 0, 0, 0)
    batch = Batch("board", 1, None, HOST, {"image": [image], "condition": [found], "pool": [pool]}, events=[event(1)])
    with Sink(address.parse(postgres.url(migrated))).session(60.0) as session:
        session.apply(batch)

    every, mine, none = (postgres.query(migrated, filled(QUERIES[title], ring)) for ring in ("All", "1", "9"))
    if title not in EMPTY:
        assert every and mine
    if "ring" in QUERIES[title] and title != "the variable":
        assert all(line == "0" for line in none)
