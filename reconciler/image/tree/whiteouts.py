"""Whiteouts: a layer's own members stay, what lower layers have under the same names is hidden.

Used by ``tree``, which resolves a whiteout's way and calls ``apply``. OCI allows a whiteout before or after the members beside
it: both orders must give the same tree, so a directory of a lower layer that the current one has been in is not dropped but
emptied of what is not the current layer's. State: marks on the directories of one layer; on the first layer nothing is marked,
everything is its own.
"""

from __future__ import annotations

from reconciler.image.archive.member import Malformed, Member
from reconciler.image.tree.inode import Inode, directory
from reconciler.image.tree.judge import OPAQUE, WHITEOUT, components


class Whiteouts:
    """Those of one layer, and what it has put where. ``lower``: whether there is anything below this layer."""

    def __init__(self, *, lower: bool) -> None:
        self.lower = lower
        self._made: set[Inode] = set()
        """Directories that hold nothing of lower layers: made by this one, or emptied by it."""
        self._placed: dict[Inode, set[bytes]] = {}
        """For the others: names that this layer has put into them, or gone through."""
        self._described: set[Inode] = set()
        """Directories of lower layers whose metadata this layer has given."""

    def made(self, directory: Inode) -> None:
        if self.lower:
            self._made.add(directory)

    def described(self, directory: Inode) -> None:
        if self.lower:
            self._described.add(directory)

    def place(self, parent: Inode, name: bytes) -> None:
        """The current layer put this name there, or went through it."""
        if self.lower and parent not in self._made:
            self._placed.setdefault(parent, set()).add(name)

    def owns(self, parent: Inode, name: bytes) -> bool:
        """Whether the current layer put this name there or went through it."""
        return not self.lower or parent in self._made or name in self._placed.get(parent, ())

    def apply(self, parent: Inode, whiteout: bytes) -> None:
        """Apply the whiteout of this name (``.wh.NAME`` or the opaque marker) in a directory."""
        if whiteout == OPAQUE:
            self.hide_all(parent)
        else:
            self.hide(parent, whiteout.removeprefix(WHITEOUT))

    def hide(self, parent: Inode, name: bytes) -> None:
        """Hide what lower layers have under a name."""
        child = children_of(parent).get(name)
        if child is None:
            return
        if not self.owns(parent, name):
            self._drop(children_of(parent), name)
        elif child.children is not None and self._is_lower(child):
            self._forget_lower(child)
            self.hide_all(child)

    def hide_all(self, top: Inode) -> None:
        """Hide what lower layers have in a directory, and in all below it. Each directory is emptied once a layer at most."""
        emptied = [top] if self._is_lower(top) else []
        while emptied:
            parent = emptied.pop()
            own = self._placed.pop(parent, set())
            self._made.add(parent)
            children = children_of(parent)
            for name in [name for name in children if name not in own]:
                self._drop(children, name)
            for child in children.values():
                if child.children is not None and self._is_lower(child):
                    self._forget_lower(child)
                    emptied.append(child)

    def _drop(self, children: dict[bytes, Inode], name: bytes) -> None:
        """Take a name away. Names below a directory stay counted until they are counted anew (``tree``)."""
        children.pop(name).names -= 1

    def _is_lower(self, directory: Inode) -> bool:
        return self.lower and directory not in self._made

    def _forget_lower(self, found: Inode) -> None:
        """Make a directory as it would be had the lower one been hidden first: described by this layer, or implied by it."""
        if found not in self._described:
            implied = directory()
            found.mode, found.uid, found.gid = implied.mode, implied.uid, implied.gid
            found.mtime, found.xattrs = implied.mtime, implied.xattrs


def children_of(parent: Inode) -> dict[bytes, Inode]:
    """The children of an inode that is a directory."""
    assert parent.children is not None
    return parent.children


def is_whiteout(member: Member) -> bool:
    """Also for AUFS' own files but those that hard links may lead to."""
    return b".wh." in member.name and split(member.name)[1].startswith(WHITEOUT)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Head and last component of a name; the last is empty for the root."""
    head, _, name = path.rstrip(b"/").rpartition(b"/")
    if name not in (b"", b".", b".."):
        return head, name
    parts = components(path)
    if b".." in parts:
        raise Malformed("name-climbs", "a name has a component ..")
    return b"/".join(parts[:-1]), parts[-1] if parts else b""
