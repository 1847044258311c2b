"""Which events, runs, digests and claims of the past the registry drops.

Called by ``writer`` in its transaction. Plain SQL, no state.
"""

from __future__ import annotations

import sqlite3


def prune(connection: sqlite3.Connection, keep: int) -> int:
    """Within the caller's transaction, delete all but the newest ``keep`` events and runs; return the number of deleted rows.

    Open runs, and the last run of each object that exists or has failed in the last 30 days, stay. So do the digests of volumes.
    """
    connection.execute(_MOVE_HORIZON, {"keep": keep})
    statements = (_DELETE_EVENTS, _DELETE_RUNS, _DELETE_SEEN, _DELETE_CLAIMS)
    return sum(connection.execute(statement, {"keep": keep}).rowcount for statement in statements)


_MOVE_HORIZON = """
    UPDATE meta SET value = MAX(CAST(value AS INTEGER), 1 + (SELECT COALESCE(MAX(seq), 0) FROM event) - :keep)
    WHERE key = 'horizon'
"""
_DELETE_EVENTS = "DELETE FROM event WHERE seq < (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'horizon')"
_DELETE_RUNS = """
    DELETE FROM run WHERE status NOT IN ('active', 'needs-operator')
    AND number NOT IN (
        SELECT MAX(number) FROM run WHERE (kind, pool, name) IN (
            SELECT 'Volume', pool, chain FROM volume UNION ALL SELECT 'Volume', pool, substr(chain, 1, 12) FROM volume
            UNION ALL SELECT 'Snapshot', pool, name FROM snapshot UNION ALL SELECT 'Pool', '', name FROM pool
            UNION ALL SELECT kind, pool, name FROM run
            WHERE status = 'failed' AND updated > (SELECT MAX(updated) FROM run) - 30 * 86400
        ) GROUP BY kind, pool, name)
    AND number <= (SELECT MAX(number) FROM run) - :keep
"""
_DELETE_SEEN = """
    DELETE FROM seen WHERE rowid <= (SELECT MAX(rowid) FROM seen) - :keep
    AND digest NOT IN (SELECT value FROM volume, json_each(volume.digests))
"""
_DELETE_CLAIMS = "DELETE FROM claim WHERE state = 'ended' AND rowid <= (SELECT MAX(rowid) FROM claim) - :keep"
