"""Archives that are nearly right: a grammar over what readers of tar are known to understand differently.

``archive(seed)`` gives the same bytes for the same seed: a few members, each written in one of the spellings below, plain or
compressed, now and then as another format at the same time. No state.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from random import Random

from tests.hostile.archive import (
    END,
    GNU,
    LINK,
    MTIME,
    PREFIX,
    SIZE,
    SPARSE_MAP,
    SPARSE_MORE,
    SPARSE_SIZE,
    UID,
    V7,
    base256,
    entry,
    file,
    long_link,
    long_name,
    octal,
    padded,
    patched,
    pax,
    pax_global,
    pax_of,
    record,
)

POSIX, STAR = b"ustar\00000", b"ustar\0\0\0"
NAMES = (b"a", b"b", b"c", b"d/e", b"d/f", b"g/h/i")
HIDDEN = file(b"hidden", b"evil\n")
"""What an archive hides where readers count bytes differently: whole members among a file's data."""


def archive(seed: int) -> bytes:
    random = Random(seed)
    members = b"".join(_member(random) for _ in range(random.randint(1, 4)))
    end = random.choices((END, END + bytes(512 * random.randint(1, 20)), bytes(512), b"", END + HIDDEN), (20, 6, 1, 1, 1))[0]
    return _stored(random, members + end)


def _member(random: Random) -> bytes:
    kinds: tuple[tuple[Callable[[Random], bytes], int], ...] = (
        (_plain, 8),
        (_sized, 6),
        (_overridden, 6),
        (_long, 4),
        (_sparse_old, 4),
        (_sparse_pax, 6),
        (_prefixed, 2),
        (_global, 1),
        (_odd_type, 2),
        (_odd_name, 4),
        (_odd_records, 3),
        (_attributes, 2),
    )
    return random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0](random)


def _name(random: Random) -> bytes:
    return random.choice(NAMES)


def _magic(random: Random) -> bytes:
    return random.choices((POSIX, GNU, V7, STAR, b"ustar \0\0"), (8, 6, 2, 1, 1))[0]


def _data(random: Random) -> bytes:
    """A file's data; often members that are not to be seen."""
    hidden = HIDDEN * random.randint(1, 2)
    return random.choice((b"", b"x", b"hello\n", b"x" * 512, b"y" * 700, hidden, bytes(512) + hidden, b"z" * 511))


def number(random: Random, value: int, width: int) -> bytes:
    """A number in one of the spellings that some reader takes."""
    digits = b"%o" % value
    room = width - len(digits)
    return random.choices(
        (
            octal(value, width),
            digits.rjust(width, b"0"),
            digits.rjust(width - 1) + b" ",
            digits.rjust(width - 2) + b" \0",
            digits + b"\0" * room,
            digits + b" " * room,
            b"\0" * min(room, random.randint(1, 3)) + digits + b"\0" * max(0, room - 3),
            b" \0" + digits,
            b"\t" + digits,
            base256(value, width),
            b"\x81" + base256(value, width)[1:],
            b"+" + digits,
            b"-" + digits,
            b"0o" + digits,
            digits + b"\0" + b"7" * max(0, room - 1),
            digits + b" " + b"7" * max(0, room - 1),
            b"\0" * width,
            b" " * width,
        ),
        (30, 6, 6, 4, 4, 4, 2, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1),
    )[0][:width].ljust(width, b"\0")


def _plain(random: Random) -> bytes:
    """A file whose size, owner, time or checksum is spelt oddly."""
    data = _data(random)
    at = {SIZE: number(random, random.choice((len(data), len(data), 0, 512)), 12)}
    if random.random() < 0.3:
        at[UID] = number(random, random.choice((0, 7)), 8)
    if random.random() < 0.3:
        at[MTIME] = number(random, 1_700_000_000, 12)
    block = patched(entry(_name(random), random.choice(b"0000\0007").to_bytes(1, "big"), magic=_magic(random))[:512], at)
    if random.random() < 0.15:
        total = sum(block[:148]) + sum(block[156:]) + 8 * 32
        block = patched(block, {148: number(random, total, 8)})
    return block + padded(data)


def _sized(random: Random) -> bytes:
    """A member of any type that has a size, with data or without."""
    flag = random.choice(b"1255673411")
    data = random.choice((b"", HIDDEN, b"x" * 512))
    size = random.choice((0, len(data), 512, 5, 1024))
    before = pax((b"comment", b"x")) if random.random() < 0.4 else b""
    name, link = _name(random), random.choice((b"a", b"nowhere"))
    first = file(link, b"first\n", magic=_magic(random)) if flag == ord("1") else b""
    at = {SIZE: number(random, size, 12)} if random.random() < 0.3 else {}
    block = entry(name, bytes([flag]), size=size, link=link if flag in b"12" else b"", magic=_magic(random), at=at)
    return first + before + block[:512] + padded(data)


