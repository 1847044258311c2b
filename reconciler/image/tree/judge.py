"""The judge: validates each member against the rules on names, links, numbers and attributes, and against the limits.

Called by the builder for each member before ``tree`` sees it; one judge for each layer. A rule's short name is part of the error
and of reports. State: the totals of the layer so far.

Where links may point: absolute targets are ordinary content and resolve inside the image; a relative one that climbs above the
root, counted from the link's own directory by its name, is refused, although it could not leave the image either, unless
``limits.climbingLinks`` is "resolve".
"""

from __future__ import annotations

import re
import stat

from reconciler.errors import LayerRefused
from reconciler.image.archive import acl
from reconciler.image.archive.attributes import CAPABILITY, access_mode, check_xattrs
from reconciler.image.archive.member import HARDLINK, Malformed, Member, shown
from reconciler.image.spec import Limits
from reconciler.image.tree.accounts import GROUP, PASSWD, Accounts
from reconciler.image.tree.inode import directory
from reconciler.image.tree.totals import Totals

MAX_COMPONENT = 255
MAX_TARGET = 4095
"""Bytes of one component of a path (Linux, ext4), and of a symlink's target (one ext4 block, with its NUL)."""

MEMBERS_OF_TEXT = 512
"""All names, targets and attributes of a layer, which the builder holds in memory, may have as many bytes as those of that many
members with the most metadata."""

MAX_ID = 2**32 - 2
"""The last id, 2^32-1, means "leave as it is" to chown: a setuid file would stay root's."""

MIN_MTIME = -(2**31) * 1_000_000_000
MAX_MTIME = (2**33 + 2**31) * 1_000_000_000 - 1
"""Nanoseconds. ext4 could go on from 2310 to 2446, but e2fsck takes those times for ill-encoded ones before 1970."""

MAX_MAJOR, MAX_MINOR = 2**12 - 1, 2**20 - 1
"""Device numbers as Linux holds them."""

_RESOLVE = "if the link is meant, set limits.climbingLinks: resolve; it then ends at the root of the image"

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_LINKS = b".wh..wh.plnk"
AUFS = (b".wh..wh.aufs", b".wh..wh.orph", AUFS_LINKS)
"""Names in a layer's root that Docker's AUFS driver exported: no content, but hard links may lead to files in the last one."""

SHORTEST_DIGEST = 64
_archive_name = re.compile(
    rb"manifest\.json|repositories|oci-layout|index\.json|blobs|[0-9a-f]{64}(?:\.json|\.tar|\.tar\.gz)?"
).fullmatch
"""Names in the root of what docker save, skopeo and buildah write."""

