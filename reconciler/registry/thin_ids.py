"""Thin ids: each pool's sequence, which allocates the id of the next thin device and never returns one twice.

Called by ``writer`` in a transaction that also records the device. State: the table ``sequence``. Plain SQL: it runs for each
snapshot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection


def allocate(connection: sqlite3.Connection, pool: str, taken: Collection[int]) -> int:
    """The pool's next thin id, skipping those that are in use in the pool's metadata (``taken``)."""
    take = "INSERT INTO sequence (pool, last) VALUES (?, 1) ON CONFLICT (pool) DO UPDATE SET last = last + 1 RETURNING last"
    while (thin_id := int(connection.execute(take, (pool,)).fetchone()[0])) in taken:
        pass
    return thin_id
