"""Compressed streams: those that inflate without end, ask for memory, lie in each other, or are damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from functools import cache, partial

import zstandard

from reconciler.image.spec import KIB, MIB, Limits
from tests.hostile.archive import END, entry, file, tar
from tests.hostile.case import accepted, corrupt, f, refused

BOMBS = "compression bombs"
MEMORY = "decoder memory"
NESTING = "nesting"
INTEGRITY = "integrity"
TRUNCATION = "truncation"
TRAILING = "trailing data"

SMALL = tar(file(b"x", b"data" * 300))
ZEROS = 80 * MIB
"""Over the floor below which no ratio counts; whoever inflates this much would have inflated any amount."""
ZSTD = b"\x28\xb5\x2f\xfd"


def zeros(size: int) -> bytes:
    """The header of a file of zeros, whose data would follow."""
    return entry(b"zeros", b"0", size=size)


@cache
def gzipped(tail: bytes = b"") -> bytes:
    """A file of zeros, a thousand to one."""
    packer = zlib.compressobj(6, wbits=31)
    parts = [packer.compress(zeros(ZEROS))]
    parts += [packer.compress(bytes(MIB)) for _ in range(ZEROS // MIB)]
    return b"".join(parts) + packer.compress(tail or END) + packer.flush()


def gzip_members() -> bytes:
    """The same in members of a MiB, each small and whole."""
    return gzip.compress(zeros(ZEROS)) + gzip.compress(bytes(MIB)) * (ZEROS // MIB) + gzip.compress(END)


def behind_the_end() -> bytes:
    """A small tar, and zeros behind its end marker without end."""
    return gzip.compress(SMALL) + gzip.compress(bytes(MIB)) * (ZEROS // MIB)


def skipped() -> bytes:
    """The zeros belong to an extended header, which readers may pass over."""
    return gzip.compress(entry(b"g", b"g", size=ZEROS)) + gzip.compress(bytes(MIB)) * (ZEROS // MIB)


def zstd_runs(count: int, *, window: int = 0x58) -> bytes:
    """One frame of blocks that each repeat one byte 128 KiB times: 32 000 to one, before anything is clever about it."""
    run = (128 * KIB << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    head = len(zeros(0)) << 3
    raw = head.to_bytes(3, "little") + zeros(count * 128 * KIB)
    return ZSTD + bytes([0, window]) + raw + run * count + (1 | 0 << 3).to_bytes(3, "little")


def frames(size: int, count: int) -> bytes:
    one = zstandard.ZstdCompressor().compress(bytes(size))
    return zstandard.ZstdCompressor().compress(zeros(size * count)) + one * count + zstandard.ZstdCompressor().compress(END)


def zstd_window(descriptor: int) -> bytes:
    """A frame that asks for a window, with one small raw block in it."""
    block = (1 | len(SMALL) << 3).to_bytes(3, "little")
    return ZSTD + bytes([0, descriptor]) + block + SMALL


def zstd_content_size(size: int) -> bytes:
    """A frame of a single segment, whose window is as large as what it says of its content."""
    return ZSTD + b"\xe0" + size.to_bytes(8, "little") + (1 | len(SMALL) << 3).to_bytes(3, "little") + SMALL


def nested(times: int) -> bytes:
    found = SMALL
    for _ in range(times):
        found = gzip.compress(found, 1)
    return found


def xz_header(dictionary: int) -> bytes:
    """The beginning of an .xz whose filter asks for this dictionary (40 is 4 GiB - 1)."""
    head = b"\xfd7zXZ\0" + b"\0\4"
    head += struct.pack("<I", zlib.crc32(b"\0\4"))
    block = b"\2\0\x21\1" + bytes([dictionary]) + bytes(3)
    return head + block + struct.pack("<I", zlib.crc32(block)) + bytes(512)


def with_dictionary(size: int) -> bytes:
    """A small tar in a stream of xz whose decoder needs that much memory."""
    return lzma.compress(SMALL, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}])


def unpacked_zeros() -> bytes:
    return zeros(ZEROS) + bytes(ZEROS) + END


def with_gzip_header(flags: int, extra: bytes) -> bytes:
    whole = gzip.compress(SMALL, mtime=0)
    return whole[:3] + bytes([flags]) + whole[4:10] + extra + whole[10:]


GZIPPED = gzip.compress(SMALL, mtime=0)
XZ, BZIP2 = lzma.compress(SMALL), bz2.compress(SMALL)
ZSTANDARD = zstandard.ZstdCompressor(write_checksum=True).compress(SMALL)
CONTENT = {b"x": f(b"data" * 300)}
LOW = Limits(max_ratio=10_000_000, max_unpacked_bytes=64 * MIB)

CASES = [
    # ------------------------------------------------------------------------------------------- compression bombs
    refused("bomb-gzip", BOMBS, "80 MiB of zeros, a thousand to one", gzipped, "limit-ratio"),
    refused("bomb-gzip-members", BOMBS, "the same in small members", gzip_members, "limit-ratio"),
    refused(
        "bomb-gzip-behind-end",
        BOMBS,
        "zeros behind the end marker: every byte counts, not only members'",
        behind_the_end,
        "limit-ratio",
    ),
    refused(
        "bomb-gzip-ignored-tail",
        BOMBS,
        "the same under trailingData: ignore",
        behind_the_end,
        "limit-ratio",
        limits=Limits(trailing_data="ignore"),
    ),
    refused("bomb-gzip-skipped", BOMBS, "zeros in a header that is passed over", skipped, "limit-metadata"),
    refused(
        "bomb-gzip-unpacked", BOMBS, "past maxUnpackedBytes, where any ratio is allowed", gzipped, "limit-unpacked", limits=LOW
    ),
    refused(
        "bomb-gzip-empty-members",
        BOMBS,
        "members without content, more than a layer can have",
        lambda: gzip.compress(b"") * 5000,
        "limit-members",
        limits=Limits(max_entries=1000),
    ),
    refused(
        "bomb-gzip-no-floor",
        BOMBS,
        "small, and over the ratio of a manifest without a floor",
        lambda: gzip.compress(tar(file(b"x", bytes(MIB)))),
        "limit-ratio",
        limits=Limits(ratio_floor_bytes=0, max_ratio=100),
    ),
    refused("bomb-zstd-runs", BOMBS, "zstd's runs of one byte, 32 000 to one", partial(zstd_runs, 800), "limit-ratio"),
    refused("bomb-zstd-frames", BOMBS, "many small frames", partial(frames, MIB, 80), "limit-ratio"),
    refused(
        "bomb-zstd-skippable",
        BOMBS,
        "frames that are skipped, more than a layer can have",
        lambda: b"\x50\x2a\x4d\x18\0\0\0\0" * 5000 + ZSTANDARD,
        "limit-members",
        limits=Limits(max_entries=1000),
    ),
    refused(
        "bomb-zstd-empty-blocks",
        BOMBS,
        "blocks without content: time, and no bytes",
        lambda: ZSTD + b"\0\x58" + bytes(3) * 5000,
        "limit-members",
        limits=Limits(max_entries=1000),
    ),
    refused(
        "bomb-bzip2", BOMBS, "80 MiB of zeros as bzip2, 20 000 to one", lambda: bz2.compress(unpacked_zeros()), "limit-ratio"
    ),
    refused("bomb-xz", BOMBS, "80 MiB of zeros as xz, 7 000 to one", lambda: lzma.compress(unpacked_zeros()), "limit-ratio"),
    refused(
        "bomb-xz-streams",
        BOMBS,
        "many small streams",
        lambda: lzma.compress(zeros(ZEROS)) + lzma.compress(bytes(MIB)) * (ZEROS // MIB) + lzma.compress(END),
        "limit-ratio",
    ),
    refused(
        "bomb-xz-empty-streams",
        BOMBS,
        "streams without content, more than a layer can have",
        lambda: lzma.compress(b"") * 5000 + XZ,
        "limit-members",
        limits=Limits(max_entries=1000),
    ),
    refused(
        "bomb-bzip2-empty-streams",
        BOMBS,
        "the same of bzip2",
        lambda: bz2.compress(b"") * 5000 + BZIP2,
        "limit-members",
        limits=Limits(max_entries=1000),
    ),
    accepted(
        "bomb-not-small",
        BOMBS,
        "6 MiB of zeros, a thousand to one, below the floor",
        lambda: gzip.compress(tar(file(b"x", bytes(6 * MIB)))),
        names=1,
    ),
    # --------------------------------------------------------------------------------------------- decoder memory
    refused("zst-huge-window", MEMORY, "a window of 2 TiB", zstd_window(31 << 3), "zstd-window"),
    refused("zst-huge-window-largest", MEMORY, "the largest window that can be said", zstd_window(0xFF), "zstd-window"),
    refused("zst-window-256m", MEMORY, "a window of 256 MiB", zstd_window(18 << 3), "zstd-window"),
    accepted("zst-window-128m", MEMORY, "a window of 128 MiB, as zstd --long asks for", zstd_window(17 << 3), CONTENT),
    refused("zst-huge-content", MEMORY, "a single segment of 2^62 bytes", zstd_content_size(2**62), "zstd-window"),
    refused("zst-second-frame", MEMORY, "the second frame has the huge window", ZSTANDARD + zstd_window(31 << 3), "zstd-window"),
    refused("xz-huge-dict", MEMORY, "a dictionary of 3 GiB", xz_header(39), "xz-dictionary"),
    refused("xz-largest-dict", MEMORY, "the largest dictionary that can be said", xz_header(40), "xz-dictionary"),
    refused("xz-dict-192m", MEMORY, "a dictionary of 192 MiB", lambda: with_dictionary(192 * MIB), "xz-dictionary"),
    accepted("xz-dict-128m", MEMORY, "a dictionary of 128 MiB", lambda: with_dictionary(128 * MIB), CONTENT, memory=192 * MIB),
    refused("xz-second-stream", MEMORY, "the second stream has the huge dictionary", XZ + xz_header(39), "xz-dictionary"),
    corrupt(
        "gz-huge-extra",
        MEMORY,
        "a gzip header whose name never ends",
        lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (4 * MIB),
        "longer than 128 KiB",
    ),
    corrupt(
        "gz-huge-comment",
        MEMORY,
        "a gzip header whose comment never ends",
        lambda: b"\x1f\x8b\x08\x10" + bytes(6) + b"n" * (4 * MIB),
        "longer than 128 KiB",
    ),
    # --------------------------------------------------------------------------------------------------- nesting
    corrupt("gz-nested-40", NESTING, "gzip in gzip, forty times: one is taken off", partial(nested, 40), "not a tar"),
    corrupt("gz-nested-2", NESTING, "gzip in gzip", partial(nested, 2)),
    corrupt("gz-in-zstd", NESTING, "gzip in zstd", lambda: zstandard.ZstdCompressor().compress(GZIPPED)),
    # --------------------------------------------------------------------------------------------------- integrity
    corrupt("gz-bad-crc", INTEGRITY, "gzip with a wrong CRC", GZIPPED[:-8] + b"\1\2\3\4" + GZIPPED[-4:], "damaged"),
    corrupt("gz-bad-length", INTEGRITY, "gzip with a wrong length", GZIPPED[:-4] + b"\1\2\3\4", "damaged"),
    corrupt("gz-bad-data", INTEGRITY, "gzip with a damaged block", GZIPPED[:30] + b"\xff\xff\xff" + GZIPPED[33:], "damaged"),
    corrupt("gz-bad-method", INTEGRITY, "gzip of an unknown method", GZIPPED[:2] + b"\7" + GZIPPED[3:], "unknown method"),
    corrupt("gz-bad-flags", INTEGRITY, "gzip with reserved flags", with_gzip_header(0xE0, b""), "unknown method"),
    accepted(
        "gz-name",
        INTEGRITY,
        "gzip with a hostile name of its own, which nobody uses",
        with_gzip_header(8, b"../../etc/passwd\0"),
        CONTENT,
    ),
    corrupt(
        "gz-crc-after-end",
        INTEGRITY,
        "the wrong CRC stands behind the tar's end marker, in a member of its own",
        GZIPPED + gzip.compress(bytes(1024))[:-8] + b"\1\2\3\4" + gzip.compress(bytes(1024))[-4:],
        "damaged",
    ),
    corrupt("zst-bad-checksum", INTEGRITY, "zstd with a wrong checksum", ZSTANDARD[:-1] + bytes([ZSTANDARD[-1] ^ 1]), "damaged"),
    corrupt("zst-bad-data", INTEGRITY, "zstd with a damaged block", ZSTANDARD[:20] + b"\xff\xff" + ZSTANDARD[22:]),
    corrupt(
        "zst-reserved-block",
        INTEGRITY,
        "zstd with a block of the reserved type",
        ZSTD + b"\0\x58" + b"\x07\0\0" + bytes(64),
        "reserved type",
    ),
    corrupt("xz-bad-check", INTEGRITY, "xz with a wrong check", XZ[:-33] + bytes([XZ[-33] ^ 1]) + XZ[-32:], "damaged"),
    corrupt("xz-bad-index", INTEGRITY, "xz with a damaged index", XZ[:-17] + bytes([XZ[-17] ^ 1]) + XZ[-16:], "damaged"),
    corrupt("xz-bad-data", INTEGRITY, "xz with a damaged block", XZ[:30] + b"\xff\xff" + XZ[32:], "damaged"),
    corrupt("bz2-bad-crc", INTEGRITY, "bzip2 with a wrong CRC", BZIP2[:-2] + bytes([BZIP2[-2] ^ 1]) + BZIP2[-1:], "damaged"),
    corrupt("bz2-bad-data", INTEGRITY, "bzip2 with a damaged block", BZIP2[:30] + b"\xff\xff" + BZIP2[32:], "damaged"),
    refused("lz4", INTEGRITY, "lz4 is not supported", b"\x04\x22\x4d\x18" + bytes(600), "compression"),
    refused("zip", INTEGRITY, "a zip is not supported", b"PK\3\4" + bytes(600), "compression"),
    # -------------------------------------------------------------------------------------------------- truncation
    corrupt("gz-trailer-cut", TRUNCATION, "gzip without its trailer: the tar in it is whole", GZIPPED[:-8], "cut short"),
    corrupt("gz-trailer-half", TRUNCATION, "gzip with half a trailer", GZIPPED[:-4], "cut short"),
    corrupt("gz-cut", TRUNCATION, "gzip cut in the middle", GZIPPED[: len(GZIPPED) // 2], "cut short"),
    corrupt("gz-header-cut", TRUNCATION, "gzip cut in its header", GZIPPED[:6], "cut short"),
    corrupt(
        "gz-second-member-cut", TRUNCATION, "the second member is cut", GZIPPED + gzip.compress(bytes(512))[:-5], "cut short"
    ),
    corrupt("zst-cut", TRUNCATION, "zstd cut in the middle", ZSTANDARD[: len(ZSTANDARD) // 2]),
    corrupt("zst-checksum-cut", TRUNCATION, "zstd without its checksum", ZSTANDARD[:-4], "cut short"),
    corrupt("zst-header-cut", TRUNCATION, "zstd cut in its header", ZSTANDARD[:5]),
    corrupt("xz-cut", TRUNCATION, "xz cut in the middle", XZ[: len(XZ) // 2], "cut short"),
    corrupt("xz-footer-cut", TRUNCATION, "xz without its footer: the tar in it is whole", XZ[:-12], "cut short"),
    corrupt("xz-second-stream-cut", TRUNCATION, "the second stream is cut", XZ + lzma.compress(bytes(512))[:-5], "cut short"),
    corrupt("bz2-cut", TRUNCATION, "bzip2 cut in the middle", BZIP2[: len(BZIP2) // 2], "cut short"),
    corrupt("bz2-trailer-cut", TRUNCATION, "bzip2 without its trailer", BZIP2[:-4], "cut short"),
    corrupt("bz2-second-stream-cut", TRUNCATION, "the second stream is cut", BZIP2 + bz2.compress(bytes(512))[:-5], "cut short"),
    # ----------------------------------------------------------------------------------------------- trailing data
    refused(
        "gz-second-member",
        TRAILING,
        "a second member holds another tar",
        GZIPPED + gzip.compress(tar(file(b"hidden"))),
        "trailing-data",
    ),
    accepted(
        "gz-second-member-half",
        TRAILING,
        "two members hold one tar between them",
        gzip.compress(SMALL[:700]) + gzip.compress(SMALL[700:]),
        CONTENT,
    ),
    accepted("gz-second-member-zeros", TRAILING, "a second member of zeros", GZIPPED + gzip.compress(bytes(4096)), CONTENT),
    corrupt("gz-trailing-junk", TRAILING, "bytes that are not gzip behind a member", GZIPPED + b"junk" * 100, "not gzip"),
    accepted("gz-trailing-zeros", TRAILING, "zeros behind a member, as tapes have them", GZIPPED + bytes(10_000), CONTENT),
    corrupt(
        "gz-trailing-zeros-junk",
        TRAILING,
        "zeros and then junk behind a member",
        GZIPPED + bytes(1000) + b"junk",
        "follow the zero padding",
    ),
    corrupt("zst-trailing-junk", TRAILING, "bytes that are not zstd behind a frame", ZSTANDARD + b"junk" * 100, "not zstd"),
    refused(
        "zst-second-frame-tar",
        TRAILING,
        "a second frame holds another tar",
        ZSTANDARD + zstandard.ZstdCompressor().compress(tar(file(b"hidden"))),
        "trailing-data",
    ),
    refused(
        "xz-second-stream-tar",
        TRAILING,
        "a second stream of xz holds another tar",
        XZ + lzma.compress(tar(file(b"hidden"))),
        "trailing-data",
    ),
    refused(
        "bz2-second-stream-tar",
        TRAILING,
        "a second stream of bzip2 holds another tar",
        BZIP2 + bz2.compress(tar(file(b"hidden"))),
        "trailing-data",
    ),
    accepted(
        "xz-second-stream-half",
        TRAILING,
        "two streams of xz hold one tar between them, with padding",
        lzma.compress(SMALL[:700]) + bytes(8) + lzma.compress(SMALL[700:]) + bytes(4),
        CONTENT,
    ),
    accepted(
        "bz2-second-stream-half",
        TRAILING,
        "two streams of bzip2 hold one tar between them",
        bz2.compress(SMALL[:700]) + bz2.compress(SMALL[700:]),
        CONTENT,
    ),
    corrupt("xz-trailing-junk", TRAILING, "bytes that are not xz behind a stream", XZ + b"junk" * 100, "not xz"),
    corrupt("xz-odd-padding", TRAILING, "padding of xz that is no multiple of four bytes", XZ + bytes(6), "multiple of 4"),
    corrupt("bz2-trailing-junk", TRAILING, "bytes that are not bzip2 behind a stream", BZIP2 + b"junk" * 100, "not bzip2"),
    accepted("bz2-trailing-zeros", TRAILING, "zeros behind a stream of bzip2", BZIP2 + bytes(10_000), CONTENT),
    accepted("zst-skippable", TRAILING, "a frame that is skipped", b"\x50\x2a\x4d\x18\4\0\0\0junk" + ZSTANDARD, CONTENT),
]