def _overridden(random: Random) -> bytes:
    """A member behind an extended header."""
    data, flag = _data(random), random.choice(b"00001257S")
    records = [(b"size", b"%d" % random.choice((len(data), 0, 512, 1024)))] if random.random() < 0.6 else []
    if random.random() < 0.4:
        records.append((b"path", random.choice((b"p", b"p/q", b"./r", b"dir/"))))
    if random.random() < 0.2:
        records.append((b"linkpath", b"a"))
    if random.random() < 0.2:
        records.append(random.choice(records or [(b"mtime", b"1.5")]))
    if random.random() < 0.2:
        records.append((b"size", b"%d" % random.choice((len(data), 0, 1024))))
    if random.random() < 0.1:
        records.append((random.choice((b"SIZE", b"size ", b" size")), b"0"))
    size = random.choice((len(data), len(data), 0, 512))
    link = b"a" if flag in b"12" else b""
    at = {LINK: link}
    between = random.choices((b"", long_name(b"long"), pax((b"comment", b"y")), pax_global((b"comment", b"z"))), (8, 1, 1, 1))[0]
    return pax(*records) + between + entry(_name(random), bytes([flag]), data, size=size, magic=_magic(random), at=at)


def _long(random: Random) -> bytes:
    """A member behind a long name of GNU's, a long link, or both."""
    name = random.choice((b"n" * 120, b"short", b"l/" + b"m" * 110))
    parts = [long_name(name, end=random.choice((b"\0", b"", b"\0\0", b"\0x")), magic=random.choice((GNU, POSIX)))]
    if random.random() < 0.3:
        parts.append(long_link(b"t" * 120))
    if random.random() < 0.2:
        parts.append(long_name(b"again"))
    random.shuffle(parts)
    flag = random.choice(b"00025")
    data = _data(random) if flag == ord("0") else b""
    return b"".join(parts) + entry(b"x", bytes([flag]), data, link=b"a" if flag == ord("2") else b"", magic=_magic(random))


def _segments(random: Random) -> tuple[list[tuple[int, int]], int]:
    """A sparse file's map, aligned or not, and the file's size."""
    found, at, odd = [], 0, random.random() < 0.3
    for _ in range(random.randint(0, 3)):
        at += random.choice((0, 512, 4096, 100))
        length = random.choice((512, 1024, 1, 100, 0, 512) if odd else (512, 1024, 1536))
        found.append((at, length))
        at += length
    if not odd:
        found.append((at, random.choice((0, 1, 100, 512))))
        at += found[-1][1]
    return found, at + (random.choice((0, 512, 4096)) if odd else 0)


def _filled(segments: list[tuple[int, int]]) -> bytes:
    return b"".join(bytes([65 + n]) * length for n, (_, length) in enumerate(segments))


def _sparse_old(random: Random) -> bytes:
    segments, size = _segments(random)
    segments = segments or [(0, 512)]
    entries = b"".join(number_or(random, at) + number_or(random, length) for at, length in segments)
    data = _filled(segments)
    at = {SPARSE_MAP: entries, SPARSE_MORE: b"\0", SPARSE_SIZE: octal(max(size, 512), 12)}
    before = random.choices((b"", pax((b"size", b"%d" % random.choice((len(data), 1024)))), pax((b"mtime", b"5"))), (6, 1, 1))[0]
    return before + entry(_name(random), b"S", data, magic=random.choices((GNU, POSIX), (9, 1))[0], at=at)


def number_or(random: Random, value: int) -> bytes:
    """A number as everybody spells it, mostly."""
    return octal(value, 12) if random.random() < 0.9 else number(random, value, 12)


def _sparse_pax(random: Random) -> bytes:
    """GNU's sparse formats 0.0, 0.1 and 1.0. The name is the real one, for readers without support for them."""
    segments, size = _segments(random)
    data, name, form = _filled(segments), _name(random), random.choice(("0.0", "0.1", "1.0"))
    stated = b"%d" % size
    if form == "1.0":
        lines = b"%d\n" % len(segments) + b"".join(b"%d\n%d\n" % one for one in segments)
        data = padded(lines) + data
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", stated)]
    else:
        records = [(b"GNU.sparse.size", stated), (b"GNU.sparse.numblocks", b"%d" % len(segments))]
        if form == "0.1":
            records.append((b"GNU.sparse.map", b",".join(b"%d,%d" % one for one in segments)))
        else:
            pairs = [((b"GNU.sparse.offset", b"%d" % at), (b"GNU.sparse.numbytes", b"%d" % length)) for at, length in segments]
            records += [record for pair in pairs for record in pair]
    if form != "0.0" or random.random() < 0.5:
        records.append((b"GNU.sparse.name", name))
    if random.random() < 0.3:
        records.append((b"size", b"%d" % random.choice((len(data), 0, 512))))
    if random.random() < 0.1:
        records.append(random.choice(records))
    return pax(*records) + entry(name, b"0", data, magic=random.choices((POSIX, GNU), (8, 1))[0])


