"""Extent trees: where the blocks of an inode lie.

Called by ``inodes``. Format: ``Documentation/filesystems/ext4/ifork``, "Extent Tree". No state.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from reconciler.image.ext4.layout import BLOCK

MAGIC = 0xF30A
# eh_magic, eh_entries, eh_max, eh_depth, eh_generation
HEADER = struct.Struct("<HHHHI")
# leaf: ee_block, ee_len, ee_start_hi, ee_start_lo; index: ei_block, ei_leaf_lo, ei_leaf_hi, ei_unused
LEAF = struct.Struct("<IHHI")
INDEX = struct.Struct("<IIHH")
ONE_LEAF = struct.Struct("<HHHHIIHHI")
IN_INODE = 4
IN_BLOCK = (BLOCK - HEADER.size) // LEAF.size
MAX_LENGTH = 32768  # longer ones would count as unwritten

Extent = tuple[int, int, int]
Entry = tuple[int, bytes]  # the first logical block below it, and its 12 bytes


def build(extents: Sequence[Extent], put_block: Callable[[bytes], int]) -> bytes:
    """What i_block holds; blocks of a deeper tree are handed to ``put_block``, which returns where it put them."""
    if len(extents) == 1 and extents[0][2] <= MAX_LENGTH:  # nearly all files: worth the shorter way
        logical, physical, count = extents[0]
        return ONE_LEAF.pack(MAGIC, 1, IN_INODE, 0, 0, logical, count, 0, physical)
    entries: list[Entry] = [(logical, LEAF.pack(logical, count, 0, physical)) for logical, physical, count in _cut(extents)]
    depth = 0
    while len(entries) > IN_INODE:
        entries = [_parent(node, depth, put_block) for node in _nodes(entries)]
        depth += 1
    return _node(entries, IN_INODE, depth)


def _cut(extents: Iterable[Extent]) -> Iterator[Extent]:
    for logical, physical, count in extents:
        for done in range(0, count, MAX_LENGTH):
            yield logical + done, physical + done, min(MAX_LENGTH, count - done)


def _nodes(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[at : at + IN_BLOCK] for at in range(0, len(entries), IN_BLOCK))


def _parent(node: Sequence[Entry], depth: int, put_block: Callable[[bytes], int]) -> Entry:
    logical = node[0][0]
    return logical, INDEX.pack(logical, put_block(_node(node, IN_BLOCK, depth).ljust(BLOCK, b"\0")), 0, 0)


def _node(entries: Sequence[Entry], room: int, depth: int) -> bytes:
    return HEADER.pack(MAGIC, len(entries), room, depth, 0) + b"".join(entry for _, entry in entries)
