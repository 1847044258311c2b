"""Activates and deactivates the thin devices of a pool: tables, names, UUIDs, and retries while a device is busy.

Called by ``pool.thin.pool`` and ``pool.thin.repair``. State: the kernel's mappings.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from reconciler.dataclass import dataclass, replace
from reconciler.errors import Busy, ReconcilerError, Retryable
from reconciler.pool.holders import device_holder, device_holders
from reconciler.pool.thin.assembly import SECTOR, number
from reconciler.pool.thin.devices import sized
from reconciler.pool.thin.devmapper import Device, DeviceMapper, DmError, Listed, Target
from reconciler.pool.thin.journal import DeviceRow
from reconciler.pool.thin.naming import MAPPER, Names
from reconciler.pool.thin.status import ThinTable

BUSY_SECONDS = 2.0
"""How long a busy device without a visible holder is retried: udev's rules open each new device for a moment."""

READING = "read"
"""The working devices of readers, which hold no lock: the name has their process id."""


@dataclass(frozen=True)
class Mappings:
    """``names`` returns the pool's current names and UUIDs. Methods also raise DmError."""

    pool: str
    dm: DeviceMapper
    names: Callable[[], Names]

    def activate(
        self, row: DeviceRow, name: str, *, reader: bool = False, writable: bool = False, names: Names | None = None
    ) -> Device:
        """Activate a device, read-only for a ``reader`` or where its row has that and it need not be ``writable``.

        Raises Retryable if the pool does not hold it.
        """
        uuid, read_only = (names or self.names()).thin_uuid(row.id), reader or (row.read_only and not writable)
        if reader:
            uuid += f"-{name.removeprefix(self.pool)[2:]}"  # a second mapping of the same device needs a UUID of its own
        table = ThinTable(number(MAPPER / self.pool), row.id, None)
        try:
            return self.dm.create(name, uuid, [Target(0, row.size // SECTOR, "thin", str(table))], read_only=read_only)
        except DmError as error:
            if error.errno == errno.ENODATA:
                raise Retryable(f"pool {self.pool}: {row} is missing", hint="the next run recreates it") from error
            raise

    def activate_many(self, rows: Iterable[tuple[DeviceRow, str]]) -> dict[int, DmError | ReconcilerError]:
        """Activate devices under the names beside them, with one wait for udev. Return the errors by thin id."""
        errors: dict[int, DmError | ReconcilerError] = {}
        names = self.names()
        with self.dm.one_wait():
            for row, name in rows:
                try:
                    self.activate(row, name, names=names)
                except (DmError, ReconcilerError) as error:
                    errors[row.id] = error
        return errors

    def uuids(self) -> dict[str, str]:
        """The UUIDs of the mappings whose names begin as the pool's do, by name: one call if the kernel's list has them."""
        return {name: one.uuid or "" for name, one in self.listed().items()}

    def listed(self) -> dict[str, Listed]:
        """The mappings whose names begin as the pool's do, by name: one call if the kernel's list has UUIDs and events."""
        found = [one for one in self.dm.devices() if one.name == self.pool or one.name.startswith(f"{self.pool}-")]
        return {one.name: self._complete(one) for one in found}

    def _complete(self, listed: Listed) -> Listed:
        if listed.uuid is not None and listed.event is not None:
            return listed
        device = self.dm.info(listed.name)
        return replace(listed, uuid=device.uuid, event=device.event) if device else replace(listed, uuid="")

    def states(self) -> Callable[[Listed], tuple[bool, bool]]:
        """Whether a mapping has a live table, and whether it is suspended: no call, where sysfs has both.

        Which devices have a size is read once, now.
        """
        known = sized()
        return lambda listed: listed.state(known) or self._asked(listed)

    def _asked(self, listed: Listed) -> tuple[bool, bool]:
        device = self.dm.info(listed.name)
        return (device.live_table, device.suspended) if device else (False, False)

    def reader(self, row: DeviceRow, names: Names | None = None) -> Device:
        """Activate a device read-only, under a working name of this process."""
        name = (names or self.names()).working(f"{READING}-{os.getpid()}", row.id)
        return self.activate(row, name, reader=True, names=names)

    def deactivate(self, name: str) -> None:
        """Remove a mapping; absent is success. Raises Busy, with the holder."""
        try:
            self.retry_busy(name, lambda: self.dm.remove(name))
        except DmError as error:
            if error.errno != errno.ENXIO:
                raise

    def grow(self, row: DeviceRow) -> None:
        """Give an active device the length of its row; what has it open keeps it. Inactive is success.

        The device changes its table in the resume: no kill leaves it suspended.
        """
        device = self.dm.by_uuid(self.names().thin_uuid(row.id))
        length = row.size // SECTOR
        if device is not None and device.live_table and sum(one.length for one in self.dm.table(device.name)) < length:
            self.dm.load(device.name, [Target(0, length, "thin", str(ThinTable(number(MAPPER / self.pool), row.id, None)))])
            self.dm.resume(device.name)

    def swap(self, row: DeviceRow, working: str, name: str) -> None:
        """Give this device the name of another one. It is active before, so the name is absent for a moment only.

        Raises Busy if the other device is held; it then keeps its name.
        """
        made = self.activate(row, working)
        self.deactivate(name)
        self.dm.rename(made.name, name)

    def holders(self, thin_ids: Mapping[str, int]) -> dict[str, str]:
        """The holder of each open device, as text. The kernel reports whether one is open, /proc mostly by whom."""
        names = self.names()
        devices = {name: self.dm.by_uuid(names.thin_uuid(thin_id)) for name, thin_id in thin_ids.items()}
        used = {name: device.path for name, device in devices.items() if device and device.open_count}
        known = device_holders(used) if used else {}
        return {name: known.get(name, "a process that is not visible from here") for name in used}

    def retry_busy(self, name: str, act: Callable[[], None]) -> None:
        """Retry for a while if the device is busy; then raise Busy, with the holder."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return act()
            except (DmError, Busy) as error:
                if isinstance(error, DmError) and error.errno != errno.EBUSY:
                    raise
                who = device_holder(MAPPER / name)
                if who or time.monotonic() > until:
                    held = f"held by {who}" if who else "in use"
                    raise Busy(f"/dev/mapper/{name} is {held}", hint="stop what uses it; it is retried later") from error
                time.sleep(0.05)

    def is_device(self, name: str, thin_id: int) -> bool:
        """Whether a mapping is this device: an interrupted replacement that has its name already may be in use."""
        device = self.dm.info(name)
        return device is not None and device.uuid == self.names().thin_uuid(thin_id)

    def ours(self) -> list[Listed]:
        """All mappings of this pool's thin devices, by their UUIDs: one call if the kernel's list has them."""
        mark = self.names().thin_uuid(0)[:-1]
        return [one for one in self.listed().values() if (one.uuid or "").startswith(mark) and one.name != self.pool]

    def resume_ours(self) -> Iterator[str]:
        """Resume devices that a crash left suspended: every reader of one hangs. Return what was done, as text."""
        state_of = self.states()
        for one in self.ours():
            if state_of(one)[1]:
                self.dm.resume(one.name)
                yield f"resumed {one.name}"

    def drop_stale(self, under_way: Collection[int]) -> None:
        """Deactivate working devices of processes that no longer exist."""
        mark = self.names().thin_uuid(0)[:-1]
        for name, uuid in self.uuids().items():
            working = name.startswith(f"{self.pool}-.") and uuid.startswith(mark)
            if working and not self._in_use(name, under_way):
                device = self.dm.info(name)
                if device is not None and device.open_count == 0:
                    self.deactivate(name)

    def _in_use(self, name: str, under_way: Collection[int]) -> bool:
        what, _, rest = name.removeprefix(f"{self.pool}-.").partition("-")
        if what == READING:
            return Path("/proc", rest.partition("-")[0]).exists()
        return rest.isdigit() and int(rest) in under_way
