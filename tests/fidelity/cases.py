"""What a legitimate root file system can hold, case by case, and which real writers write it. Data; no state."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.trees import (
    ACL,
    ACL_MODE,
    SECOND,
    Entry,
    acl,
    capability,
    directory,
    file,
    hardlink,
    opaque,
    sparse,
    symlink,
    whiteout,
)

Layer = Sequence[Sequence[Entry]]
"""In parts: what several runs of a writer add to one archive."""


@dataclass(frozen=True, slots=True)
class Case:
    """``chain`` are layers; ``privileged`` says that only root can plant it on disk for a writer that reads real files.

    ``means`` are the same layers in words that the model of the tests knows, where it does not know those of ``chain``.
    """

    name: str
    chain: Sequence[Layer]
    writers: tuple[str, ...]
    privileged: bool = False
    model_only: tuple[str, ...] = ()
    """Writers whose layers are not given to GNU tar: it makes something else of them, or follows a link out of its directory."""
    means: Sequence[Sequence[Entry]] = ()

    @property
    def expected(self) -> Sequence[Sequence[Entry]]:
        """For ``reference.model``."""
        return self.means or [[entry for part in layer for entry in part] for layer in self.chain]


ALL = ("gnu-pax", "gnu-gnu", "gnu-ustar", "bsd-pax", "bsd-gnu", "bsd-ustar", "python-pax", "python-gnu", "python-ustar")
PLAIN = (*ALL, "gnu-v7")
PAX = ("gnu-pax", "bsd-pax", "python-pax")
LISTED = ("list-pax", "list-gnu", "list-ustar")
SPARSE = ("gnu-sparse-1.0", "gnu-sparse-0.1", "gnu-sparse-0.0", "gnu-sparse-old", "bsd-pax")

MERGED = [directory(b"usr"), *(directory(b"usr/" + name) for name in (b"bin", b"lib", b"lib64"))]
LINKS = [(b"bin", b"usr/bin"), (b"lib", b"usr/lib"), (b"lib64", b"usr/lib64")]
SECOND_TREE = [
    directory(b"bin", mtime=7 * SECOND),
    file(b"bin/sh", b"#!", mode=0o755),
    directory(b"lib"),
    directory(b"lib/modules", mode=0o700),
    file(b"lib/modules/one", b"1" * 600),
    symlink(b"lib64/ld.so", b"../lib/ld.so"),
    hardlink(b"bin/bash", b"bin/sh"),
]
BELOW_LINKS = [entry for entry in SECOND_TREE if entry.kind != stat.S_IFDIR or entry.name == b"lib/modules"]

PRECISE = 1_700_000_000 * SECOND + 123_456_789
EARLY, LATE = -(2**31) + 1, 2**33 + 2**31 - 2
CLOSED = acl((0x01, 7, 2**32 - 1), (0x04, 5, 2**32 - 1), (0x08, 5, 70_000), (0x10, 5, 2**32 - 1), (0x20, 0, 2**32 - 1))
LONG = b"n" * 255
DEEP = b"/".join([b"d" * 199] * 20) + b"/" + b"f" * 96
assert len(DEEP) == 4096


def merged(prefix: bytes) -> list[Entry]:
    return [*MERGED, *(symlink(name, prefix + target) for name, target in LINKS)]


def many_names() -> list[Entry]:
    names = [
        b"-rf",
        b"--help",
        b" ",
        b" lead",
        b"trail ",
        b"...",
        b".hidden",
        b"a\\b",
        b"\\n",
        b"'\"`$(x)",
        b"*?[a]",
        b"~",
        b"#",
        b"a=b",
        b"%41",
    ]
    return [file(b"names/" + name, b"%d" % at) for at, name in enumerate(names)]


DEEPEST = Case("a path of 4096 bytes", [[[file(DEEP, b"deep")]]], ("python-pax", "python-gnu"))
"""Beyond what a system call takes in one piece."""

CASES = [
    Case(
        "usr merged by relative links, a second tree below them",
        [[merged(b""), SECOND_TREE]],
        ALL,
        model_only=ALL,
        means=[[*merged(b""), *BELOW_LINKS]],
    ),
    Case(
        "usr merged by absolute links, a second tree below them",
        [[merged(b"/"), SECOND_TREE]],
        ALL,
        model_only=ALL,
        means=[[*merged(b"/"), *BELOW_LINKS]],
    ),
    Case("usr merged, and only files below the links", [[merged(b""), BELOW_LINKS]], ALL),
    Case(
        "usr merged by a lower layer, files below the links in the upper one",
        [[merged(b"/")], [BELOW_LINKS]],
        ALL,
        model_only=ALL,
    ),
    Case(
        "links that are absolute, dangling, to themselves, or long",
        [
            [
                [
                    directory(b"etc"),
                    symlink(b"etc/mtab", b"/proc/self/mounts"),
                    symlink(b"etc/localtime", b"../usr/share/zoneinfo/UTC"),
                    symlink(b"dangling", b"no/such/thing"),
                    symlink(b"loop", b"loop"),
                    symlink(b"a", b"b"),
                    symlink(b"b", b"a"),
                    symlink(b"slashes", b"//usr///bin/"),
                    symlink(b"root", b"/"),
                    symlink(b"here", b"."),
                    symlink(b"etc/up", b".."),
                    symlink(b"hundred", b"t" * 100),
                    symlink(b"odd", b"new\nline"),
                ]
            ]
        ],
        PLAIN[:-1],
    ),
    Case(
        "targets of links as long as can be",
        [[[symlink(b"long", b"t" * 4095), symlink(b"59", b"t" * 59), symlink(b"60", b"t" * 60), symlink(b"101", b"t" * 101)]]],
        ("gnu-pax", "gnu-gnu", "bsd-pax", "bsd-gnu", "python-pax", "python-gnu"),
    ),
    Case(
        "hard links across directories in any order",
        [
            [
                [
                    file(b"z/first", b"shared", mode=0o640),
                    hardlink(b"a/second", b"z/first"),
                    directory(b"a", mtime=5 * SECOND),
                    directory(b"z", mode=0o700, mtime=6 * SECOND),
                    hardlink(b"a/b/third", b"z/first"),
                    directory(b"a/b", mtime=7 * SECOND),
                    hardlink(b"fourth", b"z/first"),
                ]
            ]
        ],
        PLAIN,
    ),
    Case(
        "hard links to a symlink and to a fifo",
        [
            [
                [
                    symlink(b"link", b"nowhere"),
                    hardlink(b"link-again", b"link"),
                    Entry(b"fifo", stat.S_IFIFO, 0o600),
                    hardlink(b"fifo-again", b"fifo"),
                ]
            ]
        ],
        ("bsd-pax", "bsd-gnu", "bsd-ustar", "python-pax", "python-gnu", "python-ustar"),  # GNU tar writes them one by one
    ),
    Case(
        "hard links to devices",
        [[[Entry(b"null", stat.S_IFCHR, 0o666, device=(1, 3)), hardlink(b"zero", b"null")]]],
        ("python-pax", "python-gnu", "python-ustar"),  # the others write them one by one
        privileged=True,
    ),
    Case(
        "setuid, setgid and sticky bits, and no bits at all",
        [
            [
                [
                    *(file(b"%04o" % mode, b"x", mode=mode) for mode in (0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0)),
                    *(directory(b"d%04o" % mode, mode) for mode in (0o1777, 0o2775, 0o3770, 0o7777, 0o500)),
                ]
            ]
        ],
        (*PLAIN, *LISTED),
    ),
    Case(
        "setuid files of other owners",
        [
            [
                [
                    file(b"su", b"x", mode=0o4755, uid=7, gid=8),
                    file(b"wall", b"x", mode=0o2755, gid=5),
                    directory(b"d", 0o2775, gid=50),
                ]
            ]
        ],
        (*PLAIN, *LISTED),
        privileged=True,
    ),
    Case(
        "devices and fifos",
        [
            [
                [
                    directory(b"dev"),
                    Entry(b"dev/null", stat.S_IFCHR, 0o666, device=(1, 3)),
                    Entry(b"dev/sda", stat.S_IFBLK, 0o660, gid=6, device=(8, 0)),
                    Entry(b"dev/initctl", stat.S_IFIFO, 0o600),
                    Entry(b"dev/255", stat.S_IFCHR, 0o600, device=(255, 255)),
                ]
            ]
        ],
        (*ALL, *LISTED),
        privileged=True,
    ),
    Case(
        "devices with the highest numbers",
        [
            [
                [
                    Entry(b"nvme", stat.S_IFBLK, 0o660, device=(259, 70_000)),
                    Entry(b"last", stat.S_IFCHR, 0o600, device=(4095, 2**20 - 1)),
                ]
            ]
        ],
        ("gnu-pax", "gnu-gnu", "bsd-pax", "python-pax", "python-gnu", "python-ustar"),
        privileged=True,
    ),
    Case(
        "capabilities of both versions",
        [
            [
                [
                    file(b"ping", b"p", mode=0o755, xattrs={b"security.capability": capability()}),
                    file(b"owned", b"o", mode=0o755, uid=3, xattrs={b"security.capability": capability(3, rootid=100_000)}),
                    file(b"both", b"b", mode=0o4755, xattrs={b"security.capability": capability(), b"user.a": b"1"}),
                ]
            ]
        ],
        PAX,
        privileged=True,
    ),
    Case(
        "attributes of users",
        [
            [
                [
                    file(b"f", xattrs={b"user.empty": b"", b"user.binary": b"\0\xff=\n", b"user.mime_type": b"text/plain"}),
                    file(b"large", xattrs={b"user.large": b"v" * 3000}),
                    directory(b"d", xattrs={b"user." + b"k" * 200: b"y"}),
                ]
            ]
        ],
        PAX,
    ),
    Case(
        "attributes whose names need to be encoded",
        [[[file(b"f", xattrs={b"user.name=with%signs": b"x", b"user.%3D": b"y", b"user.\xff \x01": b"z"})]]],
        ("gnu-pax", "bsd-pax"),
        model_only=("bsd-pax",),
    ),
    Case(
        "access control lists in binary",
        [
            [
                [
                    file(b"f", mode=ACL_MODE, xattrs={b"system.posix_acl_access": ACL}),
                    directory(b"d", 0o750, xattrs={b"system.posix_acl_default": CLOSED, b"system.posix_acl_access": CLOSED}),
                ]
            ]
        ],
        ("gnu-pax", "python-pax"),
    ),
    Case(
        "access control lists in words",
        [
            [
                [
                    file(b"f", mode=0o650, xattrs={b"system.posix_acl_access": CLOSED.replace(b"\1\0\7", b"\1\0\6")}),
                    directory(b"d", 0o750, xattrs={b"system.posix_acl_default": CLOSED, b"system.posix_acl_access": CLOSED}),
                ]
            ]
        ],
        ("gnu-acls", "gnu-acls-and-xattrs", "bsd-pax"),
        model_only=("gnu-acls", "bsd-pax"),
    ),
    Case(
        "owners up to the last id of each format",
        [[[file(b"%d" % owner, uid=owner, gid=owner) for owner in (1, 0xFFFF, 0x10000, 2**18 - 1)]]],
        ("gnu-ustar", "gnu-v7", "bsd-ustar", "list-ustar", "python-ustar"),
        privileged=True,
    ),
    Case(
        "owners beyond two million",
        [[[file(b"%d" % owner, uid=owner, gid=owner) for owner in (2**21 - 1, 2**21, 2**31 - 1, 2**31, 2**32 - 2)]]],
        ("gnu-pax", "gnu-gnu", "bsd-pax", "bsd-gnu", "list-pax", "list-gnu", "python-pax", "python-gnu"),
        privileged=True,
    ),
    Case("names that shells and options trip over", [[[directory(b"names"), *many_names()]]], PLAIN),
    Case(
        "names that are no text",
        [
            [
                [
                    file(b"\xff\xfe"),
                    file(b"new\nline"),
                    file(b"\x1b[31m"),
                    file(b"tab\t\r\x7f"),
                    directory(b"d\xc3"),
                    symlink(b"l", b"\xff"),
                ]
            ]
        ],
        ("gnu-pax", "gnu-gnu", "gnu-ustar", "bsd-gnu", "bsd-ustar", "python-pax", "python-gnu", "python-ustar"),
    ),
    Case(
        "names that differ in case or normal form only",
        [[[file(b"Name", b"1"), file(b"name", b"2"), file("\u00e9".encode(), b"3"), file(b"e\xcc\x81", b"4")]]],
        (*ALL, "list-pax"),
    ),
    Case(
        "names as long as the formats' fields",
        [[[file(b"n" * 99, b"1"), file(b"m" * 100, b"2"), file(b"p" * 155 + b"/" + b"q" * 100, b"3"), directory(b"d" * 98)]]],
        ALL,
    ),
    Case(
        "names of 255 bytes, and links to them",
        [
            [
                [
                    directory(LONG),
                    file(LONG + b"/" + LONG, b"x"),
                    hardlink(b"h", LONG + b"/" + LONG),
                    symlink(b"s", LONG + b"/" + LONG),
                ]
            ]
        ],
        ("gnu-pax", "gnu-gnu", "bsd-pax", "bsd-gnu", "python-pax", "python-gnu"),
    ),
    DEEPEST,
    Case(
        "times to the nanosecond, before 1970 and after 2038",
        [
            [
                [
                    file(b"now", mtime=PRECISE),
                    file(b"before", mtime=-1),
                    file(b"1969", mtime=-SECOND - 1),
                    file(b"1901", mtime=EARLY * SECOND + 1),
                    file(b"2038", mtime=2**31 * SECOND + 999_999_999),
                    file(b"2106", mtime=2**32 * SECOND + 1),
                    file(b"2310", mtime=LATE * SECOND + 1),
                    symlink(b"link", b"x", mtime=PRECISE),
                    directory(b"directory", mtime=-PRECISE),
                    Entry(b"fifo", stat.S_IFIFO, 0o600, mtime=PRECISE + 1),
                ]
            ]
        ],
        ("gnu-pax", "python-pax"),  # bsdtar writes what is before 1970 and no whole second wrongly: see the differences
    ),
    Case(
        "times to the nanosecond since 1970",
        [[[file(b"f", mtime=PRECISE), file(b"late", mtime=2**33 * SECOND + 1), directory(b"d", mtime=999_999_999)]]],
        PAX,
    ),
    Case(
        "whole seconds before 1970 and after 2038",
        [[[file(b"%d" % at, mtime=at * SECOND) for at in (EARLY, -1, 0, 2**31, 2**32, LATE)]]],
        ("gnu-gnu", "gnu-pax", "python-gnu", "python-pax", "list-pax"),
    ),
    Case(
        "sparse files",
        [
            [
                [
                    sparse(b"middle", 1 << 20, [(65536, b"x" * 4096), (262144, b"y" * 8192)]),
                    sparse(b"front", 1 << 20, [(0, b"f" * 4096)]),
                    sparse(b"tail", (1 << 20) + 5, [(1 << 20, b"tail!")]),
                    sparse(b"none", 1 << 20, []),
                    sparse(b"many", 130 * 16384, [(at * 16384, b"%04d" % at * 1024) for at in range(130)]),
                    file(b"full", b"z" * 10_000),
                ]
            ]
        ],
        SPARSE,
    ),
    Case(
        "sparse files with long names",
        [[[sparse(b"directory/" + b"s" * 120, 1 << 16, [(32768, b"s" * 4096)])]]],
        SPARSE,
    ),
    Case(
        "many segments, more than one header can hold",
        [[[sparse(b"f", 600 * 8192, [(at * 8192, b"%04d" % at * 1024) for at in range(1, 600, 2)])]]],
        SPARSE[:4],
    ),
    Case(
        "what comes twice: the last one wins",
        [
            [
                [
                    file(b"f", b"first" * 300, mtime=SECOND),
                    file(b"alias", b"kept"),
                    symlink(b"l", b"f"),
                    file(b"t", b"file"),
                    directory(b"d"),
                ],
                [
                    file(b"f", b"second", mode=0o600),
                    directory(b"d", 0o700, mtime=9 * SECOND),
                    file(b"l", b"now a file"),
                    directory(b"t"),
                ],
                [hardlink(b"h", b"f"), symlink(b"alias", b"f")],
            ]
        ],
        ("python-pax", "python-gnu", "python-ustar"),
    ),
    Case(
        "what comes twice in an archive that was appended to",
        [
            [
                [file(b"f", b"first" * 300, mtime=SECOND), symlink(b"l", b"f"), directory(b"d"), file(b"d/old", b"o")],
                [
                    file(b"f", b"second", mode=0o600),
                    directory(b"d", 0o700, mtime=9 * SECOND),
                    file(b"d/new", b"n"),
                    file(b"l", b"own"),
                ],
            ]
        ],
        ALL,
    ),
    Case(
        "hard links whose first name is replaced later",
        [[[file(b"a", b"old"), hardlink(b"b", b"a")], [file(b"a", b"new"), hardlink(b"c", b"a")]]],
        ALL,
    ),
    Case(
        "directories after their children, and returned to",
        [
            [
                [
                    file(b"a/b/one", b"1"),
                    directory(b"a/b", 0o700, mtime=3 * SECOND),
                    directory(b"a", 0o555, mtime=2 * SECOND),
                    directory(b"c", 0o500, mtime=4 * SECOND),
                    file(b"c/late", b"2", mtime=5 * SECOND),
                    directory(b".", 0o755, mtime=SECOND),
                    file(b"a/b/two", b"3"),
                ]
            ]
        ],
        PLAIN,
    ),
    Case(
        "files of no bytes, and one of each length around a block",
        [[[file(b"%d" % n, b"x" * n) for n in (0, 1, 511, 512, 513, 4096, 4097)]]],
        PLAIN,
    ),
    Case("nothing at all but the root", [[[directory(b".", 0o711, mtime=PRECISE // SECOND * SECOND)]]], PLAIN),
    Case(
        "whiteouts over a chain",
        [
            [
                [
                    directory(b"d"),
                    file(b"d/a", b"1"),
                    file(b"d/b", b"2"),
                    directory(b"e"),
                    file(b"e/x", b"3"),
                    file(b"f"),
                    symlink(b"l", b"d"),
                ]
            ],
            [[whiteout(b"d/a"), directory(b"e", 0o700), opaque(b"e"), file(b"e/y", b"4"), whiteout(b"f"), whiteout(b"l")]],
            [
                [
                    file(b"f", b"back"),
                    directory(b"d"),
                    file(b"d/a", b"again", mode=0o600),
                    whiteout(b"e/y"),
                    hardlink(b"g", b"d/a"),
                ]
            ],
        ],
        ALL,
    ),
    Case(
        "an opaque directory that was opaque before, and one that is new",
        [
            [[directory(b"d"), directory(b"d/sub"), file(b"d/sub/f", b"1"), file(b"d/g", b"2")]],
            [
                [
                    directory(b"d", mtime=SECOND),
                    opaque(b"d"),
                    directory(b"d/sub", 0o711),
                    file(b"d/sub/h", b"3"),
                    directory(b"new"),
                    opaque(b"new"),
                ]
            ],
            [[directory(b"d"), opaque(b"d"), file(b"d/last", b"4")]],
        ],
        ALL,
    ),
]


def written() -> Iterator[tuple[Case, str]]:
    """Each case with each of its writers."""
    for case in CASES:
        for writer in case.writers:
            yield case, writer
