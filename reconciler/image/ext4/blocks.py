"""The blocks of a finished volume that an edit reads and changes: kept in memory until they are written together.

Owned by ``stored``. Every number of a block comes from the volume: it is checked before it is used. State: the blocks.
"""

from __future__ import annotations

import os

from reconciler.errors import DeviceFailed, NoSpace, VolumeCorrupt
from reconciler.image.ext4.layout import BLOCK
from reconciler.image.ext4.output import FULL

REMEDY = "verify its volume: `reconcile verify` names the damage"
MOST_AT_ONCE = 256
"""Blocks that follow each other and are written in one call."""


def corrupt(what: str) -> VolumeCorrupt:
    return VolumeCorrupt(f"the file system can't be edited: {what}", hint=REMEDY)


class Blocks:
    """``count`` is the number of blocks of the file system; it grows with it. Block 0 is written last."""

    def __init__(self, fd: int, count: int) -> None:
        self._fd = fd
        self.count = count
        self._held: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def read(self, number: int) -> bytearray:
        """A block, not to be changed. Raises VolumeCorrupt for a number outside the file system."""
        held = self._held.get(number)
        if held is None:
            if not 0 <= number < self.count:
                raise corrupt(f"it refers to block {number} of {self.count}")
            held = self._held[number] = bytearray(self._pread(number))
        return held

    def change(self, number: int) -> bytearray:
        """A block to be changed in place."""
        held = self.read(number)
        self._changed.add(number)
        return held

    def put(self, number: int, block: bytes) -> None:
        """Give a block new content, whatever it holds."""
        if not 0 <= number < self.count:
            raise corrupt(f"it refers to block {number} of {self.count}")
        self._held[number] = bytearray(block.ljust(BLOCK, b"\0"))
        self._changed.add(number)

    def flush(self) -> None:
        """Write what has changed. Raises NoSpace, DeviceFailed."""
        ordered = sorted(self._changed - {0})
        start = 0
        for at in range(1, len(ordered) + 1):
            if at == len(ordered) or ordered[at] != ordered[at - 1] + 1 or at - start == MOST_AT_ONCE:
                self._pwrite(ordered[start], b"".join(self._held[number] for number in ordered[start:at]))
                start = at
        if 0 in self._changed:
            self._pwrite(0, self._held[0])
        self._changed.clear()

    def _pread(self, number: int) -> bytes:
        try:
            found = os.pread(self._fd, BLOCK, number * BLOCK)
        except OSError as error:
            raise DeviceFailed(f"block {number} of the volume can't be read: {error.strerror}", hint=DeviceFailed.HINT) from error
        if len(found) < BLOCK:
            raise corrupt(f"the volume ends before block {number}")
        return found

    def _pwrite(self, number: int, data: bytes | bytearray) -> None:
        view, at = memoryview(data), number * BLOCK
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            if error.errno in FULL:
                raise NoSpace(f"no space left for the snapshot: {error.strerror}", hint="free some space") from error
            raise DeviceFailed(f"the snapshot can't be written: {error.strerror}", hint=DeviceFailed.HINT) from error
