"""The ids of an image's users and groups by name, from its /etc/passwd and /etc/group as far as layers have brought them.

Access control lists in words name users and groups; the host's own files mean others. ``builder.child`` hands each file's data to
``read``, ``judge`` asks for ids, ``index`` keeps the names for the layers above. State: the names of each file, by the inode
that they were read from: they count while that inode has the name. A member that the tree has deferred gets it later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconciler.image.archive.member import Malformed, Member
from reconciler.image.tree.inode import Inode

PASSWD, GROUP = b"passwd", b"group"
FILES = (PASSWD, GROUP)

MOST_BYTES = 1 << 20
"""A longer file, and one that is not a regular file with a name of its own, gives no names."""

MAX_ID = 2**32 - 2

_LEAST_FIELDS = {PASSWD: 4, GROUP: 3}
_ENDS = tuple(b"etc/" + file for file in FILES)
_number = re.compile(rb"[0-9]{1,10}").fullmatch
_kept = re.compile(rb"(passwd|group):([^:\n]+):([0-9]{1,10})").fullmatch

Piece = bytes | memoryview


class Accounts:
    """``root`` is that of the tree. A name that stands twice in a file has the first id, as getpwnam(3) returns it."""

    def __init__(self, root: Inode) -> None:
        self._root = root
        self._ids: dict[bytes, dict[Inode, dict[bytes, int]]] = {file: {} for file in FILES}

    def read(self, member: Member, inode: Inode, pieces: Iterable[Piece]) -> Iterable[Piece]:
        """The data of a member that the tree has as ``inode``, with its names noted where that is one of the two files."""
        if not member.name.endswith(_ENDS) or member.size > MOST_BYTES or member.segments is not None:
            return pieces
        directories, _, file = member.name.rpartition(b"/")
        if directories.strip(b"./") != b"etc":
            return pieces
        data = b"".join(pieces)
        now = self._file(file)
        self._ids[file] = {one: ids for one, ids in self._ids[file].items() if one is now} | {inode: parsed(file, data)}
        return (data,)

    def id_of(self, file: bytes, name: bytes) -> int | None:
        """The id of a user (``PASSWD``) or a group (``GROUP``); None where the image has no such name yet."""
        return self._names(file).get(name)

    def dump(self) -> bytes:
        """The names that count, as text."""
        return b"\n".join(b"%b:%b:%d" % (file, *one) for file in FILES for one in self._names(file).items())

    def load(self, text: bytes) -> None:
        """The inverse of ``dump``. Raises Malformed."""
        for line in text.split(b"\n") if text else ():
            match = _kept(line)
            inode = self._file(match[1]) if match else None
            if match is None or inode is None:
                raise Malformed("index", "its users and groups are malformed")
            self._ids[match[1]].setdefault(inode, {})[match[2]] = int(match[3])
        if self.dump() != text:
            raise Malformed("index", "its users and groups are malformed")

    def _names(self, file: bytes) -> dict[bytes, int]:
        now = self._file(file)
        return self._ids[file].get(now, {}) if now is not None else {}

    def _file(self, file: bytes) -> Inode | None:
        """What has the name now."""
        etc = (self._root.children or {}).get(b"etc")
        return (etc.children or {}).get(file) if etc is not None else None


def parsed(file: bytes, data: bytes) -> dict[bytes, int]:
    """The names of a passwd(5) or group(5); lines of another form are passed over."""
    found: dict[bytes, int] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":", 4)
        if len(fields) >= _LEAST_FIELDS[file] and fields[0] and _number(fields[2]) and int(fields[2]) <= MAX_ID:
            found.setdefault(fields[0], int(fields[2]))
    return found
