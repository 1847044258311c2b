"""Numbers: those out of range, those in writings that readers take differently, and the sizes that limits stop."""

from __future__ import annotations

from reconciler.image.spec import Limits
from tests.hostile.archive import GID, MODE, MTIME, SIZE, UID, base256, entry, file, octal, pax, tar
from tests.hostile.case import accepted, corrupt, f, refused

NUMERIC = "numeric"
SIZES = "size limit"
EXACT = Limits(times="refuse")

CASES = [
    # ------------------------------------------------------------------------------------------------------- uid
    refused(
        "uid-minus-one",
        NUMERIC,
        "uid 2^32-1, which chown takes for `leave it`: a setuid file would stay root's",
        tar(file(b"su", mode=0o4755, at={UID: base256(2**32 - 1, 8)})),
        "owner",
        b"su",
    ),
    refused("gid-minus-one", NUMERIC, "gid 2^32-1", tar(file(b"su", mode=0o2755, at={GID: base256(2**32 - 1, 8)})), "owner"),
    refused(
        "uid-minus-one-pax",
        NUMERIC,
        "uid 2^32-1 in a pax record",
        tar(pax((b"uid", b"4294967295")), file(b"su", mode=0o4755)),
        "owner",
    ),
    accepted(
        "uid-highest",
        NUMERIC,
        "uid 2^32-2, the last one there is",
        tar(file(b"x", at={UID: base256(2**32 - 2, 8)})),
        {b"x": f(owner=(2**32 - 2, 0))},
    ),
    refused(
        "uid-2-32", NUMERIC, "uid 2^32, root's in 32 bits", tar(file(b"su", mode=0o4755, at={UID: base256(2**32, 8)})), "owner"
    ),
    refused(
        "uid-2-32-pax", NUMERIC, "uid 2^32 in a pax record", tar(pax((b"uid", b"4294967296")), file(b"su", mode=0o4755)), "owner"
    ),
    refused(
        "uid-2-64-pax", NUMERIC, "uid 2^64 in a pax record", tar(pax((b"uid", b"18446744073709551616")), file(b"x")), "owner"
    ),
    refused("uid-negative", NUMERIC, "uid -1, in base 256", tar(file(b"x", at={UID: base256(-1, 8)})), "number"),
    refused("uid-negative-pax", NUMERIC, "uid -1, in a pax record", tar(pax((b"uid", b"-1")), file(b"x")), "number"),
    refused("uid-plus-pax", NUMERIC, "uid +5", tar(pax((b"uid", b"+5")), file(b"x")), "number"),
    refused("uid-hex-pax", NUMERIC, "uid 0x5", tar(pax((b"uid", b"0x5")), file(b"x")), "number"),
    refused("uid-underscore-pax", NUMERIC, "uid 5_0, as Python writes numbers", tar(pax((b"uid", b"5_0")), file(b"x")), "number"),
    refused("uid-unicode-pax", NUMERIC, "uid in Arabic digits", tar(pax((b"uid", "٥".encode())), file(b"x")), "number"),
    refused("uid-spaces-pax", NUMERIC, "uid with a space", tar(pax((b"uid", b" 5")), file(b"x")), "number"),
    refused("uid-empty-pax", NUMERIC, "an empty uid", tar(pax((b"uid", b"")), file(b"x")), "number"),
    refused("uid-5000-digits", NUMERIC, "a uid of 5000 digits", tar(pax((b"uid", b"1" * 5000)), file(b"x")), "number"),
    refused("uid-junk", NUMERIC, "digits, a NUL and more in the field", tar(file(b"x", at={UID: b"644\0junk"})), "number"),
    refused("uid-decimal-digits", NUMERIC, "an 8 among octal digits", tar(file(b"x", at={UID: b"0000648\0"})), "number"),
    refused("uid-minus-octal", NUMERIC, "a minus in front of octal digits", tar(file(b"x", at={UID: b"-000001\0"})), "number"),
    refused(
        "uid-base256-other",
        NUMERIC,
        "a first byte that is neither 0x80 nor 0xff",
        tar(file(b"x", at={UID: b"\x90" + bytes(7)})),
        "number",
    ),
    refused("gid-negative", NUMERIC, "gid -2, in base 256", tar(file(b"x", at={GID: base256(-2, 8)})), "number"),
    accepted(
        "mode-out-of-range",
        NUMERIC,
        "a mode of more than 16 bits: all but 12 are masked",
        tar(file(b"x", at={MODE: b"7770644\0"})),
        {b"x": f()},
    ),
    refused("mode-negative", NUMERIC, "a negative mode", tar(file(b"x", at={MODE: base256(-1, 8)})), "number"),
    accepted(
        "mode-with-type",
        NUMERIC,
        "a mode that says symlink: the typeflag alone counts",
        tar(file(b"x", b"1", at={MODE: b"0120777\0"})),
        {b"x": f(b"1", mode=0o777)},
    ),
    # ------------------------------------------------------------------------------------------------------ size
    refused("size-negative", NUMERIC, "size -1, in base 256", tar(file(b"x", at={SIZE: base256(-1)})), "size"),
    refused(
        "size-negative-block",
        NUMERIC,
        "size -512, which sends readers back to the same header",
        tar(file(b"x", at={SIZE: base256(-512)})),
        "size",
    ),
    refused("size-negative-pax", NUMERIC, "size -1 in a pax record", tar(pax((b"size", b"-1")), file(b"x")), "number"),
    refused("size-2-62", NUMERIC, "size 2^62", tar(file(b"x", at={SIZE: base256(2**62)})), "limit-file"),
    refused("size-2-63", NUMERIC, "size 2^63, negative in 64 bits", tar(file(b"x", at={SIZE: base256(2**63)})), "limit-file"),
    refused(
        "size-2-64", NUMERIC, "size 2^64+1, one byte in 64 bits", tar(file(b"x", at={SIZE: base256(2**64 + 1)})), "limit-file"
    ),
    refused("size-2-88", NUMERIC, "the largest size of base 256", tar(file(b"x", at={SIZE: base256(2**88 - 1)})), "limit-file"),
    refused(
        "size-2-64-pax",
        NUMERIC,
        "size 2^64 in a pax record",
        tar(pax((b"size", b"18446744073709551616")), file(b"x")),
        "limit-file",
    ),
    refused(
        "size-2-70-pax", NUMERIC, "a size of 22 digits", tar(pax((b"size", b"1180591620717411303424")), file(b"x")), "number"
    ),
    refused("size-plus", NUMERIC, "size +5", tar(pax((b"size", b"+5")), file(b"x", b"12345")), "number"),
    refused("size-hex", NUMERIC, "size 0x5", tar(pax((b"size", b"0x5")), file(b"x", b"12345")), "number"),
    refused("size-underscore", NUMERIC, "size 5_0", tar(pax((b"size", b"5_0")), file(b"x", b"1" * 50)), "number"),
    refused("size-float", NUMERIC, "size 5.0", tar(pax((b"size", b"5.0")), file(b"x", b"12345")), "number"),
    refused("size-missing", NUMERIC, "a file without a size", tar(file(b"x", at={SIZE: bytes(12)})), "size"),
    refused("size-spaces", NUMERIC, "a size of spaces", tar(file(b"x", at={SIZE: b" " * 12})), "size"),
    refused(
        "size-negative-of-header",
        NUMERIC,
        "an extended header of size -1",
        tar(entry(b"x", b"x", at={SIZE: base256(-1)}), file(b"x")),
        "number",
    ),
    refused(
        "size-2-62-of-header",
        NUMERIC,
        "an extended header of size 2^62",
        tar(entry(b"x", b"x", at={SIZE: base256(2**62)}), file(b"x")),
        "limit-metadata",
    ),
    refused(
        "size-2-62-of-long-name",
        NUMERIC,
        "a long name of size 2^62",
        tar(entry(b"x", b"L", at={SIZE: base256(2**62), 257: b"ustar  \0"}), file(b"x")),
        "limit-metadata",
    ),
    corrupt(
        "size-more-than-there-is",
        NUMERIC,
        "a size of 8 GiB, and the tar ends",
        tar(file(b"x", at={SIZE: octal(8**11 - 1, 12)})),
        "in the middle of a member",
    ),
    # ----------------------------------------------------------------------------------------------------- mtime
    refused(
        "mtime-2-62", NUMERIC, "an mtime of 2^62 seconds", tar(file(b"x", at={MTIME: base256(2**62)})), "mtime", limits=EXACT
    ),
    refused(
        "mtime-before-1901",
        NUMERIC,
        "an mtime before 1901",
        tar(file(b"x", at={MTIME: base256(-(2**31) - 1)})),
        "mtime",
        limits=EXACT,
    ),
    refused(
        "mtime-after-2310",
        NUMERIC,
        "an mtime after 2310, which e2fsck takes for one before 1970",
        tar(pax((b"mtime", b"10737418240")), file(b"x")),
        "mtime",
        limits=EXACT,
    ),
    accepted(
        "mtime-1901",
        NUMERIC,
        "the first mtime that ext4 holds",
        tar(file(b"x", at={MTIME: base256(-(2**31))})),
        {b"x": f(mtime=-(2**31) * 10**9)},
    ),
    accepted(
        "mtime-nanoseconds",
        NUMERIC,
        "an mtime before 1970 with a fraction: exact, no float",
        tar(pax((b"mtime", b"-1.999999999")), file(b"x")),
        {b"x": f(mtime=-1_999_999_999)},
    ),
    refused("mtime-nan", NUMERIC, "mtime nan", tar(pax((b"mtime", b"nan")), file(b"x")), "number"),
    refused("mtime-exponent", NUMERIC, "mtime 1e308", tar(pax((b"mtime", b"1e308")), file(b"x")), "number"),
    refused("mtime-5000-digits", NUMERIC, "an mtime of 5000 digits", tar(pax((b"mtime", b"1" * 5000)), file(b"x")), "number"),
    accepted(
        "mtime-long-fraction",
        NUMERIC,
        "a fraction of 100 000 digits",
        tar(pax((b"mtime", b"1." + b"1" * 100_000)), file(b"x")),
        {b"x": f(mtime=1_111_111_111)},
    ),
    accepted(
        "numbers-leading-zeros",
        NUMERIC,
        "a size with 21 leading zeros, as Go's tests have it",
        tar(pax((b"size", b"0" * 21 + b"5")), file(b"x", b"12345")),
        {b"x": f(b"12345")},
    ),
    # ------------------------------------------------------------------------------------------------ size limit
    refused(
        "limit-file-size",
        SIZES,
        "a file larger than maxFileBytes, refused at its header",
        tar(file(b"x", at={SIZE: base256(2**35)})),
        "limit-file",
        b"x",
    ),
    refused(
        "limit-file-of-manifest",
        SIZES,
        "larger than the manifest's maxFileBytes",
        tar(file(b"x", b"1" * 601)),
        "limit-file",
        limits=Limits(max_file_bytes=600),
    ),
    refused(
        "limit-unpacked-of-manifest",
        SIZES,
        "files that add up to more than maxUnpackedBytes, by the stream's bytes",
        lambda: tar(*(file(b"%d" % i, bytes(100_000)) for i in range(40))),
        "limit-unpacked",
        limits=Limits(max_unpacked_bytes=1 << 20),
    ),
    refused(
        "limit-unpacked-sparse",
        SIZES,
        "holes that add up to more than maxUnpackedBytes",
        tar(
            *(
                pax((b"GNU.sparse.size", b"16000000000"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"16000000000,0"))
                + file(b"%d" % i)
                for i in range(3)
            )
        ),
        "limit-unpacked",
    ),
    refused(
        "limit-entries-of-manifest",
        SIZES,
        "more members than maxEntries",
        tar(*(file(b"%d" % i) for i in range(6))),
        "limit-entries",
        limits=Limits(max_entries=5),
    ),
    refused(
        "limit-entries-implied",
        SIZES,
        "more directories than maxEntries that no member describes",
        tar(file(b"a/b/c/d/e/f")),
        "limit-entries",
        limits=Limits(max_entries=5),
    ),
    accepted(
        "limit-file-exact",
        SIZES,
        "exactly maxFileBytes",
        tar(file(b"x", b"1" * 600)),
        {b"x": f(b"1" * 600)},
        limits=Limits(max_file_bytes=600),
    ),
]
