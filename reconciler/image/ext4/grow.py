"""Growth of a file system that is edited: to the size of its volume, as ``resize2fs`` would do it.

Called by ``edit``. A new group holds its own bitmaps and inode table. They are not initialised, so that a growth writes little
besides descriptors, backups and the resize inode's map. Format: ``Documentation/filesystems/ext4/blockgroup``. No state.
"""

from __future__ import annotations

import struct

from reconciler.errors import Terminal
from reconciler.image.ext4 import numbering, structs
from reconciler.image.ext4.allocator import free_bits
from reconciler.image.ext4.blocks import corrupt
from reconciler.image.ext4.inodes import DOUBLE_INDIRECT, SECTORS
from reconciler.image.ext4.layout import (
    ADDRESSES_PER_BLOCK,
    BLOCK,
    BLOCKS_PER_GROUP,
    DESCRIPTOR_SIZE,
    MAX_RESIZABLE_BLOCKS,
    SPARE_BLOCKS,
    Geometry,
    ceil_div,
)
from reconciler.image.ext4.stored import Group, Stored
from reconciler.image.ext4.stored_inode import BLOCKS_HIGH, BLOCKS_LOW, I_BLOCK, Node
from reconciler.image.ext4.structs import BG_BLOCK_UNINIT, BG_INODE_UNINIT, BG_INODE_ZEROED

MAX_INODES = 0xFFFF_FFFF


def grow(stored: Stored, size: int) -> None:
    """Let the file system fill ``size`` bytes; what is less than a block or too small for a group stays unused.

    The volume must read as zeros behind the file system. A size that is not larger changes nothing. Raises Terminal.
    """
    old = stored.geometry
    new = grown(old, size)
    if new.blocks <= old.blocks:
        return
    stored.geometry = new
    stored.blocks.count = new.blocks
    _extend_last_group(stored, old)
    for number in range(old.groups, new.groups):
        stored.add_group(number, _group(stored, number))
    if new.groups > old.groups:
        _complete_bitmap(stored, new.groups - 1)
    if stored.number("s_feature_compat") & structs.RESIZE_INODE:
        _remap(stored, old)
    _clear_descriptors(stored, old)
    _count(stored, old)
    primary = stored.settle()
    _write_backups(stored, primary)


def grown(old: Geometry, size: int) -> Geometry:
    """The geometry of the larger file system: groups and inodes in each stay, reserved descriptor blocks are put to use."""
    blocks = size // BLOCK
    if old.resizable:
        blocks = min(blocks, MAX_RESIZABLE_BLOCKS)
    new = _of_blocks(old, blocks)
    last = new.groups - 1
    tail = blocks - last * BLOCKS_PER_GROUP
    if last >= old.groups and tail < new.base_blocks(last) + new.table_blocks + 2 + SPARE_BLOCKS:
        new = _of_blocks(old, blocks - tail)
    if new.reserved_blocks < 0 or new.inodes > MAX_INODES:
        raise Terminal(
            f"a file system of {old.blocks * BLOCK} bytes can't grow to {size} bytes: no room is reserved for its descriptors",
            hint="declare a larger size of the image",
        )
    return new


def _of_blocks(old: Geometry, blocks: int) -> Geometry:
    count = ceil_div(blocks, BLOCKS_PER_GROUP)
    descriptors = ceil_div(count * DESCRIPTOR_SIZE, BLOCK)
    reserved = old.reserved_blocks - (descriptors - old.descriptor_blocks)
    return Geometry(blocks, count, old.inodes_per_group, descriptors, reserved)


def _extend_last_group(stored: Stored, old: Geometry) -> None:
    number = old.groups - 1
    had, has = len(old.group_blocks(number)), len(stored.geometry.group_blocks(number))
    bits, group = stored.block_bitmap(number), stored.touch(number)
    for at in range(had, has):
        bits[at >> 3] &= ~(1 << (at & 7))
    group.free += has - had
    stored.free_blocks += has - had


