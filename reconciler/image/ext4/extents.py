"""Extent trees: where the blocks of an inode lie.

Called by ``inodes`` and ``placement``. Format: ``Documentation/filesystems/ext4/ifork``, "Extent Tree". No state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from reconciler.image.ext4 import checksum
from reconciler.image.ext4.layout import BLOCK, ceil_div

MAGIC = 0xF30A
# eh_magic, eh_entries, eh_max, eh_depth, eh_generation
HEADER = struct.Struct("<HHHHI")
# leaf: ee_block, ee_len, ee_start_hi, ee_start_lo; index: ei_block, ei_leaf_lo, ei_leaf_hi, ei_unused
LEAF = struct.Struct("<IHHI")
INDEX = struct.Struct("<IIHH")
ONE_LEAF = struct.Struct("<HHHHIIHHI")
TAIL = struct.Struct("<I")
IN_INODE = 4
IN_BLOCK = (BLOCK - HEADER.size) // LEAF.size
TAIL_AT = HEADER.size + IN_BLOCK * LEAF.size
MAX_LENGTH = 32768  # longer ones would count as unwritten
LOW = 0xFFFF_FFFF

Extent = tuple[int, int, int]
Entry = tuple[int, bytes]  # the first logical block below it, and its 12 bytes


def tree_blocks(extents: Sequence[Extent]) -> int:
    """Blocks of the tree besides the inode."""
    level = sum(ceil_div(count, MAX_LENGTH) for _, _, count in extents)
    blocks = 0
    while level > IN_INODE:
        level = ceil_div(level, IN_BLOCK)
        blocks += level
    return blocks


def build(extents: Sequence[Extent], places: Sequence[int] = (), number: int = 0) -> tuple[bytes, list[tuple[int, bytes]]]:
    """What i_block of the inode ``number`` holds, and the tree's blocks, each with the one of ``places`` that it goes to."""
    if len(extents) == 1 and extents[0][2] <= MAX_LENGTH:  # nearly all files: worth the shorter way
        logical, physical, count = extents[0]
        return ONE_LEAF.pack(MAGIC, 1, IN_INODE, 0, 0, logical, count, physical >> 32, physical & LOW), []
    entries: list[Entry] = [(cut[0], LEAF.pack(cut[0], cut[2], cut[1] >> 32, cut[1] & LOW)) for cut in _cut(extents)]
    depth, blocks, left = 0, [], iter(places)
    seed = checksum.of_inode(number) if len(entries) > IN_INODE else 0
    while len(entries) > IN_INODE:
        parents = []
        for node in _nodes(entries):
            place = next(left)
            blocks.append((place, _block(node, depth, seed)))
            parents.append((node[0][0], INDEX.pack(node[0][0], place & LOW, place >> 32, 0)))
        entries = parents
        depth += 1
    return _node(entries, IN_INODE, depth), blocks


def _cut(extents: Iterable[Extent]) -> Iterator[Extent]:
    for logical, physical, count in extents:
        for done in range(0, count, MAX_LENGTH):
            yield logical + done, physical + done, min(MAX_LENGTH, count - done)


def _nodes(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[at : at + IN_BLOCK] for at in range(0, len(entries), IN_BLOCK))


def _block(node: Sequence[Entry], depth: int, seed: int) -> bytes:
    body = _node(node, IN_BLOCK, depth).ljust(TAIL_AT, b"\0")
    return body + TAIL.pack(checksum.crc32c(seed, body))


def _node(entries: Sequence[Entry], room: int, depth: int) -> bytes:
    return HEADER.pack(MAGIC, len(entries), room, depth, 0) + b"".join(entry for _, entry in entries)
