"""The memory through which stored bytes reach a builder: the parent fills and hashes it, the builder maps it read-only.

A ring: bytes have consecutive positions for the whole build, layer after layer, and lie at their position modulo ``SIZE``. The
parent reports how far it is filled, the builder how far it has read, and how much of that is still in use: file data is written
from where it lies. Used by ``feed`` and ``child``. State: one memory file. It is sealed, so that its size is fixed, and no other
mapping than the parent's can be written to.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections import deque
from contextlib import suppress
from threading import Condition

from reconciler.errors import HostCannot
from reconciler.image.spec import MIB

SIZE = 16 * MIB
"""Bytes. All of it is in use while the builder is the slower side: more than a processor's cache holds costs time."""

WINDOW = MIB
"""Bytes of the ring that the builder maps, and that are in use, or not, as a whole."""

_F_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x4 | 0x10
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE (Linux 5.1)."""


class Ring:
    """The parent's side. Thread-safe: one thread fills, another one takes reports. ``ahead``: most bytes not yet read."""

    def __init__(self, ahead: int = SIZE) -> None:
        self._ahead = min(ahead, SIZE)
        self.returned = self._ahead // 4
        """Bytes after which the builder reports what it has read, so that they are filled again."""
        self.filled = self.read = 0
        self._free = 0
        """Bytes that have been read and are no longer in use."""
        self._open = True
        self._changed = Condition()
        try:
            self.fd = os.memfd_create("layers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, SIZE)
            self._map = mmap.mmap(self.fd, SIZE)
            self._memory = memoryview(self._map)
            fcntl.fcntl(self.fd, _F_ADD_SEALS, _SEALS)
        except OSError as error:
            raise HostCannot(f"no sealed memory for the builder process: {error.strerror}", hint="Linux 5.1 has it") from error

    def space(self, wanted: int) -> memoryview:
        """Where the next bytes go, ``wanted`` of them at most; empty once the ring is closed. Waits for room."""
        with self._changed:
            while self._open and (room := self._ahead - (self.filled - self._free)) <= 0:
                self._changed.wait()
            if not self._open:
                return self._memory[:0]
            at = self.filled % SIZE
            return self._memory[at : min(at + wanted, at + room, SIZE)]

    def fill(self, length: int) -> None:
        with self._changed:
            self.filled += length

    def take(self, read: int, held: int = 0) -> None:
        """The builder has read up to a position, and uses the last ``held`` bytes before it.

        Raises ValueError for a position that it has passed, or that it can't have reached.
        """
        with self._changed:
            if not (self.read <= read <= self.filled and self._free <= read - held <= read):
                raise ValueError(f"{read} bytes read of {self.filled}, {held} of them in use")
            self.read, self._free = read, read - held
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing is read any more: whoever waits for room gets none."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def release(self) -> None:
        """Close the descriptor. The memory goes with the last view of it, which a thread that hangs may hold."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with suppress(BufferError):
            self._memory.release()
            self._map.close()


class Mapping:
    """The builder's side; to be made before it is confined. ``fd`` is closed.

    Each view, and each part of one, holds a reference to the mapping of its window: Python counts these, and shows so whether the
    window is in use.
    """

    def __init__(self, fd: int) -> None:
        self._windows = [mmap.mmap(fd, WINDOW, prot=mmap.PROT_READ, offset=at) for at in range(0, SIZE, WINDOW)]
        self._given: deque[int] = deque()
        """Positions of the views that may be in use, oldest first."""
        os.close(fd)
        self._unused = self._references(0)

    def _references(self, position: int) -> int:
        return sys.getrefcount(self._windows[position % SIZE // WINDOW])

    def view(self, position: int, length: int) -> memoryview:
        """The bytes at a position: 1 to ``length``, as they lie without a break. They stay as long as ``held`` counts them."""
        window, at = self._windows[position % SIZE // WINDOW], position % WINDOW
        self._given.append(position)
        return memoryview(window)[at : min(at + length, WINDOW)]

    def held(self, position: int) -> int:
        """How many bytes before a position, up to which all have been given, may be in use."""
        while self._given and self._references(self._given[0]) == self._unused:
            self._given.popleft()
        return position - self._given[0] if self._given else 0
