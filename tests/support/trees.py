"""Members of layers as values, and hypothesis strategies for whole chains of layers.

What is generated is legal and unambiguous: nothing that the judge refuses, no directory replaced within the layer that filled it,
no path below a whiteout of the same layer. What a tar dialect can't express is left out (``DIALECTS``).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from reconciler.image.archive import polyglot
from reconciler.image.archive.member import Malformed

HARDLINK = 0
SECOND = 10**9
OPAQUE = b".wh..wh..opq"
WHITEOUT = b".wh."
LONGEST_HIDDEN = 255 - len(WHITEOUT)
"""A whiteout is a name of its own, and as long as one can be: OCI can't hide longer ones."""

Segment = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. ``data`` is what the tar stores: the whole file, or the segments of a sparse one of ``size`` bytes."""

    name: bytes
    kind: int = stat.S_IFREG
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    size: int = 0
    segments: tuple[Segment, ...] | None = None
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


Layer = list[Entry]


def file(name: bytes, data: bytes = b"", **fields: Any) -> Entry:
    return replace(Entry(name, data=data, size=len(data)), **fields)


def sparse(name: bytes, size: int, parts: Sequence[tuple[int, bytes]], **fields: Any) -> Entry:
    """A file with holes; ``parts`` are (offset, data)."""
    segments = tuple((offset, len(data)) for offset, data in parts)
    stored = b"".join(data for _, data in parts)
    return replace(Entry(name, data=stored, size=size, segments=segments), **fields)


def directory(name: bytes, mode: int = 0o755, **fields: Any) -> Entry:
    return replace(Entry(name, stat.S_IFDIR, mode), **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> Entry:
    return replace(Entry(name, stat.S_IFLNK, 0o777, target=target), **fields)


def hardlink(name: bytes, target: bytes) -> Entry:
    return Entry(name, HARDLINK, target=target)


def whiteout(name: bytes) -> Entry:
    parent, slash, last = name.rpartition(b"/")
    return Entry(parent + slash + WHITEOUT + last)


def opaque(name: bytes) -> Entry:
    return Entry(name + b"/" + OPAQUE)


def capability(version: int = 2, permitted: int = 0x2000, rootid: int = 1000) -> bytes:
    """A vfs_cap_data (linux/capability.h) with the effective bit; 0x2000 is cap_net_raw."""
    words = struct.pack("<IIIII", version << 24 | 1, permitted, 0, 0, 0)
    return words if version == 2 else words + struct.pack("<I", rootid)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as system calls have it, from (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY_IN_PARTICULAR = 0xFFFFFFFF
ACL = acl(
    (0x01, 6, NOBODY_IN_PARTICULAR),
    (0x02, 7, 1000),
    (0x04, 4, NOBODY_IN_PARTICULAR),
    (0x08, 5, 70_000),
    (0x10, 5, NOBODY_IN_PARTICULAR),
    (0x20, 4, NOBODY_IN_PARTICULAR),
)
"""Owner rw-, user 1000 rwx, owning group r--, group 70000 r-x, mask r-x, others r--: goes with mode 0o654."""
ACL_MODE = 0o654


# ---------------------------------------------------------------------------------------------------- strategies


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a tar format can express of a member."""

    name: str
    longest_component: int
    highest_id: int
    times: tuple[int, int]
    nanoseconds: bool
    xattrs: bool
    sparse: bool


YEAR_2310 = 5 * 2**31 - 1
"""The last second before e2fsck takes a time for one of 1901 to 1970 that an old kernel has written wrongly."""
YEAR_1901, YEAR_2310 = -(2**31) + 1, 2**33 + 2**31 - 2
DIALECTS = {
    "pax": Dialect("pax", 255, 2**32 - 2, (YEAR_1901, YEAR_2310), True, True, True),
    "gnu": Dialect("gnu", 255, 2**32 - 2, (YEAR_1901, YEAR_2310), False, False, True),
    "ustar": Dialect("ustar", 12, 0o7777777, (0, 8**11 - 1), False, False, False),
}
EDGES = {
    "ids": (0, 1, 1000, 0xFFFF, 0x10000, 2**21 - 1, 2**21, 2**31, 2**32 - 2),
    "seconds": (YEAR_1901, -1, 0, 2**31 - 1, 2**31, 2**32, 8**11 - 1, YEAR_2310),
    "lengths": (0, 1, 511, 512, 513, 4095, 4096, 4097, 3 * 4096, 70_000),
}
KINDS = ("file",) * 5 + ("directory",) * 4 + ("symlink",) * 2 + ("hardlink",) * 2 + ("sparse", "char", "block", "fifo")


