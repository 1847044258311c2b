"""All that is not file data: written behind it, in one go, when a layer has been accepted.

Called by ``writer.Writer.finish``. Its memory is released when it returns; the values of the superblocks are its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from reconciler.errors import ImageTooSmall
from reconciler.image.ext4 import groups, numbering, structs, superblock
from reconciler.image.ext4.allocator import Allocator, BlockBitmap
from reconciler.image.ext4.groups import Groups
from reconciler.image.ext4.inodes import InodeTable
from reconciler.image.ext4.layout import BLOCK, MIB_BLOCKS, Geometry, blocks_needed
from reconciler.image.ext4.numbering import Numbering
from reconciler.image.ext4.output import Output


@dataclass(frozen=True, slots=True)
class Written:
    """The values of descriptors and superblocks for the metadata that has been written."""

    groups: Groups
    superblock: dict[str, int | bytes]


def write(names: Numbering, geometry: Geometry, next_block: int, output: Output, uuid: UUID) -> Written:
    """Write everything but descriptors and superblocks, from ``next_block`` on.

    Raises ImageTooSmall where the volume ends too early, LayerRefused for an inode that ext4 cannot hold.
    """
    allocator, bitmap = Allocator(next_block, geometry.skipped), BlockBitmap()
    inodes = InodeTable(names, allocator, output, bitmap, superblock.hash_seed(uuid))
    inodes.add_all()
    placement = groups.place(allocator, geometry, names.last)
    _check_size(geometry, allocator.next, _data_blocks(geometry, next_block) + inodes.blocks, names.last)
    inodes.add_journal(placement.journal)
    output.write(placement.journal[0].start * BLOCK, structs.journal_superblock(geometry.journal_blocks, uuid.bytes))
    described = Groups(geometry, placement, names.last)
    for run in placement.runs():
        bitmap.mark(run.start, len(run))
    described.write_bitmaps(bitmap, names.directories(), output, uuid)
    described.write_tables(inodes.table, output)
    return Written(described, superblock.fields(described, uuid, inodes.encoded(numbering.JOURNAL)))


def _data_blocks(geometry: Geometry, next_block: int) -> int:
    skipped = sum(len(place) for place in geometry.skipped if place.stop <= next_block)
    return next_block - geometry.first_data - skipped


def _check_size(geometry: Geometry, end: int, payload: int, inodes: int) -> None:
    """Raise ImageTooSmall unless everything that has been allocated lies within the volume."""
    if end <= geometry.blocks and inodes <= geometry.inodes_per_group(inodes) * geometry.groups:
        return
    needed = blocks_needed(payload, inodes) // MIB_BLOCKS
    raise ImageTooSmall(
        f"a file system of {geometry.blocks * BLOCK} bytes can't hold the layers: they take {needed} MiB",
        hint=f"declare a size of {needed}MiB or more",
    )
