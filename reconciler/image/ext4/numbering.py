"""Inode numbers: given at the end of each layer, and kept by what stays.

Called by ``writer``. A name that stays keeps its number. New ones take the lowest free numbers in tree order: the children of a
directory sorted by the bytes of their names, before those of its sub-directories, so that reading a directory and each of its
entries reads the inode table front to back. Numbers that a layer sets free are free from the next layer on: then a chain has the
same numbers whether it is built layer by layer or in one go. State: which numbers were in use at the end of the last layer.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from reconciler.dataclass import dataclass, field
from reconciler.image.tree.inode import LOST_AND_FOUND, Inode

ROOT = 2
RESIZE = 7
JOURNAL = 8
FIRST = 11  # s_first_ino: the ones below are reserved
LOST_AND_FOUND_NUMBER = 11


def reserved() -> bytearray:
    """The numbers of an empty file system: a byte for each number from 0 on, 1 where it is taken."""
    return bytearray(b"\1" * (FIRST + 1))


@dataclass(slots=True)
class Numbering:
    """One layer's end: ``inodes`` by number (None where none is), ``parents`` of each directory, the root first."""

    used: bytearray
    inodes: list[Inode | None]
    new: list[Inode] = field(default_factory=list)
    links: dict[Inode, int] = field(default_factory=dict)
    parents: dict[Inode, Inode] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The highest number in use."""
        return max(self.used.rfind(1), FIRST)

    @property
    def count(self) -> int:
        """Numbers in use, the reserved ones included."""
        return self.used.count(1) - 1

    def directories(self) -> Iterator[int]:
        return (directory.number for directory in self.parents)

    def link_count(self, inode: Inode) -> int:
        """Names of a file; of a directory also its own ``.`` and each sub-directory's ``..``."""
        return self.links.get(inode, 1) + (inode.children is not None)


def number(root: Inode, used: bytearray) -> Numbering:
    """Number the inodes that can be reached from ``root``. Each directory must have one name only.

    ``used`` are the numbers at the end of the layer below, ``reserved()`` where there is none.
    """
    numbering = Numbering(bytearray(len(used)), [None] * len(used), parents={root: root})
    root.number = ROOT
    numbering.inodes[ROOT] = root
    _add_lost_and_found(root)
    pending = [root]
    while pending:
        pending.extend(reversed(_visit(pending.pop(), numbering)))
    _number_new(numbering, used)
    numbering.used[: FIRST + 1] = reserved()
    return numbering


def _add_lost_and_found(root: Inode) -> None:
    """Its time is the newest of the tree, as the file system's: that of the layer that brought it about."""
    children = root.children if root.children is not None else {}
    found = children.get(LOST_AND_FOUND)
    if found is None:
        found = children[LOST_AND_FOUND] = Inode(stat.S_IFDIR, 0o700, mtime=newest(root), children={})
    found.number = LOST_AND_FOUND_NUMBER


def newest(root: Inode) -> int:
    """The newest time in a tree, in nanoseconds; never before 1970."""
    latest, pending = max(0, root.mtime), [root]
    while pending:
        for child in (pending.pop().children or {}).values():
            latest = max(latest, child.mtime)
            if child.children is not None:
                pending.append(child)
    return latest


def taken(root: Inode) -> bytearray:
    """The numbers that a tree has which was numbered before, as ``number`` takes them."""
    used = reserved()
    for inode in walk(root):
        if inode.number >= len(used):
            used.extend(bytes(inode.number + 1 - len(used)))
        used[inode.number] = 1
    return used


def needed(root: Inode) -> int:
    """Inodes that a file system of this tree takes, the reserved ones and ``lost+found`` included."""
    placed = {root, (root.children or {}).get(LOST_AND_FOUND)}
    return FIRST + len(set(walk(root)) - placed)


def walk(root: Inode) -> Iterator[Inode]:
    """Every inode of a tree, those with several names several times."""
    pending = [root]
    while pending:
        inode = pending.pop()
        yield inode
        if inode.children is not None:
            pending += inode.children.values()


def entries(directory: Inode) -> list[tuple[bytes, Inode]]:
    return sorted((directory.children or {}).items(), key=_name)


def _name(entry: tuple[bytes, Inode]) -> bytes:
    return entry[0]


def _visit(directory: Inode, numbering: Numbering) -> list[Inode]:
    """Take the numbers that the children keep; return the sub-directories."""
    below = []
    inodes = numbering.inodes
    for _, child in entries(directory):
        if child.number <= 0:
            numbering.new.append(child)
        elif inodes[child.number] is child:
            _count_name(numbering, child)
            continue
        else:
            inodes[child.number] = child
        if child.children is not None:
            numbering.parents[child] = directory
            below.append(child)
    if below:
        numbering.links[directory] = numbering.links.get(directory, 1) + len(below)
    return below


def _count_name(numbering: Numbering, inode: Inode) -> None:
    numbering.links[inode] = numbering.links.get(inode, 1) + 1


def _number_new(numbering: Numbering, before: bytearray) -> None:
    """Give numbers to ``new``, which has an inode once for each of its names; afterwards it has each once."""
    inodes, new, kept, free = numbering.inodes, numbering.new, 0, FIRST
    before = bytearray(before)
    for inode in new:
        if inode.number > 0:
            _count_name(numbering, inode)
            continue
        chosen = -inode.number
        if not chosen or inodes[chosen] is not None:
            free = chosen = _next_free(before, free + 1)
            if chosen >= len(inodes):
                inodes.extend([None] * (chosen + 1 - len(inodes)))
        inode.number = chosen
        inodes[chosen] = inode
        new[kept] = inode
        kept += 1
    del new[kept:]
    numbering.used = bytearray(inode is not None for inode in inodes)


def _next_free(before: bytearray, start: int) -> int:
    found = before.find(0, start)
    return found if found >= 0 else max(start, len(before))


def extents_of(inodes: Iterable[Inode]) -> Iterator[range]:
    """The blocks that a tree's inodes have besides file data."""
    for inode in inodes:
        yield from (range(block, block + 1) for block in inode.beside if block)
        if inode.kind != stat.S_IFREG:
            yield from (range(physical, physical + count) for _, physical, count in inode.extents)
