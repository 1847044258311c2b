"""Layers as bytes: a tar encoder for three dialects, compression, and a reader of real tars through the standard library.

The encoder exists because Python's ``tarfile`` can't write all that tests need: names that are no text, owners and times at the
limits, sparse files in each of GNU's formats.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import cast

from tests.support.trees import HARDLINK, SECOND, Entry, Segment

BLOCK = 512
TYPEFLAGS = {
    stat.S_IFREG: b"0",
    HARDLINK: b"1",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
COMPRESSIONS = ("plain", "gzip", "zstd", "xz", "bzip2")
SPARSE_FORMATS = ("1.0", "0.1", "0.0")


def pack(entries: Iterable[Entry], dialect: str = "pax", *, sparse_format: str = "1.0") -> bytes:
    """A whole tar with its end marker, filled up to a record of 10 KiB as GNU tar does it."""
    encode = {"pax": _Pax(sparse_format).member, "gnu": _gnu, "ustar": _ustar}[dialect]
    tar = b"".join(b"".join(encode(entry)) for entry in entries) + bytes(2 * BLOCK)
    return tar + bytes(-len(tar) % 10240)


def compress(tar: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(tar, 6, mtime=0)
    if compression == "xz":
        return lzma.compress(tar, preset=1)
    if compression == "bzip2":
        return bz2.compress(tar)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(tar)
    return tar


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _stored_name(entry: Entry) -> bytes:
    return entry.name + b"/" if entry.kind == stat.S_IFDIR else entry.name


def _octal(value: int, width: int) -> bytes:
    digits = b"%0*o" % (width - 1, value)
    assert value >= 0 and len(digits) < width, f"{value} does not fit {width} octal digits"
    return digits + b"\0"


def _binary(value: int, width: int) -> bytes:
    """Octal where it fits, GNU's base-256 where not."""
    if 0 <= value < 8 ** (width - 1):
        return _octal(value, width)
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width - 1, "big")


def header(
    name: bytes,
    flag: bytes,
    *,
    mode: int = 0o644,
    ids: tuple[bytes, bytes] = (b"0000000\0", b"0000000\0"),
    size: bytes = b"00000000000\0",
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    tail: bytes = b"",
) -> bytes:
    """One header block; ``tail`` is what follows the device numbers: ustar's prefix, or GNU's sparse map."""
    numbers = _octal(device[0], 8) + _octal(device[1], 8)
    before = name[:100].ljust(100, b"\0") + _octal(mode, 8) + ids[0] + ids[1] + size + mtime
    after = flag + link[:100].ljust(100, b"\0") + magic + bytes(64) + numbers + tail.ljust(167, b"\0")
    assert len(before) == 148 and len(after) == 356
    return before + b"%06o\0 " % sum(before + b" " * 8 + after) + after


# ---------------------------------------------------------------------------------------------------------- ustar


