"""Counts of the registry's changes, by which a service sees whether it has to assess its host for those of others.

``serial`` counts all changes, ``quiet`` those that call for no assessment: a claim begins for which no other snapshot is made, or
is renewed. Whatever says nothing about itself calls for one. ``claims`` and ``writer`` count, ``reader`` reads. No state.
"""

from __future__ import annotations

import sqlite3

from reconciler.claim import Moment
from reconciler.dataclass import dataclass, field

CHANGED = "UPDATE meta SET value = value + 1 WHERE key = 'serial'"
QUIET = "UPDATE meta SET value = value + 1 WHERE key IN ('serial', 'quiet')"

_COUNTS = "SELECT key, CAST(value AS INTEGER) FROM meta WHERE key IN ('schema', 'serial', 'quiet')"
# As ``Claim.left``. The index of open claims needs ``<>``.
_LEFT = """
    SELECT min(max(renewed + ttl - :wall, ttl - (CASE boot WHEN :boot THEN :elapsed - elapsed ELSE :elapsed END)))
    FROM claim WHERE state <> 'ended' AND state = 'claimed' AND ttl <> 0
"""


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """Equal values call for no assessment. ``calling`` are the schema and how many changes call for one."""

    calling: tuple[int, int]
    serial: int = field(compare=False)
    """How many changes there were."""
    left: float = field(compare=False)
    """Seconds until the next claim expires; infinity where none does."""


def read(raw: sqlite3.Connection, own: int, now: Moment) -> ChangeCounts:
    """``own`` is how many changes the caller's process has made."""
    counts = dict(raw.execute(_COUNTS).fetchall())
    left = raw.execute(_LEFT, {"wall": now.wall, "elapsed": now.elapsed, "boot": now.boot}).fetchone()[0]
    serial = counts["serial"] - own
    return ChangeCounts(
        (counts["schema"], serial - counts.get("quiet", 0)), serial, float("inf") if left is None else float(left)
    )
