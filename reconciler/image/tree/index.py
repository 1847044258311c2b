"""The index of a chain: its tree, with numbers and blocks, as compact bytes, so that the next layer can be applied to it.

Written by the builder when a volume is finished, read when a layer is put on top. The same tree gives the same bytes. It is kept
with the registry's state and re-made from the layers where it is lost, so what is read is checked to the last field: a damaged
index is an error, never a wrong tree. No state.

Format, little-endian: ``HEADER`` (magic, version, next free block, length of the body, sha256 of both), then the body under zlib.
The body is a row of columns, each with its length in front: the tree in preorder, one column for each field, since like fields
compress best together.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from collections.abc import Iterator

from reconciler.dataclass import dataclass, field
from reconciler.errors import LayerCorrupt
from reconciler.image.archive.attributes import check_xattrs
from reconciler.image.archive.member import Malformed
from reconciler.image.spec import GIB, Limits
from reconciler.image.tree.inode import NO_XATTRS, Inode
from reconciler.image.tree.judge import MAX_COMPONENT, MAX_ID, MAX_MTIME, MAX_TARGET, MIN_MTIME
from reconciler.image.tree.tree import Tree

VERSION = 3
MAGIC = b"reconidx"
HEADER = struct.Struct("<8sIQQ32s")
BLOCK = 4096

MAX_OTHER = GIB
"""Bytes of a directory, at most."""

MAX_BODY = GIB
MAX_RATIO = 1032
"""Bounds on the body's bytes: in all, and by the compressed ones, where deflate itself can do no better."""

_COLUMNS = (
    ("name_lengths", "H"),
    ("references", "I"),
    ("modes", "H"),
    ("uids", "I"),
    ("gids", "I"),
    ("mtimes", "Q"),
    ("sizes", "Q"),
    ("counts", "I"),
    ("extent_counts", "I"),
    ("extents", "Q"),
    ("numbers", "I"),
    ("beside_counts", "I"),
    ("beside", "Q"),
    ("xattr_counts", "H"),
    ("xattr_lengths", "H"),
)
_TEXTS = ("names", "targets", "xattrs", "accounts")
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, *_DEVICES, stat.S_IFIFO)


@dataclass(slots=True)
class _Columns:
    """``references`` is 0 where a name brings its inode, else the number (from 1) of the inode that it is one more name of.

    ``counts``: children of a directory, bytes of a target, a device's number, 0 for a file. ``extent_counts`` are those of
    all inodes.
    """

    name_lengths: list[int] = field(default_factory=list)
    references: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    uids: list[int] = field(default_factory=list)
    gids: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    extent_counts: list[int] = field(default_factory=list)
    extents: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    beside_counts: list[int] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)
    xattr_counts: list[int] = field(default_factory=list)
    xattr_lengths: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    targets: list[bytes] = field(default_factory=list)
    xattrs: list[bytes] = field(default_factory=list)
    accounts: list[bytes] = field(default_factory=list)


def dump(tree: Tree, next_block: int) -> bytes:
    """The index of a tree whose files lie below ``next_block`` (4096-byte blocks)."""
    columns = _Columns()
    numbers: dict[Inode, int] = {}
    todo = [(b"", tree.root)]
    while todo:
        name, inode = todo.pop()
        columns.names.append(name)
        columns.name_lengths.append(len(name))
        columns.references.append(numbers.get(inode, 0))
        if inode not in numbers:
            numbers[inode] = len(numbers) + 1
            _write_inode(columns, inode)
            todo += reversed((inode.children or {}).items())
    columns.accounts.append(tree.accounts.dump())
    body = _body(columns)
    return HEADER.pack(MAGIC, VERSION, next_block, len(body), _digest(next_block, body)) + zlib.compress(body, 6)


def _digest(next_block: int, body: bytes) -> bytes:
    return hashlib.sha256(next_block.to_bytes(8, "little") + body).digest()


