"""One member of a tar, with every override applied.

Made by ``tar``, examined by ``judge``, applied by ``tree``. No state.
"""

from __future__ import annotations

import stat

from reconciler.dataclass import dataclass, field
from reconciler.errors import LayerRefused, visible

SHOWN = 120
"""Bytes of a name that messages and lists show."""

HARDLINK = 0
"""A member's type where it is one more name of an inode: it has no file type of its own. The others are ``stat.S_IF*``."""

TYPE_NAMES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    HARDLINK: "hardlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
}
"""Every type that a member can have, in the words of reports."""


@dataclass(slots=True)
class Member:
    """Names are bytes as stored, neither split nor cleaned; they hold no NUL."""

    name: bytes
    type: int
    """One of ``TYPE_NAMES``."""
    mode: int = 0o644
    """Permission bits, 0 to 0o7777."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    """Nanoseconds since the epoch; may be negative."""
    size: int = 0
    """Apparent bytes of a regular file, holes included; 0 for every other type."""
    stored: int = 0
    """Bytes of data that the tar holds for it; equals ``size`` unless the file is sparse."""
    linkname: bytes = b""
    """Target of a symlink, or the name that a hard link is another name of."""
    devmajor: int = 0
    devminor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    """By full name. Metadata that no image can hold is kept under its pax name, for the judge to report."""
    segments: list[tuple[int, int]] | None = None
    """(offset, length) of a sparse file's data, ascending, as stored one after the other; None where it has no holes."""
    offset: int = 0
    """Byte of the decompressed tar where its header begins."""


class Malformed(Exception):
    """A part of the tar breaks the rule ``rule``; the reader turns it into a LayerRefused that says where."""

    def __init__(self, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.hint = hint

    def refusal(self, name: bytes, offset: int) -> LayerRefused:
        """The same of the member with this name, whose header begins at this byte."""
        message = f"{shown(name)}: {self} (rule {self.rule}, header at byte {offset})"
        return LayerRefused(message, rule=self.rule, member=name, offset=offset, hint=self.hint)


def shown(name: bytes) -> str:
    """A name fit for messages and JSON: what is not printable is escaped, what is long is cut."""
    text = name[:SHOWN].decode("utf-8", "backslashreplace")
    return f"{visible(text)}…" if len(name) > SHOWN else visible(text)
