"""The thin devices of a pool that are active, and how they come and go: tables, names, UUIDs, and patience with what is busy.

Called by ``pool.thin`` and ``pool.mending``. State: the kernel's mappings.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Busy, Retryable
from reconciler.pool.holders import device_holder, device_holders
from reconciler.pool.thin.assembly import SECTOR, number
from reconciler.pool.thin.devmapper import Device, DeviceMapper, DmError, Target
from reconciler.pool.thin.journal import DeviceRow
from reconciler.pool.thin.naming import MAPPER, Names
from reconciler.pool.thin.status import ThinTable

PATIENCE_SECONDS = 2.0
"""How long a device that nobody should hold may stay busy: udev's rules open each new device for a moment."""

READING = "read"
"""The working devices of readers, who hold no lock: the name carries their process id."""


@dataclass(frozen=True)
class Mappings:
    """``names`` gives the names and UUIDs of the pool as it is known now. Methods raise DmError besides what they say."""

    pool: str
    dm: DeviceMapper
    names: Callable[[], Names]

    def activate(self, row: DeviceRow, name: str, *, read_only: bool = False, names: Names | None = None) -> Device:
        """Raises Retryable where the pool does not hold the device."""
        uuid = (names or self.names()).thin_uuid(row.id)
        if read_only:
            uuid += f"-{name.removeprefix(self.pool)[2:]}"  # a second mapping of the same device needs a UUID of its own
        table = ThinTable(number(MAPPER / self.pool), row.id, None)
        try:
            return self.dm.create(name, uuid, [Target(0, row.size // SECTOR, "thin", str(table))], read_only=read_only)
        except DmError as error:
            if error.errno == errno.ENODATA:
                raise Retryable(f"pool {self.pool}: {row} is gone", hint="the next run makes it again") from error
            raise

    def reader(self, row: DeviceRow, names: Names | None = None) -> Device:
        """Active and read-only under a name that tells whose it is."""
        name = (names or self.names()).working(f"{READING}-{os.getpid()}", row.id)
        return self.activate(row, name, read_only=True, names=names)

    def deactivate(self, name: str) -> None:
        """Absent is success. Raises Busy, with who holds it."""
        try:
            self.patiently(name, lambda: self.dm.remove(name))
        except DmError as error:
            if error.errno != errno.ENXIO:
                raise

    def swap(self, row: DeviceRow, working: str, name: str) -> None:
        """Give a name that another device of ours has to this one: up already, so that the name is gone for a moment only.

        Raises Busy where somebody holds the other one; it keeps its name then.
        """
        made = self.activate(row, working)
        self.deactivate(name)
        self.dm.rename(made.name, name)

    def holders(self, thin_ids: Mapping[str, int]) -> dict[str, str]:
        """Who has them open, in words; without those that nobody has. The kernel knows whether, /proc mostly by whom."""
        names = self.names()
        devices = {name: self.dm.by_uuid(names.thin_uuid(thin_id)) for name, thin_id in thin_ids.items()}
        used = {name: device.path for name, device in devices.items() if device and device.open_count}
        known = device_holders(used) if used else {}
        return {name: known.get(name, "somebody who can't be seen from here") for name in used}

    def patiently(self, name: str, act: Callable[[], None]) -> None:
        """Again for a while where the device is busy; then Busy, with who holds it."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return act()
            except (DmError, Busy) as error:
                if isinstance(error, DmError) and error.errno != errno.EBUSY:
                    raise
                who = device_holder(MAPPER / name)
                if who or time.monotonic() > until:
                    held = f"held by {who}" if who else "in use"
                    raise Busy(f"/dev/mapper/{name} is {held}", hint="stop what uses it; it is tried again later") from error
                time.sleep(0.05)

    def ours(self) -> list[Device]:
        """All mappings of this pool's thin devices, by their UUIDs."""
        mark = self.names().thin_uuid(0)[:-1]
        found = [self.dm.info(listed.name) for listed in self.dm.devices() if listed.name.startswith(f"{self.pool}-")]
        return [one for one in found if one and one.uuid.startswith(mark)]

    def drop_stale(self, under_way: Collection[int]) -> None:
        """Take down working devices whose process has died."""
        for device in self.ours():
            working = device.name.startswith(f"{self.pool}-.")
            if working and device.open_count == 0 and not self._lives(device.name, under_way):
                self.deactivate(device.name)

    def _lives(self, name: str, under_way: Collection[int]) -> bool:
        what, _, rest = name.removeprefix(f"{self.pool}-.").partition("-")
        if what == READING:
            return Path("/proc", rest.partition("-")[0]).exists()
        return rest.isdigit() and int(rest) in under_way
