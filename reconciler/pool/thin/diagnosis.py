"""What stands in a thin pool, judged: whose a thin id is, whether what the registry remembers is there, and what is wrong
as a whole.

Called by ``pool.thin`` with what ``pool.assembly`` has seen. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from reconciler.pool.driver import Condition, Trouble
from reconciler.pool.thin.assembly import Geometry, Sight
from reconciler.pool.thin.journal import DeviceRow, identified, stamp_of
from reconciler.pool.thin.metadata import Metadata, ThinDevice
from reconciler.pool.thin.status import Mode, PoolStatus

FULL_SHARE = 20
"""Metadata of which less than one in so many blocks is free counts as full: a change that needs several finds them no more."""


def proved(row: DeviceRow, content: Metadata) -> bool:
    """Whether the pool still holds this very device: the same id, created under the same transaction."""
    there = content.devices.get(row.id)
    return there is not None and there.transaction == row.transaction


def judge_thin(seen: Sight, identity: str) -> tuple[Condition, str, DeviceRow | None]:
    """What the pool holds of what the registry remembers; the words say what is wrong, empty where nothing is."""
    remembered = identified(identity)
    if remembered is None:
        return Condition.REPLACED, "what the registry remembers of it can't be read", None
    thin_id, transaction = remembered
    row = seen.rows.get(thin_id)
    there = seen.content.devices.get(thin_id) if seen.content else None
    if there is None:
        return Condition.MISSING, f"thin id {thin_id} is not in the pool", row
    if row is None:
        return Condition.MISSING, f"the registry knows no thin id {thin_id}", None
    if there.transaction != transaction or row.transaction != transaction:
        return Condition.REPLACED, f"thin id {thin_id} was created by another change of the pool", row
    return Condition.INTACT, "", row


def is_orphan(seen: Sight, device: ThinDevice) -> bool:
    return seen.row is not None and stamp_of(device.transaction) == seen.row.stamp and device.id not in seen.rows


def _words(device: ThinDevice, seen: Sight) -> str:
    mapped = device.mapped_blocks * (seen.content.block_size if seen.content else 0)
    return f"thin id {device.id} ({mapped} bytes mapped, created at transaction {device.transaction:#x})"


def strangers(seen: Sight) -> list[ThinDevice]:
    """In the pool, and not in the journal; or there under an id of ours, and another device."""
    devices = seen.content.devices.values() if seen.content else ()
    rows = seen.rows
    return [one for one in devices if one.id not in rows or rows[one.id].transaction != one.transaction]


def foreign(seen: Sight) -> tuple[str, ...]:
    return tuple(f"{_words(one, seen)}: not made by this reconciler" for one in strangers(seen) if not is_orphan(seen, one))


def orphans(seen: Sight) -> tuple[str, ...]:
    return tuple(_words(one, seen) for one in strangers(seen) if is_orphan(seen, one))


def leftovers(seen: Sight, identities: Collection[str]) -> tuple[str, ...]:
    known = {identified(identity) for identity in identities}
    content = seen.content
    if content is None:
        return ()
    return tuple(str(row) for row in seen.rows.values() if (row.id, row.transaction) not in known and proved(row, content))


def troubles(name: str, seen: Sight, geometry: Geometry) -> tuple[Trouble, ...]:
    found = [seen.trouble] if seen.trouble else []
    if seen.status is not None:
        found += _of_status(name, seen.status, geometry)
    if seen.content and geometry.data.file and geometry.data.size and geometry.data.size < seen.data.size:
        sizes = f"{geometry.data.size} bytes are declared, and {geometry.data.file} has {seen.data.size}"
        found.append(Trouble("CannotShrink", f"pool {name} can't become smaller: {sizes}; declare what it has", halts=False))
    if seen.content and seen.content.block_size != geometry.block_size:
        sizes = f"{seen.content.block_size} bytes, and {geometry.block_size} are declared"
        text = f"pool {name} was made with blocks of {sizes}: that can't be changed any more; declare what it has"
        found.append(Trouble("BlockSizeFixed", text, halts=False))
    return tuple(found)


def _of_status(name: str, status: PoolStatus, geometry: Geometry) -> list[Trouble]:
    where = geometry.metadata.file or geometry.metadata.device
    mend = (
        f"stop what uses its snapshots, run `reconcile detach {name} --apply`, then `thin_check {where}` and, where that finds "
        f"nothing, `thin_check --clear-needs-check-flag {where}`, or thin_repair to a new device; then `reconcile --once`"
    )
    if status.mode is Mode.FAIL:
        return [Trouble("PoolFailed", f"pool {name} has failed, and can't even be read: {mend}")]
    if status.needs_check:
        return [Trouble("PoolNeedsCheck", f"the kernel has put pool {name} into read-only mode, and it needs a check: {mend}")]
    if status.mode is Mode.RO:
        is_full = status.total_metadata - status.used_metadata <= status.total_metadata // FULL_SHARE
        why = (
            "its metadata is full: declare it larger; where that does not help," if is_full else "its metadata can't be written:"
        )
        return [Trouble("PoolReadOnly", f"pool {name} is read-only: {why} {mend}")]
    if status.mode is Mode.OUT_OF_DATA_SPACE:
        full = "declare it larger, or remove images with --prune; what its snapshots could not write is lost to their users"
        return [Trouble("PoolFull", f"pool {name} has no data space left: {full}", removes=True)]
    return []
