"""Compares the registry with a pool's metadata, and settles interrupted pool transactions. Pure.

``N`` is the transaction id that the registry expects. One pool transaction is open at a time. All of its rows are
settled one by one, so any subset of a batch may have happened:

    pool's id   thin id in the pool    its creation    creating                       deleting
    N           absent                 -               forget the intent              effect done: N -> N+1, forget
    N           present                ours            kept: N -> N+1                 not done: kept, N as it is
    N           present                another's       forget the intent              forget it: what is there is another's
    N + 1       as expected            -               kept                           forget
    other       -                      -               registry and pool metadata differ: nothing is changed until `adopt`

A kept device that no row refers to is a leftover, and is removed like any other. Nothing is ever deleted because of an id alone.

Called by ``pool.thin.assembly`` (judge) and ``pool.thin.transaction`` (settle). Keeps no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from reconciler.dataclass import dataclass, replace
from reconciler.pool.driver import Trouble
from reconciler.pool.thin.journal import DeviceRow, PoolRow, State, counter_of, first_transaction, stamp_of
from reconciler.pool.thin.metadata import Metadata, ThinDevice


class Agreement(Enum):
    """How the registry's rows compare with the pool's metadata."""

    NEW = "not created yet"
    UNSTAMPED = "its creation was interrupted"
    CURRENT = "registry and pool metadata agree"
    INTERRUPTED = "interrupted operation"
    DIFFERENT = "registry and pool metadata differ"


@dataclass(frozen=True, slots=True)
class Verdict:
    agreement: Agreement
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How to close an open pool transaction: rows to put and drop, and whether the pool's id still has to advance."""

    put: tuple[DeviceRow, ...] = ()
    drop: tuple[int, ...] = ()
    advance: bool = False


UNSETTLED = (State.CREATING, State.DELETING)


def pending(rows: Mapping[int, DeviceRow]) -> tuple[DeviceRow, ...]:
    return tuple(row for row in rows.values() if row.state in UNSETTLED)


def judge(name: str, row: PoolRow | None, rows: Mapping[int, DeviceRow], found: Metadata | None) -> Verdict:
    """``found`` is what the metadata device holds, None if it is blank or absent."""
    if row is None or row.transaction == 0:
        return _judge_new(name, row, found)
    if found is None:
        lost = f"the metadata of pool {name}, which this registry created, is missing"
        return _different("PoolLost", lost, name, "put it back")
    tid = found.transaction
    if stamp_of(tid) != row.stamp:
        swapped = f"the devices of pool {name} hold another pool, with another stamp"
        return _different("PoolSwapped", swapped, name, "put the right disk back")
    open_rows = pending(rows)
    if tid == row.transaction:
        return Verdict(Agreement.INTERRUPTED if open_rows else Agreement.CURRENT)
    if tid == row.transaction + 1 and open_rows:
        return Verdict(Agreement.INTERRUPTED)
    ids = f"the pool is at transaction {counter_of(tid)}, the registry at {counter_of(row.transaction)}"
    if tid > row.transaction:
        return _different("RegistryOutdated", f"the registry is older than pool {name}: {ids}", name)
    return _different("PoolOutdated", f"pool {name} is older than the registry: {ids}", name)


def _judge_new(name: str, row: PoolRow | None, found: Metadata | None) -> Verdict:
    if found is None:
        return Verdict(Agreement.NEW)
    if row is not None and found.transaction in (0, first_transaction(row.stamp)) and not found.devices:
        return Verdict(Agreement.UNSTAMPED)
    held = f"{len(found.devices)} thin devices, transaction {counter_of(found.transaction)}"
    return _different("PoolForeign", f"pool {name} exists, and this registry did not create it ({held})", name)


def _different(reason: str, what: str, name: str, better: str = "") -> Verdict:
    adopt = f"see how `reconcile adopt {name}` would rebuild the registry's entries"
    hint = f"nothing in it is changed until then; {better + ', or ' if better else ''}{adopt}"
    return Verdict(Agreement.DIFFERENT, Trouble(reason, f"{what}: {hint}"))


def settle(row: PoolRow, rows: Mapping[int, DeviceRow], tid: int, devices: Mapping[int, ThinDevice]) -> Settlement:
    """Settle all open rows. ``tid`` and ``devices`` are the pool's; ``tid`` is N or N + 1, as ``judge`` ensures."""
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
