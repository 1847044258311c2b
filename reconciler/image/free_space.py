"""How much a volume may still take of the file system or pool that it lies on: never the last of it.

The registry is mostly on the same file system: a volume that took all space would fail, unrecorded. Others
run on the snapshots of the same pool: to them its end is an I/O error.
Used by ``builder``: the child keeps to ``Room``, its parent watches that it does. State: what the last check of the file system
allowed, or what is left of the given bytes.

Downloads keep to ``PROMISES``: all that are under way share what a file system has. State: their open files.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import NoSpace

SPARE = 16 << 20
"""Bytes that are left: for the registry, the volume's own metadata, and what its writer has buffered."""

STEP = 16 << 20
"""Bytes after which the file system is checked again: other processes write to it, too."""


class Room:
    """``fd`` is the volume. A regular file has the free space of its file system, a block device the ``given`` bytes.

    Where nothing is given there is no end; nor has it where there is no volume at all (-1).
    """

    def __init__(self, fd: int, given: int | None = None) -> None:
        self._fd = fd
        self._bounded = fd >= 0 and stat.S_ISREG(os.fstat(fd).st_mode)
        self._given = given
        self._left = given or 0

    def take(self, size: int) -> None:
        """Account for ``size`` bytes that are about to be written. Raises NoSpace."""
        self._left -= size
        if self._left < 0 and self._given is not None and not self._bounded:
            raise NoSpace(
                f"the volume may take {self._given} bytes of its pool, and needs more: the rest is the pool's reserve",
                hint="remove images with --prune, declare the pool larger, or its reserve smaller",
            )
        if self._left >= 0 or not self._bounded:
            return
        free = _free(self._fd) - SPARE
        if free < size:
            raise NoSpace(
                f"no space left for the volume: {max(0, free)} bytes can be had, and the next file has {size}",
                hint=NoSpace.HINT,
            )
        self._left = min(free, STEP) - size


KEPT = 1 << 30
"""Bytes that no download takes of a file system, or a twentieth of a small one: the registry and guests' disks may be on it."""


class Promises:
    """What files that are being filled will still take of their file systems; thread-safe."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def made(self, fd: int, size: int, name: str, directory: Path) -> Iterator[None]:
        """Keep space for a file that grows to ``size`` bytes, while the context lasts. Raises NoSpace at once where it can't fit.

        What the file has on disk is no longer promised. ``name`` and ``directory`` are for the error.
        """
        with self._lock:
            self._admit(fd, size, name, directory)
            self._sizes[fd] = size
        try:
            yield
        finally:
            with self._lock:
                del self._sizes[fd]

    def require_kept(self, fd: int, name: str, directory: Path) -> None:
        """Raises NoSpace where a file whose end is not known has begun to take what must stay free, or is promised."""
        with self._lock:
            self._admit(fd, 0, name, directory)

    def _admit(self, fd: int, size: int, name: str, directory: Path) -> None:
        there, status = os.fstat(fd), os.fstatvfs(fd)
        free, kept = status.f_bavail * status.f_frsize, _kept(status)
        others = sum(_missing(other, whole) for other, whole in self._sizes.items() if os.fstat(other).st_dev == there.st_dev)
        needed = _missing(fd, size)
        if free < needed + kept + others:
            running = f", {others} are promised to other downloads" if others else ""
            message = f"{directory} has {free} bytes left: {name} needs {needed}, and {kept} must stay free{running}"
            raise NoSpace(message, hint="free some, or put the state directory on a larger file system")


def _kept(status: os.statvfs_result) -> int:
    return min(KEPT, status.f_blocks * status.f_frsize // 20)


def _missing(fd: int, size: int) -> int:
    return max(0, size - os.fstat(fd).st_blocks * 512)


PROMISES = Promises()


class Watch:
    """The file systems of the regular files that a builder writes to, whatever the builder does."""

    def __init__(self, volume: int | None, index: int | None) -> None:
        """An index is small: its builder leaves half of what a download leaves. A pool watches its own reserve."""
        kept = [(volume, SPARE), (index, KEPT if index is None else max(SPARE, _kept(os.fstatvfs(index))))]
        self._floors = {
            fd: min(spare, _free(fd)) // 2 for fd, spare in kept if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode)
        }

    def check(self) -> None:
        """Raises NoSpace where nearly nothing is left."""
        for fd, floor in self._floors.items():
            if (free := _free(fd)) < floor:
                message = f"no space left for the volume: its file system has {free} bytes"
                raise NoSpace(message, hint=NoSpace.HINT)


def _free(fd: int) -> int:
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize
