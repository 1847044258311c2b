"""Where things lie in a file system of a given size: groups, backups, bitmaps, inode tables, journal. Arithmetic only, no state.

Called by ``writer`` and by everything that it passes a ``Geometry`` to. Terms are those of the kernel's
``Documentation/filesystems/ext4/`` (``blockgroup``, ``super``, ``journal``). Block ranges are ``range`` objects of block numbers.

Everything but files, directories and what belongs to an inode has a place that the geometry alone gives: a further layer finds it
where the layers below left it. The metadata of 16 groups (a flex group) lies together: what a small layer changes shares few of a
pool's blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Self

from reconciler.dataclass import dataclass
from reconciler.errors import Terminal
from reconciler.image.spec import MIB, TIB, default_bytes_per_inode

BLOCK = 4096
BLOCKS_PER_GROUP = 8 * BLOCK  # as many as one bitmap block has bits
MAX_INODES_PER_GROUP = 8 * BLOCK
INODE_SIZE = 256
INODES_PER_BLOCK = BLOCK // INODE_SIZE
DESCRIPTOR_SIZE = 64
ADDRESSES_PER_BLOCK = BLOCK // 4
GROUPS_PER_FLEX = 16

MAX_BYTES = 64 * TIB
MAX_RESIZABLE_BLOCKS = 0xFFFF_FFFF  # resize_inode has block numbers of 32 bits
GROWTH = 1024  # times the size, for which mke2fs reserves descriptor blocks
SPARE_BLOCKS = 50  # a last group that has fewer besides its metadata is left out, as mke2fs does it
ALIGNMENT = 16  # blocks, 64 KiB: the smallest block of a thin pool
MIB_BLOCKS = MIB // BLOCK

JOURNALS = (
    (32_768, 1024),
    (262_144, 4096),
    (524_288, 8192),
    (4_194_304, 16_384),
    (8_388_608, 32_768),
    (16_777_216, 65_536),
    (33_554_432, 131_072),
)
LARGEST_JOURNAL = 262_144

LOST_AND_FOUND_BLOCKS = 4  # e2fsck adds names to it without allocating blocks
HOT = 9
"""Blocks in front of a flex group's tables, in one aligned piece with their beginning: the root directory's, in the first one,
and the bitmaps of its first four groups."""


def ceil_div(amount: int, unit: int) -> int:
    return -(-amount // unit)


def aligned(block: int) -> int:
    return ceil_div(block, ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Flex:
    """The metadata of a flex group: ``tables`` holds each group's first table block, ``first_table`` the first block of all."""

    start: int
    first_table: int
    tables: tuple[int, ...]
    stop: int

    def block_bitmap(self, at: int) -> int:
        """Of the group with the index ``at``. Bitmaps lie in pairs, those of the first group next to the tables."""
        return self.first_table - 1 - 2 * (at + 1)

    def inode_bitmap(self, at: int) -> int:
        return self.first_table - 2 * (at + 1)

    @property
    def root_block(self) -> int:
        return self.first_table - 1


