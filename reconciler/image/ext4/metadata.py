"""All that is not file data: written in one go, when a layer has been accepted.

Called by ``writer.Writer.finish``. Its memory is released when it returns; the values of the superblocks are its result.
"""

from __future__ import annotations

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import groups, journal, superblock
from reconciler.image.ext4.allocator import BlockBitmap
from reconciler.image.ext4.groups import Groups
from reconciler.image.ext4.inodes import InodeWriter
from reconciler.image.ext4.journal import Journal
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, Geometry
from reconciler.image.ext4.numbering import Numbering
from reconciler.image.ext4.output import Output


@dataclass(frozen=True, slots=True)
class Written:
    """What the superblocks are made of."""

    groups: Groups
    journal_inode: bytes


def write(names: Numbering, geometry: Geometry, placed: Journal, before: int, output: Output) -> Written:
    """Write directories, inodes, bitmaps, the journal's superblock and the descriptors.

    ``before`` is the highest inode number of the parent, 0 where there is none. Raises LayerRefused for an inode that ext4
    cannot hold.
    """
    bitmap = BlockBitmap()
    inodes = InodeWriter(names, geometry, placed, output, bitmap)
    inodes.write_all(before)
    output.update(placed.runs[0].start * BLOCK, journal.superblock(geometry.journal_blocks))
    described = Groups(geometry, names)
    described.write_bitmaps(bitmap, output)
    output.update(BLOCK, padded(described.descriptors))
    return Written(described, bytes(inodes.journal_inode()))


def write_backups(geometry: Geometry, placed: Journal, journal_inode: bytes, output: Output) -> None:
    """Write the copies of superblock and descriptors, which no further layer changes."""
    empty = groups.of_empty(geometry, placed)
    descriptors = padded(empty.descriptors)
    for group in geometry.backups:
        first = group * BLOCKS_PER_GROUP
        output.write(first * BLOCK, superblock.backup(empty, journal_inode, group).ljust(BLOCK, b"\0"))
        output.write((first + 1) * BLOCK, descriptors)


def padded(descriptors: bytearray) -> bytes:
    return bytes(descriptors) + bytes(-len(descriptors) % BLOCK)
