"""Tars put together block by block, for what no writer can be made to write. No state."""

from __future__ import annotations

from typing import Any

from tests.support import layers

GNU, POSIX, V7 = b"ustar  \0", b"ustar\x0000", bytes(8)
END = bytes(1024)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def octal(value: int, width: int = 12) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def binary(value: int, width: int = 8) -> bytes:
    """GNU's base-256."""
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width - 1, "big")


def member(name: bytes, flag: bytes = b"0", data: bytes = b"", **fields: Any) -> bytes:
    """A header and its data; ``fields`` are those of ``layers.header``, and ``size`` replaces the data's length."""
    fields.setdefault("size", octal(len(data)))
    return layers.header(name, flag, **fields) + padded(data)


def directory(name: bytes, **fields: Any) -> bytes:
    fields.setdefault("mode", 0o755)
    return member(name, b"5", **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    fields.setdefault("mode", 0o777)
    return member(name, b"2", link=target, **fields)


def hardlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return member(name, b"1", link=target, **fields)


def record(key: bytes, value: bytes) -> bytes:
    """``length SP key=value LF``, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    return b"%d %s=%s\n" % (rest + len(str(length)), key, value)


def extended(*records: tuple[bytes, bytes], flag: bytes = b"x", **fields: Any) -> bytes:
    """An extended header in front of a member, or with ``flag=b"g"`` a global one."""
    return member(b"PaxHeaders/x", flag, b"".join(record(key, value) for key, value in records), **fields)


def long_name(name: bytes, flag: bytes = b"L", end: bytes = b"\0", **fields: Any) -> bytes:
    """GNU's way for names (``L``) and targets (``K``) of any length."""
    fields.setdefault("magic", GNU)
    return member(b"././@LongLink", flag, name + end, **fields)


def summed(block: bytes) -> bytes:
    """A header that was changed by hand, with its checksum put right."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


def changed(tar: bytes, at: int, value: bytes) -> bytes:
    """Bytes of the first header replaced, and its checksum put right."""
    return summed(tar[:at] + value + tar[at + len(value) :])
