"""An ext4 reader for tests, without a kernel and without root, written from the kernel's ``Documentation/filesystems/ext4``.

It shares no code with the writer, and understands more than the writer makes (64-bit block numbers, deep extent trees,
unwritten extents), so that it can be tried on what ``mke2fs -d`` makes. State: the image, mapped into memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.compare import ROOT, Facts, Run, grouped

INCOMPAT_64BIT = 0x80
INCOMPAT_KNOWN = 0x2 | 0x40 | INCOMPAT_64BIT | 0x200 | 0x2000  # filetype, extents, 64bit, flex_bg, csum_seed
FLAG_EXTENTS = 0x80000
EXTENT_MAGIC, XATTR_MAGIC = 0xF30A, 0xEA020000
UNWRITTEN = 32768
FILE_TYPES = {
    1: stat.S_IFREG,
    2: stat.S_IFDIR,
    3: stat.S_IFCHR,
    4: stat.S_IFBLK,
    5: stat.S_IFIFO,
    6: stat.S_IFSOCK,
    7: stat.S_IFLNK,
}
XATTR_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
}

Extent = tuple[int, int, int, bool]  # logical block, physical block, blocks, written


@dataclass(frozen=True, slots=True)
class Inode:
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    flags: int
    block: bytes
    acl: int
    raw: bytes


def of_image(path: str | os.PathLike[str]) -> dict[bytes, Facts]:
    """What an ext4 image holds, its root directory as ``b"."``; ``lost+found`` is left out where mke2fs has made it."""
    with opened(path) as image:
        return image.describe()


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        yield Image(image)


class Image:
    """One mapped image. Every odd thing is an AssertionError: images under test have none."""

    def __init__(self, image: mmap.mmap) -> None:
        self._image = image
        block = image[1024:2048]
        (magic,) = struct.unpack_from("<H", block, 0x38)
        assert magic == 0xEF53, "no superblock"
        (log_block_size,) = struct.unpack_from("<I", block, 0x18)
        (self._inodes_per_group,) = struct.unpack_from("<I", block, 0x28)
        (self._inode_size,) = struct.unpack_from("<H", block, 0x58)
        (incompat,) = struct.unpack_from("<I", block, 0x60)
        assert not incompat & ~INCOMPAT_KNOWN, f"unknown incompatible features: {incompat:#x}"
        self.block_size = 1024 << log_block_size
        (first_data,) = struct.unpack_from("<I", block, 0x14)
        self._descriptors = (first_data + 1) * self.block_size
        self._wide = bool(incompat & INCOMPAT_64BIT)
        self._descriptor_size = struct.unpack_from("<H", block, 0xFE)[0] if self._wide else 32

    def file_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Each physical block that holds data of a regular file, and its content."""
        inodes = {inode.number: inode for _, inode in self._walk(2, b"") if stat.S_ISREG(inode.mode)}
        for inode in inodes.values():
            for _, physical, count, _ in self.extents(inode):
                for block in range(physical, physical + count):
                    yield block, self._blocks(block, 1)

    def describe(self, *, largest: int = 1 << 62) -> dict[bytes, Facts]:
        """Everything; files of more than ``largest`` bytes without a digest."""
        names = {ROOT: self.inode(2), **dict(self._walk(2, b""))}
        links = grouped({name: inode.number for name, inode in names.items() if not stat.S_ISDIR(inode.mode)})
        for name, inode in names.items():
            if not stat.S_ISDIR(inode.mode):
                assert inode.links == len(links.get(name, (name,))), f"{name!r}: link count {inode.links}"
        return {name: self._facts(inode, links.get(name, ()), largest) for name, inode in names.items()}

    def inode(self, number: int) -> Inode:
        group, index = divmod(number - 1, self._inodes_per_group)
        at = self._descriptors + group * self._descriptor_size
        (table,) = struct.unpack_from("<I", self._image, at + 8)
        if self._wide:
            table |= struct.unpack_from("<I", self._image, at + 0x28)[0] << 32
        start = table * self.block_size + index * self._inode_size
        raw = self._image[start : start + self._inode_size]
        mode, uid, size, _, _, mtime, _, gid, links = struct.unpack_from("<HHIIIiIHH", raw)
        flags, block, acl, size_high = struct.unpack_from("<I4x60s4xII", raw, 0x20)
        uid_high, gid_high = struct.unpack_from("<HH", raw, 0x78)
        (extra,) = struct.unpack_from("<I", raw, 0x88)
        acl |= struct.unpack_from("<H", raw, 0x76)[0] << 32
        seconds = mtime + ((extra & 3) << 32)
        size |= size_high << 32
        return Inode(
            number,
            mode,
            uid | uid_high << 16,
            gid | gid_high << 16,
            size,
            seconds * 10**9 + (extra >> 2),
            links,
            flags,
            block,
            acl,
            raw,
        )

    # ------------------------------------------------------------------------------------------------- content

    def extents(self, inode: Inode) -> list[Extent]:
        assert inode.flags & FLAG_EXTENTS, f"inode {inode.number} is not mapped by extents"
        return list(self._extents(inode.block))

    def _extents(self, node: bytes) -> Iterator[Extent]:
        magic, count, _, depth = struct.unpack_from("<HHHH", node)
        assert magic == EXTENT_MAGIC
        for at in range(12, 12 + 12 * count, 12):
            if depth:
                low, high = struct.unpack_from("<IH", node, at + 4)
                yield from self._extents(self._blocks(high << 32 | low, 1))
            else:
                logical, length, high, low = struct.unpack_from("<IHHI", node, at)
                written = length <= UNWRITTEN
                yield logical, high << 32 | low, length if written else length - UNWRITTEN, written

    def _blocks(self, first: int, count: int) -> bytes:
        return self._image[first * self.block_size : (first + count) * self.block_size]

    def content(self, inode: Inode) -> Iterator[bytes]:
        """The bytes of a file in parts, holes as zeros."""
        position = 0
        for logical, physical, count, written in self.extents(inode):
            yield from zeros(min(logical * self.block_size, inode.size) - position)
            position = logical * self.block_size
            length = min(count * self.block_size, inode.size - position)
            yield self._blocks(physical, count)[:length] if written else bytes(length)
            position += length
        yield from zeros(inode.size - position)

    # --------------------------------------------------------------------------------------------- directories

    def _walk(self, number: int, prefix: bytes) -> Iterator[tuple[bytes, Inode]]:
        for name, child, kind in self._entries(number):
            inode = self.inode(child)
            assert stat.S_IFMT(inode.mode) == kind, f"{prefix + name!r}: its directory entry has another type"
            if number == 2 and name == b"lost+found" and child == 11 and kind == stat.S_IFDIR and not any(self._entries(child)):
                continue
            yield prefix + name, inode
            if kind == stat.S_IFDIR:
                yield from self._walk(child, prefix + name + b"/")

    def _entries(self, number: int) -> Iterator[tuple[bytes, int, int]]:
        content = b"".join(self.content(self.inode(number)))
        for start in range(0, len(content), self.block_size):
            at, end = start, start + self.block_size
            while at < end:
                child, length, name_length, kind = struct.unpack_from("<IHBB", content, at)
                name = content[at + 8 : at + 8 + name_length]
                assert length >= 8, f"directory {number} is damaged"
                if child and name not in (b".", b".."):
                    yield name, child, FILE_TYPES[kind]
                at += length

    # --------------------------------------------------------------------------------------------------- facts

    def _facts(self, inode: Inode, links: tuple[bytes, ...], largest: int) -> Facts:
        kind = stat.S_IFMT(inode.mode)
        is_file = kind == stat.S_IFREG
        return Facts(
            kind=kind,
            mode=stat.S_IMODE(inode.mode),
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
            size=0 if kind == stat.S_IFDIR else inode.size,
            digest=self._digest(inode) if is_file and inode.size <= largest else "",
            data=self._data(inode) if is_file else (),
            target=self._target(inode) if kind == stat.S_IFLNK else b"",
            device=device(inode.block) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
            xattrs=tuple(sorted(self._xattrs(inode))),
            links=links,
        )

    def _digest(self, inode: Inode) -> str:
        digest = hashlib.sha256()
        for part in self.content(inode):
            digest.update(part)
        return digest.hexdigest()

    def _data(self, inode: Inode) -> tuple[Run, ...]:
        found: list[Run] = []
        for logical, _, count, written in self.extents(inode):
            if written and found and sum(found[-1]) == logical:
                found[-1] = (found[-1][0], found[-1][1] + count)
            elif written:
                found.append((logical, count))
        return tuple(found)

    def _target(self, inode: Inode) -> bytes:
        return b"".join(self.content(inode)) if inode.flags & FLAG_EXTENTS else inode.block[: inode.size]

    def _xattrs(self, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        (extra,) = struct.unpack_from("<H", inode.raw, 0x80)
        inside = inode.raw[128 + extra :]
        if len(inside) >= 4 and struct.unpack_from("<I", inside)[0] == XATTR_MAGIC:
            yield from xattrs(inside[4:], 0, inside[4:])
        if inode.acl:
            block = self._blocks(inode.acl, 1)
            assert struct.unpack_from("<I", block)[0] == XATTR_MAGIC
            yield from xattrs(block, 32, block)


def zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, 1 << 20))
        length -= 1 << 20


