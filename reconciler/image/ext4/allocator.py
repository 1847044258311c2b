"""Which blocks are next, and which are in use.

``Allocator`` returns blocks in ascending order, around the places that the geometry has given to something else; ``BlockBitmap``
collects what the finished file system refers to. Owned by ``writer`` for the time of one build.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, Geometry, aligned


class Allocator:
    """Returns blocks from ``start`` on. It has no end: the writer reports at once how much would have been needed."""

    def __init__(self, start: int, skipped: Sequence[range]) -> None:
        self._skipped = skipped
        self._ahead = bisect_right(skipped, start, key=lambda place: place.stop)
        self.next = start
        self._jump()

    def _jump(self) -> None:
        while self._ahead < len(self._skipped) and self.next >= self._skipped[self._ahead].start:
            self.next = max(self.next, self._skipped[self._ahead].stop)
            self._ahead += 1

    def take(self, count: int) -> list[range]:
        """The next ``count`` blocks, in as few runs as there can be."""
        runs = []
        while count:
            room = self._skipped[self._ahead].start - self.next if self._ahead < len(self._skipped) else count
            run = range(self.next, self.next + min(room, count))
            runs.append(run)
            self.next = run.stop
            count -= len(run)
            self._jump()
        return runs

    def take_run(self, count: int) -> range | None:
        """The next ``count`` blocks where they are one run and more follow it, else None and nothing is taken."""
        stop = self.next + count
        if self._ahead < len(self._skipped) and stop >= self._skipped[self._ahead].start:
            return None
        run = range(self.next, stop)
        self.next = stop
        return run

    def take_one(self) -> int:
        return self.take(1)[0].start

    def align(self) -> None:
        """Leave blocks out, so that the next one begins a piece of 64 KiB."""
        self.next = aligned(self.next)
        self._jump()


class BlockBitmap:
    """The bits of the groups that hold files or directories, as in ``Documentation/filesystems/ext4/bitmaps``."""

    def __init__(self) -> None:
        self._groups: dict[int, bytearray] = {}
        self._start = self._stop = 0

    def mark(self, start: int, count: int) -> None:
        """Mark blocks as used. What follows the blocks of the call before, as files mostly do, is joined with them."""
        if start != self._stop:
            self._store(range(self._start, self._stop))
            self._start = start
        self._stop = start + count

    def _store(self, run: range) -> None:
        while run:
            group, first = divmod(run.start, BLOCKS_PER_GROUP)
            part = min(len(run), BLOCKS_PER_GROUP - first)
            bits = self._groups.get(group)
            if bits is None:
                bits = self._groups[group] = bytearray(BLOCK)
            mark(bits, range(first, first + part))
            run = run[part:]

    def of_group(self, geometry: Geometry, group: int) -> bytearray | None:
        """A group's bitmap block, with the blocks that the geometry gives away; what lies behind the last block counts as used.

        None where nothing but a backup is in use and the file system goes on: the kernel knows those bits.
        """
        self.mark(0, 0)
        blocks = geometry.group_blocks(group)
        bits = self._groups.get(group)
        metadata = list(geometry.metadata(group))
        if bits is None and not metadata and group != geometry.groups - 1:
            return None
        whole = bytearray(BLOCK) if bits is None else bytearray(bits)
        for run in metadata:
            mark(whole, range(run.start - blocks.start, run.stop - blocks.start))
        mark(whole, range(geometry.base_blocks(group)))
        mark(whole, range(len(blocks), BLOCKS_PER_GROUP))
        return whole


def mark(bits: bytearray, run: range) -> None:
    """Set the bits of ``run``, the least significant bit of a byte being the first."""
    if not run:
        return
    first, last = run.start >> 3, run.stop - 1 >> 3
    head, tail = 0xFF << (run.start & 7) & 0xFF, 0xFF >> (7 - (run.stop - 1 & 7))
    if first == last:
        bits[first] |= head & tail
        return
    bits[first] |= head
    bits[first + 1 : last] = b"\xff" * (last - first - 1)
    bits[last] |= tail


def free_bits(bits: bytes | bytearray) -> int:
    return 8 * len(bits) - int.from_bytes(bits, "little").bit_count()


def inode_bitmap(used: bytes | bytearray, per_group: int) -> bytes:
    """A group's inode bitmap; ``used`` has a byte for each of its first inodes, 1 where it is taken. The padding is set."""
    bits = bytearray(BLOCK)
    stop = 0
    while (start := used.find(1, stop)) >= 0:
        stop = used.find(0, start)
        stop = len(used) if stop < 0 else stop
        mark(bits, range(start, stop))
    mark(bits, range(per_group, 8 * BLOCK))
    return bytes(bits)
