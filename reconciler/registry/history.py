"""The history of runs: statements that record how each attempt begins and ends.

Called by ``writer`` in the transaction that changes the run. State: the table ``transition``. Plain SQL.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from reconciler.engine.definitions import Result, Run
from reconciler.registry import rows, statements


def under_way(raw: sqlite3.Connection, run_id: str) -> tuple[int, int | None]:
    """The number of the last row of a run's history, and the progress with which the attempt under way began, if there is one."""
    query = "SELECT max(seq), max(CASE WHEN result = ? THEN data END) FROM transition WHERE run = ?"
    last, data = raw.execute(query, (Result.RUNNING.value, run_id)).fetchone()
    return last or 0, None if data is None else int(json.loads(data).get("progress", 0))


def append(raw: sqlite3.Connection, run: Run, attempt: int, at: float, last: int, data: Mapping[str, Any] | None = None) -> None:
    """A new row of the run's history, after the row of that number, for an attempt that begins."""
    row = rows.beginning(run, last + 1, attempt, at, data or {})
    raw.execute(statements.insert("transition", tuple(row)), row)


def close(raw: sqlite3.Connection, run_id: str, ending: Mapping[str, Any]) -> bool:
    """Write how the run's attempt under way ended; False where there is none."""
    statement = statements.update("transition", tuple(ending), "run = :run AND result = :running")
    return raw.execute(statement, {**ending, "run": run_id, "running": Result.RUNNING.value}).rowcount > 0
