"""The backing of a thin pool: block devices, or files that are used through loop devices. Files are created once and only grow.

Called by ``pool.thin.assembly``. State: the files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from reconciler import atomic_file, process
from reconciler.dataclass import dataclass, field
from reconciler.errors import HostCannot, PoolUnusable
from reconciler.pool.thin import loop, metadata
from reconciler.pool.thin.devices import SYSFS
from reconciler.pool.thin.label import Label
from reconciler.pool.thin.metadata import BLOCK, LARGEST

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
_ENTRY = 48
"""Bytes of metadata for a block of data (thin-provisioning.rst)."""
_ENDS = 64 << 10
_PROBE_SECONDS = 60
_NOTHING_FOUND, _AMBIVALENT = 2, 8
_WRITTEN = "something (its first or last bytes are not zero)"


class Kind(StrEnum):
    DEVICE = "device"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Backing:
    """Either a ``device``, or a ``file`` of ``size`` bytes (None for metadata: by rule)."""

    device: str | None = None
    file: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """``path`` is what can be read: the file itself, or the device. ``size`` in bytes, 0 where it is not there.

    ``key`` identifies it while the host runs: a path can lead elsewhere later.
    """

    path: Path
    present: bool
    size: int
    kind: Kind = Kind.FILE
    key: Hashable = field(default=None, compare=False)


def metadata_size(data_bytes: int, block_bytes: int) -> int:
    """48 bytes for each block of data (thin-provisioning.rst), 2 MiB at least, what the kernel can use at most; whole blocks."""
    wanted = max(2 * MIB, _ENTRY * (data_bytes // block_bytes))
    return min(-(-wanted // BLOCK) * BLOCK, LARGEST)


def undescribed(data_bytes: int, block_bytes: int) -> str:
    """Why the end of so much data can't be used with blocks of this size, and what to declare; empty if all of it can."""
    most = LARGEST // _ENTRY * block_bytes
    if data_bytes <= most:
        return ""
    needed = 64 * KIB
    while LARGEST // _ENTRY * needed < data_bytes:
        needed *= 2
    return (
        f"with blocks of {block_bytes // KIB} KiB the largest metadata describes {most / TIB:.1f} of {data_bytes / TIB:.1f} TiB "
        f"of data, and the rest can't be used: create the pool with blockSize {needed // KIB}KiB or more"
    )


def probe(backing: Backing) -> Found:
    """Return what exists now; reads only. Raises HostCannot if something else is in its place."""
    kind = Kind.DEVICE if backing.file is None else Kind.FILE
    path = Path(backing.file or backing.device or "")
    try:
        found = path.stat()
    except FileNotFoundError:
        if kind is Kind.FILE:
            return Found(path, False, 0)
        hint = "attach the disk; name it by /dev/disk/by-id, which stays the same"
        raise HostCannot(f"{path}: no such device", hint=hint) from None
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="run as root, and check the path") from error
    if kind is Kind.FILE:
        if not stat.S_ISREG(found.st_mode):
            hint = "declare a block device as `device`, and a file as `file`"
            raise HostCannot(f"{path}: {_what(found.st_mode)}, and not a regular file", hint=hint)
        return Found(path, True, found.st_size, key=_key(found))
    if not stat.S_ISBLK(found.st_mode):
        hint = "declare a file as `file`, with its size"
        raise HostCannot(f"{path}: {_what(found.st_mode)}, and not a block device", hint=hint)
    return Found(path, True, _device_size(path), kind, key=_key(found))


def _key(found: os.stat_result) -> Hashable:
    return ("device", found.st_rdev) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


