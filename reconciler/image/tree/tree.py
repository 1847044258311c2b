"""The name space of an image: members applied, links resolved inside the root, whiteouts, later layers over earlier ones.

Filled by the builder, one member after the other and one layer after the other; written out by ``ext4``, kept by ``index``.
No path of the host is ever touched: a symlink can lead nowhere but to another place in this tree. State: the inodes, and what the
current layer has put where.

A member's parent resolves as a process with this root would see it (symlinks followed, ``..`` of the root is the root); its last
component is never followed. Decisions, and where they come from:

- A directory over a directory keeps the children and takes the new metadata (OCI image specification, "Layers").
- A directory over a symlink to a directory keeps the link, and leaves what it points to alone, where the same layer made the
  link: archives joined from two trees need it for a merged ``/usr``. A link of a lower layer is replaced, as overlayfs has it.
- Anything else over a directory with children: replaces one of a lower layer (OCI), is refused where the same layer filled it.
- Whiteouts hide what lower layers brought, wherever in the layer they are (OCI). A member whose way leads through a symlink of a
  lower layer is deferred to the layer's end, with all members behind it: a whiteout or a directory may yet replace that link.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from itertools import pairwise

from reconciler.image.archive.member import HARDLINK, Malformed, Member, shown
from reconciler.image.spec import Limits
from reconciler.image.tree.accounts import Accounts
from reconciler.image.tree.inode import LOST_AND_FOUND, NO_XATTRS, Inode, directory
from reconciler.image.tree.judge import AUFS_LINKS, WHITEOUT, components, is_aufs_metadata
from reconciler.image.tree.whiteouts import Whiteouts, children_of, is_whiteout, split

__all__ = ["Inode", "Tree"]

MAX_SYMLINKS = 40
"""Symlinks that one resolution may follow, as in Linux."""

STEPS_AN_ENTRY = 16
"""Components that a layer may walk in all, by its limit of entries: a million long ways through links are an attack."""

BYTES_A_STEP = 16
"""Bytes of a link's target that cost as much to follow as one more directory: it may be thousands of slashes."""

MAX_LINKS = 65_000
"""Names that an ext4 inode can have."""


_PASSABLE = (stat.S_IFDIR, stat.S_IFLNK)
"""What the way to a name can go through."""

_NO_NAMES = (b"", b".", b"..", LOST_AND_FOUND)
"""Last components that need more than a place."""

_Trail = list[tuple[bytes, Inode]]


class _ThroughLowerLink(Exception):
    """A way leads through a symlink of a lower layer, and the layer has not ended yet."""


