"""A finished file system of our own layout, opened to be edited: superblock, group descriptors, bitmaps, inodes.

Called by ``edit``, ``stored_directory``, ``stored_inode`` and ``grow``. Nothing of the volume is trusted: numbers are compared
with the file system's bounds, checksums are verified. State: the blocks and descriptors that are in use; ``flush`` writes them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from reconciler.dataclass import dataclass
from reconciler.errors import ImageTooSmall, VolumeCorrupt
from reconciler.image.ext4 import checksum, groups, structs
from reconciler.image.ext4.allocator import mark
from reconciler.image.ext4.blocks import Blocks, corrupt
from reconciler.image.ext4.inodes import seal
from reconciler.image.ext4.layout import (
    BLOCK,
    BLOCKS_PER_GROUP,
    DESCRIPTOR_SIZE,
    GROUPS_PER_FLEX,
    INODE_SIZE,
    INODES_PER_BLOCK,
    MAX_BYTES,
    MAX_INODES_PER_GROUP,
    Geometry,
    ceil_div,
)
from reconciler.image.ext4.numbering import FIRST
from reconciler.image.ext4.structs import BG_BLOCK_UNINIT, BG_INODE_UNINIT

WHOLE_GROUP = (1 << BLOCKS_PER_GROUP) - 1
FULL_HINT = "declare a larger size, for the image or for the snapshot"


@dataclass(slots=True)
class Group:
    """A group's descriptor, and the bitmaps of it that have been read. ``free`` counts blocks."""

    block_bitmap: int
    inode_bitmap: int
    table: int
    free: int
    free_inodes: int
    directories: int
    flags: int
    unused: int
    sums: tuple[int, int]
    blocks: bytearray | None = None
    inodes: bytearray | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Group:
        # fmt: off
        (blocks, inodes, table, free, free_inodes, directories, flags, block_sum, inode_sum, unused, _,
         blocks_high, inodes_high, table_high, block_sum_high, inode_sum_high) = structs.GROUP_DESCRIPTOR.unpack(raw)
        # fmt: on
        places = blocks | blocks_high << 32, inodes | inodes_high << 32, table | table_high << 32
        sums = block_sum | block_sum_high << 16, inode_sum | inode_sum_high << 16
        return cls(*places, free, free_inodes, directories, flags, unused, sums)

    def packed(self, number: int) -> bytes:
        places = self.block_bitmap, self.inode_bitmap, self.table
        counts = self.free, self.free_inodes, self.directories
        return groups.packed(number, places, counts, self.flags, self.sums, self.unused)


