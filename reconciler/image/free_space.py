"""How much a volume may still take of the file system or pool that it lies on: never the last of it.

The registry is mostly on the same file system: a volume that took all space would fail, unrecorded. Others
run on the snapshots of the same pool: to them its end is an I/O error.
Used by ``builder``: the child keeps to ``Room``, its parent watches that it does. State: what the last check of the file system
allowed, or what is left of the given bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

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
                hint="free some space, or move the pool",
            )
        self._left = min(free, STEP) - size


class Watch:
    """The file systems of the regular files that a builder writes to, whatever the builder does."""

    def __init__(self, fds: Iterable[int]) -> None:
        self._floors = {fd: min(SPARE, _free(fd)) // 2 for fd in fds if stat.S_ISREG(os.fstat(fd).st_mode)}

    def check(self) -> None:
        """Raises NoSpace where nearly nothing is left."""
        for fd, floor in self._floors.items():
            if (free := _free(fd)) < floor:
                message = f"no space left for the volume: its file system has {free} bytes"
                raise NoSpace(message, hint="free some space, or move the pool")


def _free(fd: int) -> int:
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize
