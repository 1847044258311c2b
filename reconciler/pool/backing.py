"""What a thin pool lies on: block devices, or files that are used through loops. Files are made once and only ever grow.

Called by ``pool.assembly``. State: the files.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from reconciler import process
from reconciler.errors import HostCannot

MIB = 1 << 20
_ENDS = 64 << 10


@dataclass(frozen=True, slots=True)
class Backing:
    """Either a ``device``, or a ``file`` of ``size`` bytes (None for metadata: by rule)."""

    device: str | None = None
    file: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """``path`` is what can be read: the file itself, or the device. ``size`` in bytes, 0 where it is not there."""

    path: Path
    present: bool
    size: int


def metadata_size(data_bytes: int, block_bytes: int) -> int:
    """48 bytes for each block of data, 2 MiB at least and 16 GiB at most (thin-provisioning.rst); whole MiB."""
    wanted = max(2 * MIB, 48 * (data_bytes // block_bytes))
    return min(-(-wanted // MIB) * MIB, 16 << 30)


def look(backing: Backing) -> Found:
    """What is there now; reads only. Raises HostCannot where something else is in its place."""
    path = Path(backing.file or backing.device or "")
    try:
        found = path.stat()
    except FileNotFoundError:
        if backing.file is None:
            hint = "is the disk there? name it by /dev/disk/by-id, which stays the same"
            raise HostCannot(f"{path}: there is no such device", hint=hint) from None
        return Found(path, False, 0)
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="run as root, and check the path") from error
    if backing.file is not None:
        if not stat.S_ISREG(found.st_mode):
            raise HostCannot(f"{path}: not a regular file", hint="declare a block device as `device`, and a file as `file`")
        return Found(path, True, found.st_size)
    if not stat.S_ISBLK(found.st_mode):
        raise HostCannot(f"{path}: not a block device", hint="declare a file as `file`, with its size")
    return Found(path, True, _device_size(path))


def _device_size(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="run as root") from error
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def make(backing: Backing) -> None:
    """Create the file, sparse and durably; one that is there stays as it is. Raises HostCannot."""
    path = Path(backing.file or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        grow(backing)  # a crash may have come between its creation and its size
        return
    except OSError as error:
        raise HostCannot(f"{path}: can't be created: {error.strerror}", hint="check the directory and its permissions") from error
    try:
        _extend(fd, path, backing.size or 0)
    finally:
        os.close(fd)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def grow(backing: Backing) -> bool:
    """Extend the file to its declared size; True where it was smaller. Never shrinks. Raises HostCannot."""
    path = Path(backing.file or "")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostCannot(f"{path}: {error.strerror}", hint="the pool's file must be readable and writable") from error
    try:
        if os.fstat(fd).st_size >= (backing.size or 0):
            return False
        _extend(fd, path, backing.size or 0)
        return True
    finally:
        os.close(fd)


def _extend(fd: int, path: Path, size: int) -> None:
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError as error:
        raise HostCannot(
            f"{path}: can't have {size} bytes: {error.strerror}", hint="declare less, or use another disk"
        ) from error


def blank(path: Path) -> str:
    """What a device or file holds, in words; empty where it holds nothing that anybody knows."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        tail = file.read(_ENDS)
    probe = process.find("blkid")
    if probe is None:
        return "something (its first or last bytes are not zero)" if any(head) or any(tail) else ""
    said = process.run([probe, "-p", "-o", "export", str(path)], timeout=60)
    words = dict(line.partition("=")[::2] for line in said.stdout.splitlines())
    kind = words.get("TYPE") or words.get("PTTYPE")
    if kind:
        return f"{kind} ({'a partition table' if 'TYPE' not in words else 'as blkid says'})"
    return "several things at once (as blkid says)" if said.code == 8 else ""
