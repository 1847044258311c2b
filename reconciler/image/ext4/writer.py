"""An ext4 file system, written onto a file descriptor, without a mount and without root.

Called by the builder process, once a volume: ``append`` for each file as the layer is read, ``end_layer`` between layers,
``finish`` when the last one has been accepted. File data goes to the next free blocks as it comes, around the places that the
geometry has given to metadata; directories and other blocks of inodes follow the data of their layer. State lives in the
``Writer`` and in the inodes, which keep numbers and blocks from layer to layer.

A volume is not recognisable as a file system until ``finish`` has synced everything else: the primary superblock comes last.
The same calls give the same bytes, whether they are made to one writer or, layer by layer, to one for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import data, journal, metadata, numbering, parent, placement, sizing, structs, superblock
from reconciler.image.ext4.allocator import Allocator
from reconciler.image.ext4.layout import BLOCK, Geometry
from reconciler.image.ext4.metadata import Written
from reconciler.image.ext4.numbering import Numbering
from reconciler.image.ext4.output import Discard, Output, VolumeOutput

if TYPE_CHECKING:
    from reconciler.image.tree.inode import Inode


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished file system. Blocks have 4096 bytes; ``used_inodes`` counts the reserved ones and ``lost+found``, too.

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


@dataclass(frozen=True, slots=True)
class Below:
    """What the layers below left: their tree, and where the data of the next layer begins (``Summary.next_block``)."""

    root: Inode
    next_block: int


class Writer:
    """Writes one file system of ``size`` bytes onto ``fd``, a regular file or block device that reads as zeros.

    With ``below`` the volume is a copy of a parent that a writer has finished: what no layer changes stays. With ``sink``
    everything is allocated and nothing written; ``fd`` is not used. ``ratio`` are the bytes per inode, mke2fs's where it is None.

    Raises VolumeCorrupt where the volume is neither, Terminal for a size that is too large.
    """

    def __init__(self, fd: int, size: int, *, below: Below | None = None, ratio: int | None = None, sink: bool = False) -> None:
        self._geometry = Geometry.of_bytes(size, ratio)
        self._ratio = ratio
        self._journal = journal.place(self._geometry)
        self._allocator = Allocator(below.next_block if below else self._journal.end, self._geometry.skipped)
        self._used = numbering.taken(below.root) if below else numbering.reserved()
        self._owned = list(numbering.extents_of(numbering.walk(below.root))) if below else []
        self._before = self._used.rfind(1) if below else 0
        self._sink = sink
        self._output: Output = Discard() if sink else self._open(fd, below is None)

    def _open(self, fd: int, blank: bool) -> Output:
        if blank:
            parent.check_empty(fd)
            return VolumeOutput(fd, self._geometry.blocks * BLOCK, blank=True)
        parent.check_parent(fd, self._geometry)
        output = VolumeOutput(fd, self._geometry.blocks * BLOCK, blank=False)
        output.write(0, bytes(BLOCK))
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
        inode.size = size
        if segments is None and (run := self._allocator.take_run(data.blocks(size))) is not None:
            inode.extents = ((0, run.start, len(run)),) if run else ()
            if self._reads_data:
                data.copy_whole(chunks, size, run.start * BLOCK, self._output.write)
            return
        parts = [(0, size)] if segments is None else segments
        inode.extents = data.allocate(parts, self._allocator)
        if self._reads_data:
            data.copy(chunks, parts, inode.extents, self._output.write)

    def end_layer(self, root: Inode) -> Numbering:
        """Give numbers and blocks to what the layer has brought. Calling it twice changes nothing.

        Raises LayerRefused for what ext4 cannot hold.
        """
        names = numbering.number(root, self._used)
        placement.place(names, self._geometry, self._allocator)
        self._allocator.align()
        self._used = names.used
        return names

    def finish(self, root: Inode, uuid: UUID, label: bytes = b"") -> Summary:
        """End the last layer, write the metadata, sync, write the primary superblock, sync; the writer is used up then.

        Raises ImageTooSmall with the size that would do, LayerRefused for an inode that ext4 cannot hold, NoSpace, OSError.
        """
        try:
            return self._finish(root, uuid, label)
        finally:
            self.close()

    def let_go(self) -> None:
        """Keep no view of data that ``append`` has been given."""
        self._output.let_go()

    def close(self) -> None:
        """Let go of the volume as it is; what has not been synced may be lost. Need not be called after ``finish``."""
        self._output.close()

    def _finish(self, root: Inode, uuid: UUID, label: bytes) -> Summary:
        names = self.end_layer(root)
        sizing.check(self._geometry, self.next_block, names.count, self._ratio)
        self._clear_given_up(root)
        written = metadata.write(names, self._geometry, self._journal, self._before, self._output)
        if not self._before:
            metadata.write_backups(self._geometry, self._journal, written.journal_inode, self._output)
        self._output.sync()
        block = superblock.primary(written.groups, written.journal_inode, uuid, label, numbering.newest(root))
        self._output.write(structs.SUPERBLOCK_OFFSET, block)
        self._output.sync()
        return self._summary(written)

    def _clear_given_up(self, root: Inode) -> None:
        """Zeros where directories and the like of the parent were: a build in one go has never written those blocks."""
        if not self._owned:
            return
        kept = {block for run in numbering.extents_of(numbering.walk(root)) for block in run}
        for run in self._owned:
            for block in run:
                if block not in kept:
                    self._output.update(block * BLOCK, bytes(BLOCK))

    def _summary(self, written: Written) -> Summary:
        groups, geometry = written.groups, self._geometry
        return Summary(
            blocks=geometry.blocks,
            used_blocks=geometry.blocks - groups.free_blocks,
            free_blocks=groups.free_blocks,
            inodes=geometry.inodes,
            used_inodes=groups.names.count,
            groups=geometry.groups,
            journal_blocks=geometry.journal_blocks,
            next_block=self.next_block,
        )
