"""The thin pool: volumes and snapshots are device-mapper thin devices; layers share blocks, snapshots are instant. Needs root.

A volume is a thin device that nobody can write to because it is not active; a snapshot is one that is, under its name. Whose a
thin id is, is known three times over: by the journal, by the pool's own metadata, and by the UUIDs of what is active; ``observe``
compares them. Changes of the set of devices go through ``pool.bracket``; how the pool itself comes up is in ``pool.assembly``,
what is active in ``pool.mappings``, and what a person decides in ``pool.mending``.

Made by ``host``, called through ``pool.driver.Driver``. State in memory: what volumes under way have set aside. Callers that
change something hold the registry's lock. Protocol: Documentation/admin-guide/device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from reconciler.errors import Busy, HostCannot, NameTaken, NoSpace, PoolUnusable, ReconcilerError, Retryable
from reconciler.pool.driver import Condition, Expected, PoolState, SnapshotState, Space, VolumeState, nothing
from reconciler.pool.thin import diagnosis, space
from reconciler.pool.thin.assembly import SECTOR, Assembly, Geometry, Sight
from reconciler.pool.thin.devmapper import Device, DeviceMapper, DmError
from reconciler.pool.thin.discard import discard
from reconciler.pool.thin.journal import DeviceRow, Journal, Role, identified
from reconciler.pool.thin.mappings import Mappings
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.naming import MAPPER, Names
from reconciler.pool.thin.status import PoolStatus, PoolTable
from reconciler.pool.thin.transaction import Brackets
from reconciler.pool.thin.volume import ThinVolume


@dataclass
class ThinPool:
    """``reserve_percent`` of the data and of the metadata is left free by new work."""

    name: str
    geometry: Geometry
    journal: Journal
    reserve_data_percent: int = 10
    reserve_metadata_percent: int = 20
    shares_blocks: bool = True
    _promised: dict[int, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @cached_property
    def dm(self) -> DeviceMapper:
        """Raises HostCannot where this host has no device-mapper, or we may not use it."""
        return DeviceMapper.open()

    @cached_property
    def assembly(self) -> Assembly:
        return Assembly(self.name, self.geometry, self.dm, self.journal)

    @cached_property
    def brackets(self) -> Brackets:
        return Brackets(self.name, self.dm, self.journal, self._content, self._lock)

    @cached_property
    def mappings(self) -> Mappings:
        return Mappings(self.name, self.dm, lambda: self.names)

    # --------------------------------------------------------------------------------------------------- looking

    def volume_path(self, chain: str) -> Path:
        """Where it is while it is read; a sealed volume is not active otherwise."""
        row = self._sealed(chain)
        return MAPPER / self.names.working("volume", row.id if row else 0)

    def snapshot_path(self, name: str) -> Path:
        return MAPPER / self.names.snapshot(name)

    @property
    def names(self) -> Names:
        row = self.journal.pool()
        return Names(self.name, row.stamp if row else 0)

    def _content(self) -> Metadata:
        found = self.assembly.sight().content
        if found is None:
            raise PoolUnusable(f"pool {self.name} is not there", hint="run `reconcile --once`")
        return found

    def space(self) -> Space:
        """Of the pool's data, in bytes. Raises HostCannot."""
        return space.of_data(self.assembly.sight(), self.geometry, self.reserve_data_percent)

    def pulse(self) -> Hashable:
        """The pool's mappings, with what each is in: the kernel answers in microseconds, however large the pool is."""
        try:
            ours = [one.name for one in self.dm.devices() if one.name == self.name or one.name.startswith(f"{self.name}-")]
            return tuple(self._felt(name) for name in ours)
        except ReconcilerError as error:
            return str(error)

    def _felt(self, name: str) -> Hashable:
        found = self.dm.info(name)
        return name, found and (found.number, found.suspended, found.live_table, found.event)

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """See ``Driver.observe``. Changes nothing, whether the pool is assembled or not. Raises HostCannot."""
        with self.reported("read it"):
            seen = self.assembly.sight()
            active = frozenset(one.name for one in self.dm.devices())
            return PoolState(
                space=space.of_data(seen, self.geometry, self.reserve_data_percent),
                volumes={chain: self._volume(seen, chain, identity) for chain, identity in sorted(volumes.items())},
                snapshots={name: self._snapshot(seen, name, identity, active) for name, identity in sorted(snapshots.items())},
                foreign=diagnosis.foreign(seen) if whole else (),
                leftovers=diagnosis.leftovers(seen, {*volumes.values(), *snapshots.values()}) if whole else (),
                orphans=diagnosis.orphans(seen) if whole else (),
                troubles=diagnosis.troubles(self.name, seen, self.geometry),
                unready=seen.unready,
                metadata=space.of_metadata(seen, self.reserve_metadata_percent),
                reachable=seen.status is not None or bool(seen.unready),
            )

    def _volume(self, seen: Sight, chain: str, identity: str) -> VolumeState:
        condition, detail, row = diagnosis.judge_thin(seen, identity)
        there = seen.content.devices.get(row.id) if row and seen.content and condition is Condition.INTACT else None
        if row and there and row.mapped != there.mapped_blocks:
            condition, detail = (
                Condition.DAMAGED,
                f"{there.mapped_blocks} blocks instead of {row.mapped}: written to since it was sealed",
            )
        used = there.mapped_blocks * seen.content.block_size if seen.content and there else 0
        path = str(MAPPER / seen.names(self.name).working("volume", row.id)) if row else ""
        return VolumeState(chain, condition, path, row.size if row else 0, used, detail)

    def _snapshot(self, seen: Sight, name: str, identity: str, active: frozenset[str]) -> SnapshotState:
        condition, detail, row = diagnosis.judge_thin(seen, identity)
        names = seen.names(self.name)
        there = seen.content.devices.get(row.id) if row and seen.content else None
        used = there.mapped_blocks * seen.content.block_size if seen.content and there else 0
        is_active = False
        if row and condition is Condition.INTACT:
            detail = self._inactivity(names, name, row, active)
            is_active = not detail
        return SnapshotState(name, condition, str(MAPPER / names.snapshot(name)), is_active, row.size if row else 0, used, detail)

    def _inactivity(self, names: Names, name: str, row: DeviceRow, active: frozenset[str]) -> str:
        """Why a snapshot that is in the pool can't be used under its path now; empty where it can."""
        device = self.dm.info(names.snapshot(name)) if names.snapshot(name) in active else None
        if device is None or not device.live_table:
            return "not active"
        if device.uuid != names.thin_uuid(row.id):
            return "another device has its name"
        return "suspended" if device.suspended else ""

    # ------------------------------------------------------------------------------------------------ assembling

    def assemble(self) -> str:
        """See ``Driver.assemble``. Raises PoolUnusable."""
        with self.reported("assemble it"), self._lock:
            done = list(self.assembly.assemble(self.brackets))
            done += self._resume_ours()
            return ", ".join(done)

    def _resume_ours(self) -> Iterator[str]:
        """A crash may have left devices suspended; everybody who reads them would hang."""
        names = self.names
        for listed in self.dm.devices():
            device = self.dm.info(listed.name) if listed.name.startswith(f"{self.name}-") else None
            if device and device.suspended and names.thin_id(device.uuid) is not None:
                self.dm.resume(device.name)
                yield f"resumed {device.name}"

    # ---------------------------------------------------------------------------------------------------- volumes

    def create_volume(self, chain: str, size: int, parent: str | None, expected: Expected = nothing) -> ThinVolume:
        """See ``Driver.create_volume``. Raises NoSpace, PoolUnusable, and Retryable where the parent is not there."""
        aside = expected()
        with self.reported(f"begin volume {chain[:12]}"), ExitStack() as undo:
            with self._lock:  # what one thread is promised, another must not be
                status = self.brackets.status()
                room = self._admit(status, aside)
                origin = self._parent(parent).id if parent else None
                row = self.brackets.create(status, Role.VOLUME, chain, chain, size, origin)
                self._promised[row.id] = aside
            undo.callback(self.abandon, row)
            device = self.mappings.activate(row, self.names.working("volume", row.id))
            fd = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
            undo.pop_all()
        return ThinVolume(size, fd, device.path, room, row, self)

    def _parent(self, chain: str) -> DeviceRow:
        row = self._sealed(chain)
        if row is None:
            missing = f"volume {chain[:12]} of pool {self.name} is not there"
            raise Retryable(missing, hint="the next run builds it again")
        return row

    def _sealed(self, chain: str) -> DeviceRow | None:
        """The newest: where a volume is built anew, its predecessor goes when the registry has the new one."""
        found = [row for row in self.journal.devices(chain).values() if row.sealed]
        return max(found, key=lambda row: row.id, default=None)

    def seal(self, row: DeviceRow, fd: int) -> str:
        """Called by the volume: make it durable and inactive, and write down what it holds."""
        with self.reported(f"seal {row}"):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self.mappings.deactivate(self.names.working("volume", row.id))
            self._check(self.brackets.status())
            there = self._content().devices.get(row.id)
            if there is None or there.transaction != row.transaction:
                raise PoolUnusable(f"pool {self.name}: {row} is gone", hint="see `reconcile health`")
            self.journal.write(put=[replace(row, mapped=there.mapped_blocks)])
            self._promised.pop(row.id, None)
            return row.identity

    def abandon(self, row: DeviceRow) -> None:
        """Called by a volume that is not to be. What can't be removed now is a leftover, and the next run's to remove."""
        self._promised.pop(row.id, None)
        with suppress(ReconcilerError, OSError):
            self.remove(row)

    @contextmanager
    def reading(self, chain: str) -> Iterator[Path]:
        """See ``Driver.reading``: active and read-only for as long as it lasts. Raises PoolUnusable, Retryable."""
        row = self._parent(chain)
        with self.reported(f"read {row}"):
            device = self.mappings.reader(row)
        try:
            yield device.path
        finally:
            self.mappings.deactivate(device.name)

    def remove_volume(self, chain: str) -> None:
        self._remove_all(Role.VOLUME, chain)

    # -------------------------------------------------------------------------------------------------- snapshots

    def create_snapshot(self, name: str, chain: str) -> str:
        """See ``Driver.create_snapshot``. A snapshot of this very chain that nobody recorded is taken as the one asked for.

        Raises NoSpace, PoolUnusable, NameTaken, Busy, and Retryable where the volume is not there.
        """
        with self.reported(f"make snapshot {name}"):
            row = self._finished(name, chain) or self._copy(name, chain)
            self._bring_up(row)
            return row.identity

    def _copy(self, name: str, chain: str) -> DeviceRow:
        with self._lock:
            status = self.brackets.status()
            self._admit(status, 0)
            base = self._parent(chain)
            return self.brackets.create(status, Role.SNAPSHOT, name, chain, base.size, base.id)

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        with self.reported("find out who uses its snapshots"):
            return self.mappings.holders({name: thin[0] for name, one in snapshots.items() if (thin := identified(one))})

    def replace_snapshot(self, name: str, chain: str, identity: str) -> str:
        """See ``Driver.replace_snapshot``. Raises NoSpace, PoolUnusable, NameTaken, Busy, and Retryable without the volume."""
        if who := self.holders({name: identity}).get(name):
            path = self.snapshot_path(name)
            raise Busy(f"snapshot {name} is in use: {path} is held by {who}", hint="stop what uses it, then run again")
        with self.reported(f"replace snapshot {name}"):
            made = [row for row in self._rows(Role.SNAPSHOT, name) if row.identity != identity and row.chain == chain]
            row = next((one for one in made if diagnosis.proved(one, self._content())), None) or self._copy(name, chain)
            device = self._ours_under(name)
            if device is None or device.uuid == self.names.thin_uuid(row.id):
                self._bring_up(row)
                return row.identity
            try:
                self.mappings.swap(row, self.names.working("new", row.id), device.name)
            except BaseException:
                self.abandon(row)
                raise
            return row.identity

    def discard_replaced(self, name: str, identity: str) -> None:
        with self.reported(f"remove what snapshot {name} was"):
            for row in self._rows(Role.SNAPSHOT, name):
                if row.identity != identity:
                    self.remove(row)

    def _finished(self, name: str, chain: str) -> DeviceRow | None:
        """What a run that was cut off after the pool had the snapshot, and before the registry had its row, has left.

        Anything else that bears the name and is ours makes room.
        """
        kept = None
        for row in self._rows(Role.SNAPSHOT, name):
            if row.chain == chain and diagnosis.proved(row, self._content()):
                kept = row
            else:
                self.remove(row)
        return kept

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        """See ``Driver.activate_snapshot``. Raises PoolUnusable, NameTaken, Busy."""
        with self.reported(f"activate snapshot {name}"):
            rows = self._rows(Role.SNAPSHOT, name)
            rows = [row for row in rows if row.identity == identity] or rows
            if not rows:
                raise Retryable(f"snapshot {name} of pool {self.name} is not there", hint="the next run makes it")
            self._bring_up(rows[-1])

    def _bring_up(self, row: DeviceRow) -> None:
        """Active under its name, whatever stood there: nothing, itself suspended, or an earlier one of ours."""
        names, name = self.names, self.names.snapshot(row.name)
        device = self._ours_under(row.name)
        if device is not None and device.uuid != names.thin_uuid(row.id):
            self.mappings.deactivate(name)
            device = None
        if device is not None and device.live_table:
            self.dm.resume(name)
            return
        if device is not None:
            self.mappings.deactivate(name)
        self.mappings.activate(row, name)

    def _ours_under(self, name: str) -> Device | None:
        """The device that has a snapshot's name. Raises NameTaken where that is not ours."""
        mapping = self.names.snapshot(name)
        device = self.dm.info(mapping)
        if device is not None and self.names.thin_id(device.uuid) is None:
            held = f"uuid {device.uuid!r}" if device.uuid else "no uuid"
            raise NameTaken(
                f"/dev/mapper/{mapping} is a mapping that is not ours ({held})",
                hint=f"give the snapshot another name, or that mapping: dmsetup rename {mapping} …",
            )
        return device

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
        """Deactivate, discard, delete; only what is provably still ours. Absent is success. Raises Busy.

        A device can be open without anybody's claiming it (a microVM's disk is): what is discarded is what nobody can have open,
        because it has just been taken down and is up again under a name of ours.
        """
        if not diagnosis.proved(row, self._content()):
            self.journal.write(drop=[row.id])
            return
        self._check(self.brackets.status())
        device = self.dm.by_uuid(self.names.thin_uuid(row.id))
        if device is not None:
            self.mappings.deactivate(device.name)
        device = self.mappings.activate(row, self.names.working("removing", row.id))
        self.mappings.patiently(device.name, lambda: discard(device.path))
        self.mappings.deactivate(device.name)
        self.brackets.delete(row)

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        """See ``Driver.discard_leftovers``. A pool that is not ready has none yet."""
        with self.reported("discard what a run that was cut off has left"):
            seen = self.assembly.sight()
            if seen.trouble or seen.unready:
                return ()
            self.mappings.drop_stale(self._promised)
            if seen.status and not seen.status.writable:
                return ()
            known = {*map(identified, volumes.values()), *map(identified, snapshots.values())}
            gone = []
            for row in seen.rows.values():
                if (
                    (row.id, row.transaction) not in known
                    and row.id not in self._promised
                    and not self._took_over(row, snapshots)
                ):
                    with suppress(Busy):  # it is a finding until it is free
                        self.remove(row)
                        gone.append(f"{row} of pool {self.name}")
            return tuple(gone)

    def _took_over(self, row: DeviceRow, snapshots: Mapping[str, str]) -> bool:
        """Whether a replacement was cut off after it had the name, and before the registry had its row: it is in use, perhaps."""
        if row.role is not Role.SNAPSHOT or row.name not in snapshots:
            return False
        device = self.dm.info(self.names.snapshot(row.name))
        return device is not None and device.uuid == self.names.thin_uuid(row.id)

    # ------------------------------------------------------------------------------------------------ small parts

    def _check(self, status: PoolStatus) -> None:
        if not status.writable:
            raise PoolUnusable(f"pool {self.name} can't be changed now: {status}", hint="see `reconcile health`")

    @cached_property
    def _block_size(self) -> int:
        """Bytes; of the pool that is up, for as long as it lives."""
        return PoolTable.parse(self.dm.table(self.name)[0].params).block_size * SECTOR

    def _admit(self, status: PoolStatus, expected: int) -> int:
        """Bytes that may be written above the reserve. Raises NoSpace, PoolUnusable."""
        self._check(status)
        block = self._block_size
        free = (status.total_data - status.used_data) * block
        reserve = status.total_data * block * self.reserve_data_percent // 100
        room = free - reserve - sum(self._promised.values())
        if room < max(expected, block):
            promised = f", {sum(self._promised.values())} are promised to work under way" if self._promised else ""
            raise NoSpace(
                f"pool {self.name}: {free} bytes are free, {reserve} are to be left free{promised}, {expected} more are wanted",
                hint="remove images with --prune, or declare the pool larger",
            )
        left = status.total_metadata - status.used_metadata
        if left * 100 < status.total_metadata * self.reserve_metadata_percent:
            raise NoSpace(
                f"pool {self.name}: {left} of {status.total_metadata} metadata blocks are free, "
                f"and {self.reserve_metadata_percent} % are to be left free",
                hint="remove images with --prune, or declare the pool's metadata larger",
            )
        return room

    @contextmanager
    def reported(self, doing: str) -> Iterator[None]:
        """Errors of the kernel, and of the host, as one that leaves other pools and objects alone."""
        try:
            yield
        except DmError as error:
            if error.errno == errno.EBUSY:
                raise Busy(f"pool {self.name}: can't {doing}: {error}", hint="it is tried again later") from error
            raise PoolUnusable(f"pool {self.name}: can't {doing}: {error}", hint="see `reconcile health`") from error
        except HostCannot as error:
            raise PoolUnusable(error.message, hint=error.hint) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise PoolUnusable(f"pool {self.name}: can't {doing}: {error.strerror}{where}") from error
