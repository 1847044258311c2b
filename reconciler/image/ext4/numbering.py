"""Inode numbers: every inode of a tree once, in an order that only the names decide.

Called by ``writer``. A directory's children have consecutive numbers, sorted by the bytes of their names, and come before
those of its sub-directories: so reading a directory and each of its entries reads the inode table front to back.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.image.tree.inode import Inode

ROOT = 2
JOURNAL = 8
FIRST = 11  # s_first_ino: the ones below are reserved


@dataclass(slots=True)
class Numbering:
    """``order`` holds the inodes by ascending number, the root first; ``parents`` the number of each directory's parent."""

    order: list[Inode]
    numbers: dict[Inode, int]
    links: dict[Inode, int] = field(default_factory=dict)
    parents: dict[Inode, int] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The highest number in use."""
        return FIRST + len(self.order) - 2

    def directories(self) -> Iterator[int]:
        return (self.numbers[directory] for directory in self.parents)

    def link_count(self, inode: Inode) -> int:
        """Names of a file; of a directory also its own ``.`` and each sub-directory's ``..``."""
        return self.links.get(inode, 1) + (inode in self.parents)


def number(root: Inode) -> Numbering:
    """Number the inodes that can be reached from ``root``. Each directory must have one name only."""
    numbering = Numbering([root], {root: ROOT}, parents={root: ROOT})
    pending = [root]
    while pending:
        pending.extend(reversed(_number_children(pending.pop(), numbering)))
    return numbering


def entries(directory: Inode) -> list[tuple[bytes, Inode]]:
    return sorted((directory.children or {}).items(), key=_name)


def _name(entry: tuple[bytes, Inode]) -> bytes:
    return entry[0]


def _number_children(directory: Inode, numbering: Numbering) -> list[Inode]:
    below = []
    numbers, order = numbering.numbers, numbering.order
    for _, child in entries(directory):
        if child in numbers:
            numbering.links[child] = numbering.links.get(child, 1) + 1
            continue
        numbers[child] = FIRST - 1 + len(order)
        order.append(child)
        if child.kind == stat.S_IFDIR:
            numbering.parents[child] = numbers[directory]
            below.append(child)
    if below:
        numbering.links[directory] = numbering.links.get(directory, 1) + len(below)
    return below
