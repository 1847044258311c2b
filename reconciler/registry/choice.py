"""Chooses the snapshot of a claim: ready, unclaimed, unused, and there.

Called by ``claims``, outside of its transactions but for ``free``. What a pool has answered serves the next requests too, for a
moment: asking costs a thread and its turn to run. State: per image the row that was chosen last, and what was found to be there.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from reconciler.claim import Clock
from reconciler.dataclass import dataclass, field
from reconciler.model import SnapshotRow
from reconciler.registry import database

_FREE = """
    SELECT rowid, pool, name, image, chain, identity, custom, size, filesystem FROM snapshot
    WHERE image = :image AND pool = :pool AND {which}
    AND NOT EXISTS (SELECT 1 FROM claim WHERE (pool, name) = (snapshot.pool, snapshot.name) AND state <> 'ended')
    AND NOT EXISTS (SELECT 1 FROM run WHERE kind = 'Snapshot' AND (pool, name) = (snapshot.pool, snapshot.name)
                    AND status IN ('active', 'needs-operator'))
    AND NOT EXISTS (SELECT 1 FROM intent WHERE (pool, name) = (snapshot.pool, snapshot.name))
    ORDER BY rowid
"""
_NAMED = _FREE.format(which="name = :name")
_NEWEST = _FREE.format(which="chain = :chain AND {range}")
_OLDER = _FREE.format(which="chain <> :chain AND {range}")


MOST_CANDIDATES = 16
"""Snapshots that one request asks the pool for."""
FOUND_SECONDS = 0.1
"""How long what a pool has answered counts: the next claims need not ask again, which costs a thread and its turn to run."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a snapshot of ``image`` in ``pool``, or the one called ``name``.

    ``ttls`` has the ttl of the claim by name of each snapshot that may be given out.
    """

    image: str
    pool: str
    ttls: Mapping[str, float]
    uid: int
    name: str = ""
    holder: str = ""
    request: str = ""
    wish: str = ""
    is_current: Callable[[SnapshotRow], bool] = lambda row: True
    """Whether a snapshot has the files and the size that are declared now: such a one is preferred."""
    replaced: bool = True
    """Whether another snapshot is made for the one that is claimed: a service is woken for that."""

    def __str__(self) -> str:
        return f"snapshot/{self.name}" if self.name else f"image/{self.image}"


Usable = Callable[[Sequence[SnapshotRow]], Sequence[SnapshotRow]]
"""Those of the snapshots that are there now, in their order; not all need to be asked for where one was found."""


@dataclass(slots=True)
class _Found:
    """What was found of an image in a pool, with the numbers of the rows, and until when (seconds since the boot) it counts."""

    pool: str
    rows: deque[tuple[int, SnapshotRow]] = field(default_factory=deque)
    until: float = 0.0


class Choice:
    """Thread-safe. ``lock`` guards the connection."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.RLock, path: Path, clock: Clock) -> None:
        self._raw, self._lock, self._path, self._clock = connection, lock, path, clock
        self._after: dict[str, int] = {}
        self._found: dict[str, _Found] = {}
        self._finding = threading.Lock()

    def choose(self, wanted: Wanted, usable: Usable) -> SnapshotRow | None:
        """A snapshot for the request; None where none is ready."""
        return self._next(wanted) or self._find(wanted, usable)

    def _next(self, wanted: Wanted) -> SnapshotRow | None:
        """One of those that were found to be there a moment ago: each is returned once."""
        found = self._found.get(wanted.image)
        while found and not wanted.name and found.pool == wanted.pool and self._clock().elapsed < found.until:
            try:
                number, row = found.rows.popleft()
            except IndexError:
                return None
            if row.name in wanted.ttls:
                self._after[wanted.image] = number
                return row
        return None

    def _find(self, wanted: Wanted, usable: Usable) -> SnapshotRow | None:
        """One that is there now; others that are there are for the next requests."""
        with self._finding:  # a pool has one call at a time: a request that found it under way would get none
            if row := self._next(wanted):
                return row
            candidates = self._candidates(wanted)
            numbers = {row.name: number for number, row in candidates}
            rows = usable([row for _, row in candidates]) if candidates else ()
            if not rows:
                if candidates:
                    self._after[wanted.image] = max(numbers.values())
                return None
            if not wanted.name:
                rest = deque((numbers[row.name], row) for row in rows[1:])
                self._found[wanted.image] = _Found(wanted.pool, rest, self._clock().elapsed + FOUND_SECONDS)
            return rows[0]

    def _candidates(self, wanted: Wanted) -> list[tuple[int, SnapshotRow]]:
        """The next that may be given out, with their numbers. The call after this one begins with the second of them."""
        with self._lock, database.reporting(self._path):
            free = (one for one in self.free(wanted) if one[1].name in wanted.ttls)
            found = list(islice(free, MOST_CANDIDATES))
            if found:
                self._after[wanted.image] = found[0][0]
            newest = found[0][1].chain if found else ""
            return sorted(found, key=lambda one: (one[1].chain != newest, not wanted.is_current(one[1])))

    def free(self, wanted: Wanted) -> Iterator[tuple[int, SnapshotRow]]:
        """Those that may be given out, with their numbers: of the newest chain first, in the order in which they were made."""
        values = {"image": wanted.image, "pool": wanted.pool, "name": wanted.name}
        if wanted.name:
            yield from self._numbered(_NAMED, values)
            return
        newest = self._raw.execute("SELECT chain FROM image WHERE name = ?", (wanted.image,)).fetchone()
        values["chain"] = (newest[0] if newest else None) or ""
        last = self._after.get(wanted.image, 0)
        for statement in (_NEWEST, _OLDER):
            yield from self._numbered(statement.format(range="rowid > :last"), values | {"last": last})
            yield from self._numbered(statement.format(range="rowid <= :last"), values | {"last": last})

    def _numbered(self, statement: str, values: Mapping[str, Any]) -> Iterator[tuple[int, SnapshotRow]]:
        return ((row[0], SnapshotRow(*row[1:])) for row in self._raw.execute(statement, values))
