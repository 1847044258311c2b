"""What a volume must hold before a writer begins: nothing, or the file system of the layers below. No state.

Called by ``writer``.
"""

from __future__ import annotations

import os

from reconciler.errors import VolumeCorrupt
from reconciler.image.ext4.layout import BLOCK, Geometry
from reconciler.image.ext4.structs import MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, superblock_is_whole, superblock_number

AGAIN = "build the chain again from its first layer"


def check_empty(fd: int) -> None:
    """Raise VolumeCorrupt where a volume that should be new begins with something else than zeros."""
    if any(os.pread(fd, 2 * BLOCK, 0)):
        raise VolumeCorrupt("the volume is not empty", hint="a new volume must read as zeros; discard it and begin again")


def check_parent(fd: int, geometry: Geometry) -> None:
    """Raise VolumeCorrupt where the volume is not a copy of one that a writer has finished with the same geometry."""
    block = os.pread(fd, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET)
    if len(block) < SUPERBLOCK_SIZE or superblock_number(block, "s_magic") != MAGIC:
        raise VolumeCorrupt("the parent volume has no file system", hint=AGAIN)
    blocks = superblock_number(block, "s_blocks_count_lo") | superblock_number(block, "s_blocks_count_hi") << 32
    if (blocks, superblock_number(block, "s_inodes_per_group")) != (geometry.blocks, geometry.inodes_per_group):
        raise VolumeCorrupt("the parent volume's file system has another size", hint=AGAIN)
    if not superblock_is_whole(block):
        raise VolumeCorrupt("the checksum of the parent volume's superblock is wrong", hint=AGAIN)
