"""The journal: an empty one, in a place that the geometry gives. Called by ``writer`` and ``metadata``. No state.

Format: ``Documentation/filesystems/ext4/journal``. Its blocks but the first are never written: they read as zeros.
"""

from __future__ import annotations

import struct

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import extents
from reconciler.image.ext4.allocator import Allocator
from reconciler.image.ext4.layout import BLOCK, Geometry, aligned

# h_magic, h_blocktype, h_sequence, s_blocksize, s_maxlen, s_first, s_sequence, s_start, s_errno, features, s_uuid, s_nr_users
SUPERBLOCK = struct.Struct(">IIIIIIIII12x16xI")
MAGIC, SUPERBLOCK_V2 = 0xC03B_3998, 4


@dataclass(frozen=True, slots=True)
class Journal:
    """``tree`` are the blocks that map it where the inode has no room for that; ``end`` is where data begins."""

    runs: tuple[range, ...]
    tree: tuple[int, ...]
    end: int

    @property
    def mapped(self) -> list[extents.Extent]:
        """Its extents."""
        found, position = [], 0
        for run in self.runs:
            found.append((position, run.start, len(run)))
            position += len(run)
        return found


def place(geometry: Geometry) -> Journal:
    """Behind the metadata of the first flex group."""
    allocator = Allocator(geometry.journal_start, geometry.skipped)
    runs = allocator.take(geometry.journal_blocks)
    journal = Journal(tuple(runs), (), 0)
    tree = [allocator.take_one() for _ in range(extents.tree_blocks(journal.mapped))]
    return Journal(tuple(runs), tuple(tree), aligned(allocator.next))


def superblock(blocks: int) -> bytes:
    """An empty journal: nothing to replay (s_start 0), the first transaction will be number 1."""
    return SUPERBLOCK.pack(MAGIC, SUPERBLOCK_V2, 0, BLOCK, blocks, 1, 1, 0, 0, 1).ljust(BLOCK, b"\0")