def _write_inode(columns: _Columns, inode: Inode) -> None:
    columns.modes.append(inode.kind | inode.mode)
    columns.uids.append(inode.uid)
    columns.gids.append(inode.gid)
    columns.mtimes.append(inode.mtime - MIN_MTIME)  # nanoseconds up to 2446 do not fit a signed word
    columns.sizes.append(inode.size)
    columns.counts.append(_count(inode))
    columns.extent_counts.append(len(inode.extents))
    for extent in inode.extents:
        columns.extents += extent
    columns.numbers.append(inode.number)
    columns.beside_counts.append(len(inode.beside))
    columns.beside += inode.beside
    if inode.target:
        columns.targets.append(inode.target)
    columns.xattr_counts.append(len(inode.xattrs))
    for item in inode.xattrs.items():
        columns.xattr_lengths += map(len, item)
        columns.xattrs += item


def _count(inode: Inode) -> int:
    if inode.children is not None:
        return len(inode.children)
    if inode.kind in _DEVICES:
        return inode.device[0] << 20 | inode.device[1]
    return len(inode.target)


def _body(columns: _Columns) -> bytes:
    parts: list[bytes] = []
    for name, code in _COLUMNS:
        values = getattr(columns, name)
        parts.append(struct.pack(f"<{len(values)}{code}", *values))
    parts += (b"".join(getattr(columns, name)) for name in _TEXTS)
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


# -------------------------------------------------------------------------------------------------------- reading


def load(data: bytes, limits: Limits | None = None) -> tuple[Tree, int]:
    """The tree and the next free block of an index. ``limits`` are those of the layers to come. Raises LayerCorrupt."""
    try:
        body, next_block = _open(data)
        tree = _Loader(body, next_block).tree(limits or Limits())
    except (Malformed, struct.error) as broken:
        raise _damaged(str(broken)) from None
    return tree, next_block


def _damaged(why: str) -> LayerCorrupt:
    return LayerCorrupt(f"the chain's index is damaged: {why}", hint="remove it; it is made again from the layers")


def _open(data: bytes) -> tuple[memoryview, int]:
    magic, version, next_block, length, digest = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise _damaged("it is not one, or of another version")
    packed = memoryview(data)[HEADER.size :]
    if length > min(MAX_BODY, MAX_RATIO * len(packed)):
        raise _damaged("its stated length is impossible")
    decoder = zlib.decompressobj()
    try:
        body = decoder.decompress(packed, length + 1)
    except zlib.error as error:
        raise _damaged(str(error)) from None
    if len(body) != length or not decoder.eof or decoder.unused_data or _digest(next_block, body) != digest:
        raise _damaged("its length or digest is wrong")
    return memoryview(body), next_block


