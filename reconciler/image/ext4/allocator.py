"""Which blocks are next, and which are in use.

``Allocator`` hands out blocks in ascending order, around the superblock's backups; ``BlockBitmap`` collects what the finished
file system refers to. Owned by ``writer`` for the time of one build.
"""

from __future__ import annotations

from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, Geometry


class Allocator:
    """Hands out blocks from ``start`` on. It has no end: the writer reports at once how much would have been needed."""

    def __init__(self, start: int, skipped: tuple[range, ...]) -> None:
        self._ahead = [place for place in skipped if place.stop > start]
        self.next = start
        self._jump()

    def _jump(self) -> None:
        while self._ahead and self.next >= self._ahead[0].start:
            self.next = self._ahead.pop(0).stop

    def take(self, count: int) -> list[range]:
        """The next ``count`` blocks, in as few runs as there can be."""
        runs = []
        while count:
            room = self._ahead[0].start - self.next if self._ahead else count
            run = range(self.next, self.next + min(room, count))
            runs.append(run)
            self.next = run.stop
            count -= len(run)
            self._jump()
        return runs

    def take_one(self) -> int:
        return self.take(1)[0].start

    def take_run(self, count: int) -> int:
        """The first block of ``count`` that lie side by side; blocks in front of a backup stay free where too few are left."""
        while self._ahead and self.next + count > self._ahead[0].start:
            self.next = self._ahead.pop(0).stop
        return self.take(count)[0].start


class BlockBitmap:
    """One bit a block, as in ``Documentation/filesystems/ext4/bitmaps``; grows up to the last block that was marked."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._start = self._stop = 0

    def mark(self, start: int, count: int) -> None:
        """Mark blocks as used. What follows the blocks of the call before, as files mostly do, is joined with them."""
        if start != self._stop:
            mark(self._bits, range(self._start, self._stop))
            self._start = start
        self._stop = start + count

    def of_group(self, geometry: Geometry, group: int) -> tuple[bytes, int]:
        """A group's bitmap block and the number of its free blocks; what lies behind the last block counts as used."""
        self.mark(0, 0)
        blocks = geometry.group_blocks(group)
        bits = self._bits[blocks.start // 8 : blocks.start // 8 + BLOCK].ljust(BLOCK, b"\0")
        mark(bits, range(geometry.base_blocks(group)))
        mark(bits, range(len(blocks), BLOCKS_PER_GROUP))
        return bytes(bits), BLOCKS_PER_GROUP - int.from_bytes(bits, "little").bit_count()


def mark(bits: bytearray, run: range) -> None:
    """Set the bits of ``run``, the least significant bit of a byte being the first."""
    if not run:
        return
    first, last = run.start >> 3, run.stop - 1 >> 3
    if last >= len(bits):
        bits.extend(bytes(last + 1 - len(bits)))
    head, tail = 0xFF << (run.start & 7) & 0xFF, 0xFF >> (7 - (run.stop - 1 & 7))
    if first == last:
        bits[first] |= head & tail
        return
    bits[first] |= head
    bits[first + 1 : last] = b"\xff" * (last - first - 1)
    bits[last] |= tail


def inode_bitmap(used: int, per_group: int) -> bytes:
    """A group's inode bitmap whose first ``used`` of ``per_group`` inodes are taken; the padding behind them is set."""
    bits = bytearray(BLOCK)
    mark(bits, range(used))
    mark(bits, range(per_group, 8 * BLOCK))
    return bytes(bits)


def subtract(minuend: list[range], subtrahend: list[range]) -> list[range]:
    """The blocks of ``minuend`` that no range of ``subtrahend`` covers, ascending."""
    rest: list[range] = []
    holes = sorted((hole for hole in subtrahend if hole), key=lambda hole: hole.start)
    for run in sorted(minuend, key=lambda run: run.start):
        start = run.start
        for hole in holes:
            if hole.stop <= start or hole.start >= run.stop:
                continue
            if hole.start > start:
                rest.append(range(start, hole.start))
            start = hole.stop
        if start < run.stop:
            rest.append(range(start, run.stop))
    return rest
