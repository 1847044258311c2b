"""Block groups: where their bitmaps and inode tables are, what is in them, and their descriptors.

Called by ``writer`` at the end of a build. With flex_bg a group's metadata may be anywhere: that of all groups lies side by side.
Format: ``Documentation/filesystems/ext4/group_descr`` and ``bitmaps``. A ``Groups`` lives as long as its writer's ``finish``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from uuid import UUID

from reconciler.image.ext4.allocator import Allocator, BlockBitmap, inode_bitmap
from reconciler.image.ext4.layout import BLOCK, INODE_SIZE, INODES_PER_BLOCK, Geometry
from reconciler.image.ext4.output import Output
from reconciler.image.ext4.structs import BG_INODE_UNINIT, BG_INODE_ZEROED, GROUP_CHECKSUM, GROUP_DESCRIPTOR


@dataclass(frozen=True, slots=True)
class Placement:
    """First blocks of each group's block bitmap, inode bitmap and inode table, and the runs of the journal."""

    inodes_per_group: int
    block_bitmaps: list[int]
    inode_bitmaps: list[int]
    tables: list[int]
    journal: list[range]

    def runs(self) -> Iterable[range]:
        """Every block of it."""
        yield from (range(block, block + 1) for block in (*self.block_bitmaps, *self.inode_bitmaps))
        yield from (range(first, first + self.inodes_per_group // INODES_PER_BLOCK) for first in self.tables)
        yield from self.journal


def place(allocator: Allocator, geometry: Geometry, used_inodes: int) -> Placement:
    """What is written comes before what stays a hole: bitmaps, then tables (used inodes first), then the journal."""
    groups, table = geometry.groups, geometry.table_blocks(used_inodes)
    return Placement(
        geometry.inodes_per_group(used_inodes),
        [block for run in allocator.take(groups) for block in run],
        [block for run in allocator.take(groups) for block in run],
        [allocator.take_run(table) for _ in range(groups)],
        allocator.take(geometry.journal_blocks),
    )


@dataclass(slots=True)
class Groups:
    """Counts what is free while it writes; ``descriptors`` is whole when the bitmaps have been written."""

    geometry: Geometry
    placement: Placement
    last_inode: int
    descriptors: bytearray = field(default_factory=bytearray)
    free_blocks: int = 0

    def write_bitmaps(self, bitmap: BlockBitmap, directories: Iterable[int], output: Output, uuid: UUID) -> None:
        """Write those bitmaps that have a bit set; the others are zeros already."""
        used_dirs = Counter((number - 1) // self.placement.inodes_per_group for number in directories)
        seed = crc16(0xFFFF, uuid.bytes)
        for group, where in enumerate(self.placement.block_bitmaps):
            bits, free = bitmap.of_group(self.geometry, group)
            self.free_blocks += free
            self.descriptors += self._descriptor(group, free, used_dirs[group], seed)
            if any(bits):
                output.write(where * BLOCK, bits)
        for group, where in enumerate(self.placement.inode_bitmaps):
            if used := self._used(group):
                output.write(where * BLOCK, inode_bitmap(used, self.placement.inodes_per_group))

    def _descriptor(self, group: int, free_blocks: int, directories: int, seed: int) -> bytes:
        """Its checksum covers the flags that mark the unused parts of the inode tables, which are never written."""
        at, used = self.placement, self._used(group)
        unused = at.inodes_per_group - used
        flags = BG_INODE_ZEROED if used else BG_INODE_ZEROED | BG_INODE_UNINIT
        where = at.block_bitmaps[group], at.inode_bitmaps[group], at.tables[group]
        packed = GROUP_DESCRIPTOR.pack(*where, free_blocks, unused, directories, flags, unused, 0)[: -GROUP_CHECKSUM.size]
        return packed + GROUP_CHECKSUM.pack(crc16(seed, group.to_bytes(4, "little") + packed))

    def _used(self, group: int) -> int:
        """Inodes of a group that are in use: always its first ones."""
        per_group = self.placement.inodes_per_group
        return min(max(self.last_inode - group * per_group, 0), per_group)

    def write_tables(self, table: bytearray, output: Output) -> None:
        """Write the inodes in use; what lies behind them was never written and reads as zeros."""
        share = self.placement.inodes_per_group * INODE_SIZE
        view = memoryview(table)
        for at, first in zip(range(0, len(table), share), self.placement.tables, strict=False):
            output.write(first * BLOCK, view[at : at + share])


def crc16(value: int, data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, reflected, as the kernel's ``lib/crc16.c``; goes on from ``value``."""
    table = _crc16_table()
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


@cache
def _crc16_table() -> tuple[int, ...]:
    return tuple(_crc16_of_byte(byte) for byte in range(256))


def _crc16_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value