@contextmanager
def opened(backing: Backing, inspected: Found) -> Iterator[int]:
    """A descriptor of what ``probe`` has found. Raises HostCannot; PoolUnusable if the path leads elsewhere by now."""
    path = Path(backing.file or backing.device or "")
    try:
        fd = os.open(path, (os.O_RDWR if backing.file else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="the pool's file must be readable and writable") from error
    try:
        if _key(os.fstat(fd)) != inspected.key:
            raise PoolUnusable(f"{path} has been replaced while the pool was activated", hint="run again")
        yield fd
    finally:
        os.close(fd)


def real_path(fd: int) -> str:
    """The path of an open file, as the kernel has it."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def lies_on(number: str, declared: Backing) -> bool:
    """Whether the block device ``major:minor`` is the declared one, over the declared file, or a mapping on top of either."""
    try:
        wanted = Path(declared.file or declared.device or "").stat()
    except OSError:
        return False
    below, seen = [number], set[str]()
    while below:
        one = below.pop()
        entry = SYSFS / one
        if declared.file is None and one == f"{os.major(wanted.st_rdev)}:{os.minor(wanted.st_rdev)}":
            return True
        if declared.file is not None and (entry / "loop").exists() and loop.is_over(Path("/dev") / entry.resolve().name, wanted):
            return True
        seen.add(one)
        with suppress(OSError):
            below += {(lower / "dev").read_text().strip() for lower in (entry / "slaves").iterdir()} - seen
    return False


def described(number: str) -> str:
    """The name of a block device ``major:minor``; of a loop device, the file that it is over."""
    entry = SYSFS / number
    with suppress(OSError):
        return (entry / "loop" / "backing_file").read_text(errors="surrogateescape").removesuffix("\n")
    return f"/dev/{entry.resolve().name}" if entry.exists() else number


def _what(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "a regular file", stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something unknown")


def _device_size(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="run as root; insert a medium if it has none") from error
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def make(backing: Backing, permit: Callable[[str], None] = lambda path: None) -> None:
    """Create the file, sparse and durably; an existing one keeps its content and is extended. Raises HostCannot.

    ``permit`` gets the path of the file as the kernel has it, before the file is created. A crash between any two steps leaves at
    most an empty file, which the next ``make`` completes.
    """
    path = Path(backing.file or "")
    hint = f"check {path.parent} and its permissions"
    try:
        atomic_file.make_directory(path.parent)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostCannot(f"{path}: can't be created: {error.strerror}", hint=hint) from error
    try:
        permit(f"{real_path(directory)}/{path.name}")
        try:
            fd, made = _created(path.name, directory)
            os.fsync(directory)
        except OSError as error:
            raise HostCannot(f"{path}: can't be created: {error.strerror}", hint=hint) from error
        try:
            permit(real_path(fd))
            grow(backing, fd)
        except HostCannot:
            if made:
                os.unlink(path.name, dir_fd=directory)
            raise
        finally:
            os.close(fd)
    finally:
        os.close(directory)


def _created(name: str, directory: int) -> tuple[int, bool]:
    """A descriptor of the file, and whether it is new."""
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory), True
    except FileExistsError:
        return os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=directory), False


def grow(backing: Backing, fd: int) -> bool:
    """Extend the open file to its declared size, durably; True where it was smaller. Never shrinks. Raises HostCannot."""
    size = backing.size or 0
    try:
        if os.fstat(fd).st_size >= size:
            return False
        os.ftruncate(fd, size)
        os.fsync(fd)
        return True
    except OSError as error:
        hint = "declare less, or use another disk"
        raise HostCannot(f"{backing.file}: can't have {size} bytes: {error.strerror}", hint=hint) from error


def blank(path: Path) -> str:
    """Describe what a device or file holds; empty if it holds nothing recognisable. Raises HostCannot.

    A device in use (by a mount, a mapping) is never blank. Without blkid only zeros are.
    """
    try:
        head, tail = _ends(path)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "something in use: it is mounted, or part of another device"
        raise HostCannot(f"{path}: can't be read: {error.strerror}", hint="run as root, and check the device") from error
    if held := _of_a_pool(head[:BLOCK]):
        return held
    if (probe := process.find("blkid")) is not None:
        return _probed(probe, path)
    return _WRITTEN if any(head) or any(tail) else ""


def _of_a_pool(block: bytes) -> str:
    """What of a thin pool begins with this block; empty for anything else. blkid has no name for its label."""
    if metadata.is_superblock(block):
        return "the metadata of a thin pool"
    return "the data of a thin pool" if Label.parse(block) is not None else ""


def content(found: Found) -> str:
    """The same of what a new pool would be written over; of a file, also content that no tool has a name for."""
    if (held := blank(found.path)) or found.kind is Kind.DEVICE:
        return held
    return _WRITTEN if any(map(any, _ends(found.path))) else ""


def wiping(found: Found) -> str:
    """The command that makes it blank. wipefs does not recognise thin pools; clearing their first block is enough."""
    if found.kind is Kind.FILE:
        return f"rm {found.path}"
    with found.path.open("rb") as device:
        is_pool = _of_a_pool(device.read(BLOCK))
    return f"dd if=/dev/zero of={found.path} bs={BLOCK} count=1 conv=fsync" if is_pool else f"wipefs --all {found.path}"


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and last bytes. The exclusive open of a block device succeeds only if it is not in use."""
    exclusive = os.O_EXCL if path.is_block_device() else 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | exclusive)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # a mapping may have written below the device's cached pages
        return os.pread(fd, _ENDS, 0), os.pread(fd, _ENDS, max(0, end - _ENDS))
    finally:
        os.close(fd)


def _probed(probe: str, path: Path) -> str:
    """The answer of libblkid, without its cache. Exit codes and keys: blkid(8)."""
    said = process.run([probe, "-p", "-o", "export", str(path)], timeout=_PROBE_SECONDS)
    if said.code == _NOTHING_FOUND:
        return ""
    if said.code == _AMBIVALENT:
        return "several signatures at once (blkid)"
    if said.code != 0:
        hint = f"run `{said.command}` to see why; a device with unknown content is not overwritten"
        raise HostCannot(f"{path}: blkid ended with code {said.code}: {said.stderr.strip()}", hint=hint)
    found = dict(line.partition("=")[::2] for line in said.stdout.splitlines())
    label = f", labelled {found['LABEL']}" if "LABEL" in found else ""
    if found.get("USAGE") == "filesystem":
        return f"{'an' if found['TYPE'][0] in 'aeioux' else 'a'} {found['TYPE']} file system{label}"
    if "TYPE" in found:
        return f"{found['TYPE']} (blkid){label}"
    return f"a partition table ({found['PTTYPE']})" if "PTTYPE" in found else ""
