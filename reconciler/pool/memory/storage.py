"""The disk under ``pool.memory``: what survives the process that uses it. Deterministic: ids count up, nothing has a clock.

Called by ``pool.memory.driver``, and by simulations, which change it as hosts, guests and operators do. State in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from reconciler.dataclass import dataclass, field
from reconciler.pool.driver import Condition
from reconciler.pool.file.clone import extents

PAGE = 4096
Pages = Mapping[int, bytes]
"""Content by offset, in pages; absent pages are zeros. Copies share the pages' objects, as thin devices share blocks."""


def write_pages(pages: Pages, offset: int, data: bytes) -> Pages:
    """The content after a write."""
    changed = dict(pages)
    at = 0
    while at < len(data):
        start = (offset + at) // PAGE * PAGE
        inside = offset + at - start
        piece = data[at : at + PAGE - inside]
        page = bytearray(changed.get(start, bytes(PAGE)))
        page[inside : inside + len(piece)] = piece
        changed[start] = bytes(page)
        at += len(piece)
    return changed


def slice_pages(pages: Pages, offset: int, length: int) -> bytes:
    """The bytes of a range."""
    first, end = offset // PAGE * PAGE, offset + length
    whole = b"".join(pages.get(start, bytes(PAGE)) for start in range(first, end, PAGE))
    return whole[offset - first : end - first]


def read_pages(fd: int) -> Pages:
    """The content of a file, without its holes."""
    found = {}
    for offset, length in extents(fd):
        for start in range(offset // PAGE * PAGE, offset + length, PAGE):
            found[start] = os.pread(fd, PAGE, start).ljust(PAGE, b"\0")
    return found


@dataclass(slots=True)
class Object:
    """A volume or a snapshot. ``foreign``: not created by reconcile; ``orphan``: created by it, no longer in its registry."""

    id: int
    stamp: int
    name: str
    chain: str
    size: int
    pages: Pages
    sealed: bool = False
    active: bool = False
    damaged: bool = False
    foreign: bool = False
    orphan: bool = False

    @property
    def identity(self) -> str:
        return f"id={self.id} pool={self.stamp}"

    @property
    def used(self) -> int:
        return len(self.pages) * PAGE

    def __str__(self) -> str:
        return f"{'volume' if is_volume(self) else 'snapshot'} {self.name[:12]} (id {self.id})"


def is_volume(one: Object) -> bool:
    return one.name == one.chain


@dataclass
class Storage:
    """``total`` in bytes. ``held`` maps snapshot names to their holders, ``occupied`` are names of foreign mappings."""

    total: int = 1 << 40
    stamp: int = 1
    assembled: bool = False
    read_only: bool = False
    needs_repair: bool = False
    unreadable: str = ""
    """Why the storage can't be read; empty if it can."""
    held: dict[str, str] = field(default_factory=dict)
    occupied: set[str] = field(default_factory=set)
    objects: dict[int, Object] = field(default_factory=dict)
    version: int = 0
    _last: int = 0

    # ------------------------------------------------------------------------------------------- used by the driver

    def add(self, name: str, chain: str, size: int, pages: Pages) -> Object:
        self._last += 1
        self.objects[self._last] = Object(self._last, self.stamp, name, chain, size, pages)
        self.changed()
        return self.objects[self._last]

    def grow(self, one: Object, size: int) -> None:
        one.size = max(one.size, size)
        self.changed()

    def drop(self, one: Object) -> None:
        if self.objects.pop(one.id, None) is not None:
            self.changed()

    def changed(self) -> None:
        self.version += 1

    def named(self, name: str) -> list[Object]:
        """Objects of reconcile with this name, oldest first."""
        return [one for one in self.objects.values() if one.name == name and not one.foreign and not one.orphan]

    def by_identity(self, identity: str) -> Object | None:
        return next((one for one in self.objects.values() if one.identity == identity), None)

    def judge(self, one: Object | None, name: str) -> tuple[Condition, str]:
        """Compare a recorded object with what exists."""
        if one is None:
            return Condition.MISSING, "missing from the pool"
        if one.name != name or one.foreign:
            return Condition.REPLACED, "another object has its identity"
        return (Condition.DAMAGED, "written to since it was sealed") if one.damaged else (Condition.INTACT, "")

    def used(self) -> int:
        """Bytes in use; shared pages count once."""
        return len({id(page) for one in self.objects.values() for page in one.pages.values()}) * PAGE

    # ----------------------------------------------------------------------- used by simulations: host, guest, operator

    def read(self, name: str, offset: int, length: int) -> bytes:
        """What the user of a snapshot, or the reader of a volume, reads."""
        return slice_pages(self._one(name).pages, offset, length)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """A guest writes to its snapshot."""
        one = self._one(name)
        one.pages = write_pages(one.pages, offset, data)

    def _one(self, name: str) -> Object:
        found = self.named(name)
        return next((one for one in found if one.active), found[-1])

    def lose(self, name: str) -> None:
        """The objects of this name disappear."""
        for one in self.named(name):
            self.drop(one)

    def damage(self, name: str) -> None:
        """Something writes to a sealed volume."""
        for one in self.named(name):
            one.damaged = True
        self.changed()

    def add_foreign(self, name: str) -> None:
        """Another tool creates a device in the pool."""
        self.add(name, name, PAGE, {}).foreign = True

    def reboot(self) -> None:
        """The host restarts: nothing is active, nothing is held, foreign mappings are gone."""
        self.assembled = False
        self.held.clear()
        self.occupied.clear()
        for one in self.objects.values():
            one.active = False
        self.changed()

    def swap(self, stamp: int) -> None:
        """The disk of another pool is in its place: other objects, another stamp."""
        self.stamp = stamp
        self.objects.clear()
        self.changed()
