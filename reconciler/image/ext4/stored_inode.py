"""One inode of a file system that is edited: its fields, the blocks that it maps, and new ones.

Called by ``edit`` and ``stored_directory``. State: the fields of a ``Node``, which ``save`` writes.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import checksum, extents
from reconciler.image.ext4.blocks import corrupt
from reconciler.image.ext4.extents import Extent
from reconciler.image.ext4.inodes import SECTORS, Content, encode, timestamp
from reconciler.image.ext4.layout import BLOCK
from reconciler.image.ext4.stored import Stored, joined
from reconciler.image.ext4.structs import FLAG_EXTENTS

MODE, SIZE_LOW, LINKS, BLOCKS_LOW, FLAGS, I_BLOCK, ACL_LOW, SIZE_HIGH, BLOCKS_HIGH, ACL_HIGH = (
    (0x00, "<H"),
    (0x04, "<I"),
    (0x1A, "<H"),
    (0x1C, "<I"),
    (0x20, "<I"),
    (0x28, "60s"),
    (0x68, "<I"),
    (0x6C, "<I"),
    (0x74, "<H"),
    (0x76, "<H"),
)
TIMES = ((0x0C, 0x84), (0x10, 0x88))  # seconds and extra of i_ctime and i_mtime
DEEPEST = 5


@dataclass(slots=True)
class Node:
    """An inode in use and its number. ``raw`` are its 256 bytes."""

    stored: Stored
    number: int
    raw: bytearray

    @classmethod
    def of(cls, stored: Stored, number: int) -> Node:
        return cls(stored, number, stored.read_inode(number))

    def get(self, field: tuple[int, str]) -> int:
        return int(struct.unpack_from(field[1], self.raw, field[0])[0])

    def set(self, field: tuple[int, str], value: int | bytes) -> None:
        struct.pack_into(field[1], self.raw, field[0], value)

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.get(MODE))

    @property
    def size(self) -> int:
        return self.get(SIZE_LOW) | self.get(SIZE_HIGH) << 32

    @property
    def acl_block(self) -> int:
        return self.get(ACL_LOW) | self.get(ACL_HIGH) << 32

    def save(self) -> None:
        self.stored.write_inode(self.number, self.raw)

    def changed_now(self) -> None:
        """Set mtime and ctime to the time of the file system, which is the newest of its tree."""
        seconds, extra = timestamp(self.stored.time)
        for at, extra_at in TIMES:
            struct.pack_into("<I", self.raw, at, seconds)
            struct.pack_into("<I", self.raw, extra_at, extra)

    def add_link(self, count: int) -> None:
        """Of a directory: a link count of 1 means too many to count (dir_nlink)."""
        links = self.get(LINKS)
        if links != 1:
            self.set(LINKS, links + count if links + count <= 65000 else 1)

    # ----------------------------------------------------------------------------------------------------- mapping

    def mapped(self) -> tuple[list[Extent], list[int]]:
        """The extents, and the blocks of the tree that maps them. Raises VolumeCorrupt."""
        if not self.get(FLAGS) & FLAG_EXTENTS:
            raise corrupt(f"inode {self.number} is not mapped by extents")
        tree: list[int] = []
        found = list(self._extents(bytes(self.raw[I_BLOCK[0] : I_BLOCK[0] + 60]), None, tree))
        end = 0
        for logical, physical, count in found:
            if logical < end or not 0 < count <= extents.MAX_LENGTH or physical + count > self.stored.geometry.blocks:
                raise corrupt(f"the extents of inode {self.number} contradict each other")
            end = logical + count
        return found, tree

    def _extents(self, node: bytes, depth: int | None, tree: list[int]) -> Iterator[Extent]:
        magic, count, room, below, _ = extents.HEADER.unpack_from(node)
        limit = (len(node) - extents.HEADER.size) // extents.LEAF.size
        if magic != extents.MAGIC or count > room or room > limit or below > DEEPEST or depth not in (None, below):
            raise corrupt(f"the extent tree of inode {self.number} is damaged")
        for at in range(extents.HEADER.size, extents.HEADER.size + count * extents.LEAF.size, extents.LEAF.size):
            if not below:
                logical, length, high, low = extents.LEAF.unpack_from(node, at)
                yield logical, high << 32 | low, length
                continue
            _, low, high, _ = extents.INDEX.unpack_from(node, at)
            block = high << 32 | low
            if block in tree:
                raise corrupt(f"the extent tree of inode {self.number} refers to itself")
            tree.append(block)
            yield from self._extents(self._tree_block(block), below - 1, tree)

    def _tree_block(self, block: int) -> bytes:
        body = bytes(self.stored.blocks.read(block))
        if extents.TAIL.unpack_from(body, extents.TAIL_AT)[0] != checksum.crc32c(self.seed, body[: extents.TAIL_AT]):
            raise corrupt(f"the extent tree of inode {self.number} is damaged")
        return body[: extents.TAIL_AT]

    @property
    def seed(self) -> int:
        return checksum.of_inode(self.number)

    def map(self, runs: Sequence[Extent], size: int, flags: int, wanted_for: str) -> None:
        """Map these extents and no others; blocks of the old tree are given back."""
        _, old = self.mapped()
        for block in old:
            self.stored.release(range(block, block + 1))
        content, beside = built(self.stored, runs, self.number, size, flags, wanted_for)
        blocks = (sum(count for _, _, count in runs) + beside + (self.acl_block > 0)) * SECTORS
        self.set(I_BLOCK, content.i_block)
        self.set(SIZE_LOW, size & 0xFFFF_FFFF)
        self.set(SIZE_HIGH, size >> 32)
        self.set(FLAGS, content.flags)
        self.set(BLOCKS_LOW, blocks & 0xFFFF_FFFF)
        self.set(BLOCKS_HIGH, blocks >> 32)

    def target(self) -> bytes:
        """Of a symlink."""
        size = self.size
        if not 0 < size < BLOCK:
            raise corrupt(f"the symlink of inode {self.number} has a target of {size} bytes")
        if not self.get(FLAGS) & FLAG_EXTENTS:
            return bytes(self.raw[I_BLOCK[0] : I_BLOCK[0] + min(size, 60)])
        found, _ = self.mapped()
        if len(found) != 1 or found[0][0] != 0:
            raise corrupt(f"the symlink of inode {self.number} has no target")
        return bytes(self.stored.blocks.read(found[0][1])[:size])

    def release_blocks(self) -> None:
        """Give back all blocks of a file, those of its attributes and of its tree included."""
        if self.kind == stat.S_IFREG or self.get(FLAGS) & FLAG_EXTENTS:
            found, tree = self.mapped()
            runs = [range(physical, physical + count) for _, physical, count in found]
            runs += (range(block, block + 1) for block in tree)
        else:
            runs = []
        if self.acl_block:
            runs.append(range(self.acl_block, self.acl_block + 1))
        for run in runs:
            self.stored.release(run)


def built(stored: Stored, runs: Sequence[Extent], number: int, size: int, flags: int, wanted_for: str) -> tuple[Content, int]:
    """What an inode holds that maps ``runs``, and how many blocks beside it do."""
    beside = extents.tree_blocks(runs)
    places = [block for run in stored.allocate(beside, wanted_for) for block in run] if beside else []
    i_block, tree = extents.build(runs, places, number)
    for place, block in tree:
        stored.blocks.put(place, block)
    return Content(i_block, size, FLAG_EXTENTS | flags), beside


def write_new(
    stored: Stored, number: int, content: bytes, mode: int, owner: tuple[int, int], wanted_for: str, *, links: int = 1
) -> None:
    """Write an inode of a file or directory with this content into new blocks."""
    runs = list(joined(stored.allocate(-(-len(content) // BLOCK), wanted_for))) if content else []
    for logical, physical, count in runs:
        for at in range(count):
            start = (logical + at) * BLOCK
            stored.blocks.put(physical + at, content[start : start + BLOCK])
    described, beside = built(stored, runs, number, len(content), 0, wanted_for)
    blocks = sum(count for _, _, count in runs) + beside
    raw = encode(number, described, mode=mode, links=links, blocks=blocks, owner=owner, mtime=stored.time)
    stored.write_inode(number, raw)
