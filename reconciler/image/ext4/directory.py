"""Directory blocks, linear and indexed.

Called by ``inodes``. Format: ``Documentation/filesystems/ext4/directory``, "Linear (Classic) Directories" and "Hash Tree
Directories". No state.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable

from reconciler.image.ext4.layout import BLOCK
from reconciler.image.ext4.refusal import NotRepresentable

# inode, rec_len, name_len, file_type
ENTRY = struct.Struct("<IHBB")
MAX_NAME = 255
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

Entry = tuple[bytes, int, int]  # name, inode number, file type


def dots(own: int, parent: int) -> list[Entry]:
    return [(b".", own, DIRECTORY), (b"..", parent, DIRECTORY)]


def linear(entries: Iterable[Entry]) -> list[bytes]:
    """Blocks that hold the entries in their order. Raises NotRepresentable."""
    blocks = [bytearray()]
    last = 0  # where the block's last entry begins
    for name, inode, file_type in entries:
        if len(name) > MAX_NAME:
            raise NotRepresentable("name-length", f"the name of its entry {name[:32]!r}… is longer than {MAX_NAME} bytes")
        length = entry_size(name)
        if len(blocks[-1]) + length > BLOCK:
            _fill(blocks[-1], last)
            blocks.append(bytearray())
        last = len(blocks[-1])
        blocks[-1] += ENTRY.pack(inode, length, len(name), file_type) + name.ljust(length - ENTRY.size, b"\0")
    _fill(blocks[-1], last)
    return [bytes(block) for block in blocks]


def entry_size(name: bytes) -> int:
    return ENTRY.size + len(name) + 3 & ~3


def _fill(block: bytearray, last: int) -> None:
    """The last entry reaches to the end of the block."""
    struct.pack_into("<H", block, last + 4, BLOCK - last)
    block.extend(bytes(BLOCK - len(block)))
