"""Paths of a file system that is edited: symlinks are resolved inside its root directory, missing directories made.

Called by ``edit``. No state.
"""

from __future__ import annotations

import stat
from collections import deque

from reconciler.dataclass import dataclass
from reconciler.errors import FileRefused
from reconciler.image.ext4.directory import DIRECTORY, MAX_NAME, dots, linear
from reconciler.image.ext4.numbering import ROOT
from reconciler.image.ext4.stored import Stored
from reconciler.image.ext4.stored_directory import StoredDirectory
from reconciler.image.ext4.stored_inode import Node, write_new

MOST_SYMLINKS = 40
"""As many as Linux follows."""
MOST_COMPONENTS = 4096
DIRECTORY_MODE = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Located:
    """Where a path leads: a name in a directory, and the inode that has it; None where nothing has it yet."""

    directory: StoredDirectory
    name: bytes
    node: Node | None


def shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def resolve(stored: Stored, path: bytes, *, make: bool = False, follow: bool = True) -> Located | None:
    """Find where an absolute path leads. With ``make`` the directories on the way are made; None where one is missing without.

    With ``follow`` false, a symlink in the last place is not followed. Raises FileRefused.
    """
    way = [ROOT]
    left = deque(_components(path, path))
    followed = 0
    while True:
        name = left.popleft() if left else b"."
        if name == b"..":
            if len(way) == 1:
                raise FileRefused(f"{shown(path)} leads out of the image's root directory", hint="a symlink on the way climbs")
            way.pop()
            continue
        directory = StoredDirectory(Node.of(stored, way[-1]))
        if name == b".":
            raise FileRefused(f"{shown(path)} is a directory of the image", hint="a file needs a path of its own")
        slot = directory.find(name)
        if slot is None:
            if not left:
                return Located(directory, name, None)
            if not make:
                return None
            way.append(_make(stored, directory, name, path))
            continue
        node = Node.of(stored, slot.number)
        if node.kind == stat.S_IFLNK and (left or follow):
            followed += 1
            target = node.target()
            if target.startswith(b"/"):
                way = [ROOT]
            left.extendleft(reversed(_components(target, path)))
            if followed > MOST_SYMLINKS or len(left) > MOST_COMPONENTS:
                raise FileRefused(f"{shown(path)}: more than {MOST_SYMLINKS} symlinks on the way", hint="they may form a loop")
            continue
        if not left:
            return Located(directory, name, node)
        if node.kind != stat.S_IFDIR:
            raise FileRefused(f"{shown(path)}: {shown(name)} on the way is not a directory", hint="choose another path")
        way.append(slot.number)


def _components(text: bytes, path: bytes) -> list[bytes]:
    """``.`` and repeated slashes left out; a directory as the target of the last symlink ends with ``.``."""
    parts = [part for part in text.split(b"/") if part and part != b"."]
    if any(len(part) > MAX_NAME for part in parts):
        raise FileRefused(f"{shown(path)}: a name on the way is longer than {MAX_NAME} bytes", hint="choose another path")
    return parts


def _make(stored: Stored, parent: StoredDirectory, name: bytes, path: bytes) -> int:
    wanted_for = shown(path)
    number = stored.new_inode(wanted_for, directory=True)
    node = Node(stored, number, bytearray(256))
    content = linear(dots(number, parent.node.number), node.seed)
    write_new(stored, number, content, DIRECTORY_MODE, (0, 0), wanted_for, links=2)
    parent.node.add_link(1)
    parent.insert(name, number, DIRECTORY, wanted_for)
    return number