class Stored:
    """``geometry`` is read from the superblock; ``time`` (nanoseconds) is that of the file system, which edits give to what they
    write. Raises VolumeCorrupt where the volume holds no file system of this layout."""

    def __init__(self, fd: int) -> None:
        self.superblock = bytearray(os.pread(fd, structs.SUPERBLOCK_SIZE, structs.SUPERBLOCK_OFFSET))
        _check(self.superblock)
        self.geometry = _geometry(self)
        if os.lseek(fd, 0, os.SEEK_END) < self.geometry.blocks * BLOCK:
            raise corrupt("the volume is shorter than the file system")
        self.blocks = Blocks(fd, self.geometry.blocks)
        self.free_blocks = self.number("s_free_blocks_count_lo") | self.number("s_free_blocks_count_hi") << 32
        self.free_inodes = self.number("s_free_inodes_count")
        self.time = (self.number("s_mkfs_time") | self.number("s_mkfs_time_hi") << 32) * 10**9
        self._groups: dict[int, Group] = {}
        self._touched: set[int] = set()

    def number(self, name: str) -> int:
        return structs.superblock_number(self.superblock, name)

    def set(self, name: str, value: int | bytes) -> None:
        offset, form = structs.SUPERBLOCK_FIELDS[name]
        struct.pack_into(form, self.superblock, offset, value)

    # ------------------------------------------------------------------------------------------------------ groups

    def group(self, number: int) -> Group:
        """The descriptor of a group, with its checksum verified."""
        found = self._groups.get(number)
        if found is None:
            block, at = divmod(number * DESCRIPTOR_SIZE, BLOCK)
            raw = bytes(self.blocks.read(1 + block)[at : at + DESCRIPTOR_SIZE])
            found = Group.parse(raw)
            if found.packed(number) != raw:
                raise corrupt(f"the descriptor of group {number} is damaged")
            self._groups[number] = found
        return found

    def touch(self, number: int) -> Group:
        """The same, to be changed."""
        self._touched.add(number)
        return self.group(number)

    def add_group(self, number: int, group: Group) -> None:
        self._groups[number] = group
        self._touched.add(number)

    def block_bitmap(self, number: int) -> bytearray:
        group = self.group(number)
        if group.blocks is None:
            if group.flags & BG_BLOCK_UNINIT:
                group.blocks = self.computed_bitmap(number)
            else:
                group.blocks = bytearray(self.blocks.read(group.block_bitmap))
                if groups.block_sum(group.blocks) != group.sums[0]:
                    raise corrupt(f"the block bitmap of group {number} is damaged")
        return group.blocks

    def computed_bitmap(self, number: int) -> bytearray:
        """The bitmap of a group that holds metadata alone, as the kernel computes it."""
        own, bits = self.geometry.group_blocks(number), bytearray(BLOCK)
        runs = [self.geometry.base(number)]
        first = number - number % GROUPS_PER_FLEX
        for other in map(self.group, range(first, min(first + GROUPS_PER_FLEX, self.geometry.groups))):
            runs += (range(place, place + 1) for place in (other.block_bitmap, other.inode_bitmap))
            runs.append(range(other.table, other.table + self.geometry.table_blocks))
        for run in runs:
            if part := range(max(run.start, own.start), min(run.stop, own.stop)):
                mark(bits, range(part.start - own.start, part.stop - own.start))
        mark(bits, range(len(own), BLOCKS_PER_GROUP))
        return bits

    def inode_bitmap(self, number: int) -> bytearray:
        group, per_group = self.group(number), self.geometry.inodes_per_group
        if group.inodes is None:
            if group.flags & BG_INODE_UNINIT:
                group.inodes = bytearray(BLOCK)
                mark(group.inodes, range(per_group, 8 * BLOCK))
            else:
                group.inodes = bytearray(self.blocks.read(group.inode_bitmap))
                if groups.inode_sum(group.inodes, per_group) != group.sums[1]:
                    raise corrupt(f"the inode bitmap of group {number} is damaged")
        return group.inodes

    # -------------------------------------------------------------------------------------------------- allocation

    def allocate(self, count: int, wanted_for: str) -> list[range]:
        """Take free blocks, the lowest ones that lie together if there are any. Raises ImageTooSmall."""
        if count > self.free_blocks:
            message = f"{wanted_for}: it needs {count} blocks of 4 KiB, and the file system has {self.free_blocks} left"
            raise ImageTooSmall(message, hint=FULL_HINT)
        runs: list[range] = []
        size = count
        while count:
            size = min(size, count)
            run = self._run(size)
            if run:
                runs.append(run)
                count -= len(run)
            elif size == 1:
                raise corrupt("its bitmaps have fewer free blocks than its counters")
            else:
                size = ceil_div(size, 2)
        return runs

    def _run(self, size: int) -> range:
        for number in range(self.geometry.groups):
            if self.group(number).free >= size:
                at = free_run(self.block_bitmap(number), size)
                if at is not None:
                    self._take_blocks(number, range(at, at + size))
                    first = number * BLOCKS_PER_GROUP + at
                    return range(first, first + size)
        return range(0)

    def _take_blocks(self, number: int, run: range) -> None:
        group = self.touch(number)
        if group.free < len(run):
            raise corrupt(f"the free blocks of group {number} are miscounted")
        mark(self.block_bitmap(number), run)
        group.flags &= ~BG_BLOCK_UNINIT
        group.free -= len(run)
        self.free_blocks -= len(run)

    def release(self, run: range) -> None:
        """Give blocks back. Raises VolumeCorrupt where one is free already or belongs to the file system."""
        for block in run:
            number, at = divmod(block, BLOCKS_PER_GROUP)
            if not self.geometry.first_reserved <= block < self.geometry.blocks:
                raise corrupt(f"block {block} is not a block of a file")
            bits, group = self.block_bitmap(number), self.touch(number)
            if not bits[at >> 3] & 1 << (at & 7):
                raise corrupt(f"block {block} is in use and marked free")
            bits[at >> 3] &= ~(1 << (at & 7))
            group.flags &= ~BG_BLOCK_UNINIT
            group.free += 1
            self.free_blocks += 1

    def new_inode(self, wanted_for: str, *, directory: bool) -> int:
        """Take the lowest free number. Raises ImageTooSmall."""
        per_group = self.geometry.inodes_per_group
        for number in range(self.geometry.groups):
            if not self.group(number).free_inodes:
                continue
            bits = self.inode_bitmap(number)
            at = free_run(bits, 1)
            if at is None or at >= per_group or number * per_group + at < FIRST:
                raise corrupt(f"the free inodes of group {number} are miscounted")
            self._take_inode(number, at, directory=directory)
            return number * per_group + at + 1
        raise ImageTooSmall(f"{wanted_for}: the file system has no free inode", hint=FULL_HINT)

    def _take_inode(self, number: int, at: int, *, directory: bool) -> None:
        self.block_bitmap(number)  # the kernel computes it only for a group without inodes
        group = self.touch(number)
        mark(self.inode_bitmap(number), range(at, at + 1))
        group.flags &= ~(BG_INODE_UNINIT | BG_BLOCK_UNINIT)
        group.free_inodes -= 1
        group.directories += directory
        group.unused = min(group.unused, self.geometry.inodes_per_group - at - 1)
        self.free_inodes -= 1

    def release_inode(self, number: int) -> None:
        """Give back the number of a file, whose inode becomes zeros."""
        group_number, at = divmod(number - 1, self.geometry.inodes_per_group)
        bits, group = self.inode_bitmap(group_number), self.touch(group_number)
        if number <= FIRST or not bits[at >> 3] & 1 << (at & 7):
            raise corrupt(f"inode {number} is in use and marked free")
        bits[at >> 3] &= ~(1 << (at & 7))
        group.free_inodes += 1
        self.free_inodes += 1
        self._store_inode(number, bytearray(INODE_SIZE))

    # ------------------------------------------------------------------------------------------------------ inodes

    def _inode_place(self, number: int) -> tuple[int, int]:
        if not 0 < number <= self.geometry.inodes:
            raise corrupt(f"it refers to inode {number} of {self.geometry.inodes}")
        group, index = divmod(number - 1, self.geometry.inodes_per_group)
        block, at = divmod(index, INODES_PER_BLOCK)
        return self.group(group).table + block, at * INODE_SIZE

    def read_inode(self, number: int) -> bytearray:
        """The 256 bytes of an inode that is in use, verified."""
        block, at = self._inode_place(number)
        raw = bytearray(self.blocks.read(block)[at : at + INODE_SIZE])
        found = bytearray(raw)
        seal(number, found)
        if found != raw or not any(raw):
            raise corrupt(f"inode {number} is damaged")
        return raw

    def write_inode(self, number: int, raw: bytearray) -> None:
        seal(number, raw)
        self._store_inode(number, raw)

    def _store_inode(self, number: int, raw: bytearray) -> None:
        block, at = self._inode_place(number)
        self.blocks.change(block)[at : at + INODE_SIZE] = raw

    # ------------------------------------------------------------------------------------------------------- flush

    def settle(self) -> bytes:
        """Put bitmaps, descriptors and the superblock into their blocks; return the superblock."""
        for number in sorted(self._touched):
            self._settle_group(number)
        self._touched.clear()
        self.set("s_free_blocks_count_lo", self.free_blocks & 0xFFFF_FFFF)
        self.set("s_free_blocks_count_hi", self.free_blocks >> 32)
        self.set("s_free_inodes_count", self.free_inodes)
        structs.seal_superblock(self.superblock)
        self.blocks.change(0)[structs.SUPERBLOCK_OFFSET : structs.SUPERBLOCK_OFFSET + structs.SUPERBLOCK_SIZE] = self.superblock
        return bytes(self.superblock)

    def _settle_group(self, number: int) -> None:
        group = self._groups[number]
        of_blocks, of_inodes = group.sums
        if group.blocks is not None and not group.flags & BG_BLOCK_UNINIT:
            of_blocks = groups.block_sum(group.blocks)
            self.blocks.put(group.block_bitmap, bytes(group.blocks))
        if group.inodes is not None and not group.flags & BG_INODE_UNINIT:
            of_inodes = groups.inode_sum(group.inodes, self.geometry.inodes_per_group)
            self.blocks.put(group.inode_bitmap, bytes(group.inodes))
        group.sums = of_blocks, of_inodes
        block, at = divmod(number * DESCRIPTOR_SIZE, BLOCK)
        self.blocks.change(1 + block)[at : at + DESCRIPTOR_SIZE] = group.packed(number)

    def flush(self) -> None:
        """Write everything, the superblock last."""
        self.settle()
        self.blocks.flush()


