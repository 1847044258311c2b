"""Indexed directories: names sorted by hash into leaves, with a tree above them that maps hashes to leaves.

Called by ``inodes`` for directories of more than a block. Format: ``Documentation/filesystems/ext4/directory``, "Hash Tree
Directories". No state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from reconciler.image.ext4 import checksum
from reconciler.image.ext4.directory import ENTRY, NODE_LIMIT, ROOT_LIMIT, Entry, Shape, linear
from reconciler.image.ext4.halfmd4 import half_md4
from reconciler.image.ext4.layout import BLOCK

HALF_MD4 = 1
HASH_SEED = b"reconciler/ext4."
"""Of every file system (``s_hash_seed``): with seeds of their own no two chains would share a directory."""
SEED_WORDS = struct.unpack("<4I", HASH_SEED)

# reserved_zero, hash_version, info_length, indirect_levels, unused_flags
ROOT_INFO = struct.Struct("<IBBBB")
# limit, count, block of the first child
COUNT = struct.Struct("<HHI")
# hash, block
CHILD = struct.Struct("<II")
# dt_reserved, dt_checksum
TAIL = struct.Struct("<II")
DOT_SIZE = 12

Child = tuple[int, int]  # the lowest hash below it, and its logical block


def indexed(dots: list[Entry], entries: Sequence[Entry], shape: Shape, seed: int) -> list[bytes]:
    """The blocks of an indexed directory: the root, the nodes below it if there are any, the leaves. ``seed`` is the inode's."""
    hashes = half_md4([entry[0] for entry in entries], SEED_WORDS)
    leaves = list(_leaves(sorted(zip(hashes, entries, strict=True)), shape.leaves, seed))
    children = [(low, 1 + shape.nodes + at) for at, (low, _) in enumerate(leaves)]
    inner = [children[at : at + NODE_LIMIT] for at in range(0, len(children), NODE_LIMIT)] if shape.nodes else []
    tops = [(node[0][0], 1 + at) for at, node in enumerate(inner)] or children
    nodes = [_node(node, seed) for node in inner]
    return [_root(dots, tops, 1 if inner else 0, seed), *nodes, *(block for _, block in leaves)]


def _leaves(hashed: list[tuple[int, Entry]], count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Leaves of about the same length, with their lowest hash; bit 0: its names begin in the leaf before."""
    total = sum(len(entry[0]) + 11 & ~3 for _, entry in hashed)
    start = before = 0
    for leaf in range(1, count + 1):
        stop = start
        while stop < len(hashed) and before * count < leaf * total:
            before += len(hashed[stop][1][0]) + 11 & ~3
            stop += 1
        low = hashed[start][0]
        continued = start > 0 and hashed[start - 1][0] == low
        yield low | continued, linear((entry for _, entry in hashed[start:stop]), seed)
        start = stop


def _root(dots: list[Entry], children: list[Child], levels: int, seed: int) -> bytes:
    (_, own, file_type), (_, parent, _) = dots
    head = (
        ENTRY.pack(own, DOT_SIZE, 1, file_type)
        + b".\0\0\0"
        + ENTRY.pack(parent, BLOCK - DOT_SIZE, 2, file_type)
        + b"..\0\0"
        + ROOT_INFO.pack(0, HALF_MD4, ROOT_INFO.size, levels, 0)
    )
    return _with_children(head, children, ROOT_LIMIT, seed)


def _node(children: list[Child], seed: int) -> bytes:
    return _with_children(ENTRY.pack(0, BLOCK, 0, 0), children, NODE_LIMIT, seed)


def _with_children(head: bytes, children: list[Child], limit: int, seed: int) -> bytes:
    """The level above holds the first child's hash, so limit and count take its place. The checksum covers what is in use."""
    body = head + COUNT.pack(limit, len(children), children[0][1]) + b"".join(CHILD.pack(*child) for child in children[1:])
    tail = TAIL.pack(0, checksum.crc32c(seed, body + bytes(TAIL.size)))
    return body.ljust(BLOCK - TAIL.size, b"\0") + tail