def device(block: bytes) -> tuple[int, int]:
    """The old encoding in the first word, or the new one in the second."""
    old, new = struct.unpack_from("<II", block)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, new & 0xFF | new >> 12 & 0xFFF00


def xattrs(entries: bytes, at: int, values: bytes) -> Iterator[tuple[bytes, bytes]]:
    while struct.unpack_from("<I", entries, at)[0]:
        length, index, offset, inum, size = struct.unpack_from("<BBHII", entries, at)
        assert inum == 0
        name = XATTR_PREFIXES[index] + entries[at + 16 : at + 16 + length]
        value = values[offset : offset + size]
        yield name, acl(value) if index in (2, 3) else value
        at += 16 + (length + 3 & ~3)


def acl(stored: bytes) -> bytes:
    """A POSIX ACL from the disk's version 1 to version 2 of the system call, where every entry has an id."""
    assert struct.unpack_from("<I", stored)[0] == 1
    found, at = struct.pack("<I", 2), 4
    while at < len(stored):
        tag, permissions = struct.unpack_from("<HH", stored, at)
        named = tag in (0x02, 0x08)
        (identity,) = struct.unpack_from("<I", stored, at + 4) if named else (0xFFFFFFFF,)
        found += struct.pack("<HHI", tag, permissions, identity)
        at += 8 if named else 4
    return found
