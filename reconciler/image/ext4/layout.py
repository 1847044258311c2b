"""Where things lie in a file system of a given size: groups, backups, journal, inode tables. Arithmetic only, no state.

Called by ``writer`` and by everything that it hands a ``Geometry`` to. Terms are those of the kernel's
``Documentation/filesystems/ext4/`` (``blockgroup``, ``super``, ``journal``). Block ranges are ``range`` objects of block numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from reconciler.errors import Terminal

BLOCK = 4096
BLOCKS_PER_GROUP = 8 * BLOCK  # as many as one bitmap block has bits
MAX_INODES_PER_GROUP = 8 * BLOCK
INODE_SIZE = 256
INODES_PER_BLOCK = BLOCK // INODE_SIZE
DESCRIPTOR_SIZE = 32
MAX_BLOCKS = 0xFFFF_FFFF  # without the 64bit feature block numbers have 32 bits

MIB_BLOCKS = (1 << 20) // BLOCK
INODE_RATIO_BLOCKS = 4  # one inode for 16 KiB, as mke2fs does by default
SPARE_INODES = 1024
MIN_JOURNAL_BLOCKS = 1024  # the kernel mounts no smaller one
MAX_JOURNAL_BLOCKS = 64 * MIB_BLOCKS


def ceil_div(amount: int, unit: int) -> int:
    return -(-amount // unit)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the number of blocks alone decides. ``backups`` are the groups that hold a copy of superblock and descriptors."""

    blocks: int
    groups: int
    descriptor_blocks: int
    backups: tuple[int, ...]

    @classmethod
    def of_blocks(cls, blocks: int) -> Self:
        groups = max(1, ceil_div(blocks, BLOCKS_PER_GROUP))
        descriptor_blocks = ceil_div(groups * DESCRIPTOR_SIZE, BLOCK)
        backups = sorted({1, groups - 1} - {0}) if groups > 1 else []
        fitting = (group for group in backups if blocks - group * BLOCKS_PER_GROUP >= 1 + descriptor_blocks)
        return cls(blocks, groups, descriptor_blocks, tuple(fitting))

    @classmethod
    def of_bytes(cls, size: int) -> Self:
        """The geometry of a volume of ``size`` bytes; what is less than a block at its end stays unused. Raises Terminal."""
        if size // BLOCK > MAX_BLOCKS:
            raise Terminal(f"a file system of {size} bytes is too large", hint="declare a size below 16 TiB")
        return cls.of_blocks(size // BLOCK)

    @property
    def first_data(self) -> int:
        """The first block behind the superblock and the group descriptors."""
        return 1 + self.descriptor_blocks

    @property
    def skipped(self) -> tuple[range, ...]:
        """Blocks of the backups, ascending: the places that a run of data has to jump over."""
        return tuple(range(g * BLOCKS_PER_GROUP, g * BLOCKS_PER_GROUP + self.first_data) for g in self.backups)

    @property
    def journal_blocks(self) -> int:
        """A 64th of the file system, from 4 MiB to 64 MiB."""
        return min(max(self.blocks // 64, MIN_JOURNAL_BLOCKS), MAX_JOURNAL_BLOCKS)

    def group_blocks(self, group: int) -> range:
        first = group * BLOCKS_PER_GROUP
        return range(first, min(first + BLOCKS_PER_GROUP, self.blocks))

    def base_blocks(self, group: int) -> int:
        """Blocks at the beginning of a group that a superblock and the descriptors take (0 in most groups)."""
        return self.first_data if group == 0 or group in self.backups else 0

    def inodes_per_group(self, used: int) -> int:
        """One inode for 16 KiB of the file system, more where ``used`` inodes would leave less than a quarter spare."""
        wanted = max(self.blocks // INODE_RATIO_BLOCKS, used + used // 4, used + SPARE_INODES)
        per_group = ceil_div(ceil_div(wanted, self.groups), INODES_PER_BLOCK) * INODES_PER_BLOCK
        return min(per_group, MAX_INODES_PER_GROUP)

    def table_blocks(self, used: int) -> int:
        """Blocks of each group's inode table."""
        return self.inodes_per_group(used) // INODES_PER_BLOCK


def blocks_needed(payload: int, used_inodes: int) -> int:
    """Size, in blocks and a whole number of MiB, that is sure to hold ``payload`` blocks of data, directories and the like."""
    blocks = _whole_mib((ceil_div(used_inodes, MAX_INODES_PER_GROUP) - 1) * BLOCKS_PER_GROUP + 1)
    while (total := _total(Geometry.of_blocks(blocks), payload, used_inodes)) > blocks:
        blocks = _whole_mib(total)
    return blocks


def _whole_mib(blocks: int) -> int:
    return ceil_div(blocks, MIB_BLOCKS) * MIB_BLOCKS


def _total(geometry: Geometry, payload: int, used_inodes: int) -> int:
    table = geometry.table_blocks(used_inodes)
    bases = geometry.first_data * (1 + len(geometry.backups))
    split_tables = len(geometry.backups) * table  # a table is one run, so some blocks in front of a backup may stay free
    return bases + split_tables + payload + geometry.groups * (2 + table) + geometry.journal_blocks
