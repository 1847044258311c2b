"""Compares a thin pool with the registry: whose each thin id is, whether recorded objects exist, what is wrong with the pool.

Called by ``pool.thin`` with the ``Inspection`` of ``pool.thin.assembly``. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from reconciler.pool.driver import Condition, Trouble
from reconciler.pool.thin import backing, proof
from reconciler.pool.thin.assembly import ELSEWHERE, Geometry, Inspection
from reconciler.pool.thin.journal import DeviceRow, Role, counter_of, identified, stamp_of
from reconciler.pool.thin.label import HEAD
from reconciler.pool.thin.metadata import Metadata, ThinDevice
from reconciler.pool.thin.status import Mode, PoolStatus

FULL_SHARE = 20
"""Metadata counts as full if fewer than one in this many blocks are free: a change that needs several would fail."""


BARRING = frozenset({"PoolOutdated", ELSEWHERE, proof.WRONG, proof.UNPROVED})
"""Troubles of a pool in which nothing is activated."""


def proved(row: DeviceRow, content: Metadata) -> bool:
    """Whether the pool still holds this device: the same id, created under the same transaction."""
    there = content.devices.get(row.id)
    return there is not None and there.transaction == row.transaction


def judge_thin(seen: Inspection, identity: str) -> tuple[Condition, str, DeviceRow | None]:
    """Compare a recorded identity with the pool: condition, description of the fault (empty if none), row."""
    remembered = identified(identity)
    if remembered is None:
        return Condition.REPLACED, "its recorded identity can't be read", None
    thin_id, transaction = remembered
    row = seen.rows.get(thin_id)
    there = seen.content.devices.get(thin_id) if seen.content else None
    if there is None:
        return Condition.MISSING, f"thin id {thin_id} is not in the pool", row
    if row is None:
        return Condition.MISSING, f"thin id {thin_id} is not in the registry", None
    if there.transaction != transaction or row.transaction != transaction:
        return Condition.REPLACED, f"thin id {thin_id} was created by another transaction", row
    return Condition.INTACT, "", row


def is_orphan(seen: Inspection, device: ThinDevice) -> bool:
    """Whether it is proved to be ours without being a volume or a snapshot of the registry.

    The stamp alone proves nothing: every device that any program creates in the pool has it. Either ``adopt`` has recorded the
    device as an orphan, or its id was allocated by the registry. Ids and transactions are allocated in the same order: a device
    that another program created later under one of our former ids is out of it.
    """
    row = seen.rows.get(device.id)
    if row is not None:
        return row.role is Role.ORPHAN and row.transaction == device.transaction
    ours = seen.row is not None and stamp_of(device.transaction) == seen.row.stamp and device.id <= seen.last_id
    return ours and not any(
        one.transaction > device.transaction if one.id < device.id else one.transaction < device.transaction
        for one in seen.rows.values()
    )


def barred(seen: Inspection) -> Trouble | None:
    """Why no snapshot may be activated: its blocks may be another device's, or another pool's."""
    return seen.trouble if seen.trouble and seen.trouble.reason in BARRING else None


def _describe(device: ThinDevice, seen: Inspection) -> str:
    mapped = device.mapped_blocks * (seen.content.block_size if seen.content else 0)
    return f"thin id {device.id} ({mapped} bytes mapped, created at transaction {counter_of(device.transaction)})"


def unregistered(seen: Inspection) -> list[ThinDevice]:
    """Devices in the pool that the journal has as an orphan, under another transaction, or not at all."""
    devices = seen.content.devices.values() if seen.content else ()
    recorded = {row.id: row.transaction for row in seen.rows.values() if row.role is not Role.ORPHAN}
    return [one for one in devices if recorded.get(one.id) != one.transaction]


def foreign(seen: Inspection) -> tuple[str, ...]:
    return tuple(f"{_describe(one, seen)}: not created by reconcile" for one in unregistered(seen) if not is_orphan(seen, one))


def orphans(seen: Inspection) -> tuple[str, ...]:
    return tuple(_describe(one, seen) for one in unregistered(seen) if is_orphan(seen, one))


def leftovers(seen: Inspection, identities: Collection[str]) -> tuple[str, ...]:
    content = seen.content
    if content is None:
        return ()
    return tuple(str(row) for row in unrecorded(seen, identities) if proved(row, content))


def unrecorded(seen: Inspection, identities: Collection[str]) -> list[DeviceRow]:
    """Volumes, snapshots and drafts that are not among those which the registry has recorded, given by their identities."""
    known, made = set(map(identified, identities)), (Role.VOLUME, Role.SNAPSHOT, Role.DRAFT)
    return [row for row in seen.rows.values() if row.role in made and (row.id, row.transaction) not in known]


def troubles(name: str, seen: Inspection, geometry: Geometry) -> tuple[Trouble, ...]:
    found = [seen.trouble] if seen.trouble else []
    if seen.status is not None:
        found += _of_status(name, seen.status, geometry)
    if seen.content and geometry.data.file and geometry.data.size and geometry.data.size < seen.data.size:
        sizes = f"{geometry.data.size} bytes are declared, {geometry.data.file} has {seen.data.size}"
        found.append(Trouble("ShrinkUnsupported", f"pool {name} can't shrink: {sizes}; declare the actual size", halts=False))
    if seen.content and seen.content.block_size != geometry.block_size:
        sizes = f"{seen.content.block_size} bytes, {geometry.block_size} are declared"
        text = f"pool {name} was created with blocks of {sizes}: the block size can't change; declare the actual one"
        found.append(Trouble("BlockSizeFixed", text, halts=False))
    block = seen.content.block_size if seen.content else geometry.block_size
    if limit := backing.undescribed(geometry.data.size or seen.data.size, block):
        found.append(Trouble("BlockSizeTooSmall", f"pool {name}: {limit}", halts=False))
    if lacks := _of_earlier_version(seen):
        text = f"an earlier version created pool {name}: {lacks}; all else works, and a pool that is created again has it"
        found.append(Trouble("PoolLayoutOutdated", text, halts=False, note=True))
    return tuple(found)


def _of_earlier_version(seen: Inspection) -> str:
    """What a pool lacks that a new one has; empty if nothing."""
    content = seen.content
    if content is None or not any(proved(row, content) for row in seen.rows.values()):
        return ""
    label = next((row for row in seen.rows.values() if row.labels and proved(row, content)), None)
    if label is not None and label.size >= HEAD:
        return ""
    ends = "layers and guests write the ends of its data device, and can give it the signature of a file system there"
    return ends if label else f"no label proves its data until its next change, and {ends}"


def _of_status(name: str, status: PoolStatus, geometry: Geometry) -> list[Trouble]:
    where = geometry.metadata.file or geometry.metadata.device
    repair = (
        f"stop what uses its snapshots, run `reconcile detach {name} --apply`, then `thin_check {where}` and, if that finds no "
        f"error, `thin_check --clear-needs-check-flag {where}`, or thin_repair to a new device; then `reconcile --once`"
    )
    if status.mode is Mode.FAIL:
        return [Trouble("PoolFailed", f"pool {name} has failed and can't be read: {repair}")]
    if status.needs_check:
        return [Trouble("PoolCheckRequired", f"the kernel has set pool {name} read-only; its metadata needs a check: {repair}")]
    if status.mode is Mode.RO:
        is_full = status.total_metadata - status.used_metadata <= status.total_metadata // FULL_SHARE
        why = "its metadata is full: declare it larger; if that does not help," if is_full else "its metadata can't be written:"
        return [Trouble("PoolReadOnly", f"pool {name} is read-only: {why} {repair}")]
    if status.mode is Mode.OUT_OF_DATA_SPACE:
        full = "declare it larger, or remove images with --prune; writes to its snapshots have failed; that data is lost"
        return [Trouble("PoolFull", f"pool {name} has no data space left: {full}", removes=True)]
    return []
