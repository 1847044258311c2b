"""The metadata of the parent that a copy-on-write child begins with, and that must not show in the child.

Called by ``writer`` when it goes on from a finished parent. The parent's own superblock and descriptors define where its metadata
lies, in the order in which ``groups.place`` puts it. No state.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import chain

from reconciler.errors import VolumeCorrupt
from reconciler.image.ext4.allocator import subtract
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, INODES_PER_BLOCK, Geometry, ceil_div
from reconciler.image.ext4.structs import GROUP_DESCRIPTOR, MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, superblock_number

EXTENT_IN_JNL_BLOCKS = struct.Struct("<12x6xHI")  # the first extent's ee_start_hi and ee_start_lo behind the header


def check_empty(fd: int) -> None:
    """Raise VolumeCorrupt where a volume that should be new begins with something else than zeros."""
    if any(os.pread(fd, 2 * BLOCK, 0)):
        raise VolumeCorrupt("the volume is not empty", hint="a new volume must read as zeros; discard it and begin again")


def written_metadata(fd: int, geometry: Geometry, next_block: int) -> list[range]:
    """Blocks from ``next_block`` on that the parent's ``finish`` has written. Raises VolumeCorrupt without such a parent."""
    block = os.pread(fd, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET)
    if len(block) < SUPERBLOCK_SIZE or superblock_number(block, "s_magic") != MAGIC:
        raise VolumeCorrupt("the parent volume has no file system", hint="build the chain again from its first layer")
    if superblock_number(block, "s_blocks_count_lo") != geometry.blocks:
        raise VolumeCorrupt("the parent volume's file system has another size", hint="build the chain again from its first layer")
    groups = list(GROUP_DESCRIPTOR.iter_unpack(os.pread(fd, geometry.groups * DESCRIPTOR_SIZE, BLOCK)))
    per_group = superblock_number(block, "s_inodes_per_group")
    of_inodes = range(next_block, groups[0][0])
    of_groups = (run for group, fields in enumerate(groups) for run in _of_group(geometry, group, fields, per_group))
    return subtract([of_inodes, *of_groups, _journal_superblock(block)], list(geometry.skipped))


def _of_group(geometry: Geometry, group: int, fields: tuple[int, ...], per_group: int) -> Iterator[range]:
    """A group's bitmaps, where they have a bit set, and the part of its inode table that is in use."""
    block_bitmap, inode_bitmap, table, free_blocks, free_inodes, *_ = fields
    if free_blocks < BLOCKS_PER_GROUP:
        yield range(block_bitmap, block_bitmap + 1)
    if free_inodes < per_group:
        yield range(inode_bitmap, inode_bitmap + 1)
        yield range(table, table + ceil_div(per_group - free_inodes, INODES_PER_BLOCK))


def _journal_superblock(block: bytes) -> range:
    high, low = EXTENT_IN_JNL_BLOCKS.unpack_from(block, 0x10C)
    return range(high << 32 | low, (high << 32 | low) + 1)


def superblocks(geometry: Geometry) -> list[int]:
    """The blocks that hold a superblock: without them nothing takes the volume for a file system."""
    return list(chain([0], (group * BLOCKS_PER_GROUP for group in geometry.backups)))
