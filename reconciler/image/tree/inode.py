"""One file of an image, as ``tree`` makes it, ``ext4`` writes it and ``index`` keeps it. No state."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from reconciler.dataclass import dataclass, field

LOST_AND_FOUND = b"lost+found"
"""The directory in the root where e2fsck puts what it finds: every file system has it."""


NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
"""One value for the many inodes that have none."""


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
    extents: Sequence[tuple[int, int, int]] = ()
    """(logical block, physical block, blocks) of a regular file, ascending; holes are absent. Filled by the ext4 writer, and that
    of a directory or a symlink with a long target, too."""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    children: dict[bytes, Inode] | None = None
    names: int = 1
    """At least as many as its names in the tree: those in a directory that was hidden or replaced may still be counted."""
    number: int = 0
    """Inode number, 0 before the ext4 writer has given one. Negative: that of the inode which had the name before."""
    beside: tuple[int, ...] = ()
    """Further blocks that the ext4 writer has given: the one for extended attributes (0: none), then those of the extent tree."""


def directory() -> Inode:
    """A directory that no member describes: the root before its entry, and parents that a tar leaves out."""
    return Inode(stat.S_IFDIR, 0o755, children={})