_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class Judge:
    """Judges the members of one layer. ``accounts`` has the names that lists of this image may use; none by default.

    ``strict``: plain files get no shorter way.
    """

    def __init__(self, limits: Limits, accounts: Accounts | None = None, *, strict: bool = False) -> None:
        self._strict = strict
        self._short = min(limits.max_name_bytes, limits.max_path_bytes)
        self._accounts = accounts or Accounts(directory())
        self._totals = Totals()
        self._limits = limits
        self._text = self._attributes = 0
        self._most_text = MEMBERS_OF_TEXT * limits.max_metadata_bytes
        self._archive_names: set[bytes] | None = set()
        """What the layer's root holds, as long as all of it belongs to an archive of images."""

    def totals(self) -> dict[str, object]:
        """What has been accepted so far, fit for JSON (see ``totals.Totals.document``)."""
        return self._totals.document()

    def check(self, member: Member) -> None:
        """Accept the member, and drop the attributes that no image keeps, or raise LayerRefused."""
        if not self._strict and self._passes(member):
            return
        try:
            self._check(member)
        except Malformed as broken:
            raise broken.refusal(member.name, member.offset) from None

    def _passes(self, member: Member) -> bool:
        """Whether it is a file that keeps every rule beyond doubt; it is counted then. All others are for ``_check``."""
        limits, totals, name, size = self._limits, self._totals, member.name, member.size
        text = self._text + len(name) + len(member.linkname)
        if not (
            member.type == stat.S_IFREG
            and self._archive_names is None
            and 0 < len(name) <= self._short
            and b".." not in name
            and b".wh." not in name
            and b"\0" not in name
            and name.count(b"/") < limits.max_depth
            and name[-1] not in b"/."
            and not member.mode & 0o6000
            and not member.xattrs
            and 0 <= size <= limits.max_file_bytes
            and totals.file_bytes + size <= limits.max_unpacked_bytes
            and totals.entries < limits.max_entries
            and text <= self._most_text
            and member.uid <= MAX_ID
            and member.gid <= MAX_ID
            and MIN_MTIME <= member.mtime_ns <= MAX_MTIME
        ):
            return False
        self._text = text
        totals.entries += 1
        totals.by_type[stat.S_IFREG] += 1
        totals.count_file(member)
        return True

    def finish(self) -> None:
        """To be called behind the last member. Raises LayerRefused where the layer is an archive of images."""
        names = self._archive_names or set()
        if {b"oci-layout", b"index.json"} <= names:
            form, transport = "an OCI image archive", "oci-archive"
        elif b"manifest.json" in names and len(names) > 1:
            form, transport = "an archive of docker save", "docker-archive"
        else:
            return
        hint = f"declare it as the image's source instead of a layer: {transport}:PATH"
        raise LayerRefused(f"this is {form}, not a layer: it holds layers as files", rule="image-archive", hint=hint)

    def _note_archive_name(self, name: bytes, known: set[bytes]) -> None:
        top = name.lstrip(b"./").partition(b"/")[0]
        if top and not _archive_name(top):
            self._archive_names = None
        elif top:
            known.add(top if len(top) < SHORTEST_DIGEST else b"<digest>")

    def _check(self, member: Member) -> None:
        kind, name = member.type, member.name
        self._text += len(name) + len(member.linkname)
        if self._text > self._most_text:
            raise Malformed("limit-text", f"the layer's names and attributes have more than {self._most_text} bytes")
        self._count(kind)
        self._check_name(name, kind)
        if self._archive_names is not None:
            self._note_archive_name(name, self._archive_names)
        if kind == stat.S_IFREG:
            self._check_size(member)
        elif kind == stat.S_IFLNK:
            self._check_symlink(member)
        elif kind == HARDLINK:
            self._check_hardlink(member)
        elif kind in _DEVICES:
            self._check_device(member)
        self._check_numbers(member)
        if b".wh." in name:
            self._check_whiteout(member)
        if member.xattrs:
            self._check_xattrs(member)
        if kind == stat.S_IFREG and (member.mode & 0o6000 or CAPABILITY in member.xattrs):
            self._check_privileged(member)

    def _check_numbers(self, member: Member) -> None:
        _check_owner(member)
        if MIN_MTIME <= member.mtime_ns <= MAX_MTIME:
            return
        if self._limits.times == "refuse":
            seconds = member.mtime_ns // 10**9
            raise Malformed("mtime", f"a modification time of {seconds} s is out of ext4's range (limits.times)")
        if member.type != HARDLINK:
            self._totals.clamped.add(member.name)
        member.mtime_ns = min(max(member.mtime_ns, MIN_MTIME), MAX_MTIME)

    def _count(self, kind: int) -> None:
        totals = self._totals
        totals.entries += 1
        totals.by_type[kind] += 1
        if totals.entries > self._limits.max_entries:
            raise Malformed("limit-entries", f"the layer has more than {self._limits.max_entries} entries (limits.maxEntries)")

    def _check_name(self, name: bytes, kind: int) -> None:
        limits = self._limits
        if not name or len(name) > limits.max_path_bytes or b"\0" in name:
            message = f"a name is empty, longer than {limits.max_path_bytes} bytes (limits.maxPathBytes), or contains a NUL byte"
            raise Malformed("name", message)
        if b".." in name or len(name) > limits.max_name_bytes or name.count(b"/") >= limits.max_depth:
            self._check_components(components(name))
        if name[-1] in b"/." and kind != stat.S_IFDIR:
            _check_not_directory_name(name)

    def _check_components(self, parts: list[bytes]) -> None:
        if b".." in parts:
            raise Malformed("name-climbs", "a name has a component ..")
        longest = self._limits.max_name_bytes
        if any(len(part) > longest and len(part.removeprefix(WHITEOUT)) > longest for part in parts):
            raise Malformed("name-length", f"a component of a name is longer than {longest} bytes (limits.maxNameBytes)")
        if len(parts) > self._limits.max_depth:
            raise Malformed("limit-depth", f"a name is deeper than {self._limits.max_depth} directories (limits.maxDepth)")

    def _check_size(self, member: Member) -> None:
        limits, size = self._limits, member.size
        if size > limits.max_file_bytes:
            raise Malformed("limit-file", f"a file of {size} bytes is larger than {limits.max_file_bytes} (limits.maxFileBytes)")
        self._totals.count_file(member)
        # Holes are not in the tar, so the bound on unpacked bytes that the stream holds does not see them.
        if self._totals.file_bytes > limits.max_unpacked_bytes:
            raise Malformed("limit-unpacked", f"the files add up to more than {limits.max_unpacked_bytes} bytes")

    def _check_symlink(self, member: Member) -> None:
        target, member.mode = member.linkname, 0o777  # the only mode that Linux gives a symlink
        _check_target(target)
        if b".." not in target or target[0] == 0x2F or self._limits.climbing_links == "resolve":
            return
        if climbs(components(member.name), target):
            raise Malformed("link-climbs", f"its target {shown(target)} climbs above the root (limits.climbingLinks)", _RESOLVE)

    def _check_hardlink(self, member: Member) -> None:
        target = member.linkname
        _check_target(target)
        if b".." in target and b".." in components(target) and self._limits.climbing_links == "refuse":
            raise Malformed("link-climbs", f"its target {shown(target)} has a component .. (limits.climbingLinks)", _RESOLVE)

    def _check_xattrs(self, member: Member) -> None:
        limits = self._limits
        longest, length = limits.max_xattr_bytes, sum(len(name) + len(value) for name, value in member.xattrs.items())
        self._text += length
        self._attributes += len(member.xattrs)
        if self._attributes > self._limits.max_entries:
            most = self._limits.max_entries
            raise Malformed("limit-xattrs", f"the layer has more than {most} extended attributes (limits.maxEntries)")
        if length > longest:
            raise Malformed("limit-xattrs", f"its extended attributes have more than {longest} bytes (limits.maxXattrBytes)")
        kept, dropped, unknown = check_xattrs(member.xattrs, member.type, foreign=limits.foreign_attributes, ids=self._id_of)
        # A hard link gets no metadata: its inode has its own.
        member.xattrs = {} if member.type == HARDLINK else kept
        member.mode = access_mode(member.xattrs, member.mode)
        self._totals.count_dropped(dropped)
        for name in unknown:
            self._totals.unknown.add(name)

    def _id_of(self, tag: int, name: bytes) -> int | None:
        return self._accounts.id_of(PASSWD if tag == acl.USER else GROUP, name)

    def _check_privileged(self, member: Member) -> None:
        """Files that give the user who runs them more privileges: setuid, setgid, file capabilities."""
        if self._limits.setuid == "refuse":
            raise Malformed("policy-setuid", "it is setuid, setgid, or has capabilities (limits.setuid)")
        if self._limits.setuid == "strip":
            member.mode &= ~0o6000
            member.xattrs.pop(CAPABILITY, None)
            self._totals.stripped += 1
        self._totals.setuid.add(member.name)

    def _check_device(self, member: Member) -> None:
        if self._limits.devices == "refuse":
            raise Malformed("policy-devices", "it is a device (limits.devices)")
        if member.devmajor > MAX_MAJOR or member.devminor > MAX_MINOR:
            raise Malformed("device-number", f"device {member.devmajor}:{member.devminor} is out of Linux's range")
        self._totals.devices.add(member.name)

    def _check_whiteout(self, member: Member) -> None:
        parts = components(member.name)
        if is_aufs_metadata(parts):
            self._totals.aufs += 1
            return
        if any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise Malformed("whiteout", "something lies below a name that begins with .wh.")
        last = parts[-1]
        if not last.startswith(WHITEOUT):
            return
        if last in (b".wh.", b".wh..", b".wh...") or (last.startswith(b".wh..wh.") and last != OPAQUE):
            raise Malformed("whiteout", "a whiteout does not name anything")
        if member.size or member.type not in (stat.S_IFREG, HARDLINK):
            raise Malformed("whiteout", "a whiteout is not an empty file")
        self._totals.whiteouts += 1


def components(path: bytes) -> list[bytes]:
    """The components of a path that mean something: no empty ones, no single dots."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def is_aufs_metadata(parts: list[bytes]) -> bool:
    """Whether a name of these components belongs to what AUFS keeps in the root of each layer."""
    return parts[0] in AUFS


def climbs(name: list[bytes], target: bytes) -> bool:
    """Whether a relative symlink with a name of these components leads above the root at any step."""
    depth = len(name) - 1
    for part in components(target):
        depth += -1 if part == b".." else 1
        if depth < 0:
            return True
    return False


def _check_not_directory_name(name: bytes) -> None:
    if not components(name):
        raise Malformed("root-type", "the root can only be a directory")
    if name.endswith(b"/."):
        raise Malformed("type-of-name", "something other than a directory has a directory's name")


def _check_owner(member: Member) -> None:
    if member.uid > MAX_ID or member.gid > MAX_ID:
        raise Malformed("owner", f"owner {member.uid}:{member.gid} is out of range: ids end at {MAX_ID}")


def _check_target(target: bytes) -> None:
    if not target or len(target) > MAX_TARGET or b"\0" in target:
        raise Malformed("link-target", f"a link's target is empty, longer than {MAX_TARGET} bytes, or contains a NUL byte")
