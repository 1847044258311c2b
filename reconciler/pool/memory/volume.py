"""A volume of a pool in memory while it is being written.

Created by ``pool.memory.driver``, which seals and abandons it. State: a memfd, if a descriptor was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.pool.memory.faults import Crash
from reconciler.pool.memory.storage import Object, Pages, read_pages, write_pages


class Owner(Protocol):
    """What a volume needs of its pool."""

    def seal(self, row: Object) -> str: ...
    def abandon(self, row: Object) -> None: ...


@dataclass
class MemoryVolume:
    """A volume that is being written. ``fd`` is a memfd, created on first use and read back by ``seal``."""

    size: int
    row: Object
    pool: Owner
    room: int
    _fd: int | None = None
    _open: bool = True

    @property
    def fd(self) -> int:
        if self._fd is None:
            self._fd = filled(self.row.pages, self.size)
        return self._fd

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self.fd}")

    def write(self, offset: int, data: bytes) -> None:
        """Write without a descriptor."""
        if self._fd is not None:
            os.pwrite(self._fd, data, offset)
        else:
            self.row.pages = write_pages(self.row.pages, offset, data)

    def check_space(self) -> None:
        """Nothing but this driver writes to it."""

    def __enter__(self) -> MemoryVolume:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open:
            self._close()
            if not isinstance(exc[1] if len(exc) > 1 else None, Crash):
                self.pool.abandon(self.row)

    def seal(self) -> str:
        if self._fd is not None:
            self.row.pages = read_pages(self._fd)
        identity = self.pool.seal(self.row)
        self._close()
        return identity

    def _close(self) -> None:
        self._open = False
        if self._fd is not None:
            os.close(self._fd)


def customized(pages: Pages, size: int, write: Callable[[int], None]) -> Pages:
    """The content after what ``write`` does to a file that holds it."""
    fd = filled(pages, size)
    try:
        write(fd)
        return read_pages(fd)
    finally:
        os.close(fd)


def filled(pages: Pages, size: int) -> int:
    """A new memfd with this content."""
    fd = os.memfd_create("volume", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    for offset, page in sorted(pages.items()):
        os.pwrite(fd, page, offset)
    return fd
