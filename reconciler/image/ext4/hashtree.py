"""Indexed directories: names sorted by hash into leaves, with a tree above them that maps hashes to leaves.

Called by ``inodes`` for large directories. Format: ``Documentation/filesystems/ext4/directory``, "Hash Tree Directories";
the hash is the half MD4 of ``fs/ext4/hash.c``. No state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from uuid import UUID

from reconciler.image.ext4.directory import ENTRY, Entry, entry_size, linear
from reconciler.image.ext4.layout import BLOCK

HALF_MD4 = 1
WORTHWHILE = 32  # blocks: a linear search of fewer costs the kernel less than the hashes cost the builder

# reserved_zero, hash_version, info_length, indirect_levels, unused_flags
ROOT_INFO = struct.Struct("<IBBBB")
# limit, count, block of the first child
COUNT = struct.Struct("<HHI")
# hash, block
CHILD = struct.Struct("<II")
WORDS = struct.Struct(">8I")
DOT_SIZE = 12
ROOT_HEAD = 2 * DOT_SIZE + ROOT_INFO.size
NODE_HEAD = ENTRY.size
ROOT_LIMIT = (BLOCK - ROOT_HEAD) // CHILD.size
NODE_LIMIT = (BLOCK - NODE_HEAD) // CHILD.size

# the word that each operation of a round takes, and by how much it rotates
FIRST_ROUND = tuple(zip((0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19) * 2, strict=True))
SECOND_ROUND = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
THIRD_ROUND = tuple(zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True))

Child = tuple[int, int]  # the lowest hash below it, and its logical block
MASK = 0xFFFF_FFFF


def indexed(dots: list[Entry], entries: Iterable[Entry], seed: UUID) -> list[bytes]:
    """The blocks of an indexed directory: the root, the nodes below it if there are any, the leaves."""
    words = struct.unpack("<4I", seed.bytes)
    leaves = list(_leaves(sorted((half_md4(entry[0], words), entry) for entry in entries)))
    nodes = 0 if len(leaves) <= ROOT_LIMIT else -(-len(leaves) // NODE_LIMIT)
    children = [(low, 1 + nodes + at) for at, (low, _) in enumerate(leaves)]
    inner = [children[at : at + NODE_LIMIT] for at in range(0, len(children), NODE_LIMIT)] if nodes else []
    tops = [(node[0][0], 1 + at) for at, node in enumerate(inner)] or children
    return [_root(dots, tops, 1 if nodes else 0), *map(_node, inner), *(block for _, block in leaves)]


def _leaves(hashed: list[tuple[int, Entry]]) -> Iterator[tuple[int, bytes]]:
    """Full leaves with their lowest hash; bit 0: its names begin in the leaf before."""
    starts, used = [0], 0
    for at, (_, entry) in enumerate(hashed):
        size = entry_size(entry[0])
        if used + size > BLOCK:
            starts.append(at)
            used = 0
        used += size
    for start, stop in pairwise([*starts, len(hashed)]):
        low = hashed[start][0]
        continued = start > 0 and hashed[start - 1][0] == low
        (block,) = linear(entry for _, entry in hashed[start:stop])
        yield low | continued, block


def _root(dots: list[Entry], children: list[Child], levels: int) -> bytes:
    (_, own, file_type), (_, parent, _) = dots
    return (
        ENTRY.pack(own, DOT_SIZE, 1, file_type)
        + b".\0\0\0"
        + ENTRY.pack(parent, BLOCK - DOT_SIZE, 2, file_type)
        + b"..\0\0"
        + ROOT_INFO.pack(0, HALF_MD4, ROOT_INFO.size, levels, 0)
        + _children(children, ROOT_LIMIT)
    )


def _node(children: list[Child]) -> bytes:
    return ENTRY.pack(0, BLOCK, 0, 0) + _children(children, NODE_LIMIT)


def _children(children: list[Child], limit: int) -> bytes:
    """The level above holds the first child's hash, so limit and count take its place."""
    head = COUNT.pack(limit, len(children), children[0][1])
    return (head + b"".join(CHILD.pack(*child) for child in children[1:])).ljust(limit * CHILD.size, b"\0")


def half_md4(name: bytes, seed: tuple[int, ...]) -> int:
    """The major hash of a name, its lowest bit zero, with bytes taken as unsigned."""
    state = seed if any(seed) else (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
    for at in range(0, len(name), 32):
        state = _transform(state, _words(name[at : at + 32], len(name) - at))
    hashed = state[1] & ~1
    return hashed if hashed != 0xFFFF_FFFE else 0xFFFF_FFFC  # the highest one means the end of a directory


def _words(part: bytes, left: int) -> tuple[int, ...]:
    """Eight big-endian words of the name; unused bytes, which come first in the last word, hold its length."""
    whole, filler = len(part) & ~3, bytes((left,))
    filled = part[:whole] + filler * (4 - len(part) + whole) + part[whole:]
    return WORDS.unpack(filled.ljust(WORDS.size, filler)[: WORDS.size])


def _transform(state: tuple[int, ...], words: tuple[int, ...]) -> tuple[int, ...]:
    """The loops repeat their rotation instead of sharing a function: calls would double the time of a large directory."""
    a, b, c, d = state
    for index, shift in FIRST_ROUND:
        total = a + (d ^ b & (c ^ d)) + words[index] & MASK
        a, b, c, d = d, (total << shift | total >> 32 - shift) & MASK, b, c
    for index, shift in SECOND_ROUND:
        total = a + (b & c) + ((b ^ c) & d) + words[index] + 0x5A827999 & MASK
        a, b, c, d = d, (total << shift | total >> 32 - shift) & MASK, b, c
    for index, shift in THIRD_ROUND:
        total = a + (b ^ c ^ d) + words[index] + 0x6ED9EBA1 & MASK
        a, b, c, d = d, (total << shift | total >> 32 - shift) & MASK, b, c
    return state[0] + a & MASK, state[1] + b & MASK, state[2] + c & MASK, state[3] + d & MASK
