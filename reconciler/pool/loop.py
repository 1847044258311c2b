"""Loop devices over a pool's files, found again by the file's inode, and gone by themselves when nothing uses them any more.

Called by ``pool.assembly``. State: the kernel's loop devices. Ioctls: linux/loop.h, loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import HostCannot

CONTROL = Path("/dev/loop-control")
MAJOR = 7
_CTL_GET_FREE, _CONFIGURE, _GET_STATUS64, _SET_CAPACITY, _CLR_FD = 0x4C82, 0x4C0A, 0x4C05, 0x4C07, 0x4C01
_AUTOCLEAR, _DIRECT_IO = 4, 16
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_TRIES = 64


@dataclass(frozen=True, slots=True)
class Loop:
    """An attached loop device; ``device`` and ``inode`` are those of the file under it."""

    path: Path
    device: int
    inode: int
    direct_io: bool


def find(file: Path) -> Loop | None:
    """The loop device over this very file, whatever it was called when it was attached. Raises FileNotFoundError."""
    wanted = file.stat()
    for entry in sorted(Path("/sys/block").glob("loop*/loop")):
        path = _node(int(entry.parent.name.removeprefix("loop")))
        with suppress(OSError):
            found = _status(path)
            if (found.device, found.inode) == (wanted.st_dev, wanted.st_ino):
                return found
    return None


@contextmanager
def attach(file: Path) -> Iterator[Path]:
    """A loop device over ``file``, an existing one where there is one; it stays for as long as the context, or a user, holds it.

    Raises HostCannot.
    """
    try:
        fd, path = _attached(file)
    except OSError as error:
        at = f" ({error.filename})" if error.filename else ""
        hint = "load the kernel's loop module (modprobe loop), and run as root"
        raise HostCannot(f"{file}: no loop device can be had: {error.strerror}{at}", hint=hint) from error
    try:
        yield path
    finally:
        os.close(fd)


def grow(device: Path) -> None:
    """Let the device have the size that its file has now."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_CAPACITY)
    finally:
        os.close(fd)


def _attached(file: Path) -> tuple[int, Path]:
    for _ in range(_TRIES):
        if (found := find(file)) is not None:
            # Between the look and the opening its last user may have let it go, and another file may have taken its place.
            fd = os.open(found.path, os.O_RDWR | os.O_CLOEXEC)
            with suppress(OSError):
                if _status(found.path).inode == found.inode:
                    return fd, found.path
            os.close(fd)
        elif (made := _configured(file)) is not None:
            return made
    raise OSError(errno.EBUSY, "others take each free loop device first")


def _configured(file: Path) -> tuple[int, Path] | None:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        path = _node(fcntl.ioctl(control, _CTL_GET_FREE))
    finally:
        os.close(control)
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for flags in (_AUTOCLEAR | _DIRECT_IO, _AUTOCLEAR):
            try:
                fcntl.ioctl(fd, _CONFIGURE, _configuration(backing, flags, file))
            except OSError as error:
                if error.errno == errno.EINVAL and flags & _DIRECT_IO:
                    continue  # its file system has no direct I/O
                os.close(fd)
                if error.errno == errno.EBUSY:
                    return None
                raise
            return fd, path
    finally:
        os.close(backing)
    return None


def _configuration(backing: int, flags: int, file: Path) -> bytes:
    """struct loop_config: descriptor, block size (0: the kernel's choice), struct loop_info64, reserved."""
    name = os.fsencode(file)[-63:]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    return struct.pack("=II", backing, 0) + info + bytes(64)


def _status(path: Path) -> Loop:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = _INFO.unpack(fcntl.ioctl(fd, _GET_STATUS64, bytes(_INFO.size)))
    finally:
        os.close(fd)
    return Loop(path, fields[0], fields[1], bool(fields[8] & _DIRECT_IO))


def _node(number: int) -> Path:
    """Containers may have a /dev without it."""
    path = Path(f"/dev/loop{number}")
    with suppress(FileExistsError):
        os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(MAJOR, number))
    return path