class _Texts:
    """A column of texts back to back, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise Malformed("index", "a column is too short")
        return bytes(self._data[start : self._at])

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def done(self) -> bool:
        return self._at == len(self._data)


class _Loader:
    """Rebuilds a tree from its columns, checking each value as it comes."""

    def __init__(self, body: memoryview, next_block: int) -> None:
        self._next_block = next_block
        self._used: list[tuple[int, int]] = []
        self._inodes: list[Inode] = []
        self._numbers: set[int] = set()
        parts = _parts(body)
        self._columns = {name: _values(next(parts), code) for name, code in _COLUMNS}
        self._texts = {name: _Texts(next(parts)) for name in _TEXTS}
        if next(parts, None) is not None:
            raise Malformed("index", "it has too many columns")

    def tree(self, limits: Limits) -> Tree:
        """The whole tree."""
        above: dict[bytes, Inode] = {}
        todo: list[tuple[dict[bytes, Inode], int]] = [(above, 1)]
        while todo:
            children, left = todo.pop()
            if left > 1:
                todo.append((children, left - 1))
            inode, count = self._entry(children, root=children is above)
            if inode.children is not None and count:
                todo.append((inode.children, count))
        tree = Tree(limits, above[b""])
        tree.accounts.load(self._texts["accounts"].rest())
        self._check_end()
        return tree

    def _next(self, column: str) -> int:
        value = next(self._columns[column], None)
        if value is None:
            raise Malformed("index", f"its column {column} is too short")
        return value

    def _entry(self, siblings: dict[bytes, Inode], *, root: bool) -> tuple[Inode, int]:
        name = self._texts["names"].take(self._next("name_lengths"))
        if name in siblings or not (name == b"" if root else _is_name(name)):
            raise Malformed("index", f"it has the name {name[:300]!r}, empty, not a name, or twice")
        reference = self._next("references")
        if reference:
            inode, count = self._again(reference), 0
        else:
            inode, count = self._inode()
            self._inodes.append(inode)
        if root and inode.children is None:
            raise Malformed("index", "its root is not a directory")
        siblings[name] = inode
        return inode, count

    def _again(self, number: int) -> Inode:
        if number > len(self._inodes) or self._inodes[number - 1].children is not None:
            raise Malformed("index", "a hard link refers to nothing, or to a directory")
        inode = self._inodes[number - 1]
        inode.names += 1
        return inode

    def _inode(self) -> tuple[Inode, int]:
        mode, uid, gid, since = (self._next(column) for column in ("modes", "uids", "gids", "mtimes"))
        mtime = since + MIN_MTIME
        size, count = self._next("sizes"), self._next("counts")
        kind = stat.S_IFMT(mode)
        if kind not in _KINDS or max(uid, gid) > MAX_ID or mtime > MAX_MTIME or (size and kind != stat.S_IFREG):
            raise Malformed("index", "an inode has impossible metadata")
        inode = Inode(kind, stat.S_IMODE(mode), uid, gid, mtime, size, xattrs=self._xattrs(kind) or NO_XATTRS)
        inode.extents = tuple(self._extents(self._next("extent_counts"), size if kind == stat.S_IFREG else MAX_OTHER))
        inode.number, inode.beside = self._number(), self._beside()
        if kind == stat.S_IFDIR:
            inode.children = {}
        elif kind == stat.S_IFLNK:
            inode.target = self._target(count)
        elif kind in _DEVICES:
            inode.device = count >> 20, count & 0xFFFFF
        return inode, count

    def _extents(self, count: int, size: int) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        end = 0
        for _ in range(count):
            logical, physical, blocks = self._next("extents"), self._next("extents"), self._next("extents")
            if logical < end or not blocks or physical + blocks > self._next_block:
                raise Malformed("index", "a file has impossible extents")
            end = logical + blocks
            found.append((logical, physical, blocks))
            self._used.append((physical, blocks))
        if end > -(-size // BLOCK):
            raise Malformed("index", "a file has extents behind its end")
        return found

    def _number(self) -> int:
        """0 where the tree was not numbered before it was written."""
        number = self._next("numbers")
        if number in self._numbers:
            raise Malformed("index", "two inodes have the same number")
        if number:
            self._numbers.add(number)
        return number

    def _beside(self) -> tuple[int, ...]:
        blocks = tuple(self._next("beside") for _ in range(self._next("beside_counts")))
        if any(block >= self._next_block for block in blocks):
            raise Malformed("index", "an inode has impossible blocks")
        self._used += ((block, 1) for block in blocks if block)
        return blocks

    def _target(self, length: int) -> bytes:
        target = self._texts["targets"].take(length)
        if not 0 < length <= MAX_TARGET or b"\0" in target:
            raise Malformed("index", "a symlink has an impossible target")
        return target

    def _xattrs(self, kind: int) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        count = self._next("xattr_counts")
        for _ in range(count):
            lengths = self._next("xattr_lengths"), self._next("xattr_lengths")
            name, value = (self._texts["xattrs"].take(length) for length in lengths)
            found[name] = value
        if len(found) != count or check_xattrs(found, kind)[1]:
            raise Malformed("index", "an inode has impossible extended attributes")
        return found

    def _check_end(self) -> None:
        unread = any(next(column, None) is not None for column in self._columns.values())
        if unread or not all(texts.done() for texts in self._texts.values()):
            raise Malformed("index", "something is left over")
        end = 0
        for physical, blocks in sorted(self._used):
            if physical < end:
                raise Malformed("index", "two files have the same blocks")
            end = physical + blocks


def _parts(body: memoryview) -> Iterator[memoryview]:
    at = 0
    for _ in range(len(_COLUMNS) + len(_TEXTS)):
        start = at + 8
        at = start + int.from_bytes(body[at:start], "little")
        if at > len(body) or start > len(body):
            raise Malformed("index", "a column is missing")
        yield body[start:at]
    if at != len(body):
        raise Malformed("index", "it has too many columns")


def _values(part: memoryview, code: str) -> Iterator[int]:
    # One value at a time: a million entries must not become a million integers for each column at once.
    return (value for (value,) in struct.iter_unpack(f"<{code}", part))


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= MAX_COMPONENT and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
