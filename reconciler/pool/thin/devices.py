"""The values of device-mapper: a device, a target of its table, an error; and the check that this host has device-mapper.

Created by ``pool.thin.devmapper``, and imported from there. No state.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.errors import HostCannot

DIRECTORY = Path("/dev/mapper")
CONTROL = DIRECTORY / "control"
SYSFS = Path("/sys/dev/block")
"""One directory for each block device, by its number (sysfs-block-dm)."""
PARTITIONS = Path("/proc/partitions")
"""One line for each block device that is not empty: its number, size, name."""


class DmError(OSError):
    """A task that failed: ``errno`` as the kernel gave it, ``task`` ("create", "load", "message" …), and the device (its name, or
    the UUID it was looked for by).

    ``errno`` is EIO where the kernel was not reached; then ``detail`` has what the library complained of. Of a message,
    ``detail`` is its text.
    """

    def __init__(self, code: int, task: str, device: str, detail: str = "") -> None:
        super().__init__(code, os.strerror(code))
        self.task = task
        self.device = device
        self.detail = detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"dm {self.task} {self.device}: {self.strerror}{detail}"


@dataclass(frozen=True, slots=True)
class Target:
    """A piece of a device: ``start`` and ``length`` in sectors of 512 bytes, ``params`` a table's or a status line's."""

    start: int
    length: int
    kind: str
    params: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of the kernel's list of mappings. ``uuid`` and ``event`` are None if the kernel's list does not have them."""

    name: str
    major: int
    minor: int
    uuid: str | None = None
    event: int | None = None

    def state(self, sized: Collection[tuple[int, int]] = ()) -> tuple[bool, bool] | None:
        """Whether it has a live table, and whether it is suspended, from sysfs; None where sysfs has no such mapping.

        ``sized`` are devices known to have a size (``sized``), which only a live table gives; of the others it is read.
        """
        try:
            entry = f"{SYSFS}/{self.major}:{self.minor}"
            live = (self.major, self.minor) in sized or _attribute(f"{entry}/size") != b"0\n"
            return live, _attribute(f"{entry}/dm/suspended") != b"0\n"
        except OSError:
            return None


def sized() -> frozenset[tuple[int, int]]:
    """The numbers of block devices that have a size, in one read; some may be missing, and all where it can't be read."""
    try:
        lines = PARTITIONS.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return frozenset()
    fields = (line.split(None, 2) for line in lines)
    return frozenset((int(one[0]), int(one[1])) for one in fields if len(one) == 3 and one[0].isdigit() and one[1].isdigit())


def _attribute(path: str) -> bytes:
    """Half the system calls of a file object: a pass reads one for each snapshot."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Device:
    """``open_count`` counts openers and mappings on top. Without a ``live_table`` it was created and never activated.

    ``event`` counts the events of its targets, low water for example.
    """

    name: str
    uuid: str
    major: int
    minor: int
    open_count: int
    suspended: bool
    read_only: bool
    live_table: bool
    event: int

    @property
    def path(self) -> Path:
        return DIRECTORY / self.name

    @property
    def number(self) -> tuple[int, int]:
        return self.major, self.minor


def require_control() -> None:
    """Raise HostCannot if libdevmapper can't reach the kernel. Opening the node may load the kernel's module."""
    if os.geteuid() != 0:
        raise HostCannot("thin pools need root", hint="run as root, or declare a pool of files")
    try:
        os.close(os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as error:
        if " device-mapper\n" not in Path("/proc/misc").read_text():
            raise no_kernel(error) from error  # else the library makes the node
    except OSError as error:
        raise no_kernel(error) from error


def no_kernel(error: OSError) -> HostCannot:
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run as root of the host, or in a container that may use it (--privileged)"
        return HostCannot(f"the kernel's device-mapper may not be used: {error}", hint=hint)
    hint = "modprobe dm-mod dm-thin-pool; in a container, on its host; or declare a pool of files"
    return HostCannot(f"this kernel has no device-mapper that can be used: {error}", hint=hint)