class Tree:
    """``entries`` counts what the current layer has added, ``implied`` the directories among them that no member described.

    ``ignored`` counts its whiteouts of ``lost+found``, which every file system has. ``accounts``: its users and groups.
    ``strict``: plain members get no shorter way.
    """

    def __init__(self, limits: Limits, root: Inode | None = None, *, strict: bool = False) -> None:
        self._strict = strict
        self.root = root or directory()
        self.accounts = Accounts(self.root)
        self._limits = limits
        self._deferred: list[tuple[Member, Inode | None]] = []
        self._last_head: bytes | None = None
        self._last_parent = self.root
        self._last_time = 0
        self._modes: dict[int, int] = {}
        self.begin_layer()

    def begin_layer(self) -> None:
        """What is there now belongs to lower layers from here on."""
        self._deferred = []
        self._aufs_links: dict[bytes, Inode] = {}
        self._ending = False
        self.entries = 0
        self.implied = 0
        self.ignored = 0
        self._steps_left = 2**16 + STEPS_AN_ENTRY * self._limits.max_entries
        self._whiteouts = Whiteouts(lower=bool(self.root.children))
        self._forget_parent()

    def add(self, member: Member) -> Inode | None:
        """Apply a member of the current layer; a new inode where it is a regular file, whose data is to be written, else None.

        Raises LayerRefused.
        """
        inode = None if member.type in (HARDLINK, stat.S_IFDIR) else self._inode(member)
        if inode is not None and not self._strict and self._placed(member.name, inode):
            return inode if member.type == stat.S_IFREG else None
        try:
            self._count()
            if self._deferred:
                self._deferred.append((member, inode))
            else:
                self._apply_or_defer(member, inode)
        except Malformed as broken:
            raise broken.refusal(member.name, member.offset) from None
        return inode if member.type == stat.S_IFREG and not is_whiteout(member) else None

    def _placed(self, path: bytes, inode: Inode) -> bool:
        """Put a new file beside the member before it, in the first layer, where nothing has its name; else False."""
        head, _, name = path.rpartition(b"/")
        if (
            head != self._last_head
            or self._whiteouts.lower
            or self._deferred
            or b".wh." in path
            or name in _NO_NAMES
            or self.entries >= self._limits.max_entries
        ):
            return False
        children = children_of(self._last_parent)
        if name in children:
            return False
        self.entries += 1
        children[name] = inode
        return True

    def _inode(self, member: Member) -> Inode:
        """Equal modes, and equal times of neighbours, are one object: an image has many inodes."""
        if member.mtime_ns != self._last_time:
            self._last_time = member.mtime_ns
        mode, xattrs = self._modes.setdefault(member.mode, member.mode), member.xattrs or NO_XATTRS
        inode = Inode(member.type, mode, member.uid, member.gid, self._last_time, member.size, xattrs=xattrs)
        if member.type == stat.S_IFLNK:
            inode.target = member.linkname
        elif member.type in (stat.S_IFCHR, stat.S_IFBLK):
            inode.device = member.devmajor, member.devminor
        return inode

    def end_layer(self) -> None:
        """Apply what was deferred: whiteouts that no lower link leads to, members, the other whiteouts. Raises LayerRefused."""
        waiting, later = self._deferred, []
        for member, inode in waiting:
            if is_whiteout(member) and not self._applied(member, inode):
                later.append((member, inode))
        self._ending = True
        for member, inode in [one for one in waiting if not is_whiteout(one[0])] + later:
            self._applied(member, inode)
        self._deferred = []

    def drop(self, files: Mapping[bytes, Inode]) -> None:
        """Take files of the current layer out of the root directory, as far as they are still there."""
        children = children_of(self.root)
        for name, inode in files.items():
            if children.get(name) is inode:
                del children[name]
                inode.names -= 1

    def _applied(self, member: Member, inode: Inode | None) -> bool:
        """Apply a deferred member; False where its way leads through a link of a lower layer that may yet be replaced."""
        try:
            self._apply(member, inode)
        except _ThroughLowerLink:
            return False
        except Malformed as broken:
            raise broken.refusal(member.name, member.offset) from None
        return True

    def _apply_or_defer(self, member: Member, inode: Inode | None) -> None:
        try:
            self._apply(member, inode)
        except _ThroughLowerLink:
            self._deferred.append((member, inode))

    def _apply(self, member: Member, inode: Inode | None) -> None:
        head, name = split(member.name)
        if not name:
            self._describe_root(member)
        elif b".wh..wh." in member.name and is_aufs_metadata(components(member.name)):
            if inode is not None:
                self._aufs_links[name] = inode
        elif name.startswith(WHITEOUT):
            self._apply_whiteout(head, name)
        elif member.type == HARDLINK:
            self._link(self._parent(head), name, member.linkname)
        elif inode is None:
            self._put_directory(self._parent(head), head, name, member)
        else:
            self._put(self._parent(head), name, inode)

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._limits.max_entries:
            raise Malformed(
                "limit-entries", f"the layer has more than {self._limits.max_entries} entries, implied directories included"
            )

    def _describe_root(self, member: Member) -> None:
        if member.type != stat.S_IFDIR:
            raise Malformed("root-type", "the root can only be a directory")
        _describe(self.root, member)

    # -------------------------------------------------------------------------------------------------- placing

    def _put(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """Give a name to an inode, whatever had it before; an inode with other names stays under those."""
        if name == LOST_AND_FOUND and parent is self.root and inode.children is None:
            raise Malformed("lost-and-found", "ext4 has a directory of this name in the root, for what e2fsck finds")
        children = children_of(parent)
        existing = children.get(name)
        if existing is not None:
            if existing.children and self._whiteouts.owns(parent, name):
                raise Malformed("type-change", "it would replace a directory that the same layer has filled")
            if existing.kind in _PASSABLE:
                self._forget_parent()
            existing.names -= 1
            inode.number = inode.number or -abs(existing.number)  # a name that stays keeps its number
        children[name] = inode
        self._whiteouts.place(parent, name)

    def _put_directory(self, parent: Inode, head: bytes, name: bytes, member: Member) -> None:
        existing = children_of(parent).get(name)
        if existing is None or existing.children is None:
            if existing is not None and self._keeps_link(parent, existing, head, name):
                return
            made = directory()
            self._put(parent, name, made)
            self._whiteouts.made(made)
            _describe(made, member)
        else:
            self._whiteouts.place(parent, name)
            _describe(existing, member)
            self._whiteouts.described(existing)

    def _keeps_link(self, parent: Inode, existing: Inode, head: bytes, name: bytes) -> bool:
        if existing.kind != stat.S_IFLNK or not self._whiteouts.owns(parent, name):
            return False
        return bool(self._walk([*components(head), name], create=False))

    def _link(self, parent: Inode, name: bytes, linkname: bytes) -> None:
        target = self._lookup(linkname)
        if target is None:
            raise Malformed("hardlink-missing", "its target does not exist")
        if target.children is not None:
            raise Malformed("hardlink-directory", "it is a hard link to a directory")
        if children_of(parent).get(name) is target:
            self._whiteouts.place(parent, name)
            return
        if target.names >= MAX_LINKS and self._recount(target) >= MAX_LINKS:
            raise Malformed(
                "limit-links", f"it would be the name after {MAX_LINKS} of one file, which is all that ext4 can count"
            )
        target.names += 1
        self._put(parent, name, target)

    def _recount(self, target: Inode) -> int:
        """The names of an inode, counted in the whole tree: those in directories that were hidden or replaced are gone."""
        target.names, todo = 0, [self.root]
        while todo:
            children = children_of(todo.pop())
            self._spend_step(len(children))
            target.names += sum(child is target for child in children.values())
            todo += (child for child in children.values() if child.children is not None)
        return target.names

    def _lookup(self, path: bytes) -> Inode | None:
        """What a path names, without following its last component; None where there is nothing."""
        parts = components(path)
        if parts[:1] == [AUFS_LINKS]:
            return self._aufs_links.get(parts[-1])
        if parts[-1:] == [b".."] or (b".." in parts and self._limits.climbing_links == "refuse"):
            raise Malformed("name-climbs", "the name of a hard link's target has a component ..")
        trail = self._walk(parts[:-1], create=False)
        if not (trail and parts):
            return self.root if not parts else None
        return children_of(trail[-1][1]).get(parts[-1])

    # ------------------------------------------------------------------------------------------------- resolving

    def _parent(self, head: bytes) -> Inode:
        """The directory that a name's head leads to, made where it is missing. Members come by directory: one is remembered."""
        if head == self._last_head:
            return self._last_parent
        parts = components(head)
        if b".." in parts:
            raise Malformed("name-climbs", "a name has a component ..")
        trail = self._walk(parts, create=True)
        for (_, above), (name, _) in pairwise(trail):
            self._whiteouts.place(above, name)
        self._last_head, self._last_parent = head, trail[-1][1]
        return self._last_parent

    def _forget_parent(self) -> None:
        self._last_head = None

    def _walk(self, parts: list[bytes], *, create: bool) -> _Trail:
        """The directories from the root to the one that ``parts`` lead to, with the names they have there.

        Where it leads to no directory: an empty trail, or, with ``create``, what is missing is made and the rest refused.
        """
        trail: _Trail = [(b"", self.root)]
        todo, links = parts[::-1], 0
        while todo:
            self._spend_step()
            part = todo.pop()
            if part == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            child = self._step(trail[-1][1], part, create)
            if child is None:
                return []
            if child.kind == stat.S_IFLNK:
                if not self._ending and not self._whiteouts.owns(trail[-1][1], part):
                    raise _ThroughLowerLink
                links += 1
                self._spend_step(len(child.target) // BYTES_A_STEP)
                if child.target.startswith(b"/"):
                    del trail[1:]
                todo += components(child.target)[::-1]
            else:
                trail.append((part, child))
            if links > MAX_SYMLINKS or len(trail) > self._limits.max_depth:
                return _lost(create)
        return trail

    def _spend_step(self, steps: int = 1) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise Malformed("limit-resolution", "the layer's names lead through too many links and directories")

    def _step(self, above: Inode, name: bytes, create: bool) -> Inode | None:
        """The directory or symlink of that name; what is missing is made where ``create`` is set."""
        child = children_of(above).get(name)
        if child is None and create:
            if name.startswith(WHITEOUT):
                raise Malformed("whiteout", "a link on its way leads below a name that begins with .wh.")
            if len(name) > self._limits.max_name_bytes:
                most = self._limits.max_name_bytes
                raise Malformed(
                    "name-length", f"a link on its way leads to a name of more than {most} bytes (limits.maxNameBytes)"
                )
            self._count()
            self.implied += 1
            child = children_of(above)[name] = directory()
            self._whiteouts.made(child)
            self._whiteouts.place(above, name)
        if child is not None and child.kind in _PASSABLE:
            return child
        if create:
            raise Malformed("parent-type", f"{shown(name)} on its way is not a directory")
        return None

    # ------------------------------------------------------------------------------------------------- whiteouts

    def _apply_whiteout(self, head: bytes, name: bytes) -> None:
        """Hide what lower layers have there; nothing there is fine."""
        trail = self._walk(components(head), create=False)
        if not trail:
            return
        if trail[-1][1] is self.root and name == WHITEOUT + LOST_AND_FOUND:
            self.ignored += 1
            return
        self._forget_parent()
        self._whiteouts.apply(trail[-1][1], name)


def _lost(create: bool) -> _Trail:
    if create:
        raise Malformed("link-loop", "it lies behind too many symlinks, or too deep (limits.maxDepth)")
    return []


def _describe(inode: Inode, member: Member) -> None:
    inode.mode, inode.uid, inode.gid = member.mode, member.uid, member.gid
    inode.mtime, inode.xattrs = member.mtime_ns, member.xattrs or NO_XATTRS
