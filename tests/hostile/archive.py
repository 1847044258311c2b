"""Archives, byte by byte: headers with any field at any value under a right checksum, and what stands around them.

On top of ``tests.support.layers.header``, which writes headers that are whole; what is wrong with one is patched in here.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.layers import BLOCK, header

POSIX, GNU, V7 = b"ustar\00000", b"ustar  \0", bytes(8)
END = bytes(2 * BLOCK)

MODE, UID, GID, SIZE, MTIME, CHECKSUM, FLAG, LINK, MAGIC = 100, 108, 116, 124, 136, 148, 156, 157, 257
MAJOR, MINOR, PREFIX = 329, 337, 345
SPARSE_MAP, SPARSE_MORE, SPARSE_SIZE = 386, 482, 483
"""Where the fields of a header begin."""

Record = tuple[bytes, bytes]


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int = 12) -> bytes:
    """A number as GNU tar writes those that octal digits can't hold."""
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width - 1, "big")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def patched(block: bytes, at: Mapping[int, bytes]) -> bytes:
    """A header with raw bytes at some places, and the checksum that is right for it then."""
    changed = bytearray(block)
    for place, text in at.items():
        changed[place : place + len(text)] = text
    assert len(changed) == BLOCK
    if CHECKSUM not in at:
        changed[CHECKSUM : CHECKSUM + 8] = b" " * 8
        changed[CHECKSUM : CHECKSUM + 8] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def entry(
    name: bytes,
    flag: bytes,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    size: int | None = None,
    link: bytes = b"",
    magic: bytes = POSIX,
    device: tuple[int, int] = (0, 0),
    at: Mapping[int, bytes] | None = None,
) -> bytes:
    """A header and what follows it. ``size`` is what the header says where that is not the length of the data."""
    stated = octal(len(data) if size is None else size, 12)
    block = header(name, flag, mode=mode, size=stated, link=link, magic=magic, device=(0, 0))
    numbers = {MAJOR: octal(device[0], 8), MINOR: octal(device[1], 8)} if device != (0, 0) else {}
    return patched(block, numbers | dict(at or {})) + padded(data)


def file(
    name: bytes, data: bytes = b"", *, mode: int = 0o644, magic: bytes = POSIX, at: Mapping[int, bytes] | None = None
) -> bytes:
    return entry(name, b"0", data, mode=mode, magic=magic, at=at)


def folder(name: bytes, mode: int = 0o755, at: Mapping[int, bytes] | None = None) -> bytes:
    return entry(name, b"5", mode=mode, at=at)


def symlink(name: bytes, target: bytes, *, mode: int = 0o777, at: Mapping[int, bytes] | None = None) -> bytes:
    return entry(name, b"2", mode=mode, link=target, at=at)


def hardlink(name: bytes, target: bytes, *, mode: int = 0o644, at: Mapping[int, bytes] | None = None) -> bytes:
    return entry(name, b"1", mode=mode, link=target, at=at)


def fifo(name: bytes) -> bytes:
    return entry(name, b"6")


def character(name: bytes, major: int, minor: int) -> bytes:
    return entry(name, b"3", device=(major, minor))


def disk(name: bytes, major: int, minor: int) -> bytes:
    return entry(name, b"4", device=(major, minor))


def record(key: bytes, value: bytes) -> bytes:
    """``length SP key=value LF``, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    return b"%d %s=%s\n" % (rest + len(str(length)), key, value)


def pax(*records: Record, magic: bytes = POSIX) -> bytes:
    return pax_of(b"".join(record(*one) for one in records), magic=magic)


def pax_of(payload: bytes, *, flag: bytes = b"x", magic: bytes = POSIX) -> bytes:
    """An extended header with this payload, right or not."""
    return entry(b"PaxHeaders/x", flag, payload, magic=magic)


def pax_global(*records: Record) -> bytes:
    return pax_of(b"".join(record(*one) for one in records), flag=b"g")


def long_name(name: bytes, *, end: bytes = b"\0", magic: bytes = GNU) -> bytes:
    return entry(b"././@LongLink", b"L", name + end, magic=magic)


def long_link(target: bytes, *, end: bytes = b"\0") -> bytes:
    return entry(b"././@LongLink", b"K", target + end, magic=GNU)


def named(name: bytes, flag: bytes = b"0", data: bytes = b"", *, link: bytes = b"") -> bytes:
    """A member with a name, and a link's target, of any length, as GNU tar writes it."""
    linked = long_link(link) if len(link) > 100 else b""
    return linked + long_name(name) + entry(name, flag, data, magic=GNU, link=link)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END
