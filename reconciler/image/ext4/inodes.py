"""Inodes: each one's 256 bytes, and the blocks that belong to it besides file data.

Called by ``metadata``; writes as it goes, so that no table is ever whole in memory. Format:
``Documentation/filesystems/ext4/inodes``. State: the part of the table that is being filled.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

from reconciler.image.ext4 import checksum, directory, extents, hashtree, numbering, xattr
from reconciler.image.ext4.allocator import BlockBitmap
from reconciler.image.ext4.journal import Journal
from reconciler.image.ext4.layout import ADDRESSES_PER_BLOCK, BLOCK, GROUPS_PER_FLEX, INODE_SIZE, INODES_PER_BLOCK, Geometry
from reconciler.image.ext4.numbering import Numbering
from reconciler.image.ext4.output import Output
from reconciler.image.ext4.placement import IN_INODE_TARGET, least
from reconciler.image.ext4.refusal import NotRepresentable, refused
from reconciler.image.ext4.structs import (
    EXTRA_ISIZE,
    FLAG_EXTENTS,
    FLAG_INDEX,
    INODE,
    INODE_CHECKSUM,
    INODE_CHECKSUM_HIGH_AT,
    INODE_CHECKSUM_LOW_AT,
)
from reconciler.image.tree.inode import Inode

SECTORS = BLOCK // 512  # i_blocks counts in sectors
MAX_FILE = (2**32 - 1) * BLOCK  # the kernel's s_maxbytes for extents
MAX_LINKS = 65000
MAX_MAJOR, MAX_MINOR = 1 << 12, 1 << 20
SECOND = 10**9
EARLIEST, LATEST = -(2**31), 2**34 - 2**31 - 1  # 1901 and 2446
LOW = 0xFFFF_FFFF
PART = 4096
"""Inodes whose part of the table is gathered: 1 MiB."""
DOUBLE_INDIRECT = 13  # its place in i_block
RESIZE_BYTES = (ADDRESSES_PER_BLOCK**2 + ADDRESSES_PER_BLOCK + 12) * BLOCK


class Content(NamedTuple):
    """An inode's i_block, i_size_lo and _high, and i_flags."""

    i_block: bytes
    size: int = 0
    flags: int = 0


