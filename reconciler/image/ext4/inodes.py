"""Inodes: each one's 256 bytes, and the blocks that belong to it besides file data.

Owned by ``writer`` for the time of ``finish``. Holds the table of all inodes in use (256 bytes for each) until it is written.
Format: ``Documentation/filesystems/ext4/inodes``.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from reconciler.errors import LayerRefused
from reconciler.image.ext4 import directory, extents, hashtree, numbering, xattr
from reconciler.image.ext4.allocator import Allocator, BlockBitmap
from reconciler.image.ext4.layout import BLOCK, INODE_SIZE
from reconciler.image.ext4.numbering import Numbering
from reconciler.image.ext4.output import Output
from reconciler.image.ext4.refusal import NotRepresentable
from reconciler.image.ext4.structs import EXTRA_ISIZE, FLAG_EXTENTS, FLAG_INDEX, INODE

if TYPE_CHECKING:
    from reconciler.image.tree.inode import Inode

SECTORS = BLOCK // 512  # i_blocks counts in sectors
MAX_FILE = (2**32 - 1) * BLOCK  # the kernel's s_maxbytes for extents
MAX_LINKS = 65000
IN_INODE_TARGET = 60
MAX_MAJOR, MAX_MINOR = 1 << 12, 1 << 20
SECOND = 10**9
EARLIEST, LATEST = -(2**31), 2**34 - 2**31 - 1  # 1901 and 2446


class Content(NamedTuple):
    """An inode's i_block, i_size_lo and _high, and i_flags."""

    i_block: bytes
    size: int = 0
    flags: int = 0


class InodeTable:
    """Encodes inodes into ``table`` (number 1 first) and writes the blocks that they need; ``blocks`` counts those."""

    def __init__(self, names: Numbering, allocator: Allocator, output: Output, bitmap: BlockBitmap, hash_seed: UUID) -> None:
        self.table = bytearray(names.last * INODE_SIZE)
        self.blocks = 0
        self._names = names
        self._allocator = allocator
        self._output = output
        self._bitmap = bitmap
        self._hash_seed = hash_seed

    def add_all(self) -> None:
        """Encode every inode of the tree. Raises LayerRefused for what ext4 cannot hold."""
        for inode in self._names.order:
            try:
                self._add(inode)
            except NotRepresentable as refusal:
                path = _path(self._names, inode)
                message = f"{path.decode(errors='backslashreplace')}: {refusal.message}"
                raise LayerRefused(message, rule=refusal.rule, member=path) from refusal

    def encoded(self, number: int) -> bytes:
        return bytes(self.table[(number - 1) * INODE_SIZE : number * INODE_SIZE])

    def add_journal(self, runs: Iterable[range]) -> None:
        """Inode 8: a file that no directory names."""
        position, mapped = 0, []
        for run in runs:
            mapped.append((position, run.start, len(run)))
            position += len(run)
        content = Content(extents.build(mapped, self._put), position * BLOCK, FLAG_EXTENTS)
        self._store(numbering.JOURNAL, content, mode=stat.S_IFREG | 0o600, links=1, blocks=position)

    def _add(self, inode: Inode) -> None:
        before = self.blocks
        content = self._content(inode)
        inside, outside = xattr.encode(inode.xattrs) if inode.xattrs else (b"", b"")
        acl_block = self._put(outside) if outside else 0
        blocks = self.blocks - before + sum(count for _, _, count in inode.extents)
        self._store(
            self._names.numbers[inode],
            content,
            mode=inode.kind | inode.mode,
            links=self._links(inode),
            blocks=blocks,
            owner=(inode.uid, inode.gid),
            mtime=inode.mtime,
            acl_block=acl_block,
            attributes=inside,
        )

    def _store(
        self,
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
    ) -> None:
        seconds, extra = timestamp(mtime)
        (uid, gid), sectors, size = owner, blocks * SECTORS, content.size
        # fmt: off
        INODE.pack_into(
            self.table, (number - 1) * INODE_SIZE,
            mode, uid & 0xFFFF, size & 0xFFFF_FFFF, seconds, seconds, seconds, gid & 0xFFFF, links, sectors & 0xFFFF_FFFF,
            content.flags, content.i_block, acl_block, size >> 32, sectors >> 32, uid >> 16, gid >> 16,
            EXTRA_ISIZE, extra, extra, extra, seconds, extra, attributes,
        )
        # fmt: on

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
                return self._symlink(inode.target)
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
        return Content(extents.build(inode.extents, self._put), inode.size, FLAG_EXTENTS)

    def _directory(self, inode: Inode) -> Content:
        numbers = self._names.numbers
        dots = directory.dots(numbers[inode], self._names.parents[inode])
        listed = numbering.entries(inode)
        entries = [(name, numbers[child], directory.FILE_TYPES.get(child.kind, 0)) for name, child in listed]
        blocks = directory.linear([*dots, *entries])
        if len(blocks) < hashtree.WORTHWHILE:
            return self._extended(blocks, 0)
        return self._extended(hashtree.indexed(dots, entries, self._hash_seed), FLAG_INDEX)

    def _symlink(self, target: bytes) -> Content:
        if not 0 < len(target) < BLOCK:
            raise NotRepresentable("symlink-target", f"its target has {len(target)} bytes, ext4 allows 1 to {BLOCK - 1}")
        if len(target) < IN_INODE_TARGET:
            return Content(target, len(target))
        return self._extended([target.ljust(BLOCK, b"\0")], 0)._replace(size=len(target))

    def _extended(self, blocks: list[bytes], flags: int) -> Content:
        """Put ``blocks`` behind each other and map them."""
        mapped: list[extents.Extent] = []
        for position, block in enumerate(blocks):
            physical = self._put(block)
            if mapped and mapped[-1][1] + mapped[-1][2] == physical:
                mapped[-1] = (*mapped[-1][:2], mapped[-1][2] + 1)
            else:
                mapped.append((position, physical, 1))
        return Content(extents.build(mapped, self._put), len(blocks) * BLOCK, FLAG_EXTENTS | flags)

    def _put(self, block: bytes) -> int:
        where = self._allocator.take_one()
        self._bitmap.mark(where, 1)
        self._output.write(where * BLOCK, block)
        self.blocks += 1
        return where


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


def _path(names: Numbering, wanted: Inode) -> bytes:
    """One name of an inode, from the root; b"." for the root itself."""
    parts = []
    for parent in reversed(list(names.parents)):
        for name, child in (parent.children or {}).items():
            if child is wanted:
                parts.append(name)
                wanted = parent
                break
    return b"/".join(reversed(parts)) or b"."
