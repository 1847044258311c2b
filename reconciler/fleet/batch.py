"""What one report carries: the whole picture of a host or what has changed in it, and the events that the sink does not have yet.

A batch has a sequence that grows with every report of a host, across its processes. The sink takes the picture of a batch only
if its sequence is the newest, and changes only on top of the picture that they were computed from: late, repeated and reordered
batches leave it as it is. Events are facts of their own: they are added once, whenever they come. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.dataclass import dataclass, field
from reconciler.fleet.rows import TABLES, Event, Host, Row, key_of

EPOCH = 1 << 32
"""A sequence is the number of the process of a host, times this, plus that of the report of the process."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A host as of now; rows by table."""

    host: Host
    rows: Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True, slots=True)
class Batch:
    """``base`` is the sequence of the picture that ``put`` and ``gone`` change; None where ``put`` is all there is."""

    id: str
    sequence: int
    base: int | None
    host: Host
    put: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    gone: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    events: Sequence[Event] = ()
    after: int = 0
    """The event that ``events`` follow: the sink has all up to it, or they are gone from the registry."""
    lost: int = 0
    """Events that the registry no longer has and the sink never got."""
    restart: bool = False
    """The registry is an older copy: the events of the sink are those of another course of things."""

    @property
    def rows(self) -> int:
        return 1 + len(self.events) + sum(len(one) for rows in (self.put, self.gone) for one in rows.values())


def changes(before: Picture, now: Picture) -> tuple[Mapping[str, Sequence[Row]], Mapping[str, Sequence[Row]]]:
    """The rows that are new or differ, and those that are gone, by table; tables without any are left out."""
    put, gone = {}, {}
    for table in TABLES:
        old = {key_of(table, row): row for row in before.rows.get(table, ())}
        new = {key_of(table, row): row for row in now.rows.get(table, ())}
        if changed := [row for key, row in new.items() if old.get(key) != row]:
            put[table] = changed
        if missing := [row for key, row in old.items() if key not in new]:
            gone[table] = missing
    return put, gone
