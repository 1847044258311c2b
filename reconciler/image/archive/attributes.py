"""Extended attributes that an image may hold, and in which form.

Called by ``judge`` for members that have any. An allow-list: other names are dropped, or refused by policy. Sources of
the formats: linux/capability.h (vfs_cap_data), linux/posix_acl_xattr.h, the kernel's documentation of ext4. No state.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from reconciler.image.archive import acl
from reconciler.image.archive.member import HARDLINK, Malformed

ROOM = 4096 - 32 - 4
"""Bytes of entries and values that one ext4 attribute block holds besides its header and its end mark."""

MAX_NAME = 255
"""Bytes of an attribute's name with its namespace (XATTR_NAME_MAX of linux/limits.h)."""

_DROPPED = frozenset(b"security.selinux security.ima security.evm SCHILY.acl.ace".split())
_OVERLAY = b"trusted.overlay."
"""Labels and signatures of another host's policy, the innards of overlayfs, NFSv4's ACLs: no image can hold them."""

CAPABILITY = b"security.capability"
_CAPABILITY_BYTES = {2: 20, 3: 24}


class Checked(NamedTuple):
    """The attributes that an image keeps, the names of those that it drops, and names in access control lists without an id."""

    kept: dict[bytes, bytes]
    dropped: list[bytes]
    unknown: list[bytes]


def check_xattrs(xattrs: dict[bytes, bytes], kind: int, *, foreign: str = "refuse", ids: acl.Ids = acl.no_ids) -> Checked:
    """Sort the attributes of a member of this type (``member.TYPE_NAMES``). Raises Malformed for the rest.

    ``foreign`` is the policy for names that no image keeps, and for names of users and groups that ``ids`` lacks: ``drop`` or
    ``refuse``.
    """
    kept: dict[bytes, bytes] = {}
    dropped: list[bytes] = []
    unknown: list[bytes] = []
    for name, value in xattrs.items():
        if name in _DROPPED:
            dropped.append(name)
        elif name.startswith(_OVERLAY):
            dropped.append(_OVERLAY + b"*")
        elif _is_foreign(name) and foreign == "drop":
            dropped.append(name)
        elif name in acl.TEXTS:
            numbered = xattrs.get(acl.TEXTS[name])
            words = acl.from_text(value, acl.from_xattr(numbered) if numbered else (), ids)
            unknown += words.unknown
            _put(kept, acl.TEXTS[name], acl.to_xattr(words.entries), kind)
        else:
            _put(kept, name, value, kind)
    if sum(_room(name, value) for name, value in kept.items()) > ROOM:
        raise Malformed("xattr-size", "its extended attributes don't fit one block of 4096 bytes")
    if unknown and foreign == "refuse":
        who = f"its access control list names {unknown[0][:80]!r}, which the image does not have yet"
        raise Malformed("acl-name", f"{who}; store the layer with numeric ids in its ACLs, as bsdtar does")
    return Checked(kept, dropped, unknown)


def access_mode(xattrs: dict[bytes, bytes], mode: int) -> int:
    """The mode of a member with these attributes, as setting its ACL makes it; one that adds nothing to the mode is removed."""
    value = xattrs.get(acl.ACCESS)
    if value is None:
        return mode
    entries = acl.from_xattr(value)
    if not acl.says_more_than_mode(entries):
        del xattrs[acl.ACCESS]
    return mode & ~0o777 | acl.mode_bits(entries) if entries else mode


def _is_foreign(name: bytes) -> bool:
    """Whether a well-formed name is of no namespace that an image keeps: of macOS, NFS, SMB, gluster, ceph …"""
    return not (
        _malformed(name) or name.startswith(b"user.") or name == CAPABILITY or name in acl.TEXTS or name in acl.TEXTS.values()
    )


def _malformed(name: bytes) -> bool:
    return b"\0" in name or not name.partition(b".")[2] or len(name) > MAX_NAME


def _put(kept: dict[bytes, bytes], name: bytes, value: bytes, kind: int) -> None:
    if name == acl.DEFAULT and value == acl.VERSION:
        return  # writers store an empty list where there is none, on files, too
    _check(name, value, kind)
    if name in acl.TEXTS.values():
        value = acl.to_xattr(acl.from_xattr(value))  # ext4 keeps no id of an entry that needs none
    if kept.setdefault(name, value) != value:
        raise Malformed("pax-ambiguous", f"the attribute {name!r} is given twice, with different values")


def _check(name: bytes, value: bytes, kind: int) -> None:
    if _malformed(name):
        raise Malformed("xattr-name", f"the attribute name {name[:300]!r} is not acceptable")
    if name == CAPABILITY:
        _check_capability(value)
    elif name in acl.TEXTS.values():
        _check_acl(name, value, kind)
    elif not name.startswith(b"user."):
        neither = "neither user.*, security.capability nor a POSIX ACL (limits.foreignAttributes)"
        raise Malformed("xattr-name", f"the attribute {name!r} is {neither}")
    elif kind not in (stat.S_IFREG, stat.S_IFDIR, HARDLINK):
        raise Malformed("xattr-type", f"the attribute {name!r} can't be on anything but files and directories")


def _check_capability(value: bytes) -> None:
    revision = value[3] if len(value) > 3 else 0
    if _CAPABILITY_BYTES.get(revision) != len(value):
        raise Malformed("xattr-value", "security.capability is malformed")


def _check_acl(name: bytes, value: bytes, kind: int) -> None:
    if kind == stat.S_IFLNK or (name.endswith(b"default") and kind not in (stat.S_IFDIR, HARDLINK)):
        raise Malformed("xattr-type", f"{name.decode()} can't be on a member of this type")
    acl.from_xattr(value)


def _room(name: bytes, value: bytes) -> int:
    """Bytes of an entry (16 and the name without its namespace) and its value, each rounded up to four."""
    suffix = len(name.partition(b".")[2])
    return 16 + (suffix + 3 & ~3) + (len(value) + 3 & ~3)