@cache
def within(values: tuple[int, ...], lowest: int, highest: int) -> st.SearchStrategy[int]:
    edges = [value for value in values if lowest <= value <= highest]
    return st.one_of(st.sampled_from(edges), st.integers(lowest, highest))


@cache
def components(dialect: Dialect) -> st.SearchStrategy[bytes]:
    """Names in bytes: any byte but NUL and the slash, none that means a whiteout or a place, or begins another format."""
    odd = st.sampled_from(
        [b"a b", b"new\nline", b"\xff\xfe", b"\x1b[31m", b"-dash", b"%3D=", "\u00e9".encode(), b"e\xcc\x81", b"*", b"\\"]
    )
    common = st.sampled_from([b"bin", b"etc", b"lib", b"a", b"b", b"c"])
    any_bytes = st.binary(min_size=1, max_size=min(12, dialect.longest_component)).map(lambda b: b.translate(None, b"\0/"))
    long = st.integers(90, dialect.longest_component).map(lambda n: b"n" * n) if dialect.longest_component > 90 else common
    return st.one_of(common, odd, any_bytes, long).filter(_is_plain)


def _is_plain(name: bytes) -> bool:
    if name in (b"", b".", b"..") or name.startswith(b".wh."):
        return False
    try:
        polyglot.check(name.ljust(512, b"\0"))
    except Malformed:
        return False
    return True


@cache
def contents() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda n, seed: (seed * (n // len(seed) + 1))[:n], st.sampled_from(EDGES["lengths"]), st.binary(min_size=1, max_size=8)
    )


@cache
@st.composite
def metadata(draw: st.DrawFn, dialect: Dialect, kind: int) -> dict[str, Any]:
    low, high = dialect.times
    seconds = draw(within(EDGES["seconds"], low, min(high, YEAR_2310)))
    fraction = draw(st.sampled_from([0, 1, 123_456_789, 999_999_999])) if dialect.nanoseconds else 0
    mode = (
        0o777
        if kind == stat.S_IFLNK
        else draw(st.one_of(st.sampled_from([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0]), st.integers(0, 0o7777)))
    )
    fields: dict[str, Any] = {
        "uid": draw(within(EDGES["ids"], 0, dialect.highest_id)),
        "gid": draw(within(EDGES["ids"], 0, dialect.highest_id)),
        "mtime": seconds * SECOND + fraction,
        "mode": mode,
    }
    if dialect.xattrs and kind in (stat.S_IFREG, stat.S_IFDIR) and draw(st.booleans()):
        fields |= draw(attributes(kind, mode))
    return fields


@cache
@st.composite
def attributes(draw: st.DrawFn, kind: int, mode: int) -> dict[str, Any]:
    names = st.one_of(
        st.sampled_from([b"user.x", b"user.mime_type", b"user.a=b%c"]), st.integers(1, 200).map(lambda n: b"user." + b"k" * n)
    )
    found = draw(st.dictionaries(names, st.binary(max_size=300), max_size=4))
    if kind == stat.S_IFREG and draw(st.booleans()):
        found[b"security.capability"] = capability(draw(st.sampled_from([2, 3])))
    if draw(st.integers(0, 3)) == 0:
        found[b"system.posix_acl_access"] = ACL
        mode = mode & 0o7000 | ACL_MODE
    return {"xattrs": found, "mode": mode}


@cache
@st.composite
def sparse_parts(draw: st.DrawFn) -> tuple[int, list[tuple[int, bytes]]]:
    """Apparent size and (offset, data) parts on blocks of 512 bytes, as GNU tar stores them."""
    position, parts = 0, []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=6)):
        position += gap * 512
        parts.append((position, b"S" * (length * 512)))
        position += length * 512
    return position + draw(st.sampled_from([0, 1, 512, 4096, 5_000_000])), parts


@dataclass(slots=True)
class _Chain:
    """What exists while a chain is generated: kinds by path, and which paths this layer has touched."""

    kinds: dict[bytes, int] = field(default_factory=dict)
    touched: set[bytes] = field(default_factory=set)
    hidden: set[bytes] = field(default_factory=set)

    def begin(self) -> None:
        self.touched, self.hidden = set(), set()

    def directories(self) -> list[bytes]:
        return [b"", *sorted(p for p, kind in self.kinds.items() if kind == stat.S_IFDIR and not self.is_hidden(p))]

    def is_hidden(self, path: bytes) -> bool:
        return any(path == h or path.startswith(h + b"/") for h in self.hidden)

    def below(self, path: bytes) -> list[bytes]:
        return [p for p in self.kinds if p.startswith(path + b"/")]

    def is_free(self, path: bytes, kind: int) -> bool:
        """Whether the layer may have this path: nothing is hidden, and no directory of this layer is replaced."""
        if self.is_hidden(path) or path in self.touched:
            return False
        if self.kinds.get(path) != stat.S_IFDIR or kind == stat.S_IFDIR:
            return True
        return not any(p in self.touched or any(h.startswith(path + b"/") for h in self.hidden) for p in self.below(path))

    def put(self, path: bytes, kind: int) -> None:
        if kind != stat.S_IFDIR:
            self.drop_below(path)
        self.kinds[path] = kind
        self.touched.add(path)

    def drop_below(self, path: bytes) -> None:
        for p in self.below(path):
            del self.kinds[p]