def _ustar(entry: Entry) -> Iterator[bytes]:
    assert entry.segments is None and not entry.xattrs and not entry.mtime % SECOND
    prefix, name = _split(_stored_name(entry))
    yield header(
        name,
        TYPEFLAGS[entry.kind],
        mode=entry.mode,
        ids=(_octal(entry.uid, 8), _octal(entry.gid, 8)),
        size=_octal(len(entry.data), 12),
        mtime=_octal(entry.mtime // SECOND, 12),
        link=entry.target,
        device=entry.device,
        tail=prefix,
    )
    yield _padded(entry.data)


def _split(name: bytes) -> tuple[bytes, bytes]:
    if len(name) <= 100:
        return b"", name
    at = name.index(b"/", len(name) - 101)
    assert at <= 155
    return name[:at], name[at + 1 :]


# ------------------------------------------------------------------------------------------------------------ gnu

_GNU = b"ustar  \0"


def _gnu(entry: Entry) -> Iterator[bytes]:
    assert not entry.xattrs and not entry.mtime % SECOND
    name = _stored_name(entry)
    yield from _long(b"K", entry.target)
    yield from _long(b"L", name)
    tail, more = _old_sparse(entry) if entry.segments is not None else (b"", b"")
    yield header(
        name,
        b"S" if entry.segments is not None else TYPEFLAGS[entry.kind],
        mode=entry.mode,
        ids=(_binary(entry.uid, 8), _binary(entry.gid, 8)),
        size=_binary(len(entry.data), 12),
        mtime=_binary(entry.mtime // SECOND, 12),
        link=entry.target,
        magic=_GNU,
        device=entry.device,
        tail=tail,
    )
    yield more + _padded(entry.data)


def _long(flag: bytes, name: bytes) -> Iterator[bytes]:
    if len(name) > 100:
        yield header(b"././@LongLink", flag, size=_octal(len(name) + 1, 12), magic=_GNU) + _padded(name + b"\0")


def _old_sparse(entry: Entry) -> tuple[bytes, bytes]:
    """The header's bytes from 345 on (four segments, more to come, real size), and the blocks of 21 that continue it."""
    listed = [_octal(offset, 12) + _octal(length, 12) for offset, length in _terminated(entry)]
    first, rest = listed[:4], listed[4:]
    tail = bytes(41) + b"".join(first).ljust(96, b"\0") + (b"\1" if rest else b"\0") + _octal(entry.size, 12)
    blocks = [rest[at : at + 21] for at in range(0, len(rest), 21)]
    more = [b"".join(b).ljust(504, b"\0") + (b"\1" if b is not blocks[-1] else b"\0") + bytes(7) for b in blocks]
    return tail, b"".join(more)


def _terminated(entry: Entry) -> list[tuple[int, int]]:
    """GNU tar ends a map whose file ends in a hole with an empty segment at the end."""
    segments = list(entry.segments or ())
    if not segments or sum(segments[-1]) < entry.size:
        segments.append((entry.size, 0))
    return segments


# ------------------------------------------------------------------------------------------------------------ pax


class _Pax:
    def __init__(self, sparse_format: str) -> None:
        self._sparse_format = sparse_format

    def member(self, entry: Entry) -> Iterator[bytes]:
        records, data = self._sparse(entry) if entry.segments is not None else ([], entry.data)
        records += _overrides(entry, named=b"GNU.sparse.name" in dict(records))
        if records:
            payload = b"".join(_record(key, value) for key, value in records)
            yield header(b"PaxHeaders/x", b"x", size=_octal(len(payload), 12)) + _padded(payload)
        fits = 0 <= entry.mtime < 8**11 * SECOND
        yield header(
            _stored_name(entry),
            TYPEFLAGS[entry.kind],
            mode=entry.mode,
            ids=(_octal(min(entry.uid, 8**7 - 1), 8), _octal(min(entry.gid, 8**7 - 1), 8)),
            size=_octal(len(data), 12),
            mtime=_octal(entry.mtime // SECOND if fits else 0, 12),
            link=entry.target,
            device=entry.device,
        )
        yield _padded(data)

    def _sparse(self, entry: Entry) -> tuple[list[tuple[bytes, bytes]], bytes]:
        segments, size, major = _terminated(entry), b"%d" % entry.size, self._sparse_format.encode()
        if major == b"1.0":
            versions = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
            lines = [len(segments), *(number for segment in segments for number in segment)]
            stored = _padded(b"".join(b"%d\n" % line for line in lines)) + entry.data
            return [*versions, (b"GNU.sparse.name", entry.name), (b"GNU.sparse.realsize", size)], stored
        head = [(b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", b"%d" % len(segments))]
        if major == b"0.1":
            numbers = b",".join(b"%d,%d" % segment for segment in segments)
            return [*head, (b"GNU.sparse.name", entry.name), (b"GNU.sparse.map", numbers)], entry.data
        pairs = [((b"GNU.sparse.offset", b"%d" % o), (b"GNU.sparse.numbytes", b"%d" % n)) for o, n in segments]
        return [*head, *(record for pair in pairs for record in pair)], entry.data


def _record(key: bytes, value: bytes) -> bytes:
    """``length SP key=value LF``, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _overrides(entry: Entry, *, named: bool) -> list[tuple[bytes, bytes]]:
    name, found = _stored_name(entry), []
    if named:
        found.append((b"path", b"GNUSparseFile.0/" + name[-80:].replace(b"/", b"_")))
    elif len(name) > 100:
        found.append((b"path", name))
    if len(entry.target) > 100:
        found.append((b"linkpath", entry.target))
    found += [(key, b"%d" % value) for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)) if value >= 8**7]
    if entry.mtime % SECOND or not 0 <= entry.mtime < 8**11 * SECOND:
        found.append((b"mtime", _time(entry.mtime)))
    escaped = ((name.replace(b"%", b"%25").replace(b"=", b"%3D"), value) for name, value in sorted(entry.xattrs.items()))
    return found + [(b"SCHILY.xattr." + name, value) for name, value in escaped]


def _time(nanoseconds: int) -> bytes:
    text = str(Decimal(nanoseconds).scaleb(-9)) if nanoseconds % SECOND else str(nanoseconds // SECOND)
    return format(Decimal(text), "f").encode()


# --------------------------------------------------------------------------------- a real tar, through the standard library


def entries(path: Path) -> Iterator[Entry]:
    """The members of a tar as Python's own reader returns them (it reads gzip; zstd is decompressed here first)."""
    with _opened(path) as tar:
        for member in tar:
            yield _entry(tar, member)


def _opened(path: Path) -> tarfile.TarFile:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"\x28\xb5\x2f\xfd":
        return tarfile.open(path, "r:*", encoding="utf-8", errors="surrogateescape")
    import zstandard

    source = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True, read_across_frames=True)
    return tarfile.open(fileobj=source, mode="r|", encoding="utf-8", errors="surrogateescape")


_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.LNKTYPE: HARDLINK,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS[member.type]
    source = tar.extractfile(member) if kind == stat.S_IFREG else None
    content = source.read() if source else b""
    segments = _segments(member)
    if segments is not None:
        content = b"".join(content[offset : offset + length] for offset, length in segments)
    return Entry(
        name=os.fsencode(member.name),
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=_nanoseconds(member),
        data=content,
        size=member.size if kind == stat.S_IFREG else 0,
        segments=segments,
        target=os.fsencode(member.linkname),
        device=(member.devmajor, member.devminor) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
        xattrs=dict(_xattrs(member)),
    )


def _segments(member: tarfile.TarInfo) -> tuple[Segment, ...] | None:
    found = cast("list[Segment] | None", member.sparse)
    return None if found is None else tuple(segment for segment in found if segment[1])


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """``tarfile`` keeps times as floats, and the text that they come from where they are not whole."""
    text = member.pax_headers.get("mtime")
    return int(Decimal(text).scaleb(9).to_integral_value("ROUND_FLOOR")) if text else int(member.mtime) * SECOND


def _xattrs(member: tarfile.TarInfo) -> Iterator[tuple[bytes, bytes]]:
    prefix = "SCHILY.xattr."
    for key, value in member.pax_headers.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix).replace("%3D", "=").replace("%25", "%")
            yield os.fsencode(name), value.encode("utf-8", "surrogateescape")