class InodeWriter:
    """Writes the inodes of a layer's end, and the directories and other blocks that they have; marks all of their blocks."""

    def __init__(self, names: Numbering, geometry: Geometry, journal: Journal, output: Output, bitmap: BlockBitmap) -> None:
        self._names = names
        self._geometry = geometry
        self._journal = journal
        self._output = output
        self._bitmap = bitmap

    def write_all(self, before: int) -> None:
        """Write every inode, and zeros where one was: ``before`` is the highest number of the parent.

        Raises LayerRefused for what ext4 cannot hold.
        """
        last = max(before, self._names.last)
        for first in range(1, last + 1, PART):
            count = min(PART, last + 1 - first)
            part = bytearray(-(-count // INODES_PER_BLOCK) * BLOCK)
            for number in range(first, first + count):
                if encoded := self._encoded(number):
                    at = (number - first) * INODE_SIZE
                    part[at : at + INODE_SIZE] = encoded
            self._write_part(first - 1, part)

    def _write_part(self, index: int, part: bytearray) -> None:
        """Write a part of the table, which begins with the inode of that index, to the groups that it belongs to."""
        per_group, view = self._geometry.inodes_per_group, memoryview(part)
        while view:
            group, at = divmod(index, per_group)
            length = min(len(view), (per_group - at) * INODE_SIZE)
            table = self._geometry.flex_groups[group // GROUPS_PER_FLEX].tables[group % GROUPS_PER_FLEX]
            self._output.update(table * BLOCK + at * INODE_SIZE, view[:length])
            view, index = view[length:], index + length // INODE_SIZE

    def _encoded(self, number: int) -> bytes | bytearray | None:
        if number == numbering.JOURNAL:
            return self.journal_inode()
        if number == numbering.RESIZE and self._geometry.resizable:
            return self._resize_inode()
        inode = self._names.inodes[number] if number < len(self._names.inodes) else None
        if inode is None:
            return None
        try:
            return self._inode(inode)
        except NotRepresentable as refusal:
            raise refused(refusal, self._names, inode) from refusal

    def journal_inode(self) -> bytes | bytearray:
        """Inode 8: a file that no directory names."""
        blocks = self._geometry.journal_blocks
        content = self._mapped(self._journal.mapped, self._journal.tree, numbering.JOURNAL, blocks * BLOCK)
        for run in self._journal.runs:
            self._bitmap.mark(run.start, len(run))
        return encode(numbering.JOURNAL, content, mode=stat.S_IFREG | 0o600, links=1, blocks=blocks + len(self._journal.tree))

    def _resize_inode(self) -> bytes | bytearray:
        """Inode 7: maps the descriptor blocks that growth needs, and their copies, so that nothing else takes them."""
        geometry = self._geometry
        first, count = geometry.first_reserved, geometry.reserved_blocks
        addresses = [0] * ADDRESSES_PER_BLOCK
        mapping = bytearray(count * BLOCK)
        for at, block in enumerate(range(first, first + count)):
            addresses[(geometry.descriptor_blocks + at) % ADDRESSES_PER_BLOCK] = block
            copies = [block + base.start for base in map(geometry.base, geometry.backups)]
            struct.pack_into(f"<{len(copies)}I", mapping, at * BLOCK, *copies)
        self._output.update(geometry.resize_block * BLOCK, struct.pack(f"<{ADDRESSES_PER_BLOCK}I", *addresses))
        self._output.update(first * BLOCK, mapping)
        i_block = bytes(4 * DOUBLE_INDIRECT) + struct.pack("<I", geometry.resize_block)
        blocks = 1 + count * (1 + len(geometry.backups))
        return encode(numbering.RESIZE, Content(i_block, RESIZE_BYTES), mode=stat.S_IFREG | 0o600, links=1, blocks=blocks)

    def _inode(self, inode: Inode) -> bytes | bytearray:
        content = self._content(inode)
        inside, outside = xattr.encode(inode.xattrs) if inode.xattrs else (b"", b"")
        acl_block = inode.beside[0] if outside else 0
        if outside:
            self._put(acl_block, xattr.sealed(outside, acl_block))
        return encode(
            inode.number,
            content,
            mode=inode.kind | inode.mode,
            links=self._links(inode),
            blocks=sum(count for _, _, count in inode.extents) + sum(block > 0 for block in inode.beside),
            owner=(inode.uid, inode.gid),
            mtime=inode.mtime,
            acl_block=acl_block,
            attributes=inside,
        )

    def _links(self, inode: Inode) -> int:
        links = self._names.link_count(inode)
        if links <= MAX_LINKS:
            return links
        if inode.kind == stat.S_IFDIR:
            return 1  # dir_nlink: too many to count
        raise NotRepresentable("hard-links", f"it has {links} hard links, ext4 allows {MAX_LINKS}")

    def _content(self, inode: Inode) -> Content:
        match inode.kind:
            case stat.S_IFREG:
                return self._file(inode)
            case stat.S_IFDIR:
                return self._directory(inode)
            case stat.S_IFLNK:
                return self._symlink(inode)
            case stat.S_IFCHR | stat.S_IFBLK:
                return Content(_device(*inode.device))
            case stat.S_IFIFO | stat.S_IFSOCK:
                return Content(b"")
        raise NotRepresentable("type", f"ext4 has no inodes of type {inode.kind:#o}")

    def _file(self, inode: Inode) -> Content:
        if inode.size > MAX_FILE:
            raise NotRepresentable("file-size", f"its {inode.size} bytes are more than the {MAX_FILE} that ext4 allows")
        for _, physical, count in inode.extents:
            self._bitmap.mark(physical, count)
        return self._mapped(inode.extents, inode.beside[1:], inode.number, inode.size)

    def _directory(self, inode: Inode) -> Content:
        seed = checksum.of_inode(inode.number)
        dots = directory.dots(inode.number, self._names.parents[inode].number)
        listed = numbering.entries(inode)
        entries = [(name, child.number, directory.FILE_TYPES.get(child.kind, 0)) for name, child in listed]
        shape = directory.shape([name for name, _ in listed], least(inode))
        if shape.leaves:
            blocks, flags = hashtree.indexed(dots, entries, shape, seed), FLAG_INDEX
        else:
            empty = [directory.linear((), seed)] * (shape.blocks - 1)
            blocks, flags = [directory.linear([*dots, *entries], seed), *empty], 0
        return self._extended(inode, blocks, len(blocks) * BLOCK, flags)

    def _symlink(self, inode: Inode) -> Content:
        target = inode.target
        if not target:
            raise NotRepresentable("symlink-target", f"its target has 0 bytes, ext4 allows 1 to {BLOCK - 1}")
        if len(target) < IN_INODE_TARGET:
            return Content(target, len(target))
        return self._extended(inode, [target.ljust(BLOCK, b"\0")], len(target), 0)

    def _extended(self, inode: Inode, blocks: Sequence[bytes], size: int, flags: int) -> Content:
        """Write ``blocks`` to the inode's extents and map them."""
        for logical, physical, count in inode.extents:
            self._bitmap.mark(physical, count)
            self._output.update(physical * BLOCK, b"".join(blocks[logical : logical + count]))
        return self._mapped(inode.extents, inode.beside[1:], inode.number, size, flags)

    def _mapped(self, mapped: Sequence[extents.Extent], places: Sequence[int], number: int, size: int, flags: int = 0) -> Content:
        i_block, tree = extents.build(mapped, places, number)
        for place, block in tree:
            self._put(place, block)
        return Content(i_block, size, FLAG_EXTENTS | flags)

    def _put(self, place: int, block: bytes) -> None:
        self._bitmap.mark(place, 1)
        self._output.update(place * BLOCK, block)


def encode(
    number: int,
    content: Content,
    *,
    mode: int,
    links: int,
    blocks: int,
    owner: tuple[int, int] = (0, 0),
    mtime: int = 0,
    acl_block: int = 0,
    attributes: bytes = b"",
) -> bytearray:
    """The 256 bytes of an inode, checksum included."""
    seconds, extra = timestamp(mtime)
    (uid, gid), sectors, size = owner, blocks * SECTORS, content.size
    # fmt: off
    packed = INODE.pack(
        mode, uid & 0xFFFF, size & LOW, seconds, seconds, seconds, gid & 0xFFFF, links, sectors & LOW,
        content.flags, content.i_block, acl_block & LOW, size >> 32, sectors >> 32, acl_block >> 32, uid >> 16, gid >> 16,
        EXTRA_ISIZE, extra, extra, extra, seconds, extra, attributes,
    )
    # fmt: on
    whole = bytearray(packed)
    seal(number, whole)
    return whole


def seal(number: int, packed: bytearray) -> None:
    """Put the checksum into an inode."""
    for at in (INODE_CHECKSUM_LOW_AT, INODE_CHECKSUM_HIGH_AT):
        INODE_CHECKSUM.pack_into(packed, at, 0)
    found = checksum.crc32c(checksum.SEED, checksum.NUMBER.pack(number, checksum.GENERATION) + bytes(packed))
    INODE_CHECKSUM.pack_into(packed, INODE_CHECKSUM_LOW_AT, found & 0xFFFF)
    INODE_CHECKSUM.pack_into(packed, INODE_CHECKSUM_HIGH_AT, found >> 16)


def timestamp(nanoseconds: int) -> tuple[int, int]:
    """The 32 bits of seconds, and the extra field: two more bits of seconds below 30 of nanoseconds.

    Times beyond 1901 and 2446 become those limits, as the kernel does with them.
    """
    seconds, fraction = divmod(nanoseconds, SECOND)
    if not EARLIEST < seconds < LATEST:
        seconds, fraction = min(max(seconds, EARLIEST), LATEST), 0
    epoch = seconds - EARLIEST >> 32
    return seconds & 0xFFFF_FFFF, fraction << 2 | epoch


def _device(major: int, minor: int) -> bytes:
    """The old 16-bit encoding where it suffices, the new one in the second word otherwise, as the kernel does."""
    if not (0 <= major < MAX_MAJOR and 0 <= minor < MAX_MINOR):
        raise NotRepresentable("device-number", f"its device number {major}:{minor} is beyond Linux's 4095:1048575")
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
