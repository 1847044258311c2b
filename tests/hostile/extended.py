"""Extended headers and typeflags: sizes that readers disagree on, records that they read differently, types that they guess."""

from __future__ import annotations

from tests.hostile.archive import (
    CHECKSUM,
    END,
    FLAG,
    GNU,
    MAGIC,
    POSIX,
    PREFIX,
    V7,
    entry,
    file,
    folder,
    hardlink,
    long_link,
    long_name,
    named,
    pax,
    pax_global,
    pax_of,
    symlink,
    tar,
)
from tests.hostile.case import Case, accepted, corrupt, d, f, ln, refused

DESYNC = "PAX size desync"
MALFORMED = "PAX malformed / ambiguous"
TYPES = "typeflag games"
FORMAT = "format"

INNER = file(b"../../evil", b"hidden")
"""A whole member, to be smuggled in another's data."""


def malformed(name: str, what: str, payload: bytes) -> Case:
    return refused(name, MALFORMED, what, tar(pax_of(payload), file(b"x")), "pax-record")


CASES = [
    # -------------------------------------------------------------------------------------------- PAX size desync
    accepted(
        "pax-size-ustar-zero",
        DESYNC,
        "ustar says 0, pax says 1024: what follows is data and no member",
        tar(pax((b"size", b"1024")), file(b"x"), INNER),
        {b"x": f(INNER)},
    ),
    accepted(
        "pax-size-ustar-other",
        DESYNC,
        "ustar says 512, pax says 1024",
        tar(pax((b"size", b"1024")), file(b"x", b"1" * 512), file(b"y", b"")),
        {b"x": f(b"1" * 512 + file(b"y", b""))},
    ),
    accepted(
        "pax-size-smaller",
        DESYNC,
        "ustar says 1024, pax says 512: what follows is a member",
        tar(pax((b"size", b"512")), entry(b"x", b"0", b"1" * 512, size=1024), file(b"y", b"2")),
        {b"x": f(b"1" * 512), b"y": f(b"2")},
    ),
    refused(
        "pax-size-smaller-hostile",
        DESYNC,
        "the same, and the member is hostile",
        tar(pax((b"size", b"0")), entry(b"x", b"0", INNER)),
        "name-climbs",
        b"../../evil",
    ),
    accepted(
        "pax-size-before-long-name",
        DESYNC,
        "pax size, long name, member: the size is the member's",
        tar(pax((b"size", b"1024")), long_name(b"n" * 120), file(b"n", magic=GNU), INNER),
        {b"n" * 120: f(INNER)},
    ),
    accepted(
        "pax-size-before-long-link",
        DESYNC,
        "pax attributes, long link, member",
        tar(pax((b"uid", b"7")), long_link(b"t" * 120), entry(b"l", b"2", magic=GNU)),
        {b"l": ln(b"t" * 120, owner=(7, 0))},
    ),
    refused(
        "pax-size-on-symlink",
        DESYNC,
        "a pax size in front of a symlink",
        tar(pax((b"size", b"1024")), symlink(b"l", b"x"), INNER),
        "size-of-type",
    ),
    refused(
        "pax-size-on-global",
        DESYNC,
        "a pax size in a global header",
        tar(pax_global((b"size", b"1024")), file(b"x"), INNER),
        "pax-global",
    ),
    accepted(
        "pax-size-one-member-only",
        DESYNC,
        "a size counts for one member",
        tar(pax((b"size", b"3")), entry(b"x", b"0", b"abc", size=0), file(b"y")),
        {b"x": f(b"abc"), b"y": f()},
    ),
    corrupt(
        "pax-size-past-the-end",
        DESYNC,
        "a pax size of 2^34 where ustar says 0",
        tar(pax((b"size", b"17179869184")), file(b"x")),
        "in the middle of a member",
    ),
    # ---------------------------------------------------------------------------------- PAX malformed / ambiguous
    malformed("pax-length-zero", "a record of length 0", b"0 path=a\n"),
    malformed("pax-length-short", "a length that ends before its line", b"5 path=a\n"),
    malformed("pax-length-long", "a length past the header", b"99 path=a\n"),
    malformed("pax-length-huge", "a length of 2^64", b"18446744073709551615 path=a\n"),
    malformed("pax-length-5000-digits", "a length of 5000 digits", b"1" * 5000 + b" path=a\n"),
    malformed("pax-length-negative", "a negative length", b"-10 path=a\n"),
    malformed("pax-length-plus", "a length with a plus", b"+10 path=a\n"),
    malformed("pax-length-spaces", "a space in front of the length", b" 11 path=a\n"),
    malformed("pax-length-none", "no length at all", b"path=a\n"),
    malformed("pax-no-newline", "a record without its end of line", b"9 path=a "),
    malformed("pax-no-equals", "a record without `=`", b"9 path a\n"),
    malformed("pax-no-key", "a record without a key", b"5 =a\n"),
    malformed("pax-nul-in-key", "a NUL in the key", b"11 pat\0h=a\n"),
    malformed("pax-nul-padding", "NULs behind the last record", b"10 path=a\n\0\0"),
    malformed(
        "pax-record-hidden",
        "a record within the value of another, for those who look for ends of lines",
        b"24 comment=\n11 path=abc\nx",
    ),
    accepted(
        "pax-newline-in-value",
        MALFORMED,
        "a path with a newline that looks like the next record",
        tar(pax((b"path", b"a\n12 path=evil")), file(b"x")),
        {b"a\n12 path=evil": f()},
    ),
    accepted(
        "pax-equals-in-value", MALFORMED, "a path with an equals sign", tar(pax((b"path", b"a=b")), file(b"x")), {b"a=b": f()}
    ),
    accepted("pax-empty-header", MALFORMED, "an extended header without records", tar(pax(), file(b"x")), {b"x": f()}),
    accepted(
        "pax-vendor",
        MALFORMED,
        "records of vendors are passed over",
        tar(pax((b"VENDOR.path", b"../../evil"), (b"comment", b"c")), file(b"x")),
        {b"x": f()},
    ),
    refused(
        "pax-duplicate-path",
        MALFORMED,
        "two different paths in one header",
        tar(pax((b"path", b"a"), (b"path", b"b")), file(b"x")),
        "pax-ambiguous",
    ),
    accepted(
        "pax-duplicate-same",
        MALFORMED,
        "the same path twice",
        tar(pax((b"path", b"a"), (b"path", b"a")), file(b"x")),
        {b"a": f()},
    ),
    refused(
        "pax-duplicate-size",
        MALFORMED,
        "two different sizes",
        tar(pax((b"size", b"0"), (b"size", b"1024")), file(b"x"), INNER),
        "pax-ambiguous",
    ),
    refused(
        "pax-two-headers",
        MALFORMED,
        "two extended headers in front of one member",
        tar(pax((b"path", b"a")), pax((b"path", b"b")), file(b"x")),
        "ambiguous",
    ),
    refused(
        "pax-and-long-name",
        MALFORMED,
        "a pax path and a long name",
        tar(pax((b"path", b"a")), long_name(b"b"), file(b"x", magic=GNU)),
        "ambiguous",
    ),
    refused(
        "long-name-and-pax",
        MALFORMED,
        "a long name and a pax path",
        tar(long_name(b"b"), pax((b"path", b"a")), file(b"x")),
        "ambiguous",
    ),
    refused(
        "pax-and-long-link",
        MALFORMED,
        "a pax linkpath and a long link",
        tar(pax((b"linkpath", b"a")), long_link(b"b"), entry(b"l", b"2", magic=GNU)),
        "ambiguous",
    ),
    refused(
        "gnu-two-names", MALFORMED, "two long names", tar(long_name(b"a"), long_name(b"b"), file(b"x", magic=GNU)), "ambiguous"
    ),
    refused(
        "gnu-two-links",
        MALFORMED,
        "two long links",
        tar(long_link(b"a"), long_link(b"b"), entry(b"l", b"2", magic=GNU)),
        "ambiguous",
    ),
    refused(
        "pax-dangling",
        MALFORMED,
        "an extended header before the end marker",
        tar(file(b"x"), pax((b"path", b"a"))),
        "dangling-header",
    ),
    refused(
        "pax-dangling-across-end",
        MALFORMED,
        "an extended header, the end marker, and a member",
        tar(pax((b"path", b"a")), END, file(b"x")),
        "dangling-header",
    ),
    refused(
        "gnu-dangling-name", MALFORMED, "a long name before the end marker", tar(file(b"x"), long_name(b"a")), "dangling-header"
    ),
    corrupt("pax-dangling-cut", MALFORMED, "an extended header, and nothing", pax((b"path", b"a")), "without its end marker"),
    refused(
        "pax-on-v7",
        MALFORMED,
        "an extended header in front of a member of Version 7",
        tar(pax((b"path", b"a")), file(b"x", magic=V7)),
        "version-7",
    ),
    refused(
        "pax-of-v7",
        MALFORMED,
        "an extended header with the layout of Version 7",
        tar(pax((b"path", b"a"), magic=V7), file(b"x")),
        "version-7",
    ),
    refused(
        "gnu-name-of-v7",
        MALFORMED,
        "a long name with the layout of Version 7",
        tar(long_name(b"a", magic=V7), file(b"x")),
        "version-7",
    ),
    refused(
        "pax-before-label",
        MALFORMED,
        "a volume label between an extended header and its member",
        tar(pax((b"path", b"a")), entry(b"label", b"V", magic=GNU), file(b"x")),
        "volume-label",
    ),
    refused(
        "pax-dumpdir",
        MALFORMED,
        "a listing of an incremental dump",
        tar(pax((b"GNU.dumpdir", b"Rold\0Tnew\0\0")), folder(b"d")),
        "pax-unsupported",
    ),
    refused(
        "pax-realsize",
        MALFORMED,
        "star's realsize, which others don't know",
        tar(pax((b"SCHILY.realsize", b"9999")), file(b"x", b"1")),
        "pax-unsupported",
    ),
    refused(
        "pax-filetype",
        MALFORMED,
        "star's own type of a file",
        tar(pax((b"SCHILY.filetype", b"door")), file(b"x")),
        "pax-unsupported",
    ),
    accepted(
        "pax-global-comment",
        MALFORMED,
        "the comment that git-archive writes",
        tar(pax_global((b"comment", b"0" * 40)), file(b"x")),
        {b"x": f()},
    ),
    # --------------------------------------------------------------------------------------------- typeflag games
    *(
        refused(f"type-{name}", TYPES, what, tar(entry(b"x", flag, payload, magic=GNU), file(b"y")), "typeflag")
        for name, what, flag, payload in (
            ("dumpdir", "`D`: renames of an incremental dump", b"D", b"Rold\0Tnew\0\0"),
            ("names", "`N`: renames and symlinks of GNU's old long names", b"N", b"Symlink /etc/passwd to x\n\0"),
            ("multivolume", "`M`: a file that another volume begins", b"M", b"rest"),
            ("solaris-acl", "`A`", b"A", b"acl"),
            ("solaris-xattr", "`E`", b"E", b""),
            ("inode", "`I`", b"I", b""),
            ("sun-extended", "`X`, a draft of extended headers", b"X", b"12 path=../x\n"),
            ("unknown-digit", "`8`", b"8", b"data"),
            ("unknown-letter", "`z`", b"z", b"data"),
            ("unknown-high", "a byte above 127", b"\xff", b""),
            ("newline", "a newline, which a message must not repeat", b"\n", b""),
        )
    ),
    accepted("type-contiguous", TYPES, "`7` is a file", tar(entry(b"x", b"7", b"1")), {b"x": f(b"1")}),
    accepted("type-label", TYPES, "`V` is passed over", tar(entry(b"label", b"V", magic=GNU), file(b"x")), {b"x": f()}),
    refused(
        "type-label-data", TYPES, "`V` with data", tar(entry(b"label", b"V", b"x" * 512, magic=GNU), file(b"x")), "volume-label"
    ),
    refused(
        "type-slash-data", TYPES, "type 0, a name that ends in a slash, and data", tar(entry(b"d/", b"0", INNER)), "type-of-name"
    ),
    accepted(
        "aregtype-long-name",
        TYPES,
        "type NUL with a long name, whose first 100 bytes end in a slash: a file",
        tar(long_name(b"n" * 99 + b"/" + b"f" * 50), entry(b"n" * 99 + b"/", b"\0", b"data", magic=GNU)),
        {b"n" * 99: d(), b"n" * 99 + b"/" + b"f" * 50: f(b"data")},
    ),
    accepted(
        "aregtype-directory",
        TYPES,
        "type NUL with a long name that ends in a slash: a directory",
        tar(long_name(b"n" * 120 + b"/"), entry(b"n" * 100, b"\0", magic=GNU)),
        {b"n" * 120: d()},
    ),
    refused(
        "aregtype-directory-data",
        TYPES,
        "type NUL, a long name that ends in a slash, and data",
        tar(long_name(b"n" * 120 + b"/"), entry(b"n" * 100, b"\0", INNER, magic=GNU)),
        "type-of-name",
    ),
    accepted("type-directory-no-slash", TYPES, "a directory without a slash", tar(folder(b"d")), {b"d": d()}),
    accepted(
        "type-hardlink-slash",
        TYPES,
        "a hard link whose name ends in a slash is none to a directory",
        tar(file(b"x"), hardlink(b"h/", b"x")),
        {b"x": f(), b"h": f(same_as=b"x")},
    ),
    # ----------------------------------------------------------------------------------------------------- format
    corrupt(
        "format-bad-checksum",
        FORMAT,
        "a wrong checksum",
        tar(file(b"a"), file(b"x", at={CHECKSUM: b"0000001\0"}), file(b"y")),
        "no header",
    ),
    corrupt("format-no-checksum", FORMAT, "a checksum of spaces", tar(file(b"x", at={CHECKSUM: b" " * 8})), "not a tar"),
    corrupt(
        "format-resync",
        FORMAT,
        "junk between two members: nothing looks for the next header",
        tar(file(b"a"), b"junk" * 128, file(b"x")),
        "no header",
    ),
    corrupt("format-not-a-tar", FORMAT, "text", b"<html>not found</html>" * 100, "not a tar"),
    corrupt("format-not-a-tar-short", FORMAT, "less than a block", b"hello"),
    corrupt("format-empty", FORMAT, "nothing", b"", "empty"),
    corrupt("format-cpio", FORMAT, "a cpio", b"070701" + b"0" * 1018, "not a tar"),
    accepted("format-empty-tar", FORMAT, "an end marker, and nothing else", tar(), {}),
    accepted(
        "format-signed-checksum",
        FORMAT,
        "a checksum of signed bytes, as old tars have it",
        lambda: tar(signed(file(b"\xff" * 50))),
        {b"\xff" * 50: f()},
    ),
    accepted(
        "format-mixed",
        FORMAT,
        "headers of three formats in one tar",
        tar(file(b"a", magic=V7), file(b"b", magic=GNU), file(b"c", magic=POSIX), named(b"n" * 150)),
        {b"a": f(), b"b": f(), b"c": f(), b"n" * 150: f()},
    ),
    refused(
        "format-magic-odd",
        FORMAT,
        "a magic that only begins as ustar's: readers disagree on the prefix",
        tar(file(b"x", at={MAGIC: b"ustar   ", PREFIX: b".."})),
        "magic",
    ),
    accepted(
        "format-magic-unknown",
        FORMAT,
        "a magic that nobody knows is one of Version 7",
        tar(file(b"x", at={MAGIC: b"rats!\0zz"})),
        {b"x": f()},
    ),
]


def signed(block: bytes) -> bytes:
    """The same header with the checksum that signed bytes have."""
    blank = block[:CHECKSUM] + b" " * 8 + block[FLAG:]
    total = sum(byte - 256 * (byte > 127) for byte in blank)
    return block[:CHECKSUM] + b"%06o\0 " % total + block[FLAG:]
