"""Archives that programs are known, or were found, to read differently; each small, each built on the spot. Data; no state.

They come from what real writers write, from the traps of public test suites, and from published flaws of extractors. Absolute
names and targets lead to places that no host has, and what would write there is ``unsafe``: a filter that trusts is not given it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
from dataclasses import dataclass, field
from functools import partial

import zstandard

from reconciler.image.spec import Limits
from tests.support import layers
from tests.support.trees import ACL, Entry, capability, sparse
from tests.support.trees import directory as dir_entry
from tests.support.trees import file as file_entry

from .blocks import (
    END,
    GNU,
    POSIX,
    V7,
    binary,
    changed,
    directory,
    extended,
    hardlink,
    long_name,
    member,
    octal,
    padded,
    record,
    summed,
    symlink,
)

SHOWN = ("mode", "owner", "mtime", "xattrs", "holes", "root")
"""What a fixture may be about besides names, types, sizes and targets."""


@dataclass(frozen=True, slots=True)
class Fixture:
    """``why`` tells the reason for what ours does where somebody differs; empty where nobody must."""

    title: str
    archive: bytes
    why: str = ""
    show: tuple[str, ...] = ()
    root: bool = False
    """Whether what the peers do depends on being root."""
    unsafe: bool = False
    """Whether an extractor that trusts the archive would leave the directory for a place that nothing finds."""
    limits: Limits = field(default_factory=Limits)
    patience: float = 20.0
    """Seconds after which a peer counts as hanging."""


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def entries(*found: Entry, dialect: str = "pax", sparse_format: str = "1.0") -> bytes:
    return layers.pack(found, dialect, sparse_format=sparse_format)


file = partial(member, data=b"hello")
ORDINARY = file(b"after")

# ------------------------------------------------------------------------------------------------ where links lead

IN_ROOT = "A volume is a root file system: links resolve inside it, as for a process that has it as its root."
CLIMBS = "No root file system needs it, and what it means depends on where the archive is unpacked."
CLIMBING = "A link that climbs above the root is seldom meant; `limits.climbingLinks: resolve` takes it as the kernel would."

LINKS = [
    Fixture(
        "a file below a relative link to a directory (merged /usr)",
        tar(directory(b"usr"), directory(b"usr/lib"), symlink(b"lib", b"usr/lib"), file(b"lib/x")),
        IN_ROOT + " Merged /usr trees need it.",
    ),
    Fixture(
        "a file below an absolute link to a directory (merged /usr)",
        tar(directory(b"own-usr"), directory(b"own-usr/lib"), symlink(b"lib", b"/own-usr/lib"), file(b"lib/x")),
        IN_ROOT,
        unsafe=True,
    ),
    Fixture(
        "a file below a link to a directory that comes later",
        tar(symlink(b"lib", b"usr/lib"), file(b"lib/x"), directory(b"usr"), directory(b"usr/lib")),
        IN_ROOT + " What is missing on the way is made.",
    ),
    Fixture(
        "a directory over a link to a directory, of the same archive",
        tar(directory(b"usr"), directory(b"usr/lib", mode=0o700), symlink(b"lib", b"usr/lib"), directory(b"lib"), file(b"lib/x")),
        "Archives joined from two trees have it: the link stays, and what it points to keeps its metadata.",
        ("mode",),
    ),
    Fixture(
        "a directory over a dangling link",
        tar(symlink(b"d", b"nowhere"), directory(b"d"), file(b"d/x")),
        "The last one wins.",
    ),
    Fixture("an absolute link", tar(symlink(b"l", b"/proc/mounts"), ORDINARY), "Ordinary in root file systems."),
    Fixture("a dangling link, and one to itself", tar(symlink(b"l", b"nowhere"), symlink(b"m", b"m"))),
    Fixture("a link that climbs above the root", tar(symlink(b"l", b"../../etc"), ORDINARY), CLIMBING),
    Fixture(
        "a link that climbs above the root, with climbingLinks: resolve",
        tar(symlink(b"l", b"../../etc"), ORDINARY),
        CLIMBING,
        limits=Limits(climbing_links="resolve"),
    ),
    Fixture(
        "a file below a link that climbs, with climbingLinks: resolve",
        tar(directory(b"d"), symlink(b"l", b"../../d"), file(b"l/x")),
        IN_ROOT,
        limits=Limits(climbing_links="resolve"),
    ),
    Fixture("a link that climbs and stays inside", tar(directory(b"a"), directory(b"a/b"), symlink(b"a/b/l", b"../../x"))),
    Fixture("a link with an empty target", tar(symlink(b"l", b""), ORDINARY), "Linux has no such links."),
    Fixture(
        "a link to 4096 bytes", tar(extended((b"linkpath", b"t" * 4096)), symlink(b"l", b"t"), ORDINARY), "Linux takes 4095."
    ),
    Fixture(
        "a file over a link",
        tar(member(b"target", data=b"kept!!!"), symlink(b"l", b"target"), file(b"l")),
        "What comes last replaces the link, and nothing is written through it.",
    ),
    Fixture("a file below a file", tar(file(b"f"), file(b"f/x")), "Nothing can lie there."),
    Fixture("a file below a link to itself", tar(symlink(b"l", b"l"), file(b"l/x")), "It leads nowhere."),
    Fixture(
        "a link over a directory that the archive has filled",
        tar(directory(b"d"), file(b"d/x"), symlink(b"d", b"e"), ORDINARY),
        "Whether what was in it goes, stays or moves is anybody's guess.",
    ),
    Fixture(
        "a link over an empty directory",
        why="What comes last replaces what was there.",
        archive=tar(directory(b"d"), symlink(b"d", b"e"), ORDINARY),
    ),
    Fixture(
        "a file over an empty directory", why="What comes last replaces what was there.", archive=tar(directory(b"d"), file(b"d"))
    ),
    Fixture(
        "a directory over a file",
        why="What comes last replaces what was there.",
        archive=tar(file(b"d"), directory(b"d"), file(b"d/x")),
    ),
    Fixture(
        "a file over a fifo",
        tar(member(b"f", b"6"), file(b"f")),
        "What comes last replaces it; nothing is written into it.",
        patience=4.0,
    ),
]

# -------------------------------------------------------------------------------------------------- hard links

HARDLINKS = [
    Fixture("a hard link", tar(file(b"a"), hardlink(b"b", b"a"))),
    Fixture("a hard link with the target's size and no data", tar(file(b"a"), hardlink(b"b", b"a", size=octal(5)), ORDINARY)),
    Fixture(
        "a hard link with an absolute target",
        tar(file(b"own-file"), hardlink(b"b", b"/own-file")),
        "Container tools write such targets; the root is the archive's.",
    ),
    Fixture("a hard link with a target of ./", tar(file(b"a"), hardlink(b"b", b"./a"))),
    Fixture(
        "a hard link in front of its target",
        tar(hardlink(b"b", b"a"), file(b"a")),
        "Nothing to link to: the archive is not in order.",
    ),
    Fixture("a hard link to a directory", tar(directory(b"d"), hardlink(b"h", b"d")), "No file system has them."),
    Fixture("a hard link to itself", tar(file(b"a"), hardlink(b"a", b"a")), "It says nothing new."),
    Fixture(
        "a hard link to a symlink that leads nowhere",
        tar(symlink(b"a", b"nowhere"), hardlink(b"b", b"a")),
        "Linux has hard links to symlinks.",
    ),
    Fixture("a hard link to a target that climbs", tar(file(b"a"), directory(b"d"), hardlink(b"d/b", b"d/../a")), CLIMBS),
    Fixture(
        "a hard link to a link",
        tar(file(b"a"), symlink(b"l", b"a"), hardlink(b"h", b"l")),
        "The link itself gets a second name.",
    ),
    Fixture(
        "a hard link through a link to a directory",
        why="Links resolve inside the root.",
        archive=tar(directory(b"d"), file(b"d/a"), symlink(b"l", b"d"), hardlink(b"h", b"l/a")),
    ),
    Fixture(
        "a file over a hard link leaves the other name alone",
        why="What comes last replaces the name, and nothing is written through it.",
        archive=tar(file(b"a"), hardlink(b"b", b"a"), member(b"b", data=b"new")),
    ),
    Fixture(
        "a hard link with another mode",
        tar(file(b"a", mode=0o644), hardlink(b"b", b"a", mode=0o4755)),
        "The file has the metadata of its own member.",
        ("mode",),
        root=True,
    ),
    Fixture(
        "a hard link with data behind it (pax -o linkdata)",
        tar(file(b"a"), extended((b"size", b"5")), hardlink(b"b", b"a", size=octal(5)) + padded(b"hello"), ORDINARY),
        "Whether data follows is told by no field.",
    ),
]

# ------------------------------------------------------------------------------------------------------- names

NAMES = [
    Fixture("a name that climbs", tar(file(b"../x"), ORDINARY), CLIMBS),
    Fixture("a name that climbs and returns", tar(directory(b"a"), file(b"a/../b"), ORDINARY), CLIMBS),
    Fixture("an absolute name", tar(file(b"/own-name"), ORDINARY), unsafe=True),
    Fixture("names with ./, // and /./", tar(directory(b"./"), file(b"./a"), file(b".//d//./b"))),
    Fixture("an empty name", tar(file(b""), ORDINARY), "A member without a name can't be placed."),
    Fixture("an empty directory name", tar(directory(b""), ORDINARY), "A member without a name can't be placed."),
    Fixture("the root as a file", tar(file(b"."), ORDINARY), "The root can only be a directory."),
    Fixture("the root as a link", tar(symlink(b".", b"elsewhere"), ORDINARY), "The root can only be a directory."),
    Fixture("a link with a name that ends in a slash", tar(symlink(b"l/", b"x"), ORDINARY)),
    Fixture(
        "an old directory: a file whose name ends in a slash",
        why="So directories were written before ustar.",
        archive=tar(member(b"d/", mode=0o755), ORDINARY),
    ),
    Fixture(
        "a file with data whose name ends in a slash",
        tar(file(b"d/"), ORDINARY),
        "It is a directory by its name and a file by its data.",
    ),
    Fixture(
        "type NUL with a long name that ends in a slash",
        why="The final name decides.",
        archive=tar(long_name(b"d" * 120 + b"/"), member(b"d" * 100, b"\0", mode=0o755, magic=GNU), ORDINARY),
    ),
    Fixture(
        "type NUL whose short name ends in a slash, and whose long name does not",
        tar(long_name(b"f" * 120), member(b"d/", b"\0", data=b"hello", magic=GNU), ORDINARY),
        "The final name decides.",
    ),
    Fixture("a component of 256 bytes", tar(extended((b"path", b"n" * 256)), file(b"n"), ORDINARY), "Linux takes 255."),
    Fixture(
        "a name 17 deep, with maxDepth: 16",
        entries(file_entry(b"d/" * 16 + b"f")),
        "A bound for whoever walks it.",
        limits=Limits(max_depth=16),
    ),
    Fixture("a name that is no UTF-8, in ustar", tar(file(b"\xff\xfe"))),
    Fixture(
        "a name that is no UTF-8, in an extended header", tar(extended((b"path", b"\xff\xfe")), file(b"x")), "Names are bytes."
    ),
    Fixture(
        "a name that is no UTF-8, with hdrcharset=BINARY",
        tar(extended((b"hdrcharset", b"BINARY"), (b"path", b"\xff\xfe")), file(b"x")),
    ),
    Fixture("a name with a newline and an escape", tar(file(b"a\nb\x1b[31m"))),
    Fixture("a name that begins with a backslash", tar(file(b"\\f")), "A backslash is a byte like any other."),
    Fixture(
        "a directory whose name is a backslash",
        tar(directory(b"\\", mode=0o700)),
        "A backslash is a byte like any other.",
        ("mode",),
    ),
    Fixture(
        "names that differ in normal form, in extended headers",
        tar(
            extended((b"path", "\u00e9".encode())) + file(b"n"),
            extended((b"path", b"e\xcc\x81")) + member(b"n", data=b"other"),
            extended(
                (b"GNU.sparse.name", b"a\xcc\x88"),
                (b"GNU.sparse.size", b"5"),
                (b"GNU.sparse.numblocks", b"1"),
                (b"GNU.sparse.map", b"0,5"),
            )
            + file(b"n"),
        ),
        "Names are bytes: two that look alike are two.",
    ),
    Fixture("a name that begins like a drive of Windows", tar(file(b"c:f"), file(b"d/c:f")), "A colon is a byte like any other."),
    Fixture("names that differ in normal form", tar(file("\u00e9".encode()), member(b"e\xcc\x81", data=b"other"))),
    Fixture("a name of exactly 100 bytes", tar(file(b"n" * 100))),
    Fixture("ustar's prefix", tar(file(b"name", tail=b"pre/fix"))),
    Fixture("ustar's prefix that ends in a slash", tar(file(b"name", tail=b"prefix/"))),
    Fixture(
        "the prefix's bytes in a header of GNU's layout: its access and change times",
        tar(member(b"f", data=b"hello", magic=GNU, tail=octal(1) + octal(2))),
        "GNU's layout has times there (incremental archives): no part of the name.",
    ),
    Fixture("a long name without its NUL, under ustar's magic", tar(long_name(b"n" * 120, end=b"", magic=POSIX), file(b"n"))),
    Fixture(
        "two long names",
        tar(long_name(b"first"), long_name(b"second"), file(b"n", magic=GNU)),
        "Which one counts is told by nobody.",
    ),
    Fixture(
        "a long name and an extended header",
        tar(long_name(b"first"), extended((b"path", b"second")), file(b"n")),
        "Which one counts is told by nobody.",
    ),
    Fixture(
        "an extended header and a long name",
        tar(extended((b"path", b"first")), long_name(b"second"), file(b"n")),
        "Which one counts is told by nobody.",
    ),
    Fixture(
        "a NUL in an extended header's name",
        tar(extended((b"path", b"a\0b")), file(b"n"), ORDINARY),
        "The name ends where it ends, or it does not.",
    ),
    Fixture(
        "a long name with a NUL in it",
        tar(long_name(b"a\0b"), file(b"n", magic=GNU), ORDINARY),
        "The name ends where it ends, or it does not.",
    ),
    Fixture(
        "an empty path in an extended header",
        tar(extended((b"path", b"")), file(b"n"), ORDINARY),
        "POSIX lets an empty value take the record back: few readers do.",
    ),
]

# ---------------------------------------------------------------------------------------------- extended headers

PAX = [
    Fixture(
        "a path twice in an extended header",
        tar(extended((b"path", b"first"), (b"path", b"second")), file(b"n")),
        "The last one wins by POSIX, the first one in some readers.",
    ),
    Fixture(
        "two extended headers",
        tar(extended((b"path", b"first")), extended((b"mtime", b"1")), file(b"n")),
        "Some readers join them, some take the last.",
    ),
    Fixture("an extended header without a member", tar(ORDINARY, extended((b"path", b"x"))), "Something is missing."),
    Fixture("a global header with a comment (git archive)", tar(extended((b"comment", b"0" * 40), flag=b"g"), ORDINARY)),
    Fixture(
        "a global header with a path",
        tar(extended((b"path", b"x"), flag=b"g"), file(b"a"), file(b"b")),
        "Readers apply it to all members, to one, or to none.",
    ),
    Fixture(
        "a global header with a time",
        tar(extended((b"mtime", b"1"), flag=b"g"), file(b"a")),
        "Readers apply it to all members, to one, or to none.",
        ("mtime",),
    ),
    Fixture(
        "a size of more digits than its number",
        tar(extended((b"size", b"0" * 21 + b"5")), member(b"f", size=octal(0)) + padded(b"hello"), ORDINARY),
    ),
    Fixture(
        "the size in the extended header, 0 in the header",
        tar(extended((b"size", b"5")), member(b"f", size=octal(0)) + padded(b"hello"), ORDINARY),
    ),
    Fixture(
        "another size in the extended header than in the header",
        tar(extended((b"size", b"600")), member(b"f", size=octal(5)) + padded(b"x" * 600), ORDINARY),
    ),
    Fixture(
        "a size in an extended header in front of a long name",
        tar(extended((b"size", b"600")), long_name(b"long"), member(b"f", data=b"x" * 600, magic=GNU), ORDINARY),
        "It is the member's, and the long name has its own.",
    ),
    Fixture(
        "a negative size in an extended header", tar(extended((b"size", b"-1")), file(b"f"), ORDINARY), "Not a number of bytes."
    ),
    Fixture("a size with a plus sign", tar(extended((b"size", b"+5")), file(b"f"), ORDINARY), "Decimal digits, says POSIX."),
    Fixture("a size in hexadecimal", tar(extended((b"size", b"0x5")), file(b"f"), ORDINARY), "Decimal digits, says POSIX."),
    Fixture(
        "an owner with an underscore",
        tar(extended((b"uid", b"5_0")), file(b"f"), ORDINARY),
        "Decimal digits, says POSIX.",
        ("owner",),
        root=True,
    ),
    Fixture(
        "an empty time in an extended header",
        tar(extended((b"mtime", b"")), file(b"f", mtime=octal(5))),
        "POSIX lets an empty value take the record back: few readers do.",
        ("mtime",),
    ),
    Fixture(
        "a record without its newline", tar(member(b"x", b"x", b"10 path=ab"), file(b"f"), ORDINARY), "The header is malformed."
    ),
    Fixture(
        "a record that is too short",
        tar(member(b"x", b"x", b"7 path=abcdef\n"), file(b"f"), ORDINARY),
        "The header is malformed.",
    ),
    Fixture(
        "a record that is too long", tar(member(b"x", b"x", b"99 path=x\n"), file(b"f"), ORDINARY), "The header is malformed."
    ),
    Fixture(
        "a record without an equals sign",
        tar(member(b"x", b"x", b"10 path x\n"), file(b"f"), ORDINARY),
        "The header is malformed.",
    ),
    Fixture("an unknown record of a vendor", tar(extended((b"ACME.flavour", b"sour")), file(b"f"))),
    Fixture(
        "an extended header in front of a member in the layout of Version 7",
        tar(extended((b"path", b"other")), file(b"f", magic=V7), ORDINARY),
        "Version 7 knows no extended headers.",
    ),
    Fixture(
        "Sun's draft of extended headers",
        tar(extended((b"path", b"other"), flag=b"X"), file(b"f"), ORDINARY),
        "Type X is not supported.",
    ),
    Fixture("a name of a file that a record of linkpath is given", tar(extended((b"linkpath", b"x")), file(b"f"))),
    Fixture(
        "an extended header of 2 MiB",
        tar(extended((b"comment", b"x" * (2 << 20))), file(b"f")),
        "`limits.maxMetadataBytes`: 1 MiB for one member.",
    ),
]

# ----------------------------------------------------------------------------------------------------- numbers

RANGE = "Out of the range of what Linux keeps."
NUMBERS = [
    Fixture(
        "owners in base-256",
        why="Owners are part of the content.",
        archive=tar(file(b"f", ids=(binary(2**21), binary(2**32 - 2)), magic=GNU)),
        show=("owner",),
        root=True,
    ),
    Fixture(
        "the owner 2^32-1",
        tar(file(b"f", mode=0o4755, ids=(binary(2**32 - 1), octal(5, 8)), magic=GNU), ORDINARY),
        'It means "leave as it is" to chown: a setuid file would stay root\'s.',
        ("owner", "mode"),
        root=True,
    ),
    Fixture(
        "the owner 2^32", tar(file(b"f", ids=(binary(2**32), octal(5, 8)), magic=GNU), ORDINARY), RANGE, ("owner",), root=True
    ),
    Fixture(
        "a negative owner in base-256",
        tar(file(b"f", ids=(binary(-2), octal(5, 8)), magic=GNU), ORDINARY),
        RANGE,
        ("owner",),
        root=True,
    ),
    Fixture(
        "an owner of -1 in an extended header", tar(extended((b"uid", b"-1")), file(b"f"), ORDINARY), RANGE, ("owner",), root=True
    ),
    Fixture(
        "owners by name: numbers count",
        why="Owners are part of the content.",
        archive=tar(changed(file(b"f", ids=(octal(7, 8), octal(8, 8))), 265, b"root")),
        show=("owner",),
        root=True,
    ),
    Fixture("a whole st_mode in the mode field", tar(file(b"f", mode=0o100640)), "", ("mode",)),
    Fixture("a mode that is no mode", tar(file(b"f", mode=0o777777), ORDINARY), "Twelve bits count.", ("mode",), root=True),
    Fixture("numbers with leading blanks and no NUL", tar(changed(file(b"f"), 100, b"   644 "))),
    Fixture("a number that is not octal", tar(changed(file(b"f"), 136, b"hello world\0"), ORDINARY), "Not a number.", ("mtime",)),
    Fixture("an empty size", tar(changed(member(b"f"), 124, bytes(12)), ORDINARY), "A file's size is missing."),
    Fixture(
        "an empty mode, owner and time",
        why="An empty field is 0.",
        archive=tar(changed(changed(file(b"f"), 100, bytes(24)), 136, bytes(12))),
        show=("mode", "mtime"),
    ),
    Fixture("a negative time in base-256", tar(file(b"f", mtime=binary(-5, 12), magic=GNU)), "", ("mtime",)),
    Fixture(
        "a time before 1970 with a fraction",
        why="The record is a decimal number. libarchive writes and reads the fraction as counting forward.",
        archive=tar(extended((b"mtime", b"-1.5")), file(b"f")),
        show=("mtime",),
    ),
    Fixture(
        "a time of 1 ns",
        why="Part of the content.",
        archive=tar(extended((b"mtime", b"1700000000.000000001")), file(b"f")),
        show=("mtime",),
    ),
    Fixture("a time of 12 decimals", tar(extended((b"mtime", b"5.123456789999")), file(b"f")), "", ("mtime",)),
    Fixture(
        "a negative time of 12 decimals",
        tar(extended((b"mtime", b"-5.123456789999")), file(b"f")),
        "Rounded down, as POSIX.1 and the kernel do.",
        ("mtime",),
    ),
    Fixture(
        "a time in 3058",
        tar(extended((b"mtime", b"%d" % 2**35)), file(b"f"), ORDINARY),
        "ext4 ends in 2446, and its checker in 2310: clamped and counted; `limits.times` refuses.",
        ("mtime",),
    ),
    Fixture(
        "a time with an exponent",
        tar(extended((b"mtime", b"1e3")), file(b"f"), ORDINARY),
        "Decimal digits, says POSIX.",
        ("mtime",),
    ),
    Fixture("a time in 2310", tar(extended((b"mtime", b"%d.5" % (2**33 + 2**31 - 2))), file(b"f")), "", ("mtime",)),
    Fixture(
        "a signed checksum",
        tar(
            layers.header(b"\xff" * 8, b"0", size=octal(0))[:148]
            + b"%06o\0 "
            % (
                sum(layers.header(b"\xff" * 8, b"0", size=octal(0))[:148])
                + 256
                + sum(layers.header(b"\xff" * 8, b"0", size=octal(0))[156:])
                - 256 * 8
            )
            + layers.header(b"\xff" * 8, b"0", size=octal(0))[156:]
        ),
    ),
    Fixture("a wrong checksum", tar(ORDINARY, b"g" + file(b"f")[1:]), "The archive is damaged."),
    Fixture("a directory with a size and no data", tar(directory(b"d", size=octal(1024)), ORDINARY)),
    Fixture(
        "a link with a size and no data",
        tar(symlink(b"l", b"x", size=octal(512)), file(b"hidden"), ORDINARY),
        "GNU tar passes over that many bytes: a member is hidden from who looks with it.",
    ),
    Fixture(
        "a fifo with a size and no data",
        tar(member(b"p", b"6", size=octal(512)), file(b"hidden"), ORDINARY),
        "GNU tar passes over that many bytes: a member is hidden from who looks with it.",
    ),
    Fixture("a negative size in base-256", tar(file(b"f", size=binary(-512, 12), magic=GNU), ORDINARY), "Not a number of bytes."),
    Fixture(
        "a size of 2^63 in base-256",
        tar(file(b"f", size=binary(2**63, 12), magic=GNU), ORDINARY),
        "The stream has not so many bytes.",
    ),
]

# ------------------------------------------------------------------------------------------------ types, metadata

LATER = "Metadata of directories counts when all is there."
KINDS = [
    Fixture(
        "a directory's time, when the archive returns to it",
        tar(directory(b"d", mtime=octal(5)), file(b"d/a"), directory(b"e", mtime=octal(6)), file(b"d/b")),
        LATER,
        ("mtime",),
    ),
    Fixture(
        "a directory in a setgid directory",
        tar(directory(b"d", mode=0o2755), directory(b"e"), directory(b"d/f", mode=0o700), directory(b"d/g", mode=0)),
        "It has the mode of its own member; the kernel gives a new one the bit of its parent.",
        ("mode",),
        root=True,
    ),
    Fixture(
        "a directory after its children", tar(file(b"d/a"), directory(b"d", mode=0o700, mtime=octal(5))), LATER, ("mtime", "mode")
    ),
    Fixture(
        "a directory that forbids writing, and what is in it", tar(directory(b"d", mode=0o555), file(b"d/a")), LATER, ("mode",)
    ),
    Fixture(
        "a directory twice: the last one's metadata",
        tar(directory(b"d", mode=0o700), file(b"d/a"), directory(b"d", mode=0o711, mtime=octal(5))),
        LATER,
        ("mtime", "mode"),
    ),
    Fixture(
        "the root's own mode and time",
        tar(directory(b"./", mode=0o711, mtime=octal(5)), file(b"a")),
        LATER,
        ("mtime", "mode", "root"),
    ),
    Fixture("a link's own time", tar(symlink(b"l", b"x", mtime=octal(5))), "Part of the content.", ("mtime",)),
    Fixture(
        "directories that no member describes",
        tar(file(b"a/b/c")),
        "Nobody says when they were made: ours have the time 0, so that equal layers make equal volumes.",
        ("mode", "mtime"),
    ),
    Fixture("a file twice: the last one wins", tar(member(b"f", data=b"first time"), file(b"f"))),
    Fixture(
        "setuid and setgid files",
        tar(file(b"f", mode=0o4755), file(b"g", mode=0o2755)),
        "A root file system's su stays su; `limits.setuid` strips or refuses.",
        ("mode",),
        root=True,
    ),
    Fixture(
        "files of other owners",
        tar(file(b"f", ids=(octal(7, 8), octal(8, 8)))),
        "Owners are part of the content.",
        ("owner",),
        root=True,
    ),
    Fixture(
        "devices and a fifo",
        entries(
            Entry(b"null", stat.S_IFCHR, 0o666, device=(1, 3)),
            Entry(b"sda", stat.S_IFBLK, 0o660, device=(8, 0)),
            Entry(b"p", stat.S_IFIFO),
        ),
        "Content of an image; `limits.devices` refuses.",
        root=True,
    ),
    Fixture(
        "a device of a major number above 4095",
        tar(extended((b"SCHILY.devmajor", b"4096")), member(b"c", b"3", device=(1, 3)), ORDINARY),
        RANGE,
        root=True,
    ),
    Fixture(
        "a device's numbers in an extended header",
        tar(extended((b"SCHILY.devmajor", b"259"), (b"SCHILY.devminor", b"7")), member(b"b", b"4", device=(1, 3))),
        "bsdtar writes them for numbers that the header can't hold.",
        root=True,
    ),
    Fixture(
        "a device in the layout of Version 7", tar(member(b"c", b"3", magic=V7), ORDINARY), "It has no numbers there.", root=True
    ),
    Fixture(
        "attributes of users",
        entries(file_entry(b"f", xattrs={b"user.a": b"1", b"user.b": b"\0\xff"})),
        "Part of the content.",
        ("xattrs",),
    ),
    Fixture(
        "an attribute in libarchive's record alone",
        why="Part of the content.",
        archive=tar(extended((b"LIBARCHIVE.xattr.user.%C3%A9", b"dw")), file(b"f")),
        show=("xattrs",),
    ),
    Fixture(
        "an attribute whose name GNU tar has encoded",
        tar(extended((b"SCHILY.xattr.user.a%3Db%25c", b"1")), file(b"f")),
        "GNU tar writes `=` and `%` of a name so, and reads it back.",
        ("xattrs",),
    ),
    Fixture(
        "capabilities",
        entries(file_entry(b"f", xattrs={b"security.capability": capability()})),
        "Part of the content.",
        ("xattrs",),
        root=True,
    ),
    Fixture(
        "a malformed capability",
        entries(file_entry(b"f", xattrs={b"security.capability": b"xyz"}), file_entry(b"after")),
        "Linux takes none.",
        ("xattrs",),
        root=True,
    ),
    Fixture(
        "labels of SELinux, signatures of IMA",
        tar(extended((b"SCHILY.xattr.security.ima", b"x"), (b"RHT.security.selinux", b"u:r:t:s0")), file(b"f")),
        "They belong to another host's policy, and are dropped with a note in the report.",
        ("xattrs",),
        root=True,
    ),
    Fixture(
        "the innards of overlayfs",
        entries(dir_entry(b"d", xattrs={b"trusted.overlay.opaque": b"y"})),
        "They would change what an overlay shows; dropped.",
        ("xattrs",),
        root=True,
    ),
    Fixture(
        "other trusted attributes",
        entries(file_entry(b"f", xattrs={b"trusted.x": b"1"}), file_entry(b"after")),
        "No image can keep them: dropped and counted; `limits.foreignAttributes` refuses.",
        ("xattrs",),
        root=True,
    ),
    Fixture(
        "an attribute of users on a link",
        tar(extended((b"SCHILY.xattr.user.a", b"1")), symlink(b"l", b"x"), ORDINARY),
        "Linux has none there.",
        ("xattrs",),
    ),
    Fixture(
        "an attribute without a namespace",
        tar(extended((b"SCHILY.xattr.plain", b"1")), file(b"f"), ORDINARY),
        "Linux has no such attributes.",
        ("xattrs",),
    ),
    Fixture(
        "an access control list in binary",
        entries(file_entry(b"f", mode=0o654, xattrs={b"system.posix_acl_access": ACL})),
        "Part of the content.",
        ("xattrs", "mode"),
    ),
    Fixture(
        "an access control list in words, as bsdtar writes it",
        tar(extended((b"SCHILY.acl.access", b"user::rw-,group::r--,other::r--,user:nobody-here:rwx:1234,mask::rwx")), file(b"f")),
        "Part of the content; numbers count, names do not.",
        ("xattrs", "mode"),
    ),
    Fixture(
        "an access control list in words, with a name and no number",
        tar(
            extended((b"SCHILY.acl.access", b"user::rw-\nuser:nobody-here:rwx\ngroup::r--\nmask::rwx\nother::r--\n")),
            file(b"f"),
            ORDINARY,
        ),
        "The image has no such user, so the entry is dropped and counted; `limits.foreignAttributes` refuses.",
        ("xattrs", "mode"),
    ),
    Fixture(
        "an access control list in words with a name, and in binary",
        tar(
            extended(
                (b"SCHILY.acl.access", b"user::rw-\nuser:nobody-here:rwx\ngroup::r--\ngroup:70000:r-x\nmask::r-x\nother::r--\n"),
                (b"SCHILY.xattr.system.posix_acl_access", ACL),
            ),
            file(b"f"),
            ORDINARY,
        ),
        "The binary list has the number that the words leave out. Its mask is the mode's group, until GNU tar sets that anew.",
        ("xattrs", "mode"),
    ),
    Fixture("a contiguous file (type 7)", tar(file(b"f", flag=b"7"))),
    Fixture("an unknown type (Z)", tar(file(b"f", flag=b"Z"), ORDINARY), "What it means is unknown."),
    Fixture(
        "a listing of an incremental dump (D)",
        tar(member(b"d/", b"D", b"Yf\0\0", magic=GNU), ORDINARY),
        "It may rename and remove: no content of an image.",
    ),
    Fixture(
        "a multi-volume archive's continuation (M)",
        tar(file(b"f", flag=b"M", magic=GNU), ORDINARY),
        "A part of a file is no file.",
    ),
    Fixture(
        "GNU's old long names (N)",
        tar(member(b"x", b"N", b"Rename a to b\n", magic=GNU), ORDINARY),
        "No writer of this century makes them.",
    ),
    Fixture(
        "Solaris' access control lists (A)",
        tar(member(b"x", b"A", b"acl", magic=POSIX), ORDINARY),
        "Nothing here understands them.",
    ),
    Fixture("a volume label (V)", tar(member(b"label", b"V", magic=GNU), ORDINARY), "A label is no content."),
    Fixture(
        "whiteouts of OCI layers",
        tar(directory(b"d"), member(b"d/.wh.gone"), member(b"d/.wh..wh..opq"), file(b"d/kept")),
        "A layer's whiteouts hide what lower layers have.",
    ),
]

# -------------------------------------------------------------------------------------------------------- sparse

_HOLES = sparse(b"s", 1 << 20, [(8192, b"x" * 4096), (65536, b"y" * 4096)])


def old_sparse(segments: list[tuple[int, int]], real: int, data: bytes, *, more: bool = False) -> bytes:
    """A header of type S with up to four segments."""
    listed = b"".join(octal(offset) + octal(length) for offset, length in segments).ljust(96, b"\0")
    return member(b"s", b"S", data, magic=GNU, tail=bytes(41) + listed + (b"\1" if more else b"\0") + octal(real))


def sparse_1_0(lines: list[int], real: int, data: bytes) -> bytes:
    stored = padded(b"".join(b"%d\n" % line for line in lines)) + data
    keys = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % real),
    )
    return extended(*keys) + member(b"GNUSparseFile.0/s", data=stored)


STAND_IN = "`GNU.sparse.name` is the name; the other one is a stand-in."
MAP = "A map that overlaps, leaves the file or does not add up describes no file."
SPARSE = [
    Fixture("a sparse file of format 0.0", entries(_HOLES, sparse_format="0.0"), show=("holes",)),
    Fixture("a sparse file of format 0.1", entries(_HOLES, sparse_format="0.1"), STAND_IN, ("holes",)),
    Fixture("a sparse file of format 1.0", entries(_HOLES, sparse_format="1.0"), STAND_IN, ("holes",)),
    Fixture("a sparse file of GNU's old format", entries(_HOLES, dialect="gnu"), show=("holes",)),
    Fixture("a sparse file of nothing but a hole", why=STAND_IN, archive=entries(sparse(b"s", 1 << 20, [])), show=("holes",)),
    Fixture(
        "a sparse map that does not tell the file's end",
        tar(old_sparse([(0, 512)], 4096, b"x" * 512), ORDINARY),
        "The size is told beside the map; GNU tar's own maps end where the file does.",
    ),
    Fixture("a sparse map that overlaps", tar(old_sparse([(0, 512), (256, 512)], 4096, b"x" * 1024), ORDINARY), MAP),
    Fixture("a sparse map out of order", tar(old_sparse([(8192, 512), (0, 512)], 16384, b"x" * 1024), ORDINARY), MAP),
    Fixture("a sparse map that leaves the file", tar(old_sparse([(0, 512), (8192, 512)], 4096, b"x" * 1024), ORDINARY), MAP),
    Fixture("a sparse map of less than what is stored", tar(old_sparse([(0, 512)], 4096, b"x" * 1024), ORDINARY), MAP),
    Fixture("a sparse map of more than what is stored", tar(old_sparse([(0, 1024)], 4096, b"x" * 512), ORDINARY), MAP),
    Fixture(
        "a sparse map of format 1.0 that lies about its length", tar(sparse_1_0([3, 0, 512], 4096, b"x" * 512), ORDINARY), MAP
    ),
    Fixture(
        "a sparse file of 1 TiB", tar(sparse_1_0([1, 2**40, 0], 2**40, b""), ORDINARY), "`limits.maxFileBytes`: holes count."
    ),
    Fixture(
        "a sparse file's negative offset",
        tar(changed(old_sparse([(0, 512)], 4096, b"x" * 512), 386, binary(-512, 12)), ORDINARY),
        MAP,
    ),
    Fixture(
        "a map in the header of an ordinary file",
        tar(member(b"f", data=b"hello", magic=GNU, tail=bytes(41) + octal(0) + octal(5) + bytes(73) + octal(4096)), ORDINARY),
        "Some readers take the map, some do not: other bytes, or a hidden member.",
    ),
    Fixture(
        "a sparse file with its own name twice (libarchive)",
        tar(
            extended(
                (b"path", b"s"),
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.realsize", b"4096"),
            )
            + member(b"GNUSparseFile.0/s", data=padded(b"2\n0\n5\n4096\n0\n") + b"hello")
        ),
    ),
]

# ----------------------------------------------------------------------------------------------------- the end

END_WHY = "It is how a cut download looks; `limits.missingEndMarker: accept` takes it."
TRAILING = "Some readers go on, some stop, so it may hide something; `limits.trailingData: ignore` stops as most do."
ENDS = [
    Fixture("no end marker", ORDINARY, END_WHY),
    Fixture("a single block of zeros at the end", ORDINARY + bytes(512), END_WHY),
    Fixture("no end marker, with missingEndMarker: accept", ORDINARY, limits=Limits(missing_end_marker="accept")),
    Fixture(
        "a single block of zeros, then more members", file(b"a") + bytes(512) + tar(file(b"b")), "Some readers stop, some go on."
    ),
    Fixture("something behind the end marker", tar(file(b"a")) + b"junk" * 128, TRAILING),
    Fixture("a second archive behind the end marker", tar(file(b"a")) + tar(file(b"b")), TRAILING),
    Fixture(
        "a second archive, with trailingData: ignore",
        tar(file(b"a")) + tar(file(b"b")),
        TRAILING,
        limits=Limits(trailing_data="ignore"),
    ),
    Fixture("cut off in a header", (ORDINARY + file(b"f"))[:1300], "Cut short."),
    Fixture("cut off in a file's data", (ORDINARY + member(b"f", data=b"x" * 2000))[:2100], "Cut short."),
    Fixture("cut off in a long name", (ORDINARY + long_name(b"n" * 600))[:1700], "Cut short."),
    Fixture("nothing but an end marker", END),
    Fixture("no bytes at all", b"", "No archive."),
    Fixture("an archive padded with zeros to records of 1 MiB", tar(ORDINARY).ljust(1 << 20, b"\0")),
    Fixture(
        "a header of which the magic is odd",
        tar(file(b"name", magic=b"ustar   ", tail=b"prefix"), ORDINARY),
        "Whether its prefix counts differs from reader to reader.",
    ),
    Fixture(
        "headers in the layout of Version 7",
        why="So directories were written before ustar.",
        archive=tar(file(b"f", magic=V7), symlink(b"l", b"f", magic=V7), member(b"d/", mode=0o755, magic=V7)),
    ),
]

# ------------------------------------------------------------------------------------------------- compression


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


WHOLE = tar(ORDINARY).ljust(10240, b"\0")
DAMAGED = "What is damaged in one place may be in another."
COMPRESSION = [
    Fixture("gzip", gzipped(WHOLE)),
    Fixture("gzip in several members (pigz, bgzip)", gzipped(WHOLE[:700]) + gzipped(WHOLE[700:])),
    Fixture("gzip cut off in its trailer", gzipped(WHOLE)[:-4], "Cut short."),
    Fixture("gzip cut off behind the end marker", gzipped(tar(ORDINARY) + bytes(200_000))[:-12], "Cut short."),
    Fixture("gzip with a wrong checksum", gzipped(WHOLE)[:-8] + bytes(4) + gzipped(WHOLE)[-4:], DAMAGED),
    Fixture("gzip with something behind it", gzipped(WHOLE) + b"junk" * 8, TRAILING),
    Fixture("gzip padded with zeros (tapes)", gzipped(WHOLE) + bytes(512)),
    Fixture(
        "gzip within gzip",
        gzipped(gzipped(WHOLE)),
        "One layer of compression is enough for everybody; more of it is how bombs are built.",
    ),
    Fixture("zstd", zstd(WHOLE), "Python 3.11 has no zstd."),
    Fixture(
        "zstd in several frames, one of them skippable",
        zstd(WHOLE[:700]) + b"\x50\x2a\x4d\x18\4\0\0\0note" + zstd(WHOLE[700:]),
        "Python 3.11 has no zstd.",
    ),
    Fixture("zstd with a wrong checksum", zstd(WHOLE)[:-1] + b"\0", DAMAGED),
    Fixture("xz", lzma.compress(WHOLE)),
    Fixture(
        "xz in several streams",
        lzma.compress(WHOLE[:700]) + bytes(4) + lzma.compress(WHOLE[700:]),
        "Python takes no padding between streams.",
    ),
    Fixture("xz cut off in its footer", lzma.compress(WHOLE)[:-4], "Cut short."),
    Fixture("xz with something behind it", lzma.compress(WHOLE) + b"junk" * 8, TRAILING),
    Fixture("bzip2", bz2.compress(WHOLE)),
    Fixture("bzip2 in several streams (pbzip2)", bz2.compress(WHOLE[:700]) + bz2.compress(WHOLE[700:])),
    Fixture("bzip2 cut off in its trailer", bz2.compress(WHOLE)[:-2], "Cut short."),
    Fixture("bzip2 with something behind it", bz2.compress(WHOLE) + b"junk" * 8, TRAILING),
]

# ------------------------------------------------------------------------------- found by tests/differential

HIDDEN = file(b"hidden")
ONE_ZERO = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
SPARSE_RECORDS = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"512")
GENERATED = [
    Fixture(
        "a size behind a NUL",
        tar(changed(member(b"a"), 124, b"\0\x30000001000\0"), member(b"b", size=octal(1024)), HIDDEN),
        "GNU tar, bsdtar and Python end the number at the NUL, Go reads on: what follows is a member or data.",
    ),
    Fixture(
        "a gzip stream that is a tar, too",
        tar(member(b"\x1f\x8b\x08\x04tttt\x02\x03\xf4\x01", data=gzipped(WHOLE)[10:])),
        "Who decompresses it sees another tree.",
    ),
    Fixture(
        "sparse segments that fill no whole blocks",
        tar(old_sparse([(0, 1), (4096, 1)], 4097, b"AB"), HIDDEN, ORDINARY),
        "GNU tar reads each segment from a new block on.",
    ),
    Fixture(
        "a size in an extended header in front of an old sparse file",
        tar(extended((b"size", b"1024")), old_sparse([(0, 512), (8192, 512)], 8704, b"x" * 1024), ORDINARY),
        "Three readers make three files of it.",
    ),
    Fixture(
        "a size in an extended header in front of a sparse file of format 1.0",
        tar(
            extended((b"size", b"1024"), *SPARSE_RECORDS[:2], (b"GNU.sparse.realsize", b"4096")),
            member(b"s", data=ONE_ZERO),
            HIDDEN,
            ORDINARY,
        ),
        "Python looks for the next member elsewhere. Sizes from 8 GiB on need the record, and are taken.",
    ),
    Fixture(
        "a hard link with a size behind an extended header",
        tar(extended((b"comment", b"x")), file(b"a"), changed(hardlink(b"b", b"a"), 124, octal(512)), HIDDEN, ORDINARY),
        "bsdtar expects data behind it.",
    ),
    Fixture(
        "a hard link with a size in an odd POSIX header",
        tar(file(b"a"), changed(changed(hardlink(b"b", b"a"), 124, octal(512)), 263, b"\0\0"), HIDDEN, ORDINARY),
        "bsdtar expects data behind it.",
    ),
    Fixture(
        "a key behind a blank",
        tar(extended((b" path", b"other")), file(b"f"), ORDINARY),
        "GNU tar passes over the blank.",
    ),
    Fixture(
        "a global header between an extended one and its member",
        tar(extended((b"path", b"other")), extended((b"comment", b"x"), flag=b"g"), file(b"f"), ORDINARY),
        "Go applies the extended header to nothing.",
    ),
    Fixture(
        "sparse records in front of a GNU header",
        tar(extended(*SPARSE_RECORDS), member(b"s", data=ONE_ZERO, magic=GNU), ORDINARY),
        "GNU tar reads its old sparse format there.",
    ),
    Fixture(
        "a prefix in a GNU header",
        tar(changed(file(b"f", magic=GNU), 345, b"prefix"), ORDINARY),
        "Python and Go read it.",
    ),
    Fixture(
        "a prefix in the layout of Version 7",
        tar(changed(file(b"f", magic=V7), 345, b"prefix"), ORDINARY),
        "Python reads it.",
    ),
]

GROUPS = {
    "Links": LINKS,
    "Hard links": HARDLINKS,
    "Names": NAMES,
    "Extended headers": PAX,
    "Numbers": NUMBERS,
    "Types and metadata": KINDS,
    "Sparse files": SPARSE,
    "The end": ENDS,
    "Compression": COMPRESSION,
    "Found by the generator": GENERATED,
}
FIXTURES = [fixture for group in GROUPS.values() for fixture in group]
__all__ = ["FIXTURES", "GROUPS", "Fixture", "record", "summed"]
