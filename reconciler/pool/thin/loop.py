"""Loop devices over a pool's files: found again by the file's inode, detached by the kernel after their last use.

Called by ``pool.thin.assembly``. State: the kernel's loop devices. Ioctls: linux/loop.h, loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.errors import HostCannot

CONTROL = Path("/dev/loop-control")
MAJOR = 7
SECTOR = 512
_SET_FD, _CLR_FD, _SET_STATUS64, _GET_STATUS64, _SET_CAPACITY = 0x4C00, 0x4C01, 0x4C04, 0x4C05, 0x4C07
_SET_DIRECT_IO, _CONFIGURE, _CTL_GET_FREE = 0x4C08, 0x4C0A, 0x4C82
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_TRIES = 64

_TAKEN = {errno.EBUSY, errno.ENXIO}
"""Another process was faster: the device is configured, or being removed."""
_NOT_KNOWN = {errno.EINVAL, errno.ENOTTY}
"""The answers of kernels that don't have an ioctl or a flag."""


@dataclass(frozen=True, slots=True)
class Loop:
    """An attached loop device; ``device`` and ``inode`` are those of the file under it.

    ``whole`` where it begins with the file, is not limited to a part of it, and can be written.
    """

    path: Path
    device: int
    inode: int
    direct_io: bool
    whole: bool = True


def find(file: Path) -> Loop | None:
    """The loop device over all of this very file, whatever it was called when it was attached. Raises FileNotFoundError."""
    wanted = file.stat()
    for entry in sorted(Path("/sys/block").glob("loop*/loop")):
        path = Path("/dev") / entry.parent.name
        with suppress(OSError):
            _require_node(path)
            found = _status(path)
            if found.whole and (found.device, found.inode) == (wanted.st_dev, wanted.st_ino):
                return found
    return None


def is_over(device: Path, file: os.stat_result) -> bool:
    """Whether a loop device is over this very file; False for any other device."""
    with suppress(OSError):
        found = _status(device)
        return (found.device, found.inode) == (file.st_dev, file.st_ino)
    return False


@contextmanager
def attach(file: Path, opened: int | None = None) -> Iterator[Path]:
    """A loop device over ``file``, an existing one where there is one, and as large as the file.

    ``opened`` is a descriptor of the file, where the caller has one: what the path leads to by now does not count.

    The kernel drops it when its last user lets it go: hold this context until a mapping holds the device. Raises HostCannot.
    """
    over = file if opened is None else Path(f"/proc/self/fd/{opened}")
    with _reported(file):
        fd, path = _attached(over)
    try:
        with _reported(file):
            if os.lseek(fd, 0, os.SEEK_END) < over.stat().st_size // SECTOR * SECTOR:
                fcntl.ioctl(fd, _SET_CAPACITY)
        yield path
    finally:
        os.close(fd)


def grow(device: Path) -> None:
    """Let the device have the size that its file has now. Raises HostCannot."""
    with _reported(device):
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SET_CAPACITY)
        finally:
            os.close(fd)


@contextmanager
def _reported(what: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        at = f" ({error.filename})" if error.filename else ""
        hint = f"check {error.filename or what}"
        if error.filename == str(CONTROL) and error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            hint = "the kernel has no loop devices: modprobe loop; in a container, on its host, and let it have /dev/loop-control"
        elif error.errno in (errno.EACCES, errno.EPERM):
            hint = "run as root; a container must be allowed to use loop devices (--privileged)"
        raise HostCannot(f"{what}: can't be used as a loop device: {error.strerror}{at}", hint=hint) from error


def _attached(file: Path) -> tuple[int, Path]:
    """Its descriptor keeps the device. Others may take a free one, or let the file's one go, at any moment: look again then."""
    for _ in range(_TRIES):
        found = find(file)
        fd = _free(file) if found is None else _reopened(found)
        if fd is not None:
            return fd, Path(f"/dev/loop{os.minor(os.fstat(fd).st_rdev)}")
    raise OSError(errno.EBUSY, "others take each free loop device first")


def _reopened(found: Loop) -> int | None:
    """None where it has gone, or is over another file now."""
    with suppress(OSError):
        fd = os.open(found.path, os.O_RDWR | os.O_CLOEXEC)
        with suppress(OSError):
            if _status(found.path) == found:
                return fd
        os.close(fd)
    return None


def _free(file: Path) -> int | None:
    """A free loop device, over ``file`` now; None if another process was faster."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        path = Path(f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}")
    finally:
        os.close(control)
    _require_node(path)
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _configure(fd, backing, file)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except OSError as error:
        if error.errno in _TAKEN:
            return None
        raise
    finally:
        os.close(backing)


def _configure(fd: int, backing: int, file: Path) -> None:
    """With direct I/O where the file's system has that, so that nothing is cached twice."""
    for flags in (_AUTOCLEAR | _DIRECT_IO, _AUTOCLEAR):
        try:
            fcntl.ioctl(fd, _CONFIGURE, struct.pack("=II", backing, 0) + _info(file, flags) + bytes(64))
            return
        except OSError as error:
            if error.errno not in _NOT_KNOWN:
                raise
    configure_in_steps(fd, backing, file)


def configure_in_steps(fd: int, backing: int, file: Path) -> None:
    """For kernels before 5.8, which have no LOOP_CONFIGURE."""
    fcntl.ioctl(fd, _SET_FD, backing)
    try:
        fcntl.ioctl(fd, _SET_STATUS64, _info(file, _AUTOCLEAR))
    except BaseException:
        fcntl.ioctl(fd, _CLR_FD)
        raise
    with suppress(OSError):
        fcntl.ioctl(fd, _SET_DIRECT_IO, 1)


def _info(file: Path, flags: int) -> bytes:
    """struct loop_info64. The name is for people (losetup -l) and may be cut."""
    name = os.fsencode(os.path.realpath(file))[-63:]
    return _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)


def _status(path: Path) -> Loop:
    """Raises OSError; ENXIO where nothing is attached."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        said = _INFO.unpack(fcntl.ioctl(fd, _GET_STATUS64, bytes(_INFO.size)))
    finally:
        os.close(fd)
    device, inode, _, offset, limit, _, _, _, flags = said[:9]
    return Loop(path, device, inode, bool(flags & _DIRECT_IO), whole=not (offset or limit or flags & _READ_ONLY))


def _require_node(path: Path) -> None:
    """The /dev of a container may be without it."""
    if not path.exists():
        with suppress(FileExistsError):
            os.mknod(path, 0o660 | stat.S_IFBLK, os.makedev(MAJOR, int(path.name.removeprefix("loop"))))