@st.composite
def chains(draw: st.DrawFn, dialect: Dialect, most_layers: int = 3, most_entries: int = 14) -> list[Layer]:
    """One to ``most_layers`` layers, each applied over those before."""
    chain = _Chain()
    return [draw(_layer(dialect, chain, lowest, most_entries)) for lowest in range(draw(st.integers(1, most_layers)))]


@st.composite
def _layer(draw: st.DrawFn, dialect: Dialect, chain: _Chain, lower: int, most: int) -> Layer:
    chain.begin()
    below = sorted(chain.kinds)
    layer: Layer = []
    if draw(st.booleans()):
        layer.append(directory(b".", **draw(metadata(dialect, stat.S_IFDIR))))
    for _ in range(draw(st.integers(0, most))):
        entry = draw(_hidden(chain, below)) if lower and draw(st.integers(0, 4)) == 0 else draw(_entry(dialect, chain))
        layer += [entry] if entry else []
    return layer


@st.composite
def _hidden(draw: st.DrawFn, chain: _Chain, below: list[bytes]) -> Entry | None:
    """A whiteout or an opaque whiteout of something that a lower layer brought and this one has not touched."""
    free = [p for p in below if p in chain.kinds and not chain.is_hidden(p) and not {p, *chain.below(p)} & chain.touched]
    free = [p for p in free if not any(h.startswith(p + b"/") for h in chain.hidden)]
    free = [p for p in free if len(p.rpartition(b"/")[2]) <= LONGEST_HIDDEN]
    if not free:
        return None
    path = draw(st.sampled_from(free))
    if chain.kinds[path] == stat.S_IFDIR and draw(st.booleans()):
        chain.hidden.update(chain.below(path))
        chain.drop_below(path)
        return opaque(path)
    chain.hidden.add(path)
    chain.drop_below(path)
    del chain.kinds[path]
    return whiteout(path)


@st.composite
def _entry(draw: st.DrawFn, dialect: Dialect, chain: _Chain) -> Entry | None:
    parent = draw(st.sampled_from(chain.directories()))
    last = draw(components(dialect))
    path = parent + b"/" + last if parent else last
    what = draw(st.sampled_from(KINDS))
    entry = draw(_of_kind(dialect, chain, path, what))
    if entry is None or len(path) > (90 if dialect.name == "ustar" else 1500):
        return None
    kind = chain.kinds.get(entry.target, entry.kind) if entry.kind == HARDLINK else entry.kind
    if not chain.is_free(path, kind):
        return None
    chain.put(path, kind)
    chain.touched.add(entry.target)  # what a hard link names must still be there for GNU tar, after whiteouts
    return entry


@st.composite
def _of_kind(draw: st.DrawFn, dialect: Dialect, chain: _Chain, path: bytes, what: str) -> Entry | None:
    if what == "hardlink":
        sources = sorted(p for p, k in chain.kinds.items() if k != stat.S_IFDIR and p != path and not p.startswith(path + b"/"))
        return hardlink(path, draw(st.sampled_from(sources))) if sources else None
    if what == "sparse" and dialect.sparse:
        size, parts = draw(sparse_parts())
        return sparse(path, size, parts, **draw(metadata(dialect, stat.S_IFREG)))
    if what == "symlink":
        targets = st.one_of(st.sampled_from([b"/etc/passwd", b"a", b"x" * 59, b"x" * 60, b"y/" * 45 + b"z"]), components(dialect))
        return symlink(path, draw(targets), **draw(metadata(dialect, stat.S_IFLNK)))
    if what == "directory":
        return directory(path, **draw(metadata(dialect, stat.S_IFDIR)))
    special = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}.get(what)
    if special:
        numbers = st.tuples(within((0, 255, 256, 4095), 0, 4095), within((0, 255, 256, 2**20 - 1), 0, 2**20 - 1))
        device = draw(numbers) if special != stat.S_IFIFO else (0, 0)
        return Entry(path, special, device=device, **draw(metadata(dialect, special)))
    return file(path, draw(contents()), **draw(metadata(dialect, stat.S_IFREG)))
