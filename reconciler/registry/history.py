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


def progress(raw: sqlite3.Connection, run_id: str) -> int:
    """The progress with which the attempt under way began."""
    found = raw.execute("SELECT data FROM transition WHERE run = ? AND result = ?", (run_id, Result.RUNNING.value)).fetchone()
    return int(json.loads(found[0]).get("progress", 0)) if found else 0


def append(raw: sqlite3.Connection, run: Run, attempt: int, at: float, data: Mapping[str, Any] | None = None) -> None:
    """A new row of the run's history, for an attempt that begins."""
    (last,) = raw.execute("SELECT max(seq) FROM transition WHERE run = ?", (run.id,)).fetchone()
    row = rows.beginning(run, (last or 0) + 1, attempt, at, data or {})
    raw.execute(statements.insert("transition", tuple(row)), row)


def close(raw: sqlite3.Connection, run_id: str, ending: Mapping[str, Any]) -> bool:
    """Write how the run's attempt under way ended; False where there is none."""
    statement = statements.update("transition", tuple(ending), "run = :run AND result = :running")
    return raw.execute(statement, {**ending, "run": run_id, "running": Result.RUNNING.value}).rowcount > 0
