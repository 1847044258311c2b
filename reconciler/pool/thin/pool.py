"""The thin pool driver: volumes and snapshots are device-mapper thin devices; layers share blocks. Needs root.

A sealed volume is an inactive thin device, so nothing can write to it; a snapshot is active under its name. The journal, the
pool's own metadata and the UUIDs of active devices each say who owns a thin id; ``observe`` compares them. Pool transactions are
in ``pool.thin.transaction``, activation of the pool in ``pool.thin.assembly``, of devices in ``pool.thin.mappings``, operator
requests in ``pool.thin.repair``.

Created by ``host.context``, called through ``pool.driver.Driver``. State in memory: the space that running builds have
reserved. Callers that change something hold the registry's lock.
Protocol: Documentation/admin-guide/device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import Busy, PoolUnusable, ReconcilerError, Retryable
from reconciler.pool.driver import BATCH, Custom, Expected, Heartbeat, PoolState, SnapshotRequest, Space, no_heartbeat, nothing
from reconciler.pool.spec import AccessSpec
from reconciler.pool.thin import diagnosis, permission, space
from reconciler.pool.thin.admission import Admission, require_writable
from reconciler.pool.thin.assembly import SECTOR, Assembly, Geometry, Inspection
from reconciler.pool.thin.devmapper import DeviceMapper, DmError
from reconciler.pool.thin.discard import discard
from reconciler.pool.thin.drafts import Drafts
from reconciler.pool.thin.failures import reported
from reconciler.pool.thin.journal import DeviceRow, Journal, Role, identified
from reconciler.pool.thin.labelling import Labelling
from reconciler.pool.thin.mappings import Mappings
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.naming import MAPPER, Names
from reconciler.pool.thin.nodes import Nodes
from reconciler.pool.thin.proof import FilesystemUuid
from reconciler.pool.thin.snapshots import Snapshots, batches, made_after, new_device, require_ours
from reconciler.pool.thin.state import StateReader
from reconciler.pool.thin.status import Mode, PoolStatus, PoolTable
from reconciler.pool.thin.transaction import NewDevice, Transactions
from reconciler.pool.thin.volume import ThinVolume


@dataclass
class ThinPool:
    """New work leaves the reserves, percentages of data and metadata, free. ``uuid_of``: see ``Assembly``."""

    name: str
    geometry: Geometry
    journal: Journal
    uuid_of: FilesystemUuid
    reserve_data_percent: int = 10
    reserve_metadata_percent: int = 20
    access: AccessSpec | None = None
    shares_blocks: bool = True
    vouched: bool = False
    """The operator states that the backing is the pool's (``pool.thin.permission``)."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def location(self) -> str:
        return str(self.geometry.data.file or self.geometry.data.device)

    @cached_property
    def dm(self) -> DeviceMapper:
        """Raises HostCannot where this host has no device-mapper, or we may not use it; PolicyRefused first."""
        permission.require(self.name, self.geometry.backings, self.journal.pool(), vouched=self.vouched)
        return DeviceMapper.open()

    @cached_property
    def assembly(self) -> Assembly:
        return Assembly(self.name, self.geometry, self.dm, self.journal, self.uuid_of, self.vouched)

    @cached_property
    def transactions(self) -> Transactions:
        return Transactions(self.name, self.dm, self.journal, self._content, self._lock)

    @cached_property
    def admission(self) -> Admission:
        return Admission(self.name, self.reserve_data_percent, self.reserve_metadata_percent)

    @cached_property
    def mappings(self) -> Mappings:
        return Mappings(self.name, self.dm, lambda: self.names)

    @cached_property
    def labelling(self) -> Labelling:
        return Labelling(self.name, self.assembly, self.transactions, self.mappings)

    @cached_property
    def snapshots(self) -> Snapshots:
        parts = self.assembly, self.transactions, self.mappings, partial(self._admit, expected=0), self.remove
        return Snapshots(self.name, *parts, Nodes(self.name, self.access))

    @cached_property
    def drafts(self) -> Drafts:
        return Drafts(self.name, self.mappings, self.journal, self.admission, self.abandon)

    # --------------------------------------------------------------------------------------------------- inspecting

    def volume_path(self, chain: str) -> Path:
        """The path while the volume is read; a sealed volume is inactive otherwise."""
        return MAPPER / self.names.working("volume", row.id if (row := self._sealed(chain)) else 0)

    def is_present(self, name: str, identity: str) -> bool:
        return self.snapshot_path(name).exists()

    def snapshot_path(self, name: str) -> Path:
        """Follows from the names alone: a claim looks for it while the registry is written."""
        return MAPPER / Names(self.name, 0).snapshot(name)

    @property
    def names(self) -> Names:
        row = self.journal.pool()
        return Names(self.name, row.stamp if row else 0)

    def _content(self, seen: Inspection | None = None) -> Metadata:
        found = (seen or self.assembly.inspect()).content
        if found is None:
            raise PoolUnusable(f"pool {self.name} does not exist", hint="run `reconcile --once`")
        return found

    def space(self) -> Space:
        """Space of the pool's data: one question to the kernel where the pool works. Raises PoolUnusable."""
        with self.reported("read its free space"):
            with suppress(DmError):
                if (status := self.transactions.status()).mode is not Mode.FAIL:
                    return self.admission.space(status, self._block_size)
            return space.of_data(self.assembly.inspect(), self.geometry, self.reserve_data_percent)

    def pulse(self) -> Hashable:
        """The pool's mappings with the state of each: microseconds, whatever the pool's size."""
        try:
            listed, state_of = self.mappings.listed(), self.mappings.states()
            return tuple((one, state_of(one)) for one in listed.values())
        except (DmError, ReconcilerError) as error:
            return str(error)

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """See ``Driver.observe``. Changes nothing, whether the pool is assembled or not. Raises PoolUnusable."""
        with self.reported("read it"):
            seen, listed = self.assembly.inspect_settled(self._lock), self.mappings.listed()
            reader = StateReader(self.name, self.geometry, seen, listed, self.mappings.states(), self.snapshots.nodes)
            return reader.state(volumes, snapshots, (self.reserve_data_percent, self.reserve_metadata_percent), whole=whole)

    # ------------------------------------------------------------------------------------------------ assembling

    def assemble(self) -> str:
        """See ``Driver.assemble``. Raises PoolUnusable."""
        with self.reported("assemble it"), self._lock:
            done = list(self.assembly.assemble(self.transactions))
            done += self.mappings.resume_ours()
            done += filter(None, [self.labelling.ensure(self.assembly.inspect())])
            return ", ".join(done)

    # ---------------------------------------------------------------------------------------------------- volumes

    def create_volume(
        self, chain: str, size: int, parent: str | None, expected: Expected = nothing, heartbeat: Heartbeat = no_heartbeat
    ) -> ThinVolume:
        """See ``Driver.create_volume``."""
        aside = expected()
        with self.reported(f"begin volume {chain[:12]}"), ExitStack() as undo:
            with self._lock:  # no two threads are promised the same space
                seen = self.labelling.required(self.assembly.inspect())
                status = self.transactions.status()
                room = self._admit(status, aside)
                origin = self._parent(parent).id if parent else None
                row = self._create(status, NewDevice(Role.VOLUME, chain, chain, size, origin), seen)
                self.admission.reserve(row.id, aside)
            undo.callback(self.abandon, row)
            device = self.mappings.activate(row, self.names.working("volume", row.id))
            fd = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
            undo.pop_all()
        return ThinVolume(size, fd, device.path, room, row, self)

    def _create(self, status: PoolStatus, wanted: NewDevice, seen: Inspection | None = None) -> DeviceRow:
        (made,) = self.transactions.create(status, self._content(seen).devices.keys(), [wanted])
        if isinstance(made, ReconcilerError):
            raise made
        return made

    def _parent(self, chain: str) -> DeviceRow:
        row = self._sealed(chain)
        if row is None:
            missing = f"volume {chain[:12]} of pool {self.name} is missing"
            raise Retryable(missing, hint="the next run rebuilds it")
        return row

    def _sealed(self, chain: str) -> DeviceRow | None:
        """The newest sealed volume of the chain: a rebuilt one is removed after the registry has its successor."""
        found = [row for row in self.journal.devices(chain).values() if row.sealed]
        return max(found, key=lambda row: row.id, default=None)

    def seal(self, row: DeviceRow, fd: int) -> str:
        """Called by the volume: make it durable and inactive, and record its size."""
        with self.reported(f"seal {row}"):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self.mappings.deactivate(self.names.working("volume", row.id))
            require_writable(self.name, self.transactions.status())
            there = self._content().devices.get(row.id)
            if there is None or there.transaction != row.transaction:
                raise PoolUnusable(f"pool {self.name}: {row} is missing", hint="see `reconcile health`")
            self.journal.write(put=[replace(row, mapped=there.mapped_blocks)])
            self.admission.release(row.id)
            return row.identity

    def check_space(self) -> None:
        with self.reported("read its free space"):  # often: one ioctl
            self.admission.space(self.transactions.status(), self._block_size).require_half_of_reserve(self.name)

    def abandon(self, row: DeviceRow) -> None:
        """Called by a discarded volume. If it can't be removed now, the next run removes it as a leftover."""
        self.admission.release(row.id)
        with suppress(ReconcilerError, OSError):
            self.remove(row)

    @contextmanager
    def reading(self, chain: str) -> Iterator[Path]:
        """See ``Driver.reading``: the device is active and read-only within the context. Raises PoolUnusable, Retryable."""
        row = self._parent(chain)
        with self.reported(f"read {row}"):
            device = self.mappings.reader(row)
        try:
            yield device.path
        finally:
            self.mappings.deactivate(device.name)

    def remove_volume(self, chain: str) -> None:
        self._remove_all(Role.VOLUME, chain)

    def create_snapshot(self, name: str, chain: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None) -> str:
        found = self.create_snapshots([SnapshotRequest(name, chain, custom)], heartbeat)[name]
        if isinstance(found, ReconcilerError):
            raise found
        return found

    def copied_bytes(self, chain: str) -> int:
        return 0

    def create_snapshots(
        self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat = no_heartbeat
    ) -> Mapping[str, str | ReconcilerError]:
        """See ``Driver.create_snapshots``. Each batch is one pool transaction."""
        results: dict[str, str | ReconcilerError] = {}
        for batch in batches(requests, BATCH):
            heartbeat()
            try:
                results |= self._create_batch(batch)
            except ReconcilerError as error:
                results |= {one.name: error for one in batch}
        return results

    def _create_batch(self, batch: Sequence[SnapshotRequest]) -> dict[str, str | ReconcilerError]:
        with self.reported("create snapshots"):
            with self._lock:
                made = self.snapshots.create(batch, self.labelling.required(self.assembly.inspect()))
            made = self.drafts.finish(made, {one.name: one.custom for one in batch})
            errors = self.snapshots.activate([row for row in made.values() if isinstance(row, DeviceRow)])
        found = {one.name: errors.get(one.name) or made[one.name] for one in batch}
        return {name: one if isinstance(one, ReconcilerError) else one.identity for name, one in found.items()}

    def _copy(self, wanted: SnapshotRequest) -> DeviceRow:
        with self._lock:
            self._admit(status := self.transactions.status(), 0)
            row = self._create(status, new_device(wanted, self._parent(wanted.chain)))
        made = self.drafts.finish({wanted.name: row}, {wanted.name: wanted.custom})[wanted.name]
        if isinstance(made, ReconcilerError):
            raise made
        return made

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        """See ``Driver.activate_snapshot``."""
        if error := self.activate_snapshots({name: identity}).get(name):
            raise error

    def activate_snapshots(self, snapshots: Mapping[str, str]) -> Mapping[str, ReconcilerError]:
        """See ``Driver.activate_snapshots``."""
        try:
            with self.reported("activate snapshots"):
                rows, missing = self.snapshots.recorded(snapshots, self.assembly.inspect())
                return missing | self.snapshots.activate(rows)
        except ReconcilerError as error:
            return dict.fromkeys(snapshots, error)

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        with self.reported("list the holders of its snapshots"):
            return self.mappings.holders({name: thin[0] for name, one in snapshots.items() if (thin := identified(one))})

    def replace_snapshot(
        self, name: str, chain: str, identity: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None
    ) -> str:
        wanted = SnapshotRequest(name, chain, custom)
        if who := self.holders({name: identity}).get(name):
            path = self.snapshot_path(name)
            raise Busy(f"snapshot {name} is in use: {path} is held by {who}", hint="stop what uses it, then run again")
        with self.reported(f"replace snapshot {name}"):
            names, mapping = self.names, self.names.snapshot(name)
            require_ours(names, name, self.mappings.uuids())
            made = made_after(identity, self._rows(Role.SNAPSHOT, name), wanted.content)
            row = next((one for one in made if diagnosis.proved(one, self._content())), None) or self._copy(wanted)
            device = self.dm.info(mapping)
            if device is None or device.uuid == names.thin_uuid(row.id):
                self.activate_snapshot(name, row.identity)
                return row.identity
            try:
                self.snapshots.nodes.announce(names.thin_uuid(row.id))
                self.mappings.swap(row, names.working("new", row.id), mapping)
            except BaseException:
                self.abandon(row)
                raise
            self.snapshots.nodes.apply(mapping)
            return row.identity

    def discard_replaced(self, name: str, identity: str) -> None:
        with self.reported(f"remove the previous snapshot {name}"):
            for row in self._rows(Role.SNAPSHOT, name):
                if row.identity != identity:
                    self.remove(row)

    def grow_snapshot(self, name: str, identity: str, size: int) -> str:
        with self.reported(f"grow snapshot {name}"), self._lock:
            return self.snapshots.grow(name, identity, size)

    def set_aside(self, name: str, identity: str) -> None:
        with self.reported(f"set snapshot {name} aside"), self._lock:  # the device is deactivated and stays
            self.snapshots.set_aside(self._rows(Role.SNAPSHOT, name), self._content())

    def remove_snapshot(self, name: str) -> None:
        self._remove_all(Role.SNAPSHOT, name)

    # --------------------------------------------------------------------------------------------------- removing

    def _rows(self, role: Role, name: str) -> list[DeviceRow]:
        return [row for _, row in sorted(self.journal.devices(name).items()) if row.role is role]

    def _remove_all(self, role: Role, name: str) -> None:
        with self.reported(f"remove {role.value} {name[:12] if role is Role.VOLUME else name}"):
            for row in self._rows(role, name):
                self.remove(row)

    def remove(self, row: DeviceRow) -> None:
        """Deactivate, discard, delete, if the device is proved to be ours. Absent is success. Raises Busy.

        A device can be open without an exclusive claim (a microVM's disk is). So it is deactivated first, which fails if it is
        open, and its blocks are discarded under a working name.
        """
        if not diagnosis.proved(row, self._content()):
            self.journal.write(drop=[row.id])
            return
        require_writable(self.name, self.transactions.status())
        device = self.dm.by_uuid(self.names.thin_uuid(row.id))
        if device is not None:
            self.mappings.deactivate(device.name)
        device = self.mappings.activate(row, self.names.working("removing", row.id), writable=True)
        self.mappings.retry_busy(device.name, lambda: discard(device.path))
        self.mappings.deactivate(device.name)
        self.transactions.delete(row)
        self.snapshots.nodes.forget(self.names.thin_uuid(row.id))

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        """See ``Driver.discard_leftovers``. Does nothing in a pool that is not ready."""
        with self.reported("discard leftovers"):
            seen = self.assembly.inspect()
            if seen.trouble or seen.unready:
                return ()
            self.mappings.drop_stale(self.admission)
            if seen.status and not seen.status.writable:
                return ()
            gone = []
            for row in diagnosis.unrecorded(seen, {*volumes.values(), *snapshots.values()}):
                in_use = row.name in snapshots and self.mappings.is_device(self.names.snapshot(row.name), row.id)
                if row.id not in self.admission and not in_use:
                    with suppress(Busy):  # reported as a leftover until it is free
                        self.remove(row)
                        gone.append(f"{row} of pool {self.name}")
            return tuple(gone)

    # ------------------------------------------------------------------------------------------------ small parts

    @cached_property
    def _block_size(self) -> int:
        """Bytes; fixed for the pool's life."""
        return PoolTable.parse(self.dm.table(self.name)[0].params).block_size * SECTOR

    def _admit(self, status: PoolStatus, expected: int) -> int:
        require_writable(self.name, status)
        return self.admission.admit(status, self._block_size, expected)

    def reported(self, doing: str) -> AbstractContextManager[None]:
        """Errors of the kernel and of the host cost this pool only."""
        return reported(self.name, doing, self.location)
