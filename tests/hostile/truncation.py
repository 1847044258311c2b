"""Tars that end too early, and those with something behind their end."""

from __future__ import annotations

from reconciler.image.spec import Limits
from tests.hostile.archive import END, entry, file, long_name, pax, tar
from tests.hostile.case import accepted, corrupt, f, refused

CUT = "truncation"
TRAILING = "trailing data"

WHOLE = file(b"a", b"1") + file(b"b", b"2" * 1500)
ACCEPT = Limits(missing_end_marker="accept")
IGNORE = Limits(trailing_data="ignore")
A = {b"a": f(b"1")}

CASES = [
    corrupt("tar-trunc-header", CUT, "cut in the middle of a header", WHOLE[: 1024 + 200]),
    corrupt("tar-trunc-header-lenient", CUT, "the same under missingEndMarker: accept", WHOLE[: 1024 + 200], limits=ACCEPT),
    corrupt("tar-trunc-data", CUT, "cut in the middle of a file", WHOLE[:-900], "in the middle of a member"),
    corrupt(
        "tar-trunc-data-lenient",
        CUT,
        "the same under missingEndMarker: accept",
        WHOLE[:-900],
        "in the middle of a member",
        limits=ACCEPT,
    ),
    corrupt("tar-trunc-padding", CUT, "cut in a file's padding", WHOLE[:-10]),
    corrupt("tar-trunc-padding-lenient", CUT, "the same under missingEndMarker: accept", WHOLE[:-10], limits=ACCEPT),
    corrupt("tar-trunc-long-name", CUT, "cut in a long name", long_name(b"n" * 600)[:800]),
    corrupt(
        "tar-trunc-long-name-member",
        CUT,
        "cut between a long name and its member",
        long_name(b"n" * 600),
        "without its end marker",
    ),
    refused(
        "tar-trunc-long-name-lenient",
        CUT,
        "the same under missingEndMarker: accept",
        long_name(b"n" * 600),
        "dangling-header",
        limits=ACCEPT,
    ),
    corrupt("tar-trunc-pax", CUT, "cut in an extended header", pax((b"path", b"n" * 900))[:1000]),
    corrupt("tar-trunc-no-end", CUT, "no end marker: as a cut download looks", WHOLE, "without its end marker"),
    accepted(
        "tar-trunc-no-end-lenient",
        CUT,
        "no end marker under missingEndMarker: accept",
        WHOLE,
        {b"a": f(b"1"), b"b": f(b"2" * 1500)},
        limits=ACCEPT,
    ),
    corrupt("tar-trunc-half-end", CUT, "half an end marker", WHOLE + bytes(512), "without its end marker"),
    accepted(
        "tar-trunc-half-end-lenient",
        CUT,
        "half an end marker under missingEndMarker: accept",
        WHOLE + bytes(512),
        {b"a": f(b"1"), b"b": f(b"2" * 1500)},
        limits=ACCEPT,
    ),
    corrupt("tar-trunc-end-bytes", CUT, "an end marker that is cut", WHOLE + bytes(700)),
    corrupt("tar-trunc-first-block", CUT, "the first header only, of a file with data", WHOLE[:512]),
    corrupt(
        "tar-trunc-size-lies",
        CUT,
        "the last file says that it is longer",
        entry(b"a", b"0", b"1" * 512, size=5000) + END,
        "in the middle of a member",
    ),
    refused(
        "tar-trailing-tar",
        TRAILING,
        "a second tar behind the end marker",
        tar(file(b"a", b"1")) + tar(file(b"hidden")),
        "trailing-data",
    ),
    accepted(
        "tar-trailing-tar-ignored",
        TRAILING,
        "the same under trailingData: ignore",
        tar(file(b"a", b"1")) + tar(file(b"../hidden")),
        A,
        limits=IGNORE,
    ),
    refused(
        "tar-trailing-junk",
        TRAILING,
        "junk in the last record, as some tapes have it",
        tar(file(b"a", b"1")) + b"junk" * 100,
        "trailing-data",
    ),
    accepted(
        "tar-trailing-junk-ignored",
        TRAILING,
        "the same under trailingData: ignore",
        tar(file(b"a", b"1")) + b"junk" * 100,
        A,
        limits=IGNORE,
    ),
    refused(
        "tar-trailing-far",
        TRAILING,
        "one byte, three MiB behind the end marker",
        lambda: tar(file(b"a", b"1")) + bytes(3 << 20) + b"x",
        "trailing-data",
    ),
    accepted("tar-trailing-zeros", TRAILING, "zeros up to the end of the record", tar(file(b"a", b"1")) + bytes(8192), A),
    accepted(
        "tar-trailing-odd-zeros", TRAILING, "zeros that end in the middle of a block", tar(file(b"a", b"1")) + bytes(100), A
    ),
    refused(
        "tar-lone-zero-block",
        TRAILING,
        "a single block of zeros between two members",
        file(b"a", b"1") + bytes(512) + tar(file(b"hidden")),
        "lone-zero-block",
    ),
    refused(
        "tar-lone-zero-block-ignored",
        TRAILING,
        "the same under trailingData: ignore",
        file(b"a", b"1") + bytes(512) + tar(file(b"hidden")),
        "lone-zero-block",
        limits=IGNORE,
    ),
    refused(
        "tar-lone-zero-block-lenient",
        TRAILING,
        "the same under missingEndMarker: accept",
        file(b"a", b"1") + bytes(512) + tar(file(b"hidden")),
        "lone-zero-block",
        limits=ACCEPT,
    ),
    refused("tar-trailing-first", TRAILING, "an empty tar, and another", tar() + tar(file(b"hidden")), "trailing-data"),
]
