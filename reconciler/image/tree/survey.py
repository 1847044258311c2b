"""The survey of a layer for ``inspect``: what an operator checks before trusting it, beyond the totals that every build keeps.

Filled by the builder as the members pass, on request only: a build pays nothing. State: counts, a few
names for each of them however many members there are, and a number for each name, so that those given twice are found.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from reconciler.image.archive.attributes import CAPABILITY
from reconciler.image.archive.member import HARDLINK, SHOWN, TYPE_NAMES, Member, shown
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits
from reconciler.image.tree.inode import Inode
from reconciler.image.tree.judge import OPAQUE, climbs, components
from reconciler.image.tree.totals import Named
from reconciler.image.tree.tree import BYTES_A_STEP, MAX_SYMLINKS, STEPS_AN_ENTRY, Tree
from reconciler.image.tree.whiteouts import children_of

LISTED = 5
"""How many names each list keeps. All lists together have to fit one packet of ``control``, whatever the names are."""

LISTED_XATTRS = 12
HALF = (SHOWN - len(" -> ")) // 2
BIGGEST_OLD_ID = 65535
"""The last id of 16 bits: what lies above comes from a user namespace, a directory service, or a mistake."""


class Survey:
    """One layer's. ``follow`` hands its members on and counts each one once its reader has come back for the next."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._types = dict.fromkeys(TYPE_NAMES, 0)
        self._formats: dict[str, int] = {}
        self._seen: set[int] = set()
        self._uids: set[int] = set()
        self._gids: set[int] = set()
        self._times: tuple[int, int] | None = None
        self._deepest: tuple[int, bytes] = (0, b"")
        self._sparse = self._hole_bytes = self._absolute = 0
        self._kept: dict[bytes, int] = {}
        kinds = "setuid setgid capabilities writable_files writable_directories climbing opaque whiteouts duplicates"
        self._named = {kind: Named(limit=LISTED) for kind in kinds.split()}

    # -- members

    def follow(self, reader: Reader) -> Iterator[Member]:
        """The reader's members. Values that the judge may change are read before the judge validates the member."""
        end = 0
        for member in reader:
            form = dialect(reader.block, extended=member.offset != end)
            mode, capable = member.mode, CAPABILITY in member.xattrs
            yield member
            self._formats[form] = self._formats.get(form, 0) + 1
            self._count(member, mode, capable=capable)
            end = reader.end

    def _count(self, member: Member, mode: int, *, capable: bool) -> None:
        kind, parts = member.type, components(member.name)
        self._entries += 1
        self._types[kind] += 1
        self._note_name(member, parts)
        self._note_numbers(member)
        for name in member.xattrs:
            self._kept[name] = self._kept.get(name, 0) + 1
        if kind == stat.S_IFREG:
            self._note_file(member, mode, capable=capable)
        elif kind == stat.S_IFDIR:
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                self._add("writable_directories", member.name)
        elif kind in (stat.S_IFLNK, HARDLINK):
            self._note_link(member, parts)

    def _note_name(self, member: Member, parts: list[bytes]) -> None:
        if len(parts) > self._deepest[0]:
            self._deepest = len(parts), member.name
        if parts and parts[-1].startswith(b".wh."):
            self._add("opaque" if parts[-1] == OPAQUE else "whiteouts", member.name)
        key = hash(b"/".join(parts))  # a million long names would be much to keep; two of them share a number once in an age
        if key in self._seen:
            self._add("duplicates", member.name)
        self._seen.add(key)

    def _note_numbers(self, member: Member) -> None:
        if member.type == HARDLINK:
            return  # it has no metadata of its own
        self._uids.add(member.uid)
        self._gids.add(member.gid)
        first, last = self._times or (member.mtime_ns, member.mtime_ns)
        self._times = min(first, member.mtime_ns), max(last, member.mtime_ns)

    def _note_file(self, member: Member, mode: int, *, capable: bool) -> None:
        for kind, holds in (
            ("setuid", mode & stat.S_ISUID),
            ("setgid", mode & stat.S_ISGID),
            ("capabilities", capable),
            ("writable_files", mode & stat.S_IWOTH),
        ):
            if holds:
                self._add(kind, member.name)
        if member.segments is not None:
            self._sparse += 1
            self._hole_bytes += member.size - sum(length for _, length in member.segments)

    def _note_link(self, member: Member, parts: list[bytes]) -> None:
        absolute = member.linkname.startswith(b"/")
        if member.type == HARDLINK:
            if b".." in components(member.linkname):
                self._add("climbing", _arrow(member.name, member.linkname))
            return
        self._absolute += absolute
        if not absolute and climbs(parts, member.linkname):
            self._add("climbing", _arrow(member.name, member.linkname))

    def _add(self, kind: str, name: bytes) -> None:
        self._named[kind].add(name)

    # -- the answer

    def document(self, compression: str, tree: Tree, *, whole: bool) -> dict[str, object]:
        """Fit for JSON and one packet. Dangling links are listed for a ``whole`` layer only."""
        named = {kind: found.document() for kind, found in self._named.items()}
        return {
            "entries": self._entries,
            "types": {TYPE_NAMES[kind]: count for kind, count in self._types.items() if count},
            "compression": compression,
            "formats": self._formats,
            "setuidFiles": named["setuid"],
            "setgidFiles": named["setgid"],
            "capabilities": named["capabilities"],
            "worldWritableFiles": named["writable_files"],
            "worldWritableDirectories": named["writable_directories"],
            "climbingLinks": named["climbing"],
            "absoluteLinks": self._absolute,
            "danglingLinks": Dangling(tree.root, self._limits).document() if whole else None,
            "whiteoutFiles": named["whiteouts"],
            "opaqueDirectories": named["opaque"],
            "sparse": {"count": self._sparse, "holeBytes": self._hole_bytes},
            "keptXattrs": _first(self._kept),
            "owners": self._owners(),
            "times": None if self._times is None else {"firstNs": self._times[0], "lastNs": self._times[1]},
            "impliedDirectories": tree.implied,
            "duplicates": named["duplicates"],
            "deepest": {"components": self._deepest[0], "name": shown(self._deepest[1])},
        }

    def _owners(self) -> dict[str, object]:
        ids = self._uids | self._gids
        return {
            "uids": len(self._uids),
            "gids": len(self._gids),
            "above65535": sum(number > BIGGEST_OLD_ID for number in ids),
            "highest": max(ids, default=0),
        }