def _prefixed(random: Random) -> bytes:
    """A name with something in front of it, in layouts that have a prefix and in others."""
    at = {PREFIX: random.choice((b"pre", b"pre/fix", b"\0pre", b"pre\0fix"))}
    name = random.choice((b"name", b"name\0rest", b"/name", b"name/", b"./name", b"n//m"))
    return entry(name, random.choice((b"0", b"0", b"5", b"\0")), magic=_magic(random), at=at)


def _global(random: Random) -> bytes:
    records = random.choice(((b"comment", b"x"), (b"path", b"everywhere"), (b"size", b"0"), (b"mtime", b"5")))
    return pax_global(records)


def _odd_type(random: Random) -> bytes:
    flag, data = random.choice(b"VNDMZAEIX34689"), random.choice((b"", b"x"))
    return entry(_name(random), bytes([flag]), data, magic=_magic(random), device=(1, 3))


def _odd_name(random: Random) -> bytes:
    name = random.choice(
        (b"./a", b"/a", b"a/", b"a//b", b".", b"./", b"a/.", b"a\0junk", b"\xff\xfe", b"\\a", b"\xc3\xa9", b" a", b"a ")
    )
    flag = random.choice((b"0", b"\0", b"5", b"2", b"7"))
    at = {LINK: random.choice((b"t", b"t\0junk", b"./t/"))} if flag == b"2" else {}
    before = random.choices((b"", pax((b"path", name))), (4, 1))[0] if b"\0" not in name else b""
    return before + entry(name, flag, magic=_magic(random), at=at)


def _odd_records(random: Random) -> bytes:
    """An extended header whose records are spelt oddly."""
    good = record(b"path", b"q")
    odd = random.choice(
        (
            b"0" + good, b" " + good, good[:-1] + b"\0", b"8 path=\n", b"10 path=r\n\n", b"9 path=\0\n", b"11 path=r\0\n",
            b"+9 path=q\n", b"9\tpath=q\n", b"10  path=q\n", b"10 path =q\n", b"9 pAth=q\n", good + b"\0" * 5,
            record(b"linkpath", b"z"), record(b"hdrcharset", b"BINARY") + good, good + record(b"path", b"s"), good + b"junk",
            record(b"path", b"u\nv"),
            record(b"uid", b"07") + good, record(b"size", b"007") + good, record(b"mtime", b"1.") + good,
            record(b"GNU.sparse.name", b"w"),
            record(b"size", b"0x5"), record(b"size", b"5 "), record(b"size", b""), record(b"path", b"") + good,
        )
    )  # fmt: skip
    data = random.choice((b"", b"1234567", HIDDEN))
    return pax_of(odd) + entry(_name(random), random.choice((b"0", b"2", b"1")), data, link=b"a", magic=_magic(random))


def _attributes(random: Random) -> bytes:
    key = random.choice(
        (b"SCHILY.xattr.user.a", b"LIBARCHIVE.xattr.user.b", b"RHT.security.selinux", b"SCHILY.fflags", b"VENDOR.x")
    )
    return pax((key, b"dmFsdWU=")) + file(_name(random), _data(random), magic=_magic(random))


def _stored(random: Random, tar: bytes) -> bytes:
    store = random.choices((bytes, _gzipped, _in_parts, _polyglot, lzma.compress, bz2.compress), (40, 4, 2, 1, 1, 1))[0]
    return store(tar)


def _gzipped(tar: bytes) -> bytes:
    return gzip.compress(tar, 1, mtime=0)


def _in_parts(tar: bytes) -> bytes:
    half = len(tar) // 1024 * 512
    return gzip.compress(tar[:half], 1, mtime=0) + gzip.compress(tar[half:], 1, mtime=0)


def _polyglot(inner: bytes) -> bytes:
    """A gzip stream of one archive whose first bytes are also the header of a file in another one."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(inner) + packer.flush() + struct.pack("<II", zlib.crc32(inner), len(inner) & 0xFFFFFFFF)
    begin = b"\x1f\x8b\x08\x04tttt\x02\x03" + struct.pack("<H", 500)
    return patched(entry(begin, b"0", size=len(body))[:512], {}) + padded(body) + END
