"""Creates and activates snapshots of a thin pool, many at a time, and replaces one under its name.

A batch costs one inspection of the pool, one pool transaction and one wait for udev, whatever its size. Called by
``pool.thin.pool``. No state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from reconciler.dataclass import dataclass, replace
from reconciler.errors import NameTaken, PoolUnusable, ReconcilerError, Retryable, SnapshotUnrecognised
from reconciler.pool.driver import SnapshotRequest
from reconciler.pool.thin import diagnosis
from reconciler.pool.thin.assembly import Assembly, Inspection
from reconciler.pool.thin.devmapper import DmError
from reconciler.pool.thin.failures import converted
from reconciler.pool.thin.journal import DeviceRow, Role, identified
from reconciler.pool.thin.mappings import Mappings
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.naming import Names
from reconciler.pool.thin.nodes import Nodes
from reconciler.pool.thin.status import PoolStatus
from reconciler.pool.thin.transaction import NewDevice, Transactions

Results = dict[str, DeviceRow | ReconcilerError]


@dataclass(frozen=True)
class Snapshots:
    """``admit`` raises unless the pool has space for new work; ``remove`` deletes a device. Callers hold the pool's lock."""

    pool: str
    assembly: Assembly
    transactions: Transactions
    mappings: Mappings
    admit: Callable[[PoolStatus], object]
    remove: Callable[[DeviceRow], None]
    nodes: Nodes

    # --------------------------------------------------------------------------------------------------- creation

    def create(self, requests: Sequence[SnapshotRequest], seen: Inspection) -> Results:
        """Create what does not exist yet in a pool as it is now. Return the inactive device or the error of each, by name."""
        if seen.content is None or seen.status is None:
            raise PoolUnusable(f"pool {self.pool} does not exist", hint="run `reconcile --once`")
        self.admit(seen.status)
        uuids, volumes, existing = self.mappings.uuids(), sealed(seen), snapshots(seen)
        results: Results = {}
        wanted: list[NewDevice] = []
        for one in requests:
            try:
                require_ours(seen.names(self.pool), one.name, uuids)
                if row := self._finished(one, existing.get(one.name, ()), seen):
                    results[one.name] = row
                else:
                    wanted.append(new_device(one, origin(self.pool, volumes, one.chain)))
            except (DmError, ReconcilerError) as error:
                results[one.name] = converted(self.pool, f"create snapshot {one.name}", error)
        return results | self._created(seen, wanted)

    def _created(self, seen: Inspection, wanted: Sequence[NewDevice]) -> Results:
        if not wanted or seen.content is None:
            return {}
        rows = self.transactions.create(self.transactions.status(), seen.content.devices.keys(), wanted)
        return {one.name: row for one, row in zip(wanted, rows, strict=True)}

    def _finished(self, wanted: SnapshotRequest, rows: Sequence[DeviceRow], seen: Inspection) -> DeviceRow | None:
        """The snapshot of a run that was interrupted between creating it and recording it.

        Other devices of ours with this name are removed, drafts among them.
        """
        kept = None
        for row in rows:
            if row.role is Role.SNAPSHOT and row.chain == wanted.content and seen.content and diagnosis.proved(row, seen.content):
                kept = row
            else:
                self.remove(row)
        return kept

    # ------------------------------------------------------------------------------------------------- activation

    def activate(self, rows: Sequence[DeviceRow]) -> dict[str, ReconcilerError]:
        """Activate each under its name, replacing an earlier device of ours, and resume suspended ones. Return the errors."""
        names, uuids = self.mappings.names(), self.mappings.uuids()
        errors: dict[str, ReconcilerError] = {}
        inactive = []
        for row in rows:
            try:
                require_ours(names, row.name, uuids)
                self.nodes.announce(names.thin_uuid(row.id))
                if not self._resumed(names, row, uuids):
                    inactive.append((row, names.snapshot(row.name)))
            except (DmError, ReconcilerError, OSError) as error:
                errors[row.name] = converted(self.pool, f"activate snapshot {row.name}", error)
        failed = self.mappings.activate_many(inactive)
        for row, _ in inactive:
            if row.id in failed:
                errors[row.name] = converted(self.pool, f"activate snapshot {row.name}", failed[row.id])
        for row in rows:
            if row.name not in errors:
                try:
                    self.nodes.apply(names.snapshot(row.name))
                except (ReconcilerError, OSError) as error:
                    errors[row.name] = converted(self.pool, f"change owner and mode of snapshot {row.name}", error)
        return errors

    def recorded(self, snapshots: Mapping[str, str], seen: Inspection) -> tuple[list[DeviceRow], dict[str, ReconcilerError]]:
        """The rows of snapshots (identities by name), and an error for each that has none. Raises PoolUnusable."""
        if barred := diagnosis.barred(seen):
            raise PoolUnusable(barred.message)
        journal = self.transactions.journal
        rows = journal.devices() if len(snapshots) > 1 else journal.devices(next(iter(snapshots), ""))
        named: dict[str, list[DeviceRow]] = {}
        for _, row in sorted(rows.items()):
            if row.role is Role.SNAPSHOT:
                named.setdefault(row.name, []).append(row)
        picked = {name: chosen(named[name], identity) for name, identity in snapshots.items() if name in named}
        missing: dict[str, ReconcilerError] = {
            name: Retryable(f"snapshot {name} of pool {self.pool} is missing", hint="the next run creates it")
            for name in snapshots
            if name not in picked
        }
        return list(picked.values()), missing

    def grow(self, name: str, identity: str, size: int) -> str:
        """Record the larger size, then give it to the device: an activation after an interruption uses the recorded one."""
        seen = self.assembly.inspect()
        rows, missing = self.recorded({name: identity}, seen)
        for error in missing.values():
            raise error
        (row,) = rows
        if row.identity != identity or seen.content is None or not diagnosis.proved(row, seen.content):
            raise SnapshotUnrecognised(f"snapshot {name} of pool {self.pool} was replaced just now", hint="run again")
        if row.size < size:
            row = replace(row, size=size)
            self.transactions.journal.write(put=[row])
        self.mappings.grow(row)
        return row.identity

    def set_aside(self, rows: Iterable[DeviceRow], content: Metadata) -> None:
        """Deactivate those whose ids mean other devices now, and forget them: the devices are not ours."""
        names, stale = self.mappings.names(), [row for row in rows if not diagnosis.proved(row, content)]
        for row in stale:
            device = self.mappings.dm.by_uuid(names.thin_uuid(row.id))
            if device is not None:
                self.mappings.deactivate(device.name)
        self.transactions.journal.write(drop=[row.id for row in stale])

    def _resumed(self, names: Names, row: DeviceRow, uuids: Mapping[str, str]) -> bool:
        """Whether its device is active already; another device under its name is deactivated."""
        mapping = names.snapshot(row.name)
        if mapping not in uuids:
            return False
        device = self.mappings.dm.info(mapping) if uuids[mapping] == names.thin_uuid(row.id) else None
        if device is not None and device.live_table:
            self.mappings.dm.resume(mapping)
            return True
        self.mappings.deactivate(mapping)
        return False


