"""One file of an image, as ``tree`` makes it, ``ext4`` writes it and ``index`` keeps it. No state."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Inode:
    """One file, under one name or several. Directories have ``children``; everything else has None there."""

    kind: int
    """``stat.S_IFREG``, ``S_IFDIR``, ``S_IFLNK``, ``S_IFCHR``, ``S_IFBLK`` or ``S_IFIFO``."""
    mode: int
    """Permission bits, 0o7777."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Nanoseconds since the epoch; may be negative."""
    size: int = 0
    """Apparent bytes of a regular file."""
    extents: list[tuple[int, int, int]] = field(default_factory=list)
    """(logical block, physical block, blocks) of a regular file, ascending; holes are absent. Filled by the ext4 writer."""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Inode] | None = None
    names: int = 1
    """At least as many as its names in the tree: those in a directory that was hidden or replaced may still be counted."""


def directory() -> Inode:
    """A directory that no member describes: the root before its entry, and parents that a tar leaves out."""
    return Inode(stat.S_IFDIR, 0o755, children={})
