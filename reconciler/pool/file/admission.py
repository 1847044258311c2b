"""Admits new work to a file pool: what it takes must fit above the reserve, together with what running work has been promised.

Called by ``pool.file.pool``. State in memory: the promises, each with the open file that it is written to.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.dataclass import dataclass, field
from reconciler.errors import NoSpace
from reconciler.pool.driver import Space


@dataclass
class Admission:
    """``space`` reads the free space of the pool under ``root``."""

    pool: str
    root: Path
    space: Callable[[], Space]
    _promised: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, need: int) -> int:
        """Return the bytes that may be written above the reserve, what running work was promised left out. Raises NoSpace."""
        with self._lock:
            return self._admit(need)

    def promise(self, fd: int, need: int) -> int:
        """Admit ``need`` bytes, and keep them for the file until ``release``; what the file has taken is no longer promised."""
        with self._lock:
            room = self._admit(need)
            self._promised[fd] = need
            return room

    def release(self, fd: int) -> None:
        """Called before the file is closed."""
        with self._lock:
            self._promised.pop(fd, None)

    @contextmanager
    def promised(self, fd: int, need: int) -> Iterator[None]:
        """A promise for the duration of a copy. One that the file has already stays the larger of both."""
        before = self._promised.get(fd, 0)
        self.promise(fd, max(before, need))
        try:
            yield
        finally:
            self.release(fd)
            if before:
                self._promised[fd] = before

    def _admit(self, need: int) -> int:
        space = self.space()
        promised = sum(self._outstanding())
        room = space.free - space.reserve - promised
        if room < need:
            running = f", {promised} are promised to running work" if promised else ""
            wanted = f", {need} more are needed" if need else ""
            raise NoSpace(
                f"pool {self.pool}: {space.free} bytes are free, {space.reserve} must stay free{running}{wanted}",
                hint=f"free space on the file system of {self.root}, or lower the pool's reserve",
            )
        return room

    def _outstanding(self) -> Iterator[int]:
        for fd, size in self._promised.items():
            with suppress(OSError):
                yield max(0, size - os.fstat(fd).st_blocks * 512)