def require_ours(names: Names, name: str, uuids: Mapping[str, str]) -> None:
    """Raises NameTaken if a mapping that is not ours has the snapshot's name. ``uuids`` of the existing mappings by name."""
    mapping = names.snapshot(name)
    uuid = uuids.get(mapping)
    if uuid is not None and names.thin_id(uuid) is None:
        held = f"uuid {uuid!r}" if uuid else "no uuid"
        raise NameTaken(
            f"/dev/mapper/{mapping} is a mapping that reconcile did not create ({held})",
            hint=f"rename the snapshot, or that mapping: dmsetup rename {mapping} …",
        )


def sealed(seen: Inspection) -> dict[str, DeviceRow]:
    """The newest sealed volume of each chain: a rebuilt one is removed after the registry has its successor."""
    return {row.chain: row for _, row in sorted(seen.rows.items()) if row.sealed}


def new_device(wanted: SnapshotRequest, base: DeviceRow) -> NewDevice:
    """The device to create: a draft where it is customized before it is a snapshot."""
    role, size = (Role.DRAFT, wanted.custom.size) if wanted.custom else (Role.SNAPSHOT, 0)
    return NewDevice(role, wanted.name, wanted.content, max(base.size, size), base.id)


def snapshots(seen: Inspection) -> dict[str, list[DeviceRow]]:
    """The rows of snapshots and drafts by name, oldest first."""
    found: dict[str, list[DeviceRow]] = {}
    for _, row in sorted(seen.rows.items()):
        if row.role in (Role.SNAPSHOT, Role.DRAFT):
            found.setdefault(row.name, []).append(row)
    return found


def origin(pool: str, volumes: Mapping[str, DeviceRow], chain: str) -> DeviceRow:
    """Raises Retryable."""
    if chain not in volumes:
        raise Retryable(f"volume {chain[:12]} of pool {pool} is missing", hint="the next run rebuilds it")
    return volumes[chain]


def made_after(identity: str, rows: Iterable[DeviceRow], chain: str) -> list[DeviceRow]:
    """Those that a replacement of the recorded snapshot has made: an older one of the chain may be a used one."""
    recorded = identified(identity)
    return [row for row in rows if row.chain == chain and row.id > (recorded[0] if recorded else 0)]


def batches(requests: Sequence[SnapshotRequest], size: int) -> Iterator[Sequence[SnapshotRequest]]:
    return (requests[at : at + size] for at in range(0, len(requests), size))


def chosen(rows: Sequence[DeviceRow], identity: str) -> DeviceRow:
    """Of a snapshot's rows, oldest first, the one with this identity; the newest if none has it."""
    return next((row for row in rows if row.identity == identity), rows[-1])
