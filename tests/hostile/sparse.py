"""Sparse files in all four formats: maps that claim what is not there, that disagree with the file, that never end."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.image.spec import Limits
from tests.hostile.archive import (
    GNU,
    POSIX,
    SPARSE_MAP,
    SPARSE_MORE,
    SPARSE_SIZE,
    base256,
    entry,
    file,
    folder,
    octal,
    padded,
    pax,
    tar,
)
from tests.hostile.case import Case, accepted, corrupt, f, refused

BOMB = "sparse: bomb"
MALFORMED = "sparse: malformed"
RESOURCE = "sparse: resource"

EXABYTE = 2**60
TEN = b"x" * 10


def records(**found: bytes) -> bytes:
    """An extended header with GNU.sparse records; ``offset`` and ``numbytes`` by ``pairs`` only."""
    return pax(*((b"GNU.sparse." + key.encode(), value) for key, value in found.items()))


def one_zero(lines: bytes, data: bytes = TEN, realsize: bytes = b"9000") -> bytes:
    """Format 1.0: the map stands in front of the data."""
    return tar(records(major=b"1", minor=b"0", name=b"s", realsize=realsize), file(b"x", padded(lines) + data))


def zero_one(numbers: bytes, count: bytes, data: bytes = TEN, size: bytes = b"9000") -> bytes:
    """Format 0.1: the map is one record."""
    return tar(records(size=size, numblocks=count, map=numbers), file(b"s", data))


def zero_zero(pairs: Sequence[tuple[bytes, bytes]], count: bytes, data: bytes = TEN, size: bytes = b"9000") -> bytes:
    """Format 0.0: a record for each number."""
    head = ((b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", count))
    return tar(pax(*head, *((b"GNU.sparse." + key, value) for key, value in pairs)), file(b"s", data))


def old_gnu(
    pairs: Sequence[tuple[int, int]],
    size: bytes,
    data: bytes = TEN,
    *,
    more: bytes = b"",
    magic: bytes = GNU,
    stored: int | None = None,
) -> bytes:
    table = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in pairs)
    at = {SPARSE_MAP: table, SPARSE_MORE: b"\1" if more else b"\0", SPARSE_SIZE: size}
    block = entry(b"s", b"S", size=len(data) if stored is None else stored, magic=magic, at=at)
    return tar(block + more + padded(data))


def continued(blocks: int, *, last: bytes = b"\0") -> bytes:
    """Blocks that continue an old map, full of empty segments."""
    table = (octal(0, 12) + octal(0, 12)) * 21
    return (table + b"\1" + bytes(7)) * (blocks - 1) + table + last + bytes(7)


def broken(name: str, what: str, archive: bytes, rule: str = "sparse-map") -> Case:
    return refused(f"sparse-{name}", MALFORMED, what, archive, rule)


CASES = [
    # ------------------------------------------------------------------------------------------------------- bomb
    refused(
        "sparse-exabyte-1.0",
        BOMB,
        "an exabyte of hole, format 1.0",
        one_zero(b"0\n", b"", realsize=b"%d" % EXABYTE),
        "limit-file",
        b"s",
    ),
    refused(
        "sparse-exabyte-0.1",
        BOMB,
        "an exabyte of hole, format 0.1",
        zero_one(b"%d,0" % EXABYTE, b"1", b"", size=b"%d" % EXABYTE),
        "limit-file",
    ),
    refused(
        "sparse-exabyte-0.0",
        BOMB,
        "an exabyte of hole, format 0.0",
        zero_zero([(b"offset", b"%d" % EXABYTE), (b"numbytes", b"0")], b"1", b"", size=b"%d" % EXABYTE),
        "limit-file",
    ),
    refused(
        "sparse-exabyte-old",
        BOMB,
        "an exabyte of hole, GNU's old format",
        old_gnu([(EXABYTE // 2**30, 0)], base256(EXABYTE), b""),
        "limit-file",
    ),
    refused(
        "sparse-terabyte",
        BOMB,
        "a terabyte, with ten bytes at its end",
        one_zero(b"1\n%d\n10\n" % (2**40 - 10), realsize=b"%d" % 2**40),
        "limit-file",
    ),
    refused(
        "sparse-many",
        BOMB,
        "forty files of a gigabyte of hole",
        tar(*(records(size=b"1000000000", numblocks=b"1", map=b"1000000000,0") + file(b"%d" % i) for i in range(40))),
        "limit-unpacked",
    ),
    refused(
        "sparse-limit-of-manifest",
        BOMB,
        "a hole larger than the manifest's maxFileBytes",
        one_zero(b"1\n0\n10\n"),
        "limit-file",
        limits=Limits(max_file_bytes=8999),
    ),
    accepted(
        "sparse-below-limit",
        BOMB,
        "ten GiB of hole cost nothing",
        one_zero(b"1\n0\n10\n", realsize=b"%d" % (10 * 2**30)),
        {b"s": f(size=10 * 2**30)},
    ),
    # -------------------------------------------------------------------------------------------------- malformed
    broken("overlap", "segments that overlap", one_zero(b"2\n0\n6\n5\n4\n")),
    broken("disorder", "segments out of order", one_zero(b"2\n8000\n4\n0\n6\n")),
    broken("past-end", "a segment past the end of the file", one_zero(b"1\n8995\n10\n")),
    broken("overflow", "offset and length that add up to 0 in 64 bits", one_zero(b"1\n18446744073709551606\n10\n")),
    broken("overflow-0.1", "a length of 2^64-1", zero_one(b"0,18446744073709551615", b"1")),
    broken("negative", "a negative offset", one_zero(b"1\n-5\n10\n"), "number"),
    broken(
        "negative-old",
        "a negative offset in an old map",
        tar(entry(b"s", b"S", TEN, magic=GNU, at={SPARSE_MAP: base256(-1) + octal(10, 12), SPARSE_SIZE: octal(9000, 12)})),
        "number",
    ),
    broken("sum-short", "segments of fewer bytes than are stored", one_zero(b"1\n0\n9\n")),
    broken("sum-long", "segments of more bytes than are stored", one_zero(b"1\n0\n11\n")),
    broken("sum-old", "an old map of fewer bytes than are stored", old_gnu([(0, 3)], octal(600, 12))),
    broken("count-more", "a count of more segments than there are", one_zero(b"3\n0\n10\n", padded(b"") + TEN)),
    broken("count-less-0.1", "a count of fewer segments than there are", zero_one(b"0,5,100,5", b"1")),
    broken("count-odd-0.1", "half a segment", zero_one(b"0,10,20", b"2")),
    broken("count-empty-0.1", "a number that is missing", zero_one(b"0,5,,5", b"2"), "number"),
    broken("count-none-0.1", "no count", tar(records(size=b"9000", map=b"0,10"), file(b"s", TEN)), "number"),
    broken("no-newline", "a map without an end of line", one_zero(b"1\n0\n10", b"1" * 3000), "sparse-map"),
    broken(
        "map-longer-than-file",
        "a map that goes on behind the file",
        tar(records(major=b"1", minor=b"0", realsize=b"9000"), file(b"x", b"4\n0\n")),
        "sparse-map",
    ),
    broken("hex", "hexadecimal numbers in a map", one_zero(b"1\n0x0\n10\n"), "number"),
    broken(
        "alternation",
        "two offsets in a row, format 0.0",
        zero_zero([(b"offset", b"0"), (b"offset", b"5"), (b"numbytes", b"5"), (b"numbytes", b"5")], b"2"),
    ),
    broken("reversed", "lengths in front of offsets, format 0.0", zero_zero([(b"numbytes", b"10"), (b"offset", b"0")], b"1")),
    broken(
        "two-formats",
        "records of two formats",
        tar(records(major=b"1", minor=b"0", realsize=b"9000", map=b"0,10"), file(b"x", padded(b"1\n0\n10\n") + TEN)),
    ),
    broken(
        "unknown-version",
        "format 2.0",
        tar(records(major=b"2", minor=b"0", realsize=b"9000"), file(b"x", padded(b"1\n0\n10\n") + TEN)),
    ),
    broken("unknown-record", "a record that nobody knows", tar(records(size=b"9000", surprise=b"1"), file(b"x"))),
    broken(
        "two-sizes", "size and realsize that differ", tar(records(size=b"5", realsize=b"6", numblocks=b"0", map=b""), file(b"x"))
    ),
    broken("no-size", "no size", tar(records(major=b"1", minor=b"0"), file(b"x", padded(b"0\n")))),
    broken("orphan", "a map in front of a directory", tar(records(size=b"5", numblocks=b"0", map=b""), folder(b"d"))),
    broken(
        "both",
        "records of pax in front of an old sparse header",
        tar(records(size=b"9000", numblocks=b"1", map=b"0,10"), old_gnu([(0, 10)], octal(9000, 12))[:-1024]),
    ),
    broken("one-hole", "a file of one hole without a map, which GNU tar passes over", zero_one(b"", b"0", b"")),
    broken("one-hole-0.0", "the same, format 0.0", zero_zero([], b"0", b"")),
    broken(
        "of-ordinary-file",
        "an old map in the header of an ordinary file, which libarchive believes",
        tar(file(b"x", TEN, magic=GNU, at={SPARSE_MAP: octal(0, 12) + octal(10, 12), SPARSE_SIZE: octal(9000, 12)})),
    ),
    broken(
        "continued-of-ordinary-file",
        "an ordinary file whose old map goes on in the next header",
        tar(file(b"x", magic=GNU, at={SPARSE_MORE: b"\1"}), file(b"hidden"), file(b"y")),
    ),
    broken("old-posix", "an old map in a header of POSIX", old_gnu([(0, 10)], octal(9000, 12), magic=POSIX)),
    broken(
        "old-gap",
        "an old map with a gap",
        tar(entry(b"s", b"S", TEN, magic=GNU, at={SPARSE_MAP + 24: octal(0, 12) + octal(10, 12), SPARSE_SIZE: octal(9000, 12)})),
    ),
    broken(
        "old-continued-after-end",
        "an old map that goes on behind its end",
        old_gnu([(0, 10)], octal(9000, 12), more=continued(1)),
    ),
    broken("old-size-negative", "a negative real size", old_gnu([(0, 10)], base256(-1)), "number"),
    broken("old-size-smaller", "a real size smaller than the data", old_gnu([(0, 10)], octal(5, 12))),
    corrupt(
        "sparse-old-cut",
        MALFORMED,
        "an old map that is cut",
        old_gnu([(0, 0)] * 4, octal(0, 12), b"", more=continued(3))[:1200],
        "in the middle of a member",
    ),
    accepted(
        "sparse-zero-length",
        MALFORMED,
        "the empty segment at the end that GNU tar writes",
        one_zero(b"2\n0\n10\n9000\n0\n"),
        {b"s": f(TEN + bytes(8990))},
    ),
    refused(
        "sparse-pax-size",
        MALFORMED,
        "pax size and sparse map together: Python looks for the next member at another place",
        tar(
            pax(
                (b"size", b"522"),
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.realsize", b"9000"),
            ),
            entry(b"x", b"0", padded(b"1\n0\n10\n") + TEN, size=0),
        ),
        "sparse-map",
    ),
    # --------------------------------------------------------------------------------------------------- resource
    refused(
        "sparse-2m-segments",
        RESOURCE,
        "two million segments, all in the archive",
        lambda: one_zero(
            b"2000000\n" + b"".join(b"%d\n1\n" % (i * 2) for i in range(2_000_000)), b"x" * 2_000_000, realsize=b"4000000"
        ),
        "limit-segments",
    ),
    refused(
        "sparse-count-lies", RESOURCE, "a count of 2^60 segments, and none there", one_zero(b"%d\n" % 2**60), "limit-segments"
    ),
    refused(
        "sparse-endless-old",
        RESOURCE,
        "an old map that never ends",
        lambda: old_gnu([(0, 0)] * 4, octal(0, 12), b"", more=continued(20_000, last=b"\1")),
        "limit-segments",
    ),
    refused(
        "sparse-many-0.1",
        RESOURCE,
        "a map of 200 000 segments in one record",
        lambda: zero_one(b",".join(b"%d,0" % i for i in range(200_000)), b"200000", b""),
        "limit-metadata",
    ),
    refused(
        "sparse-many-0.1-limit",
        RESOURCE,
        "a map of 120 000 segments in one record",
        lambda: zero_one(b",".join([b"1,0"] * 120_000), b"120000", b""),
        "limit-segments",
    ),
    refused(
        "sparse-many-0.0",
        RESOURCE,
        "a hundred thousand records",
        lambda: zero_zero([(b"offset", b"0"), (b"numbytes", b"0")] * 50_000, b"50000", b""),
        "limit-metadata",
    ),
    accepted(
        "sparse-100k-segments",
        RESOURCE,
        "as many segments as are allowed",
        lambda: one_zero(
            b"100000\n" + b"".join(b"%d\n%d\n" % (i * 1024, 0 if i % 10 else 512) for i in range(100_000)),
            b"x" * 512 * 10_000,
            realsize=b"%d" % (99_999 * 1024),
        ),
        names=1,
    ),
]
