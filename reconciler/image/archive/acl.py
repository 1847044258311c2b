"""POSIX access control lists: as tars spell them in words, and as Linux keeps them in extended attributes.

Called by ``attributes``. Sources: the short text form of acl_from_text(3), with the numeric id that star and libarchive append;
linux/posix_acl_xattr.h; ``posix_acl_valid`` of the kernel's fs/posix_acl.c, whose rules hold here too. No state.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from reconciler.dataclass import dataclass
from reconciler.image.archive.member import Malformed

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
TEXTS = {b"SCHILY.acl.access": ACCESS, b"SCHILY.acl.default": DEFAULT}
"""The pax records that hold one in words, with the attribute that each becomes."""

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NAMED = (USER, GROUP)
NO_ID = 2**32 - 1
VERSION = struct.pack("<I", 2)

_ENTRY = struct.Struct("<HHI")
_ONCE = (USER_OBJ, GROUP_OBJ, OTHER)
_TAGS = {b"u": (USER_OBJ, USER), b"g": (GROUP_OBJ, GROUP), b"m": (MASK, MASK), b"o": (OTHER, OTHER)}
_text = re.compile(rb"(u|user|g|group|m|mask|o|other):([^:]*):([r-][w-][x-])(?::([0-9]{1,10}))?").fullmatch
_id = re.compile(rb"[0-9]{1,10}").fullmatch


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Sorts as the kernel keeps them. ``permissions`` are three bits; ``id`` is ``NO_ID`` where the tag needs none."""

    tag: int
    id: int
    permissions: int


class Words(NamedTuple):
    """A list in words: its entries, and those that are left out of them (``user:NAME``, ``group:NAME``): names without an id."""

    entries: tuple[Entry, ...]
    unknown: tuple[bytes, ...] = ()


Ids = Callable[[int, bytes], int | None]
"""The id of a name in entries with the tag ``USER`` or ``GROUP``; None where the image has none."""


def no_ids(tag: int, name: bytes) -> int | None:
    return None


def from_text(text: bytes, numbered: Sequence[Entry] = (), ids: Ids = no_ids) -> Words:
    """Raises Malformed. A name without its number is resolved by ``ids``: it has another id on every host.

    With ``numbered``, the same list with numbers, names need none: that list counts, and the words must not contradict it.
    """
    lines = [line for part in re.split(rb"[,\n]", text) if (line := part.partition(b"#")[0].strip())]
    if not numbered:
        found = [_entry(line, ids) for line in lines]
        unknown = tuple(one.shown for one in found if isinstance(one, _Unknown))
        return Words(_valid(sorted(one for one in found if isinstance(one, Entry))), unknown)
    told = [one if isinstance(one, Entry) else one.entry for one in (_entry(line, no_ids) for line in lines)]
    if sorted((one.tag, one.permissions) for one in told) != sorted((one.tag, one.permissions) for one in numbered):
        raise Malformed("pax-ambiguous", "its access control list in words is another one than in binary")
    known = {(one.tag, one.id) for one in told if one.id != NO_ID}
    if not known <= {(one.tag, one.id) for one in numbered}:
        raise Malformed("pax-ambiguous", "its access control list in words is for others than in binary")
    return Words(tuple(numbered))


class _Unknown(NamedTuple):
    """An entry whose name has no id."""

    name: bytes
    entry: Entry

    @property
    def shown(self) -> bytes:
        return (b"user:" if self.entry.tag == USER else b"group:") + self.name


def _entry(line: bytes, ids: Ids) -> Entry | _Unknown:
    found = _text(line)
    if not found:
        raise Malformed("xattr-value", f"the access control list's entry {line[:80]!r} is malformed")
    word, name, letters, number = found.groups()
    permissions = sum(bit for bit, letter in zip((4, 2, 1), letters, strict=True) if letter != ord("-"))
    tag = _TAGS[word[:1]][bool(name)]
    if tag not in NAMED:
        if name:
            raise Malformed("xattr-value", f"the access control list's entry {line[:80]!r} has a name where none is allowed")
        return Entry(tag, NO_ID, permissions)
    digits = number or (name if _id(name) else b"0" if name == b"root" else b"")
    known = int(digits) if digits else ids(tag, name)
    return _Unknown(name, Entry(tag, NO_ID, permissions)) if known is None else Entry(tag, known, permissions)


def from_xattr(value: bytes) -> tuple[Entry, ...]:
    """Raises Malformed."""
    if value[:4] != VERSION or (len(value) - 4) % _ENTRY.size:
        raise Malformed("xattr-value", "its access control list is malformed")
    entries = (Entry(tag, number, bits) for tag, bits, number in _ENTRY.iter_unpack(value[4:]))
    return _valid([one if one.tag in NAMED else Entry(one.tag, NO_ID, one.permissions) for one in entries])


def to_xattr(entries: Sequence[Entry]) -> bytes:
    return VERSION + b"".join(_ENTRY.pack(one.tag, one.permissions, one.id) for one in entries)


def mode_bits(entries: Sequence[Entry]) -> int:
    """The nine permission bits of a file with this list: the group's are the mask's where there is one (acl(5))."""
    bits = {one.tag: one.permissions for one in entries if one.tag not in NAMED}
    return bits[USER_OBJ] << 6 | bits.get(MASK, bits[GROUP_OBJ]) << 3 | bits[OTHER]


def says_more_than_mode(entries: Sequence[Entry]) -> bool:
    return any(one.tag not in _ONCE for one in entries)


def _valid(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    tags = [one.tag for one in entries]
    places = [(one.tag, one.id) for one in entries]
    whole = all(tags.count(tag) == 1 for tag in _ONCE) and tags.count(MASK) <= 1
    masked = MASK in tags or not any(tag in NAMED for tag in tags)
    bounded = all(one.permissions <= 7 and one.tag in (*_ONCE, *NAMED, MASK) for one in entries)
    ids = all(one.tag not in NAMED or one.id < NO_ID for one in entries)
    if entries and not (whole and masked and bounded and ids and tags == sorted(tags) and len(set(places)) == len(places)):
        raise Malformed("xattr-value", "its access control list is not one that Linux accepts: see acl(5)")
    return tuple(entries)
