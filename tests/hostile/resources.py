"""Archives that take memory, time or inodes rather than places: large headers, many headers, many members."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from reconciler.image.spec import MIB, Limits
from tests.hostile.archive import (
    END,
    GNU,
    SIZE,
    entry,
    file,
    folder,
    hardlink,
    long_name,
    octal,
    pax,
    pax_global,
    pax_of,
    record,
    symlink,
    tar,
)
from tests.hostile.case import Case, accepted, refused
from tests.support.layers import header

RESOURCE = "resource"
INODES = "inode bomb"

HUGE = 64 * MIB


@cache
def many(count: int, name: bytes = b"%06d", flag: bytes = b"0", link: bytes = b"") -> bytes:
    """So many empty members with a number in their name, made by exchanging a few bytes of one header."""
    blank = bytearray(header(name % 0, flag, link=link))
    base, at = int(blank[148:154], 8), len(name % 0) - 6
    zeros = sum(b"000000")
    blocks = []
    for number in range(count):
        digits = b"%06d" % number
        blank[at : at + 6] = digits
        blank[148:154] = b"%06o" % (base + sum(digits) - zeros)
        blocks.append(bytes(blank))
    return b"".join(blocks)


def small_directories() -> Iterator[bytes]:
    """Four thousand members, sixty directories above each."""
    for number in range(4000):
        yield long_name(b"%04d/" % number + b"d/" * 59 + b"f") + entry(b"f", b"0", magic=GNU)


CASES: list[Case] = [
    # --------------------------------------------------------------------------------------------------- resource
    refused(
        "pax-header-64m",
        RESOURCE,
        "an extended header of 64 MiB, all there",
        lambda: tar(pax_of(record(b"comment", b"c" * HUGE)), file(b"x")),
        "limit-metadata",
    ),
    refused(
        "pax-header-64m-global",
        RESOURCE,
        "a global header of 64 MiB",
        lambda: tar(pax_of(record(b"comment", b"c" * HUGE), flag=b"g"), file(b"x")),
        "limit-metadata",
    ),
    refused(
        "pax-header-8g",
        RESOURCE,
        "an extended header that says it has 8 GiB",
        tar(entry(b"x", b"x", at={SIZE: octal(8**11 - 1, 12)})),
        "limit-metadata",
    ),
    refused(
        "pax-header-100k",
        RESOURCE,
        "a hundred thousand extended headers in front of one member",
        lambda: pax((b"comment", b"c")) * 100_000 + tar(file(b"x")),
        "ambiguous",
    ),
    refused(
        "pax-header-100k-global",
        RESOURCE,
        "a hundred thousand global headers in a row",
        lambda: pax_global((b"comment", b"c")) * 100_000 + tar(file(b"x")),
        "limit-metadata",
    ),
    refused(
        "pax-header-60k-records",
        RESOURCE,
        "sixty thousand records in one header",
        lambda: tar(pax_of(b"".join(record(b"comment.%d" % i, b"c") for i in range(60_000))), file(b"x")),
        "limit-metadata",
    ),
    accepted(
        "pax-header-30k-records",
        RESOURCE,
        "thirty thousand records in one header, below a MiB",
        lambda: tar(pax_of(b"".join(record(b"c.%d" % i, b"c") for i in range(30_000))), file(b"x")),
        names=1,
    ),
    refused(
        "pax-header-limit-of-manifest",
        RESOURCE,
        "more than the manifest's maxMetadataBytes",
        tar(pax((b"comment", b"c" * 2000)), file(b"x")),
        "limit-metadata",
        limits=Limits(max_metadata_bytes=1000),
    ),
    refused(
        "pax-header-9",
        RESOURCE,
        "nine headers in front of one member",
        tar(*[pax_global((b"comment", b"c"))] * 9, file(b"x")),
        "limit-metadata",
    ),
    refused(
        "gnu-longname-64m",
        RESOURCE,
        "a long name of 64 MiB",
        lambda: tar(long_name(b"n" * HUGE), file(b"x", magic=GNU)),
        "limit-metadata",
    ),
    refused(
        "gnu-longname-1m",
        RESOURCE,
        "a long name of just less than a MiB",
        lambda: tar(long_name(b"n/" * 500_000), file(b"x", magic=GNU)),
        "name",
    ),
    refused(
        "gnu-longlink-64m",
        RESOURCE,
        "a long link of 64 MiB",
        lambda: tar(entry(b"k", b"K", b"t" * HUGE, magic=GNU), symlink(b"l", b"x")),
        "limit-metadata",
    ),
    accepted(
        "entry-repeat-churn",
        RESOURCE,
        "the same file 150 000 times",
        lambda: header(b"x", b"0") * 150_000 + END,
        names=1,
        slow=True,
    ),
    accepted(
        "entry-repeat-hardlink",
        RESOURCE,
        "a file and its hard link in turn, 5000 times",
        lambda: (file(b"x") + hardlink(b"h", b"x")) * 5000 + END,
        names=2,
    ),
    accepted(
        "entry-repeat-directory",
        RESOURCE,
        "a directory and a file of one name in turn, 5000 times",
        lambda: (folder(b"x") + file(b"x")) * 5000 + END,
        names=1,
    ),
    refused(
        "link-70k",
        RESOURCE,
        "70 000 hard links to one file: more than ext4 counts",
        lambda: file(b"x") + many(70_000, b"h%06d", b"1", b"x") + END,
        "limit-links",
    ),
    refused(
        "label-100k",
        RESOURCE,
        "a hundred thousand volume labels",
        lambda: entry(b"label", b"V", magic=GNU) * 100_000 + tar(file(b"x")),
        "limit-metadata",
    ),
    refused(
        "text-many-names",
        RESOURCE,
        "names of 4 KiB that add up to more than the builder holds",
        lambda: b"".join((long_name(b"n" * 250 + b"/" + b"%05d" % i) + entry(b"x", b"0", magic=GNU)) for i in range(1200)) + END,
        "limit-text",
        limits=Limits(max_metadata_bytes=512),
    ),
    refused(
        "seconds",
        RESOURCE,
        "more CPU than the manifest's maxSeconds",
        lambda: header(b"x", b"0") * 200_000 + END,
        "limit-seconds",
        slow=True,
        limits=Limits(max_seconds=1),
    ),
    refused(
        "number-1m-zeros",
        RESOURCE,
        "a time of a million zeros and a letter, for those who match it with patience",
        lambda: tar(pax((b"mtime", b"0" * 1_000_000 + b"x")), file(b"x")),
        "number",
    ),
    refused(
        "number-1m-zeros-size",
        RESOURCE,
        "a size of a million zeros and a letter",
        lambda: tar(pax((b"size", b"0" * 1_000_000 + b"x")), file(b"x")),
        "number",
    ),
    # ------------------------------------------------------------------------------------------------- inode bomb
    accepted(
        "inode-150k",
        INODES,
        "150 000 empty files in one directory",
        lambda: many(150_000) + END,
        names=150_000,
        volume=2560 * MIB,
        memory=260 * MIB,
        slow=True,
    ),
    refused(
        "inode-150k-limit",
        INODES,
        "the same under maxEntries: 20000",
        lambda: many(150_000) + END,
        "limit-entries",
        limits=Limits(max_entries=20_000),
    ),
    refused(
        "inode-implied-240k",
        INODES,
        "240 000 directories that 4000 members imply, under maxEntries: 20000",
        lambda: b"".join(small_directories()) + END,
        "limit-entries",
        limits=Limits(max_entries=20_000),
    ),
    refused(
        "inode-150k-symlinks",
        INODES,
        "symlinks under maxEntries: 20000",
        lambda: many(150_000, flag=b"2", link=b"x" * 100) + END,
        "limit-entries",
        limits=Limits(max_entries=20_000),
    ),
    refused(
        "inode-replaced",
        INODES,
        "entries that replace each other count, too",
        lambda: header(b"x", b"0") * 1100 + END,
        "limit-entries",
        limits=Limits(max_entries=1000),
    ),
    refused(
        "inode-through-links",
        INODES,
        "directories that a symlink's target implies, each time another",
        lambda: b"".join(symlink(b"l", b"%d/" % i + b"d/" * 40) + file(b"l/x") for i in range(100)) + END,
        "limit-entries",
        limits=Limits(max_entries=1000),
    ),
    accepted(
        "inode-66k-directories",
        INODES,
        "66 000 directories in one, more links than ext4 counts",
        lambda: many(66_000, b"d%06d", b"5") + END,
        names=66_000,
        memory=260 * MIB,
        volume=500 * MIB,
        slow=True,
    ),
]
