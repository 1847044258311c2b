"""Finds the holders of a file or a block device: loop device, mapping, mount, process, lock.

Called by ``pool.file`` and ``pool.thin`` before a removal. Keeps no state; reads /proc and /sys; of other users' processes only
what the kernel shows is visible.
Formats: proc(5), fcntl(2), flock(2).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


def holder(path: Path) -> str | None:
    """Describe the first holder found of a file; None if there is none. Raises FileNotFoundError."""
    found = path.stat()
    asked = (loop_devices, bind_mounts, processes, locks, flocks)
    return next((who for ask in asked for who in ask(path, found)), None)


def device_holder(device: Path) -> str | None:
    """Describe the first holder found of a block device, in all visible mount namespaces; None if there is none, or no device."""
    try:
        found = device.stat()
    except FileNotFoundError:
        return None
    asked = (mappings, loop_devices, device_mounts, device_processes)
    return next((who for ask in asked for who in ask(device, found)), None)


def holders(files: Mapping[str, Path]) -> dict[str, str]:
    """Return ``holder`` of many files by name, with one walk over all processes; files without a holder are left out."""
    there = {name: (path, found) for name, path in files.items() if (found := _file(path))}
    opened = _opened(_inode, {_inode("/", found) for _, found in there.values()})
    answers = {
        name: next(
            chain(loop_devices(*one), bind_mounts(*one), opened.get(_inode("/", one[1]), ()), locks(*one), flocks(*one)), None
        )
        for name, one in there.items()
    }
    return {name: who for name, who in answers.items() if who}


def device_holders(devices: Mapping[str, Path]) -> dict[str, str]:
    """Return ``device_holder`` of many block devices by name, in the same way."""
    there = {name: (path, found) for name, path in devices.items() if (found := _stat(path))}
    opened = _opened(_number, {found.st_rdev for _, found in there.values()})
    mounted = _mounted_devices()
    answers = {
        name: next(
            chain(mappings(*one), loop_devices(*one), mounted.get(one[1].st_rdev, ()), opened.get(one[1].st_rdev, ())), None
        )
        for name, one in there.items()
    }
    return {name: who for name, who in answers.items() if who}


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _file(path: Path) -> os.stat_result | None:
    found = _stat(path)
    return found if found and stat.S_ISREG(found.st_mode) else None


def _inode(_link: str, found: os.stat_result) -> object:
    return found.st_dev, found.st_ino


def _number(link: str, found: os.stat_result) -> object:
    return found.st_rdev if link.startswith("/dev/") and stat.S_ISBLK(found.st_mode) else None


def _opened(key: Callable[[str, os.stat_result], object], wanted: Container[object]) -> dict[object, list[str]]:
    """The first process found that has each of these open."""
    found: dict[object, list[str]] = {}
    for process in _processes():
        with suppress(OSError):
            for fd in (process / "fd").iterdir():
                with suppress(OSError):
                    link = str(fd.readlink())
                    what = key(link, fd.stat()) if link.startswith("/") else None
                    if what in wanted and what not in found:
                        found[what] = [f"process {process.name} ({_command(process)})"]
    return found


def _mounted_devices() -> dict[object, list[str]]:
    """The first mount found of each block device, in every mount namespace that can be seen."""
    found: dict[object, list[str]] = {}
    for process in _mount_spaces():
        with suppress(OSError):
            for line in _mountinfo(process):
                major, _, minor = line.split(" ")[2].partition(":")
                number = os.makedev(int(major), int(minor))
                if number not in found:
                    found[number] = [_mounted(process, line.split(" ")[4])]
    return found


def mappings(_device: Path, found: os.stat_result) -> Iterator[str]:
    """Device-mapper, md and others that lie on top of it (sysfs-block)."""
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    with suppress(OSError):
        for above in sorted(Path("/sys/dev/block", number, "holders").iterdir()):
            with suppress(OSError):
                yield f"mapping {(above / 'dm' / 'name').read_text().strip()}"
                continue
            yield f"/dev/{above.name}"


def device_mounts(_device: Path, found: os.stat_result) -> Iterator[str]:
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    for process in _mount_spaces():
        with suppress(OSError):
            yield from (_mounted(process, line.split(" ")[4]) for line in _mountinfo(process) if line.split(" ")[2] == number)


def _mount_spaces() -> Iterator[Path]:
    """A process of each mount namespace."""
    seen: set[str] = set()
    for process in _processes():
        with suppress(OSError):
            space = str((process / "ns" / "mnt").readlink())
            if space not in seen:
                seen.add(space)
                yield process


def _mounted(process: Path, point: str) -> str:
    with suppress(OSError):
        if (process / "ns" / "mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
            return f"a mount at {unescaped(point)}"
    return f"a mount at {unescaped(point)} in the mount namespace of process {process.name} ({_command(process)})"


def _mountinfo(process: Path) -> list[str]:
    return (process / "mountinfo").read_text(errors="surrogateescape").splitlines()


def device_processes(_device: Path, found: os.stat_result) -> Iterator[str]:
    for process in _processes():
        if process.name != str(os.getpid()):
            with suppress(OSError):
                if any(_opens_device(fd, found) for fd in (process / "fd").iterdir()):
                    yield f"process {process.name} ({_command(process)})"


def _opens_device(fd: Path, found: os.stat_result) -> bool:
    with suppress(OSError):
        if not str(fd.readlink()).startswith("/dev/"):
            return False
        one = fd.stat()
        return stat.S_ISBLK(one.st_mode) and one.st_rdev == found.st_rdev
    return False


def _processes() -> list[Path]:
    return sorted((entry for entry in Path("/proc").iterdir() if entry.name.isdigit()), key=lambda p: int(p.name))


def loop_devices(_path: Path, found: os.stat_result) -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            file = backing.read_text(errors="surrogateescape").removesuffix("\n").removesuffix(" (deleted)")
            if os.path.samestat(Path(file).stat(), found):
                yield _with_mount(f"/dev/{backing.parts[3]}")


def _with_mount(device: str) -> str:
    at = next((point for _, point, source in _mounts() if source == device), None)
    return f"{device}, mounted at {at}" if at else f"loop device {device}"


def bind_mounts(path: Path, found: os.stat_result) -> Iterator[str]:
    # Only mounts of a file with this name are examined: a stat of every mount point would hang on a dead network mount.
    for root, point, _ in _mounts():
        if Path(root).name == path.name:
            with suppress(OSError):
                if os.path.samestat(Path(point).stat(), found):
                    yield f"a mount at {point}"


def _mounts() -> list[tuple[str, str, str]]:
    """(root in its file system, mount point, source) of each mount in this namespace."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    words = [(line.split(" "), line.partition(" - ")[2].split(" ")) for line in lines]
    return [(unescaped(first[3]), unescaped(first[4]), unescaped(last[1])) for first, last in words if len(last) > 1]


def unescaped(word: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def processes(_path: Path, found: os.stat_result) -> Iterator[str]:
    for process in _processes():
        with suppress(OSError):
            if any(_opens(fd, found) for fd in (process / "fd").iterdir()):
                yield f"process {process.name} ({_command(process)})"


def _opens(fd: Path, found: os.stat_result) -> bool:
    with suppress(OSError):
        return str(fd.readlink()).startswith("/") and os.path.samestat(fd.stat(), found)
    return False


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def locks(path: Path, _found: os.stat_result) -> Iterator[str]:
    """POSIX and open-file-description locks, asked for and not taken. They show holders whose processes are hidden from us."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return
    finally:
        os.close(fd)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    if kind != fcntl.F_UNLCK:
        yield f"a lock of process {pid}" if pid > 0 else "a lock"


def flocks(_path: Path, found: os.stat_result) -> Iterator[str]:
    """Locks of flock(2), which can't be asked for without taking one: the kernel lists them, hidden processes' too."""
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, where, *_] if where == inode:
                    yield f"a lock of process {pid}"
