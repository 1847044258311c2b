"""A directory of a file system that is edited: finding, adding and removing names, with or without a hash tree.

Called by ``edit``. A name goes into its block where that has room; where it has none, the whole directory is written again by
the encoders of a build (``directory``, ``hashtree``). No state but the blocks that it has read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import checksum, hashtree
from reconciler.image.ext4.blocks import corrupt
from reconciler.image.ext4.directory import (
    ENTRY,
    MOST_LEAVES,
    NODE_LIMIT,
    ROOM,
    ROOT_LIMIT,
    TAIL,
    TAIL_TYPE,
    Entry,
    dots,
    entry_size,
    linear,
    shape,
)
from reconciler.image.ext4.extents import MAX_LENGTH, Extent
from reconciler.image.ext4.halfmd4 import half_md4
from reconciler.image.ext4.hashtree import CHILD, COUNT, DOT_SIZE, HALF_MD4, ROOT_INFO, SEED_WORDS
from reconciler.image.ext4.layout import BLOCK
from reconciler.image.ext4.stored import joined
from reconciler.image.ext4.stored_inode import FLAGS, Node
from reconciler.image.ext4.structs import FLAG_INDEX

ROOT_INFO_AT, ROOT_COUNT_AT, NODE_COUNT_AT = 2 * DOT_SIZE, 2 * DOT_SIZE + ROOT_INFO.size, ENTRY.size


@dataclass(slots=True)
class Slot:
    """An entry of a directory block: where it is, and where the one before it begins (-1 for the first)."""

    block: int
    at: int
    before: int
    length: int
    number: int
    name: bytes
    file_type: int

    @property
    def spare(self) -> int:
        """Bytes behind the name, or of an entry without one."""
        return self.length - (entry_size(self.name) if self.number else 0)


class StoredDirectory:
    """A directory's inode with its blocks; ``blocks`` are physical numbers in logical order."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._blocks = node.stored.blocks
        self._extents, _ = node.mapped()
        if sum(count for _, _, count in self._extents) > 2 * MOST_LEAVES:
            raise corrupt(f"directory {node.number} is larger than ext4 allows")
        self.blocks = [physical + at for _, physical, count in self._extents for at in range(count)]
        if not self.blocks or node.size != len(self.blocks) * BLOCK or self._extents[0][0] or self._gaps():
            raise corrupt(f"directory {node.number} has a size of {node.size} bytes in {len(self.blocks)} blocks")

    def _gaps(self) -> bool:
        last = self._extents[-1]
        return last[0] + last[2] != len(self.blocks)

    # ----------------------------------------------------------------------------------------------------- reading

    def find(self, name: bytes) -> Slot | None:
        for block in self._candidates(name):
            if name in self._verified(block):
                for slot in self._slots(block):
                    if slot.number and slot.name == name:
                        return slot
        return None

    def entries(self) -> Iterator[Entry]:
        """All names but ``.`` and ``..``."""
        leaves = self._leaves() if self.indexed else [(0, at) for at in range(len(self.blocks))]
        for _, leaf in leaves:
            for slot in self._slots(self._physical(leaf)):
                if slot.number and slot.name not in (b".", b".."):
                    yield slot.name, slot.number, slot.file_type

    @property
    def indexed(self) -> bool:
        return bool(self.node.get(FLAGS) & FLAG_INDEX)

    @property
    def parent(self) -> int:
        return int(ENTRY.unpack_from(self._blocks.read(self.blocks[0]), DOT_SIZE)[0])

    def _physical(self, logical: int) -> int:
        if not 0 <= logical < len(self.blocks):
            raise corrupt(f"the index of directory {self.node.number} refers to its block {logical} of {len(self.blocks)}")
        return self.blocks[logical]

    def _candidates(self, name: bytes) -> Iterator[int]:
        """The blocks that may hold the name, the one that a new name goes to first."""
        if not self.indexed:
            yield from self.blocks
            return
        (hashed,) = half_md4([name], SEED_WORDS)
        leaves = self._leaves()
        at = bisect_right([low for low, _ in leaves], hashed) - 1
        yield self._physical(leaves[at][1])
        while (at := at + 1) < len(leaves) and leaves[at][0] == hashed | 1:
            yield self._physical(leaves[at][1])

    def _leaves(self) -> list[tuple[int, int]]:
        """The lowest hash of each leaf and its logical block, from the whole tree."""
        root = bytes(self._blocks.read(self.blocks[0]))
        _, version, length, levels, _ = ROOT_INFO.unpack_from(root, ROOT_INFO_AT)
        if version != HALF_MD4 or length != ROOT_INFO.size or levels > 1:
            raise corrupt(f"the index of directory {self.node.number} is of another kind")
        found = self._children(root, ROOT_COUNT_AT, ROOT_LIMIT, 0)
        if levels:
            nodes = [(low, bytes(self._blocks.read(self._physical(at)))) for low, at in found]
            found = [child for low, node in nodes for child in self._children(node, NODE_COUNT_AT, NODE_LIMIT, low)]
        if len({at for _, at in found}) != len(found) or any(a[0] > b[0] for a, b in pairwise(found)):
            raise corrupt(f"the index of directory {self.node.number} is out of order")
        return found

    def _children(self, block: bytes, at: int, limit: int, low: int) -> list[tuple[int, int]]:
        most, count, first = COUNT.unpack_from(block, at)
        end = at + count * CHILD.size
        if most != limit or not 0 < count <= limit:
            raise corrupt(f"the index of directory {self.node.number} is damaged")
        (_, found) = hashtree.TAIL.unpack_from(block, BLOCK - hashtree.TAIL.size)
        if found != checksum.crc32c(self.node.seed, block[:end] + bytes(hashtree.TAIL.size)):
            raise corrupt(f"the index of directory {self.node.number} is damaged")
        return [(low, first), *CHILD.iter_unpack(block[at + COUNT.size : end])]

    def _verified(self, block: int) -> bytes:
        """A block of entries, with its checksum verified."""
        data = bytes(self._blocks.read(block))
        tail = TAIL.unpack_from(data, ROOM)
        if tail != (0, TAIL.size, 0, TAIL_TYPE, checksum.crc32c(self.node.seed, data[:ROOM])):
            raise corrupt(f"a block of directory {self.node.number} is damaged")
        return data

    def _slots(self, block: int) -> Iterator[Slot]:
        """The entries of a block, verified."""
        for at, before, number, length, name, file_type in self._records(self._verified(block)):
            yield Slot(block, at, before, length, number, name, file_type)

    def _roomy(self, block: int, size: int) -> Slot | None:
        """The first entry of a block that has so many bytes to spare."""
        for at, before, number, length, name, file_type in self._records(self._verified(block)):
            if length - size >= (entry_size(name) if number else 0):
                return Slot(block, at, before, length, number, name, file_type)
        return None

    def _records(self, data: bytes) -> Iterator[tuple[int, int, int, int, bytes, int]]:
        at, before, unpack = 0, -1, ENTRY.unpack_from
        while at < ROOM:
            number, length, name_length, file_type = unpack(data, at)
            if length < 8 or length % 4 or at + length > ROOM or 8 + name_length > length:
                raise corrupt(f"a block of directory {self.node.number} is damaged")
            yield at, before, number, length, data[at + 8 : at + 8 + name_length], file_type
            at, before = at + length, at

    # ---------------------------------------------------------------------------------------------------- changing

    def point(self, slot: Slot, number: int, file_type: int) -> None:
        """Give a name to another inode."""
        self._write(slot.block, slot.at, (slot.length, slot.name, number, file_type))

    def remove(self, slot: Slot) -> None:
        """The entry before takes its bytes; the first one of a block stays without a name."""
        if slot.before < 0:
            self._write(slot.block, slot.at, (slot.length, b"", 0, 0))
        else:
            before = next(one for one in self._slots(slot.block) if one.at == slot.before)
            self._write(slot.block, before.at, (before.length + slot.length, before.name, before.number, before.file_type))
        self.node.changed_now()
        self.node.save()

    def insert(self, name: bytes, number: int, file_type: int, wanted_for: str) -> None:
        """Add a name that is not there. Raises ImageTooSmall."""
        blocks = list(self._candidates(name))
        for block in blocks[:1] if self.indexed else blocks:
            slot = self._roomy(block, entry_size(name))
            if slot is not None:
                self._put(slot, name, number, file_type)
                break
        else:
            self._rewrite([*self.entries(), (name, number, file_type)], wanted_for)
        self.node.changed_now()
        self.node.save()

    def _put(self, slot: Slot, name: bytes, number: int, file_type: int) -> None:
        kept = slot.length - slot.spare
        if kept:
            self._write(slot.block, slot.at, (kept, slot.name, slot.number, slot.file_type))
        self._write(slot.block, slot.at + kept, (slot.spare, name, number, file_type))

    def _write(self, block: int, at: int, entry: tuple[int, bytes, int, int]) -> None:
        length, name, number, file_type = entry
        data = self._blocks.change(block)
        written = ENTRY.pack(number, length, len(name), file_type) + name
        data[at : at + len(written)] = written
        TAIL.pack_into(data, ROOM, 0, TAIL.size, 0, TAIL_TYPE, checksum.crc32c(self.node.seed, bytes(data[:ROOM])))

    def _rewrite(self, entries: list[Entry], wanted_for: str) -> None:
        """Write all entries anew, in as many blocks as they need."""
        first, ordered = dots(self.node.number, self.parent), sorted(entries)
        chosen = shape([name for name, _, _ in ordered], len(self.blocks))
        if chosen.leaves:
            content, flags = hashtree.indexed(first, ordered, chosen, self.node.seed), FLAG_INDEX
        else:
            empty = [linear((), self.node.seed)] * (chosen.blocks - 1)
            content, flags = [linear([*first, *ordered], self.node.seed), *empty], 0
        more = len(content) - len(self.blocks)
        new = self.node.stored.allocate(more, wanted_for) if more > 0 else []
        for logical, physical, count in joined(new):
            self._extents = extended(self._extents, (len(self.blocks) + logical, physical, count))
        self.blocks += (block for run in new for block in run)
        for place, block in zip(self.blocks, content, strict=True):
            self._blocks.put(place, block)
        self.node.map(self._extents, len(content) * BLOCK, flags, wanted_for)


def extended(have: list[Extent], more: Extent) -> list[Extent]:
    """The extents with one behind them, joined with the last where it goes on there."""
    logical, physical, count = have[-1]
    if physical + count == more[1] and count + more[2] <= MAX_LENGTH:
        return [*have[:-1], (logical, physical, count + more[2])]
    return [*have, more]
