"""An ext4 file system, written front to back onto a file descriptor, without a mount and without root.

Called by the builder process, once a volume: ``append`` for each file as the layer is read, ``finish`` when the layer has been
accepted. The order on the volume is: superblock and group descriptors (left out until the end), file data as it comes, then
directories and other blocks of inodes, bitmaps, inode tables, journal. State lives in the ``Writer`` and in the inodes' extents.

A volume is not recognisable as a file system until ``finish`` has synced everything else: the superblocks come last.
The same calls give the same bytes, whether they are made to one writer or, layer by layer, to one for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.image.ext4 import data, metadata, numbering, structs, superseded
from reconciler.image.ext4.allocator import Allocator, subtract
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, Geometry
from reconciler.image.ext4.metadata import Written
from reconciler.image.ext4.output import Discard, Output, VolumeOutput

if TYPE_CHECKING:
    from reconciler.image.tree.inode import Inode


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished file system. Blocks have 4096 bytes; ``used_inodes`` counts the ten reserved ones too.

    ``next_block`` is where the data of the next layer begins.
    """

    blocks: int
    used_blocks: int
    free_blocks: int
    inodes: int
    used_inodes: int
    groups: int
    journal_blocks: int
    next_block: int


class Writer:
    """Writes one file system of ``size`` bytes onto ``fd``, a regular file or block device that reads as zeros.

    With ``next_block`` (``Summary.next_block`` of the parent) the volume is a copy of a parent that a writer has finished: its
    data stays, its metadata makes way. With ``sink`` everything is allocated and nothing written; ``fd`` is not used.

    Raises VolumeCorrupt where the volume is neither, Terminal for a size that ext4 with 32-bit block numbers can't have.
    """

    def __init__(self, fd: int, size: int, *, next_block: int | None = None, sink: bool = False) -> None:
        self._geometry = Geometry.of_bytes(size)
        self._allocator = Allocator(next_block or self._geometry.first_data, self._geometry.skipped)
        self._superseded: list[range] = []
        self._sink = sink
        self._output: Output = Discard() if sink else self._open(fd, next_block)

    def _open(self, fd: int, next_block: int | None) -> Output:
        if next_block is None:
            superseded.check_empty(fd)
            return VolumeOutput(fd, self._geometry.blocks * BLOCK)
        self._superseded = superseded.written_metadata(fd, self._geometry, next_block)
        output = VolumeOutput(fd, self._geometry.blocks * BLOCK)
        for block in superseded.superblocks(self._geometry):
            output.write(block * BLOCK, bytes(BLOCK))
        output.sync()
        return output

    @property
    def next_block(self) -> int:
        """The first block that data has not used yet."""
        return self._allocator.next

    @property
    def _reads_data(self) -> bool:
        return not self._sink and self._allocator.next <= self._geometry.blocks

    def append(
        self, inode: Inode, size: int, segments: Sequence[data.Segment] | None, chunks: Iterable[bytes | memoryview]
    ) -> None:
        """Write one file's data to the next blocks; sets the inode's size and extents.

        ``size`` is apparent, in bytes. ``segments`` are the (offset, length) of what is not a hole, None where there is none;
        ``chunks`` are their bytes in order. A sink leaves them unread, and so does a writer whose volume is full: that one
        counts on, and ``finish`` reports how much would have been needed.
        Raises LayerCorrupt where there are more or fewer bytes than the segments state.
        """
        parts = [(0, size)] if segments is None else segments
        inode.size = size
        inode.extents = data.allocate(parts, self._allocator)
        if self._reads_data:
            data.copy(chunks, parts, inode.extents, self._output.write)

    def finish(self, root: Inode, uuid: UUID, label: bytes = b"") -> Summary:
        """Write the metadata, sync, write the superblocks, sync; the writer is used up then.

        Raises ImageTooSmall with the size that would do, LayerRefused for an inode that ext4 cannot hold, NoSpace, OSError.
        """
        try:
            return self._finish(root, uuid, label)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the volume as it is; what has not been synced may be lost. Need not be called after ``finish``."""
        self._output.close()

    def _finish(self, root: Inode, uuid: UUID, label: bytes) -> Summary:
        names = numbering.number(root)
        written = metadata.write(names, self._geometry, self.next_block, self._output, uuid)
        self._wipe_superseded()
        self._write_superblocks(written, label)
        return self._summary(written)

    def _wipe_superseded(self) -> None:
        for run in subtract(self._superseded, [range(self.next_block), *self._output.written()]):
            for block in run:
                self._output.write(block * BLOCK, bytes(BLOCK))

    def _write_superblocks(self, written: Written, label: bytes) -> None:
        firsts = superseded.superblocks(self._geometry)
        for first in firsts:
            self._output.write((first + 1) * BLOCK, written.groups.descriptors)
        self._output.sync()
        for first in reversed(firsts):
            of_place: dict[str, int | bytes] = {"s_block_group_nr": first // BLOCKS_PER_GROUP, "s_volume_name": label}
            block = structs.superblock({**written.superblock, **of_place})
            self._output.write(first * BLOCK if first else structs.SUPERBLOCK_OFFSET, block)
        self._output.sync()

    def _summary(self, written: Written) -> Summary:
        groups = written.groups
        return Summary(
            blocks=self._geometry.blocks,
            used_blocks=self._geometry.blocks - groups.free_blocks,
            free_blocks=groups.free_blocks,
            inodes=groups.placement.inodes_per_group * self._geometry.groups,
            used_inodes=groups.last_inode,
            groups=self._geometry.groups,
            journal_blocks=self._geometry.journal_blocks,
            next_block=self.next_block,
        )
