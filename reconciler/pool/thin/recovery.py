"""What became of a bracket that was cut off, and whether the registry and the pool speak of the same thing at all. Pure.

``N`` is the transaction id that the registry expects. One bracket is open at a time, so at most one row is in the making:

    pool's id   thin id in the pool    its creation    creating                       deleting
    N           absent                 -               forget the intent              effect done: N -> N+1, forget
    N           present                ours            kept: N -> N+1                 not done: kept, N as it is
    N           present                another's       forget the intent              forget it: what is there is another's
    N + 1       as expected            -               kept                           forget
    other       -                      -               the pool is quarantined: nothing is changed until a person has looked

What is kept and belongs to nothing is a leftover, and goes the usual way. Nothing is ever deleted because of an id alone.

Called by ``pool.thin`` (judge) and ``pool.bracket`` (settle). Keeps no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from reconciler.pool.driver import Trouble
from reconciler.pool.thin.journal import DeviceRow, PoolRow, State, first_transaction, stamp_of
from reconciler.pool.thin.metadata import Metadata, ThinDevice


class Standing(Enum):
    """How the registry and the pool's metadata stand to each other."""

    NEW = "it was never made"
    UNSTAMPED = "it was being made when the process was cut off"
    CURRENT = "the registry knows it"
    PENDING = "a change of it was cut off"
    QUARANTINED = "they contradict each other"


@dataclass(frozen=True, slots=True)
class Verdict:
    standing: Standing
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What has to be done to close an open bracket: rows to put and drop, and whether the pool's id still has to move."""

    put: tuple[DeviceRow, ...] = ()
    drop: tuple[int, ...] = ()
    advance: bool = False


UNSETTLED = (State.CREATING, State.DELETING)


def pending(rows: Mapping[int, DeviceRow]) -> tuple[DeviceRow, ...]:
    return tuple(row for row in rows.values() if row.state in UNSETTLED)


def judge(name: str, row: PoolRow | None, rows: Mapping[int, DeviceRow], found: Metadata | None) -> Verdict:
    """``found`` is what the metadata device holds, None where it is blank or not there."""
    if row is None or row.transaction == 0:
        return _judge_new(name, row, found)
    if found is None:
        lost = f"pool {name} was made by this registry, and its metadata is gone"
        return _quarantined("PoolLost", lost, name, "put it back")
    tid = found.transaction
    if stamp_of(tid) != row.stamp:
        swapped = f"another pool stands where pool {name} was ({_stamps(row, tid)})"
        return _quarantined("PoolSwapped", swapped, name, "put the right disk back")
    open_rows = pending(rows)
    if tid == row.transaction:
        return Verdict(Standing.PENDING if open_rows else Standing.CURRENT)
    if tid == row.transaction + 1 and open_rows:
        return Verdict(Standing.PENDING)
    ids = f"the pool is at transaction {_count(tid)}, the registry at {_count(row.transaction)}"
    if tid > row.transaction:
        return _quarantined("RegistryOlder", f"the registry is older than pool {name}: {ids}", name)
    return _quarantined("PoolOlder", f"pool {name} is older than the registry: {ids}", name)


def _judge_new(name: str, row: PoolRow | None, found: Metadata | None) -> Verdict:
    if found is None:
        return Verdict(Standing.NEW)
    if row is not None and found.transaction in (0, first_transaction(row.stamp)) and not found.devices:
        return Verdict(Standing.UNSTAMPED)
    held = f"{len(found.devices)} thin devices, transaction {found.transaction:#x}"
    return _quarantined("PoolNotOurs", f"pool {name} is there, and this registry has not made it ({held})", name)


def _quarantined(reason: str, what: str, name: str, better: str = "") -> Verdict:
    adopt = f"see what would be taken over with `reconcile adopt {name}`"
    hint = f"nothing in it is changed; {better + ', or ' if better else ''}{adopt}"
    return Verdict(Standing.QUARANTINED, Trouble(reason, f"{what}: {hint}"))


def _stamps(row: PoolRow, tid: int) -> str:
    return f"stamp {stamp_of(tid):08x} instead of {row.stamp:08x}"


def _count(tid: int) -> int:
    return tid - (stamp_of(tid) << 32)


def settle(row: PoolRow, rows: Mapping[int, DeviceRow], tid: int, devices: Mapping[int, ThinDevice]) -> Settlement:
    """Close what is open. ``tid`` and ``devices`` are the pool's; ``tid`` is N or N + 1, as ``judge`` has seen to."""
    put: list[DeviceRow] = []
    drop: list[int] = []
    advance = False
    for one in pending(rows):
        there = devices.get(one.id)
        ours = there is not None and there.transaction == one.transaction
        if one.state is State.CREATING:
            if ours:
                put.append(replace(one, state=State.HELD))
            else:
                drop.append(one.id)
            advance |= ours and tid == row.transaction
        elif ours:
            put.append(replace(one, state=State.HELD))
        else:
            drop.append(one.id)
            advance |= there is None and tid == row.transaction
    return Settlement(tuple(put), tuple(drop), advance)
