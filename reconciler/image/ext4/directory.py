"""Directory blocks: one that is searched in order, or many below a hash tree.

Called by ``inodes`` and ``placement``. Format: ``Documentation/filesystems/ext4/directory``, "Linear (Classic) Directories". What
doesn't fit into one block gets a tree (``hashtree``). No state.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Sequence

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import checksum
from reconciler.image.ext4.layout import BLOCK, ceil_div
from reconciler.image.ext4.refusal import NotRepresentable

# inode, rec_len, name_len, file_type
ENTRY = struct.Struct("<IHBB")
# of the last 12 bytes, an entry without a name: inode 0, rec_len, name_len 0, file_type, checksum
TAIL = struct.Struct("<IHBBI")
TAIL_TYPE = 0xDE
ROOM = BLOCK - TAIL.size
DOTS = 24
MAX_NAME = 255
LONGEST = MAX_NAME + 11 & ~3
"""Bytes of the entry that has the longest name."""
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
DIRECTORY = FILE_TYPES[stat.S_IFDIR]
ROOT_LIMIT = (BLOCK - 2 * 12 - 8) // 8 - 1
"""Children of a hash tree's root: what is left of a block by two entries, the root's information and the checksum."""
NODE_LIMIT = (BLOCK - 8) // 8 - 1
MOST_LEAVES = ROOT_LIMIT * NODE_LIMIT
"""Two levels of nodes are all that ext4 has without the feature large_dir."""

Entry = tuple[bytes, int, int]  # name, inode number, file type


@dataclass(frozen=True, slots=True)
class Shape:
    """The blocks of a directory: a single one and empty ones, or a tree's root, ``nodes`` and ``leaves``."""

    blocks: int
    nodes: int = 0
    leaves: int = 0


def shape(names: Sequence[bytes], least: int = 1) -> Shape:
    """Blocks for entries of these names, ``least`` or more. Raises NotRepresentable.

    The leaves are as many as have room however the hashes fall: a leaf is left once an entry may not fit any more.
    """
    sizes = [len(name) + 11 & ~3 for name in names]
    total, largest = sum(sizes), max(sizes, default=0)
    if largest >= LONGEST and len(name := max(names, key=len)) > MAX_NAME:
        raise NotRepresentable("name-length", f"the name of its entry {name[:32]!r}… is longer than {MAX_NAME} bytes")
    if DOTS + total <= ROOM:
        return Shape(least)
    leaves = max(ceil_div(total, ROOM - largest), least - 1)
    nodes = 0 if leaves <= ROOT_LIMIT else ceil_div(leaves, NODE_LIMIT)
    if leaves > MOST_LEAVES:
        raise NotRepresentable(
            "directory-size",
            f"its {len(names)} names take {leaves} blocks, and ext4's index of a directory has {MOST_LEAVES} at most",
        )
    return Shape(1 + nodes + leaves, nodes, leaves)


def dots(own: int, parent: int) -> list[Entry]:
    return [(b".", own, DIRECTORY), (b"..", parent, DIRECTORY)]


def linear(entries: Iterable[Entry], seed: int) -> bytes:
    """A block that holds the entries in their order; ``seed`` is the inode's."""
    body = bytearray()
    last = 0  # where the last entry begins
    for name, inode, file_type in entries:
        length = len(name) + 11 & ~3
        last = len(body)
        body += ENTRY.pack(inode, length, len(name), file_type) + name.ljust(length - 8, b"\0")
    if not body:
        body += ENTRY.pack(0, ENTRY.size, 0, 0)
    struct.pack_into("<H", body, last + 4, ROOM - last)  # the last entry reaches to the tail
    block = bytes(body.ljust(ROOM, b"\0"))
    return block + TAIL.pack(0, TAIL.size, 0, TAIL_TYPE, checksum.crc32c(seed, block))


def entry_size(name: bytes) -> int:
    return ENTRY.size + len(name) + 3 & ~3
