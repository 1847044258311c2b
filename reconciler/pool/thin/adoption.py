"""Computes the registry's entries for a thin pool from the pool's metadata.

The pool is not changed. Devices that both have are kept; rows without a device are dropped (their volumes and snapshots are then
missing). Of the devices that only the pool has, snapshots with a name are registered; the others stay orphans or foreign.

Called by ``pool.thin.repair``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State, stamp_of
from reconciler.pool.thin.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thin device of ours that is not in the registry. ``name`` is the snapshot that it is, if that is known.

    ``size`` in bytes, None if it is unknown; ``filesystem`` is the UUID of the ext4 file system in it.
    """

    id: int
    transaction: int
    mapped: int
    name: str = ""
    size: int | None = None
    filesystem: str | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """``pool`` None: the registry's entries are dropped, and the next run creates a new pool."""

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
    label: DeviceRow | None = None,
) -> Adoption:
    """``chains`` maps a file system's UUID to its chain. ``label`` is the pool's label.

    The orphans of a pool that differs from the registry are recorded, so that `gc` deletes what is listed here.
    """
    if content is None:
        return Adoption(None, drop=tuple(rows.values()))
    stamp = stamp_of(content.transaction) or (row.stamp if row else 0)
    known = {one.id: one for one in rows.values() if _there(one, content)}
    taken = {one.id: _taken(one, chains) for one in candidates if one.name and one.size}
    kept = {one.id: replace(one, state=State.HELD) for one in known.values() if one.id not in taken}
    if label is not None:
        kept[label.id] = label
    orphans = tuple(one for one in candidates if one.id not in taken)
    if row is None or row.transaction != content.transaction:
        kept |= {one.id: DeviceRow(one.id, Role.ORPHAN, "", "", one.size or 0, one.transaction, State.HELD) for one in orphans}
    return Adoption(
        PoolRow(stamp, content.transaction),
        keep=tuple(kept.values()),
        take=tuple(taken.values()),
        drop=tuple(one for one in rows.values() if one.id not in known),
        orphans=orphans,
    )


def _there(row: DeviceRow, content: Metadata) -> bool:
    found = content.devices.get(row.id)
    return found is not None and found.transaction == row.transaction


def _taken(one: Candidate, chains: Mapping[str, str]) -> DeviceRow:
    chain = chains.get(one.filesystem or "", "unknown")
    return DeviceRow(one.id, Role.SNAPSHOT, one.name, chain, one.size or 0, one.transaction, State.HELD)
