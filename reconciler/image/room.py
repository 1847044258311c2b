"""How much a volume may still take of the file system that it lies on: never the last of it.

The registry is mostly on the same one. A volume that took everything would fail, and nobody could write down why.
Used by ``builder``. State: what the last look at the file system allowed.
"""

from __future__ import annotations

import os
import stat

from reconciler.errors import NoSpace

SPARE = 16 << 20
"""Bytes that are left: for the registry, the volume's own metadata, and what its writer has buffered."""

STEP = 16 << 20
"""Bytes after which the file system is looked at again: others write to it, too."""


class Room:
    """``fd`` is the volume. Only a regular file has room to run out of: a block device, or no volume at all (-1), never does."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bounded = fd >= 0 and stat.S_ISREG(os.fstat(fd).st_mode)
        self._left = 0

    def take(self, size: int) -> None:
        """Account for ``size`` bytes that are about to be written. Raises NoSpace."""
        self._left -= size
        if self._left >= 0 or not self._bounded:
            return
        found = os.fstatvfs(self._fd)
        free = found.f_bavail * found.f_frsize - SPARE
        if free < size:
            raise NoSpace(
                f"no space left for the volume: {max(0, free)} bytes can be had, and the next file has {size}",
                hint="free some space, or move the pool",
            )
        self._left = min(free, STEP) - size
