"""Computes the registry's entries for a thin pool from the pool's metadata.

The pool is not changed. Devices that both have are kept; rows without a device are dropped (their volumes and snapshots are then
missing). Of the devices that only the pool has, snapshots with a name are registered; the others stay orphans or foreign.

Called by ``pool.thin.repair``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.dataclass import dataclass, field, replace
from reconciler.pool.driver import UNKNOWN_CHAIN
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State, stamp_of
from reconciler.pool.thin.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thin device of ours that is not in the registry. ``name`` is the snapshot that it is, if that is known.

    ``size`` in bytes, None if it is unknown. ``filesystem`` is the UUID of the ext4 file system in it, which a guest can have
    written: it is for messages only.
    """

    id: int
    transaction: int
    mapped: int
    name: str = ""
    size: int | None = None
    filesystem: str | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """``pool`` None: the registry's entries are dropped, and the next run creates a new pool.

    ``proved``: those of ``keep`` whose chain was unknown until now. ``filesystems``: the UUID in each snapshot of ``take``.
    """

    pool: PoolRow | None
    keep: tuple[DeviceRow, ...] = ()
    take: tuple[DeviceRow, ...] = ()
    proved: tuple[DeviceRow, ...] = ()
    drop: tuple[DeviceRow, ...] = ()
    orphans: tuple[Candidate, ...] = ()
    filesystems: Mapping[str, str] = field(default_factory=dict)


def adoption(
    content: Metadata | None,
    row: PoolRow | None,
    rows: Mapping[int, DeviceRow],
    candidates: tuple[Candidate, ...],
    chains: Mapping[str, str],
    label: DeviceRow | None = None,
) -> Adoption:
    """``chains`` has the chains of snapshots, by their name, that the operator vouches for. ``label`` is the pool's label.

    Nothing in the pool that a guest can't write shows the chain of a snapshot: all others are of an unknown one.

    The orphans of a pool that differs from the registry are recorded, so that `gc` deletes what is listed here.
    """
    if content is None:
        return Adoption(None, drop=tuple(rows.values()))
    stamp = stamp_of(content.transaction) or (row.stamp if row else 0)
    known = {one.id: one for one in rows.values() if _there(one, content)}
    taken = {one.id: _taken(one, chains) for one in candidates if one.name and one.size}
    kept = {one.id: replace(one, state=State.HELD) for one in known.values() if one.id not in taken}
    unproved = [one for one in kept.values() if of_unknown_chain(one) and one.name in chains]
    proved = {one.id: replace(one, chain=chains[one.name]) for one in unproved}
    kept |= proved
    if label is not None:
        kept[label.id] = label
    orphans = tuple(one for one in candidates if one.id not in taken)
    if row is None or row.transaction != content.transaction:
        kept |= {one.id: DeviceRow(one.id, Role.ORPHAN, "", "", one.size or 0, one.transaction, State.HELD) for one in orphans}
    return Adoption(
        replace(row or PoolRow(0, 0), stamp=stamp, transaction=content.transaction),
        keep=tuple(kept.values()),
        take=tuple(taken.values()),
        proved=tuple(proved.values()),
        drop=tuple(one for one in rows.values() if one.id not in known),
        orphans=orphans,
        filesystems={one.name: one.filesystem for one in candidates if one.id in taken and one.filesystem},
    )


def of_unknown_chain(row: DeviceRow) -> bool:
    return row.role is Role.SNAPSHOT and row.chain == UNKNOWN_CHAIN


def _there(row: DeviceRow, content: Metadata) -> bool:
    found = content.devices.get(row.id)
    return found is not None and found.transaction == row.transaction


def _taken(one: Candidate, chains: Mapping[str, str]) -> DeviceRow:
    chain = chains.get(one.name, UNKNOWN_CHAIN)
    return DeviceRow(one.id, Role.SNAPSHOT, one.name, chain, one.size or 0, one.transaction, State.HELD)
