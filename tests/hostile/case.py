"""What a case of the catalogue is: an archive, and what must become of it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.image.spec import MIB, Limits
from tests.support.compare import KINDS, ROOT, Facts

CLASSES = (
    "traversal by name",
    "name overrides",
    "root replacement",
    "sibling prefix",
    "name limits",
    "name encoding",
    "names as data",
    "symlink write-through",
    "PATH_MAX / realpath",
    "magic links",
    "loops / expansion",
    "symlink escape target",
    "symlink target malformed",
    "overwrite through symlink",
    "dir over symlink",
    "dir replaced by symlink",
    "deferred metadata",
    "metadata through symlink",
    "type confusion",
    "hard link escape",
    "hard link to symlink",
    "hard link then write",
    "hard link order / type",
    "header-only size",
    "special files",
    "device policy",
    "privileges",
    "numeric",
    "size limit",
    "PAX size desync",
    "PAX malformed / ambiguous",
    "typeflag games",
    "format",
    "sparse: bomb",
    "sparse: malformed",
    "sparse: resource",
    "compression bombs",
    "decoder memory",
    "nesting",
    "truncation",
    "integrity",
    "trailing data",
    "resource",
    "inode bomb",
    "xattr",
    "whiteouts",
    "legit",
)
"""In the order of the page."""

MEMORY = 64 * MIB
"""Bytes that the builder may take of memory at its worst moment, where a case does not say otherwise."""

Archive = bytes | Callable[[], bytes]
"""Small ones are there, large ones are made when they are needed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """By this rule. ``member`` is the name that the refusal gives, where it is that of one member."""

    rule: str
    member: bytes | None = None

    def __str__(self) -> str:
        return f"refused: `{self.rule}`"


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Not a whole tar, or not a whole compressed stream. ``said`` is part of the message."""

    said: str = ""

    def __str__(self) -> str:
        return "corrupt"


@dataclass(frozen=True, slots=True)
class Node:
    """What must stand under a name; None where it does not matter. ``same_as`` is another name of the same inode."""

    kind: int
    data: bytes | None = None
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime: int | None = None
    size: int | None = None
    xattrs: Mapping[bytes, bytes] | None = None
    same_as: bytes = b""

    def faults(self, found: Facts) -> Iterator[str]:
        digest = None if self.data is None else hashlib.sha256(self.data).hexdigest()
        xattrs = None if self.xattrs is None else tuple(sorted(self.xattrs.items()))
        for name, wanted, is_so in (
            ("kind", KINDS[self.kind], KINDS[found.kind]),
            ("target", self.target, found.target),
            ("device", self.device, found.device),
            ("mode", self.mode, found.mode),
            ("owner", self.owner, (found.uid, found.gid)),
            ("mtime", self.mtime, found.mtime),
            ("size", self.size, found.size),
            ("content", digest, found.digest),
            ("attributes", xattrs, found.xattrs),
        ):
            if wanted is not None and wanted != is_so:
                yield f"its {name} is {is_so!r}, expected {wanted!r}"
        if self.same_as and self.same_as not in found.links:
            yield f"it is not the same file as {self.same_as!r}, but as {found.links!r}"


Tree = Mapping[bytes, Node]


@dataclass(frozen=True, slots=True)
class Accepted:
    """With this tree and nothing else; without one where only the number of its names matters. ``root`` is the root directory."""

    tree: Tree | None = None
    root: Node | None = None
    names: int | None = None

    def __str__(self) -> str:
        return "accepted"

    def faults(self, found: Mapping[bytes, Facts]) -> Iterator[str]:
        """What is not as it should be, one line each."""
        given = self.tree or {}
        below = {name: facts for name, facts in found.items() if name != ROOT and (name != b"lost+found" or name in given)}
        if self.names is not None and len(below) != self.names:
            yield f"{len(below)} names, expected {self.names}"
        if self.root is not None:
            yield from (f"the root: {fault}" for fault in self.root.faults(found[ROOT]))
        if self.tree is None:
            return
        yield from (f"{name!r} is missing" for name in self.tree if name not in below)
        yield from (f"{name!r} is nothing that the archive asks for" for name in below if name not in self.tree)
        for name in below.keys() & self.tree.keys():
            yield from (f"{name!r}: {fault}" for fault in self.tree[name].faults(below[name]))


Verdict = Refused | Corrupt | Accepted


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile archive, or one that looks hostile and is not.

    ``layers`` come from the bottom; all but the last are accepted. ``reproduces`` is the advisory whose sequence of entries it
    is. ``volume`` is the size of the volume that it needs, where that is not a small one. ``flaw`` says what our reader still
    does wrong with it.
    """

    name: str
    attack: str
    what: str
    layers: tuple[Archive, ...]
    verdict: Verdict
    reproduces: str = ""
    limits: Limits = field(default_factory=Limits)
    memory: int = MEMORY
    volume: int = 0
    slow: bool = False
    flaw: str = ""

    def bytes_of_layers(self) -> list[bytes]:
        return [layer if isinstance(layer, bytes) else layer() for layer in self.layers]


# ------------------------------------------------------------------------------------------------------- nodes


def f(data: bytes | None = None, **more: object) -> Node:
    """A regular file."""
    return Node(stat.S_IFREG, data, **more)  # type: ignore[arg-type]


def d(mode: int | None = None, **more: object) -> Node:
    return Node(stat.S_IFDIR, mode=mode, **more)  # type: ignore[arg-type]


def ln(target: bytes, **more: object) -> Node:
    return Node(stat.S_IFLNK, target=target, **more)  # type: ignore[arg-type]


def char(major: int, minor: int) -> Node:
    return Node(stat.S_IFCHR, device=(major, minor))


def blk(major: int, minor: int) -> Node:
    return Node(stat.S_IFBLK, device=(major, minor))


def pipe() -> Node:
    return Node(stat.S_IFIFO)


# ------------------------------------------------------------------------------------------------------- cases


def _case(
    name: str, attack: str, what: str, archive: Archive | tuple[Archive, ...], verdict: Verdict, more: dict[str, object]
) -> Case:
    assert attack in CLASSES, attack
    layers = archive if isinstance(archive, tuple) else (archive,)
    return Case(name, attack, what, layers, verdict, **more)  # type: ignore[arg-type]


def refused(
    name: str,
    attack: str,
    what: str,
    archive: Archive | tuple[Archive, ...],
    rule: str,
    member: bytes | None = None,
    **more: object,
) -> Case:
    return _case(name, attack, what, archive, Refused(rule, member), more)


def corrupt(name: str, attack: str, what: str, archive: Archive | tuple[Archive, ...], said: str = "", **more: object) -> Case:
    return _case(name, attack, what, archive, Corrupt(said), more)


def accepted(
    name: str,
    attack: str,
    what: str,
    archive: Archive | tuple[Archive, ...],
    tree: Tree | None = None,
    *,
    root: Node | None = None,
    names: int | None = None,
    **more: object,
) -> Case:
    return _case(name, attack, what, archive, Accepted(tree, root, names), more)
