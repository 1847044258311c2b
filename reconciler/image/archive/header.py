"""One 512-byte tar header block: checksum, numbers, names (POSIX ustar, GNU and V7 layouts).

Called by ``tar`` for every member, so it is written for speed: the checksum comes from adler32, whose low half is the sum of the
bytes, exact below 65521 (512 bytes of ASCII, or any 256), and fields that repeat from member to member are parsed once. State:
the caches of those fields.
"""

from __future__ import annotations

import re
import stat
from functools import lru_cache
from zlib import adler32

from reconciler.image.archive.member import HARDLINK, Malformed, Member

BLOCK = 512

TYPES = {
    ord("0"): stat.S_IFREG,
    0: stat.S_IFREG,
    ord("7"): stat.S_IFREG,
    ord("S"): stat.S_IFREG,
    ord("1"): HARDLINK,
    ord("2"): stat.S_IFLNK,
    ord("3"): stat.S_IFCHR,
    ord("4"): stat.S_IFBLK,
    ord("5"): stat.S_IFDIR,
    ord("6"): stat.S_IFIFO,
}
"""Typeflags of members. ``7`` is a contiguous file, an ordinary one to everybody; ``S`` is GNU's old sparse file."""

_PLAIN_TYPES = {ord("0"): stat.S_IFREG, ord("2"): stat.S_IFLNK, ord("5"): stat.S_IFDIR}
_NO_PREFIX = bytes(155)

OLD_GNU_SPARSE = ord("S")

_octal = re.compile(rb" *([0-7]+)[ \0]*").fullmatch
"""Blanks may precede the digits, NULs may not: for GNU tar, bsdtar and Python a number ends at a NUL, Go skips it."""

_empty = re.compile(rb"[ \0]*").fullmatch


def checksum_holds(block: bytes) -> bool:
    """Whether the block's bytes add up to its checksum, its own field counted as spaces; signed sums of old tars hold too."""
    stated = block[148:156]
    total = _sum(block) + 8 * 32 - (adler32(stated, 0) & 0xFFFF)
    return stated == b"%06o\0 " % total or _sums_to(block, stated, total)


def plain_type(block: bytes) -> int | None:
    """The type of a regular file, directory or symlink whose header passes ``checksum_holds`` and ``check_layout`` beyond doubt.

    None for all others, which may pass as well.
    """
    magic = block[257:265]
    if magic == b"ustar  \0":
        if block[345:500] != _NO_PREFIX:
            return None
    elif magic[:6] != b"ustar\0":
        return None
    return _PLAIN_TYPES.get(block[156]) if block.isascii() and checksum_holds(block) else None


def _sum(block: bytes) -> int:
    if block.isascii():
        return adler32(block, 0) & 0xFFFF
    return (adler32(block[:256], 0) & 0xFFFF) + (adler32(block[256:], 0) & 0xFFFF)


def _sums_to(block: bytes, stated: bytes, total: int) -> bool:
    digits = _octal(stated)
    if not digits:
        return False
    signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return int(digits[1], 8) in (total, signed)


@lru_cache(maxsize=4096)
def number(field: bytes) -> int:
    """Value of a numeric field: octal, or base-256 as GNU tar writes it; empty is 0. Raises Malformed."""
    digits = _octal(field)
    if digits:
        return int(digits[1], 8)
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    if _empty(field):
        return 0
    raise Malformed("number", f"the header field {field!r} is not a number")


def unsigned(field: bytes) -> int:
    """As ``number``, refusing what is below zero."""
    value = number(field)
    if value < 0:
        raise Malformed("number", f"the header field {field!r} is negative")
    return value


@lru_cache(maxsize=1024)
def _mode_and_owner(field: bytes) -> tuple[int, int, int]:
    mode = unsigned(field[:8])
    # Some writers store the whole of st_mode, or the bits of Go's os.FileMode; the typeflag alone defines what a member is.
    return mode & 0o7777, unsigned(field[8:16]), unsigned(field[16:24])


@lru_cache(maxsize=4096)
def _mtime(field: bytes) -> int:
    return number(field) * 1_000_000_000


def is_posix(block: bytes) -> bool:
    return block[257:263] == b"ustar\0"


def is_gnu(block: bytes) -> bool:
    return block[257:265] == b"ustar  \0"


def check_layout(block: bytes) -> None:
    """Raises Malformed where readers disagree on what the fields behind the magic mean: the prefix, or a sparse file's map."""
    if block[257:263] == b"ustar\0":
        return
    if block[257:262] == b"ustar" and not is_gnu(block):
        raise Malformed("magic", f"the header's magic {block[257:265]!r} is neither POSIX's nor GNU's")
    if block[345] and not _has_times(block):
        raise Malformed("magic", "a header without a prefix has one: readers disagree on whether it counts")
    if block[156] != OLD_GNU_SPARSE and is_gnu(block) and block[386:495].strip(b"\0"):
        raise Malformed("sparse-map", "a member that is not a sparse file has a sparse file's map")


def _has_times(block: bytes) -> bool:
    """Whether a header of GNU's layout has access and change times where others have the prefix."""
    return is_gnu(block) and all(_octal(block[at : at + 12]) or _empty(block[at : at + 12]) for at in (345, 357))


def text(field: bytes) -> bytes:
    """A field's bytes up to its first NUL."""
    return field.partition(b"\0")[0]


def _prefixed(block: bytes, name: bytes) -> bytes:
    """The name with ustar's prefix in front. GNU and V7 headers have other things in its place."""
    return text(block[345:500]) + b"/" + name if is_posix(block) else name


def parse(block: bytes, kind: int, offset: int) -> Member:
    """The member that a header describes by itself. ``kind`` is its typeflag's; raises Malformed."""
    mode, uid, gid = _mode_and_owner(block[100:124])
    name = block[:100].partition(b"\0")[0]
    if block[345]:
        name = _prefixed(block, name)
    member = Member(name, kind, mode, uid, gid, _mtime(block[136:148]))
    member.offset = offset
    if kind == stat.S_IFREG:
        member.size = member.stored = _size(block)
    elif kind == stat.S_IFLNK or kind == HARDLINK:
        member.linkname = text(block[157:257])
    elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
        _read_device(block, member)
    return member


def _size(block: bytes) -> int:
    digits = block[124:135]
    if digits.isdigit() and block[135] in (0, 0x20) and digits.translate(None, b"89") == digits:
        return int(digits, 8)
    size = number(block[124:136])
    if size < 0 or (not size and _empty(block[124:136])):
        raise Malformed("size", "the size of a file is negative or missing")
    return size


def _read_device(block: bytes, member: Member) -> None:
    if not (is_posix(block) or is_gnu(block)):
        raise Malformed("device-number", "a device has no number: its header has the layout of Version 7")
    member.devmajor, member.devminor = unsigned(block[329:337]), unsigned(block[337:345])