@dataclass(frozen=True)
class Geometry:
    """What size and bytes per inode alone decide."""

    blocks: int
    groups: int
    inodes_per_group: int
    descriptor_blocks: int
    reserved_blocks: int
    """Descriptor blocks that growth would need (``s_reserved_gdt_blocks``)."""

    @classmethod
    def of_bytes(cls, size: int, ratio: int | None = None) -> Self:
        """The geometry of a volume of ``size`` bytes with one inode for ``ratio`` of them. Raises Terminal.

        What is less than a block at its end stays unused, and what is too small for a group.
        """
        if size > MAX_BYTES:
            raise Terminal(f"a file system of {size} bytes is too large", hint="declare a size of 64 TiB or less")
        return cls.of_blocks(size // BLOCK, ratio or default_bytes_per_inode(size))

    @classmethod
    def of_blocks(cls, blocks: int, ratio: int) -> Self:
        made = cls._of_whole(blocks, blocks * BLOCK // ratio)
        last = made.groups - 1
        tail = blocks - last * BLOCKS_PER_GROUP
        if last and tail < made.base_blocks(last) + made.table_blocks + 2 + SPARE_BLOCKS:
            return cls._of_whole(blocks - tail, blocks * BLOCK // ratio)
        return made

    @classmethod
    def _of_whole(cls, blocks: int, inodes: int) -> Self:
        groups = max(1, ceil_div(blocks, BLOCKS_PER_GROUP))
        per_group = max(1, ceil_div(ceil_div(inodes, groups), INODES_PER_BLOCK)) * INODES_PER_BLOCK
        descriptors = ceil_div(groups * DESCRIPTOR_SIZE, BLOCK)
        return cls(blocks, groups, min(per_group, MAX_INODES_PER_GROUP), descriptors, _reserved(blocks, descriptors))

    @property
    def resizable(self) -> bool:
        """Whether there is a resize inode; without one the kernel grows the file system with meta_bg."""
        return self.blocks <= MAX_RESIZABLE_BLOCKS

    @property
    def inodes(self) -> int:
        return self.groups * self.inodes_per_group

    @property
    def table_blocks(self) -> int:
        """Blocks of each group's inode table."""
        return self.inodes_per_group // INODES_PER_BLOCK

    @property
    def first_reserved(self) -> int:
        return 1 + self.descriptor_blocks

    @cached_property
    def backups(self) -> tuple[int, ...]:
        """The groups that hold a copy of superblock and descriptors: 1 and the powers of 3, 5 and 7."""
        powers = {base**exponent for base in (3, 5, 7) for exponent in range(20)}
        return tuple(sorted(group for group in powers if group < self.groups))

    def group_blocks(self, group: int) -> range:
        first = group * BLOCKS_PER_GROUP
        return range(first, min(first + BLOCKS_PER_GROUP, self.blocks))

    def base_blocks(self, group: int) -> int:
        """Blocks at the beginning of a group that a superblock and the descriptors take (0 in most groups)."""
        return 1 + self.descriptor_blocks + self.reserved_blocks if group == 0 or group in self.backups else 0

    def base(self, group: int) -> range:
        first = group * BLOCKS_PER_GROUP
        return range(first, first + self.base_blocks(group))

    @cached_property
    def flex_groups(self) -> tuple[Flex, ...]:
        return tuple(self._flex(first) for first in range(0, self.groups, GROUPS_PER_FLEX))

    def _flex(self, first: int) -> Flex:
        groups = min(GROUPS_PER_FLEX, self.groups - first)
        start = self.base(first).stop
        lead = LOST_AND_FOUND_BLOCKS + 1 if first == 0 else 0
        table = aligned(start + lead + 2 * groups + 1 - HOT) + HOT
        tables: list[int] = []
        at = table
        for _ in range(groups):
            at = self._behind_backups(at)
            tables.append(at)
            at += self.table_blocks
        return Flex(start, table, tuple(tables), at)

    def _behind_backups(self, at: int) -> int:
        """The first place from ``at`` on where a table doesn't overlap a backup."""
        group = (at + self.table_blocks - 1) // BLOCKS_PER_GROUP
        base = self.base(group)
        return base.stop if base.start < at + self.table_blocks and at < base.stop else at

    @property
    def lost_and_found(self) -> range:
        """The first blocks of the directory for what e2fsck finds."""
        return range(self.flex_groups[0].start, self.flex_groups[0].start + LOST_AND_FOUND_BLOCKS)

    @property
    def resize_block(self) -> int:
        """The double indirect block of the resize inode."""
        return self.lost_and_found.stop

    @property
    def root_block(self) -> int:
        return self.flex_groups[0].root_block

    @property
    def journal_blocks(self) -> int:
        """mke2fs's choice, and its smallest one where mke2fs would make no journal."""
        return next((journal for limit, journal in JOURNALS if self.blocks < limit), LARGEST_JOURNAL)

    @property
    def journal_start(self) -> int:
        return aligned(self.flex_groups[0].stop)

    def metadata(self, group: int) -> Iterator[range]:
        """Blocks of a group that hold bitmaps, inode tables or the resize inode's map."""
        flex = self.flex_groups[group // GROUPS_PER_FLEX]
        own = self.group_blocks(group)
        if own.start >= flex.stop:
            return
        groups = len(flex.tables)
        runs = [range(flex.first_table - 1 - 2 * groups, flex.first_table - 1)]
        runs += (range(table, table + self.table_blocks) for table in flex.tables)
        if group < GROUPS_PER_FLEX and self.resizable:
            runs.append(range(self.resize_block, self.resize_block + 1))
        for run in runs:
            if part := range(max(run.start, own.start), min(run.stop, own.stop)):
                yield part

    @cached_property
    def skipped(self) -> tuple[range, ...]:
        """What data flows around: backups, and the metadata of all flex groups but the first, with what aligns it; ascending."""
        backups = [self.base(group) for group in self.backups]
        flex = [range(one.start, aligned(one.stop)) for one in self.flex_groups]
        return tuple(_merged(sorted([*backups, *flex], key=lambda run: run.start)))


def _merged(runs: list[range]) -> Iterator[range]:
    """Ascending ranges without overlaps or contacts."""
    current = range(0)
    for run in runs:
        if run.start > current.stop:
            if current:
                yield current
            current = run
        else:
            current = range(current.start, max(current.stop, run.stop))
    if current:
        yield current


def _reserved(blocks: int, descriptors: int) -> int:
    """As mke2fs: for growth to 1024 times the size, at most to 16 TiB, and never more than a block has addresses."""
    if blocks > MAX_RESIZABLE_BLOCKS:
        return 0
    most = blocks * GROWTH if blocks < MAX_RESIZABLE_BLOCKS // GROWTH else MAX_RESIZABLE_BLOCKS
    wanted = ceil_div(ceil_div(most, BLOCKS_PER_GROUP), BLOCK // DESCRIPTOR_SIZE)
    return min(max(wanted - descriptors, 0), ADDRESSES_PER_BLOCK)
