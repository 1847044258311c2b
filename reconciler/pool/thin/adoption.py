"""Making the registry agree with the pool that is really there: what a person decides after ``judge`` has quarantined a pool.

Nothing in the pool is changed by it. What both sides know is kept; rows whose devices are gone are dropped (their volumes and
snapshots then count as missing); of what only the pool knows, snapshots that can be named are taken over, and the rest stays what
it is: an orphan, to be named or collected, or foreign.

Called by ``pool.thin``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State, stamp_of
from reconciler.pool.thin.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thin device of ours that the registry does not know. ``name`` is the snapshot that it is, where that can be told.

    ``size`` in bytes, None where it is not known; ``filesystem`` is the UUID of the ext4 file system in it.
    """

    id: int
    transaction: int
    mapped: int
    name: str = ""
    size: int | None = None
    filesystem: str | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """``pool`` None: all that is remembered of the pool is forgotten, and the next run makes a new one."""

    pool: PoolRow | None
    keep: tuple[DeviceRow, ...] = ()
    take: tuple[DeviceRow, ...] = ()
    drop: tuple[DeviceRow, ...] = ()
    orphans: tuple[Candidate, ...] = ()


def adoption(
    content: Metadata | None,
    row: PoolRow | None,
    rows: Mapping[int, DeviceRow],
    candidates: tuple[Candidate, ...],
    chains: Mapping[str, str],
) -> Adoption:
    """``chains`` names the chain that a file system's UUID was made from."""
    if content is None:
        return Adoption(None, drop=tuple(rows.values()))
    stamp = stamp_of(content.transaction) or (row.stamp if row else 0)
    known = {one.id: one for one in rows.values() if _there(one, content)}
    taken = tuple(_taken(one, chains) for one in candidates if one.name and one.size)
    return Adoption(
        PoolRow(stamp, content.transaction),
        keep=tuple(replace(one, state=State.HELD) for one in known.values()),
        take=taken,
        drop=tuple(one for one in rows.values() if one.id not in known),
        orphans=tuple(one for one in candidates if not (one.name and one.size)),
    )


def _there(row: DeviceRow, content: Metadata) -> bool:
    found = content.devices.get(row.id)
    return found is not None and found.transaction == row.transaction


def _taken(one: Candidate, chains: Mapping[str, str]) -> DeviceRow:
    chain = chains.get(one.filesystem or "", "unknown")
    return DeviceRow(one.id, Role.SNAPSHOT, one.name, chain, one.size or 0, one.transaction, State.HELD)