def free_run(bits: bytes | bytearray, size: int) -> int | None:
    """The first of the lowest ``size`` clear bits that lie together; None where there are none."""
    free, have = ~int.from_bytes(bits, "little") & WHOLE_GROUP, 1
    while have < size:
        step = min(have, size - have)
        free &= free >> step
        have += step
    return (free & -free).bit_length() - 1 if free else None


def _check(block: bytearray) -> None:
    number = structs.superblock_number
    if len(block) < structs.SUPERBLOCK_SIZE or number(block, "s_magic") != structs.MAGIC:
        raise corrupt("there is none")
    if not structs.superblock_is_whole(bytes(block)):
        raise corrupt("the checksum of the superblock is wrong")
    compat = number(block, "s_feature_compat") | structs.RESIZE_INODE
    found = compat, number(block, "s_feature_incompat"), number(block, "s_feature_ro_compat"), number(block, "s_checksum_seed")
    if found != (structs.COMPAT, structs.INCOMPAT, structs.RO_COMPAT, checksum.SEED):
        raise VolumeCorrupt(
            "the file system has not layout 2, which alone can be edited",
            hint="an image of an older layout gets the newest with --upgrade-layout",
        )


def _geometry(stored: Stored) -> Geometry:
    """What the superblock states, within the bounds of the layout."""
    number = stored.number
    blocks = number("s_blocks_count_lo") | number("s_blocks_count_hi") << 32
    per_group, reserved = number("s_inodes_per_group"), number("s_reserved_gdt_blocks")
    constants = (number("s_log_block_size"), number("s_blocks_per_group"), number("s_inode_size"), number("s_desc_size"))
    count = ceil_div(blocks, BLOCKS_PER_GROUP)
    geometry = Geometry(blocks, count, per_group, ceil_div(count * DESCRIPTOR_SIZE, BLOCK), reserved)
    inodes = (
        0 < per_group <= MAX_INODES_PER_GROUP
        and per_group % INODES_PER_BLOCK == 0
        and number("s_inodes_count") == geometry.inodes
    )
    if not inodes or constants != (2, BLOCKS_PER_GROUP, INODE_SIZE, DESCRIPTOR_SIZE):
        raise corrupt("its superblock contradicts itself")
    if not 0 < blocks <= MAX_BYTES // BLOCK or reserved > BLOCK // 4 or geometry.base_blocks(0) >= min(blocks, BLOCKS_PER_GROUP):
        raise corrupt("its superblock contradicts itself")
    return geometry


def joined(runs: Sequence[range]) -> Iterator[tuple[int, int, int]]:
    """Runs of blocks as the extents (logical, physical, blocks) of a file."""
    position = 0
    for run in runs:
        yield position, run.start, len(run)
        position += len(run)
