"""Block groups: their bitmaps, what is in them, and their descriptors.

Called by ``metadata`` at the end of a build. Format: ``Documentation/filesystems/ext4/group_descr`` and ``bitmaps``. State: the
counts of a ``Groups``, which are whole once the bitmaps have been written.
"""

from __future__ import annotations

from collections import Counter

from reconciler.dataclass import dataclass, field
from reconciler.image.ext4 import checksum
from reconciler.image.ext4.allocator import BlockBitmap, free_bits, inode_bitmap
from reconciler.image.ext4.journal import Journal
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, GROUPS_PER_FLEX, Geometry
from reconciler.image.ext4.numbering import Numbering, reserved
from reconciler.image.ext4.output import Output
from reconciler.image.ext4.structs import (
    BG_BLOCK_UNINIT,
    BG_INODE_UNINIT,
    BG_INODE_ZEROED,
    GROUP_CHECKSUM,
    GROUP_CHECKSUM_AT,
    GROUP_DESCRIPTOR,
)


@dataclass(slots=True)
class Groups:
    """``descriptors`` and ``free_blocks`` are whole when the bitmaps have been written."""

    geometry: Geometry
    names: Numbering
    descriptors: bytearray = field(default_factory=bytearray)
    free_blocks: int = 0

    def write_bitmaps(self, bitmap: BlockBitmap, output: Output) -> None:
        """Write those bitmaps that the kernel can't compute itself."""
        per_group = self.geometry.inodes_per_group
        directories = Counter((number - 1) // per_group for number in self.names.directories())
        for group in range(self.geometry.groups):
            bits = bitmap.of_group(self.geometry, group)
            used = self.names.used[1 + group * per_group : 1 + (group + 1) * per_group]
            self._describe(group, bits, used, directories[group], output)

    def _describe(self, group: int, bits: bytearray | None, used: bytearray, directories: int, output: Output) -> None:
        flex, at = self.geometry.flex_groups[group // GROUPS_PER_FLEX], group % GROUPS_PER_FLEX
        per_group = self.geometry.inodes_per_group
        block_bitmap, inodes, flags = bytes(bits or b""), b"", BG_INODE_ZEROED
        if block_bitmap:
            output.update(flex.block_bitmap(at) * BLOCK, block_bitmap)
            free = free_bits(block_bitmap)
        else:
            flags |= BG_BLOCK_UNINIT
            free = BLOCKS_PER_GROUP - self.geometry.base_blocks(group)
        last = used.rfind(1) + 1
        if last:
            inodes = inode_bitmap(used, per_group)
            output.update(flex.inode_bitmap(at) * BLOCK, inodes)
        else:
            flags |= BG_INODE_UNINIT
        self.free_blocks += free
        counts = free, per_group - used.count(1), directories
        self.descriptors += descriptor(self.geometry, group, counts, flags, (block_bitmap, inodes), per_group - last)


def of_empty(geometry: Geometry, placed: Journal) -> Groups:
    """The descriptors of the backups: those of a file system without a file. They depend on the geometry alone.

    Nothing counts as uninitialised in them, so that a check which has nothing else reads every bitmap and inode.
    """
    groups = Groups(geometry, Numbering(reserved(), []))
    bitmap = BlockBitmap()
    for run in placed.runs:
        bitmap.mark(run.start, len(run))
    for group in range(geometry.groups):
        bits = bitmap.of_group(geometry, group)
        free = free_bits(bits) if bits else BLOCKS_PER_GROUP - geometry.base_blocks(group)
        groups.free_blocks += free
        counts = free, geometry.inodes_per_group - (groups.names.count if group == 0 else 0), 0
        groups.descriptors += descriptor(geometry, group, counts, BG_INODE_ZEROED, (b"", b""), 0)
    return groups


def descriptor(
    geometry: Geometry, group: int, counts: tuple[int, int, int], flags: int, bitmaps: tuple[bytes, bytes], unused: int
) -> bytes:
    """A group's descriptor. ``counts``: free blocks, free inodes, directories; ``unused`` inodes at the end of its table."""
    flex, at = geometry.flex_groups[group // GROUPS_PER_FLEX], group % GROUPS_PER_FLEX
    places = flex.block_bitmap(at), flex.inode_bitmap(at), flex.tables[at]
    return packed(group, places, counts, flags, (block_sum(bitmaps[0]), inode_sum(bitmaps[1], geometry.inodes_per_group)), unused)


def block_sum(bitmap: bytes | bytearray) -> int:
    """The checksum of a block bitmap; 0 where the kernel computes the bitmap."""
    return checksum.crc32c(checksum.SEED, bytes(bitmap)) if bitmap else 0


def inode_sum(bitmap: bytes | bytearray, per_group: int) -> int:
    return checksum.crc32c(checksum.SEED, bytes(bitmap[: per_group // 8])) if bitmap else 0


def packed(
    group: int, places: tuple[int, int, int], counts: tuple[int, int, int], flags: int, sums: tuple[int, int], unused: int
) -> bytes:
    """The 64 bytes of a descriptor. ``places``: block bitmap, inode bitmap, inode table; ``sums``: of the two bitmaps."""
    of_blocks, of_inodes = sums
    whole = bytearray(
        GROUP_DESCRIPTOR.pack(
            *(place & 0xFFFF_FFFF for place in places),
            *counts,
            flags,
            of_blocks & 0xFFFF,
            of_inodes & 0xFFFF,
            unused,
            0,
            *(place >> 32 for place in places),
            of_blocks >> 16,
            of_inodes >> 16,
        )
    )
    GROUP_CHECKSUM.pack_into(
        whole, GROUP_CHECKSUM_AT, checksum.crc32c(checksum.SEED, group.to_bytes(4, "little") + whole) & 0xFFFF
    )
    return bytes(whole)
