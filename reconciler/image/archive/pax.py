"""Extended headers of POSIX pax: records, and what they override in the next member.

Called by ``tar``. Sources: POSIX.1-2017 ``pax``; GNU tar's and libarchive's extensions for extended attributes.
What a record means is decided here, whether the value is acceptable by ``judge``. No state.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator

from reconciler.dataclass import dataclass, field
from reconciler.image.archive.member import Malformed, Member

GLOBAL_KEYS = frozenset(
    b"comment charset hdrcharset atime ctime uname gname GNU.volume.label SCHILY.archtype SCHILY.release".split()
)
"""The keys that a global header may set: none that changes a member. Readers apply the rest differently: refused."""

_UNSUPPORTED = (b"GNU.dumpdir", b"GNU.volume.", b"SCHILY.realsize", b"SCHILY.filetype", b"SCHILY.volhdr.")
_REPORTED = {
    b"RHT.security.selinux": b"security.selinux",
    b"SCHILY.acl.access": b"SCHILY.acl.access",
    b"SCHILY.acl.default": b"SCHILY.acl.default",
    b"SCHILY.acl.ace": b"SCHILY.acl.ace",
}

_digits = re.compile(rb"0*([0-9]{1,20})").fullmatch
_time = re.compile(rb"(-?)0*([0-9]{1,20})(?:\.([0-9]*))?").fullmatch
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")
_base64 = re.compile(rb"[A-Za-z0-9+/]*").fullmatch

LONG = 64
"""Bytes of a number from which on its leading zeros are taken away first."""

Record = tuple[bytes, bytes]


@dataclass(slots=True)
class Overrides:
    """What one ``x`` header sets for the next member. ``sparse`` holds GNU's sparse records in their order."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[Record] = field(default_factory=list)

    @property
    def path(self) -> bytes | None:
        return self.values.get(b"path")

    @property
    def linkpath(self) -> bytes | None:
        return self.values.get(b"linkpath")

    @property
    def size(self) -> int | None:
        value = self.values.get(b"size")
        return None if value is None else decimal(value)

    def apply(self, member: Member) -> None:
        """Set everything that needs no decision of the reader's: owner, time, device, extended attributes. Raises Malformed."""
        for key, value in self.values.items():
            if key in _SETTERS:
                name, convert = _SETTERS[key]
                setattr(member, name, convert(value))
        member.xattrs = self.xattrs


def records(payload: bytes) -> Iterator[Record]:
    """The records of an extended header: ``length SP key=value LF``, back to back to its last byte. Raises Malformed."""
    at, total = 0, len(payload)
    while at < total:
        space = payload.find(b" ", at, at + 24)
        length = _digits(payload, at, space) if space > at else None
        end = at + int(length[1]) if length else 0
        if not (space < end - 1 and end <= total and payload[end - 1] == 0x0A):
            raise Malformed("pax-record", f"an extended header is malformed at its byte {at}")
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if not (key and equals) or b"\0" in key or key[0] in b" \t":  # GNU tar passes over blanks in front of a key
            raise Malformed("pax-record", f"an extended header has a record without a proper key at its byte {at}")
        yield key, value
        at = end


def overrides(found: Iterable[Record]) -> Overrides:
    """Sort the records of an ``x`` header out. Vendors' records without effect are skipped. Raises Malformed."""
    result = Overrides()
    plain: dict[bytes, bytes] = {}
    encoded: dict[bytes, bytes] = {}
    for key, value in found:
        if key in _SETTERS or key in (b"path", b"linkpath", b"size"):
            _put(result.values, key, value)
        elif key.startswith(b"GNU.sparse."):
            result.sparse.append((key, value))
        elif key.startswith(b"SCHILY.xattr."):
            _put(plain, key.removeprefix(b"SCHILY.xattr."), value)
        elif key.startswith(b"LIBARCHIVE.xattr."):
            _put(encoded, key.removeprefix(b"LIBARCHIVE.xattr."), _decoded(key, value))
        elif key in _REPORTED:
            result.xattrs[_REPORTED[key]] = value
        elif key.startswith(_UNSUPPORTED):
            raise Malformed("pax-unsupported", f"the extended header's record {key!r} is not supported")
    _merge_xattrs(result.xattrs, plain, encoded)
    _check_names(result)
    return result


def _merge_xattrs(into: dict[bytes, bytes], plain: dict[bytes, bytes], encoded: dict[bytes, bytes]) -> None:
    """libarchive writes each attribute twice, with the name encoded in both; GNU tar once, with ``%`` and ``=`` encoded."""
    for name, value in encoded.items():
        if plain.get(name, value) != value:
            raise Malformed("pax-ambiguous", f"an extended header gives the attribute {name!r} two different values")
        _put(into, _unquote(name), value)
    for name, value in plain.items():
        if name not in encoded:
            _put(into, name.replace(b"%3D", b"=").replace(b"%25", b"%"), value)


def check_global(found: Iterable[Record]) -> None:
    """Raises Malformed where a global header would change members."""
    for key, _ in found:
        if key not in GLOBAL_KEYS and not key.startswith(b"SCHILY.volhdr."):  # of the dump as a whole, by star
            raise Malformed("pax-global", f"a global header sets {key!r}, which readers apply differently")


def _put(into: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    if into.setdefault(key, value) != value:
        raise Malformed("pax-ambiguous", f"an extended header gives {key!r} two different values")


def _check_names(result: Overrides) -> None:
    for name in (result.path, result.linkpath):
        if name is not None and (not name or b"\0" in name):
            raise Malformed("pax-name", "a name in an extended header is empty or contains a NUL byte")


def _decoded(key: bytes, value: bytes) -> bytes:
    value = value.rstrip(b"=")
    if not _base64(value) or len(value) % 4 == 1:
        raise Malformed("pax-record", f"the value of {key!r} is not base64")
    return binascii.a2b_base64(value + b"=" * (-len(value) % 4))


def _unquote(name: bytes) -> bytes:
    return _escape.sub(lambda found: bytes([int(found[1], 16)]), name)


def _shortened(number: bytes) -> bytes:
    """Without the leading zeros of a long row, which a pattern would try one by one."""
    if len(number) <= LONG:
        return number
    sign = number[:1] if number.startswith(b"-") else b""
    rest = number[len(sign) :].lstrip(b"0")
    return sign + (rest if rest[:1].isdigit() else b"0" + rest)


def decimal(value: bytes) -> int:
    """A decimal without sign, of any number of leading zeros. Raises Malformed."""
    digits = _digits(_shortened(value))
    if not digits:
        raise Malformed("number", f"{value[:40]!r} is not a decimal number")
    return int(digits[1])


def nanoseconds(value: bytes) -> int:
    """A pax time (seconds with a fraction, maybe negative) in nanoseconds, rounded down. Raises Malformed."""
    parts = _time(_shortened(value))
    if not parts:
        raise Malformed("number", f"{value[:40]!r} is not a time")
    sign, seconds, fraction = parts.groups(b"")
    total = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -total - bool(fraction[9:].strip(b"0")) if sign else total


_SETTERS: dict[bytes, tuple[str, Callable[[bytes], int]]] = {
    b"uid": ("uid", decimal),
    b"gid": ("gid", decimal),
    b"mtime": ("mtime_ns", nanoseconds),
    b"SCHILY.devmajor": ("devmajor", decimal),
    b"SCHILY.devminor": ("devminor", decimal),
}