def _group(stored: Stored, number: int) -> Group:
    geometry = stored.geometry
    own = geometry.base(number).stop
    free = len(geometry.group_blocks(number)) - geometry.base_blocks(number) - 2 - geometry.table_blocks
    per_group = geometry.inodes_per_group
    stored.free_blocks += free
    stored.free_inodes += per_group
    flags = BG_INODE_UNINIT | BG_BLOCK_UNINIT | BG_INODE_ZEROED
    return Group(own, own + 1, own + 2, free, per_group, 0, flags, per_group, (0, 0))


def _complete_bitmap(stored: Stored, number: int) -> None:
    """The last group has one, as a build and mke2fs give it one."""
    bits, group = stored.block_bitmap(number), stored.touch(number)
    group.flags &= ~BG_BLOCK_UNINIT
    if free_bits(bits) != group.free:
        raise corrupt(f"the free blocks of group {number} are miscounted")


def _remap(stored: Stored, old: Geometry) -> None:
    """The resize inode gives up the blocks that hold descriptors now, and maps the rest with copies in every backup."""
    new, node = stored.geometry, Node.of(stored, numbering.RESIZE)
    (place,) = struct.unpack_from("<I", node.raw, I_BLOCK[0] + 4 * DOUBLE_INDIRECT)
    addresses = list(struct.unpack(f"<{ADDRESSES_PER_BLOCK}I", stored.blocks.read(place)))
    for block in range(old.first_reserved, new.first_reserved):
        addresses[(block - 1) % ADDRESSES_PER_BLOCK] = 0
    reserved = range(new.first_reserved, new.first_reserved + new.reserved_blocks)
    if any(addresses[(block - 1) % ADDRESSES_PER_BLOCK] != block for block in reserved):
        raise corrupt("the resize inode maps other blocks than those that are reserved")
    stored.blocks.put(place, struct.pack(f"<{ADDRESSES_PER_BLOCK}I", *addresses))
    if new.backups != old.backups:
        for block in reserved:
            copies = [block + base.start for base in map(new.base, new.backups)]
            stored.blocks.put(block, struct.pack(f"<{len(copies)}I", *copies))
    sectors = (1 + new.reserved_blocks * (1 + len(new.backups))) * SECTORS
    node.set(BLOCKS_LOW, sectors & 0xFFFF_FFFF)
    node.set(BLOCKS_HIGH, sectors >> 32)
    node.save()


def _clear_descriptors(stored: Stored, old: Geometry) -> None:
    """Blocks that mapped the resize inode hold descriptors from now on."""
    for block in range(old.first_reserved, stored.geometry.first_reserved):
        stored.blocks.put(block, b"")


def _count(stored: Stored, old: Geometry) -> None:
    new = stored.geometry
    stored.set("s_blocks_count_lo", new.blocks & 0xFFFF_FFFF)
    stored.set("s_blocks_count_hi", new.blocks >> 32)
    stored.set("s_inodes_count", new.inodes)
    stored.set("s_reserved_gdt_blocks", new.reserved_blocks)
    added = sum(new.base_blocks(number) for number in new.backups if number >= old.groups)
    added += (new.groups - old.groups) * (2 + new.table_blocks)
    stored.set("s_overhead_clusters", stored.number("s_overhead_clusters") + added)


def _write_backups(stored: Stored, primary: bytes) -> None:
    """Copies of superblock and descriptors as they are now; the copies are not marked clean, as mke2fs's are not."""
    geometry = stored.geometry
    descriptors = [bytes(stored.blocks.read(block)) for block in range(1, geometry.first_reserved)]
    for number in geometry.backups:
        copy = bytearray(primary)
        for name, value in (("s_block_group_nr", number), ("s_state", 0)):
            offset, form = structs.SUPERBLOCK_FIELDS[name]
            struct.pack_into(form, copy, offset, value)
        structs.seal_superblock(copy)
        first = geometry.base(number).start
        for at, block in enumerate((bytes(copy), *descriptors)):
            stored.blocks.put(first + at, block)