class Dangling:
    """Symlinks of a tree that lead to nothing in it, as a process with that root would follow them; to a lower layer, maybe."""

    def __init__(self, root: Inode, limits: Limits) -> None:
        self._root = root
        self._places: dict[Inode, tuple[Inode, bytes]] = {root: (root, b"")}
        """Where each directory is, and its name there."""
        self._steps_left = 2**16 + STEPS_AN_ENTRY * limits.max_entries
        self._found = Named(limit=LISTED)
        self._unfollowed = 0
        for above, name, link in self._links():
            self._look(above, name, link)

    def document(self) -> dict[str, object]:
        """``unfollowed`` links lead through so much that following them was given up."""
        return self._found.document() | {"unfollowed": self._unfollowed}

    def _links(self) -> list[tuple[Inode, bytes, Inode]]:
        """The symlinks, with their directories and names. Meanwhile all directories get their places."""
        links, todo = [], [self._root]
        while todo:
            above = todo.pop()
            for name, child in children_of(above).items():
                if child.children is not None:
                    self._places[child] = above, name
                    todo.append(child)
                elif child.kind == stat.S_IFLNK:
                    links.append((above, name, child))
        return links

    def _look(self, above: Inode, name: bytes, link: Inode) -> None:
        leads = self._leads_somewhere(above, link)
        if self._steps_left < 0:
            self._unfollowed += 1
        elif not leads:
            self._found.add(_arrow(self._path(above, name), link.target))

    def _leads_somewhere(self, at: Inode, link: Inode) -> bool:
        at, todo, links = self._enter(at, link), [*self._ways(link)], 1
        while todo:
            self._steps_left -= 1
            part = todo.pop()
            if part == b"..":
                at = self._places[at][0]
                continue
            child = children_of(at).get(part)
            if child is None or links > MAX_SYMLINKS or self._steps_left < 0:
                return False
            if child.kind == stat.S_IFLNK:
                links += 1
                at = self._enter(at, child)
                todo += self._ways(child)
            elif child.children is not None:
                at = child
            elif todo:
                return False
        return True

    def _enter(self, at: Inode, link: Inode) -> Inode:
        return self._root if link.target.startswith(b"/") else at

    def _ways(self, link: Inode) -> list[bytes]:
        """A link's components, the last one first. Taking a long target apart costs as much as many a step."""
        self._steps_left -= len(link.target) // BYTES_A_STEP
        return components(link.target)[::-1] if self._steps_left >= 0 else []

    def _path(self, above: Inode, name: bytes) -> bytes:
        parts = [name]
        while above is not self._root:
            above, part = self._places[above]
            parts.append(part)
        return b"/".join(reversed(parts))


def dialect(header: bytes, *, extended: bool) -> str:
    """Which kind of tar a member's header block belongs to; ``extended``: whether other headers precede it."""
    magic = header[257:265]
    if magic == b"ustar  \0":
        return "gnu"
    if magic.startswith(b"ustar"):
        return "pax" if extended else "ustar"
    return "v7"


def _arrow(name: bytes, target: bytes) -> bytes:
    """A link, cut so that both ends of it are shown."""
    name = name if len(name) <= HALF else b"..." + name[3 - HALF :]
    target = target if len(target) <= HALF else target[: HALF - 3] + b"..."
    return name + b" -> " + target


def _first(counts: dict[bytes, int]) -> dict[str, object]:
    """The most frequent names, and how many others there are."""
    ranked: Iterable[tuple[bytes, int]] = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LISTED_XATTRS]
    return {"names": {shown(name): count for name, count in ranked}, "others": max(0, len(counts) - LISTED_XATTRS)}
