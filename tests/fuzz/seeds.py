"""The seed corpus: one small archive for each feature and each class of attacks. ``python -m tests.fuzz.seeds`` writes it again.

The mutator needs an example of a thing to vary it; what is in no seed is found late or never.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from tests.fuzz.mutate import ACL, NAMED_ACL
from tests.fuzz.tarball import (
    END,
    GNU,
    POSIX,
    SPARSE_FORMATS,
    V7,
    Archive,
    Item,
    binary,
    case,
    device,
    extended,
    item,
    long_name,
    octal,
    record,
    sparse,
)

HERE = Path(__file__).resolve().parent / "corpus"

Parts = Sequence[tuple[str, bytes]]


def tar(*items: Item, tail: bytes = END) -> bytes:
    return Archive(list(items), tail).join()


def folder(name: bytes, mode: int = 0o755, **more: bytes) -> Item:
    return item(name, b"5", mode=mode, fields=more)


def link(name: bytes, target: bytes) -> Item:
    return item(name, b"2", link=target)


def hard(name: bytes, target: bytes) -> Item:
    return item(name, b"1", link=target)


def features() -> Iterator[tuple[str, bytes]]:
    """What images have."""
    yield "empty", END
    yield "root", tar(folder(b"./", 0o700))
    for name, magic in (("ustar", POSIX), ("gnu", GNU), ("v7", V7)):
        yield f"file-{name}", tar(item(b"d/f", data=b"hello", magic=magic, uid=1000, gid=1000, mtime=1_700_000_000))
    yield (
        "types",
        tar(
            folder(b"d/"),
            item(b"d/f", data=b"hello"),
            link(b"l", b"d/f"),
            hard(b"h", b"d/f"),
            device(b"c", b"3", 1, 3),
            device(b"b", b"4", 4095, 1048575),
            item(b"p", b"6"),
            item(b"t", b"7", b"x"),
        ),
    )
    yield "old-directory", tar(item(b"d/", b"\0", magic=V7), item(b"d/f", b"\0", magic=V7))
    yield "modes", tar(item(b"su", mode=0o4755), item(b"sg", mode=0o2755), folder(b"tmp", 0o1777), item(b"st", mode=0o100644))
    yield "prefix", tar(item(b"name", data=b"x", fields={"prefix": b"a/long/prefix"}))
    yield "long-name", tar(long_name(b"n" * 200), item(b"n" * 100, data=b"x", magic=GNU))
    yield "long-link", tar(long_name(b"t" * 200, b"K"), long_name(b"n" * 120), item(b"l", b"2", magic=GNU, link=b"t"))
    yield "long-path", tar(extended([(b"path", b"d/" * 60 + b"f")]), item(b"f"))
    yield "binary-numbers", tar(item(b"f", fields={"uid": binary(2**32 - 2, 8), "mtime": binary(-5, 12)}, magic=GNU))
    yield "times", tar(extended([(b"mtime", b"-1.5")]), item(b"a"), extended([(b"mtime", b"1700000000.123456789")]), item(b"b"))
    yield (
        "pax",
        tar(
            extended([(b"path", b"p\xc3\xa9"), (b"uid", b"4294967294"), (b"gid", b"70000"), (b"size", b"3")]),
            item(b"x", data=b"abc", size=0),
            extended([(b"linkpath", b"t" * 150)]),
            link(b"l", b""),
            extended([(b"SCHILY.devmajor", b"8"), (b"SCHILY.devminor", b"1")]),
            device(b"sda1", b"4", 0, 0),
        ),
    )
    yield "pax-zeros", tar(extended([(b"size", b"0" * 21 + b"3")]), item(b"f", data=b"abc"))
    yield "global", tar(extended([(b"comment", b"a commit")], b"g"), item(b"f"))
    yield "label", tar(item(b"label", b"V", magic=GNU), item(b"f", magic=GNU))
    yield (
        "xattrs",
        tar(
            extended([(b"SCHILY.xattr.user.a%3D", b"\0\n="), (b"LIBARCHIVE.xattr.user.%41", b"YWJj"), (b"SCHILY.fflags", b"x")]),
            item(b"f"),
            extended(
                [(b"SCHILY.xattr.security.capability", b"\1\0\0\2" + bytes(16)), (b"SCHILY.xattr.security.selinux", b"x\0")]
            ),
            item(b"ping", mode=0o755),
            extended([(b"RHT.security.selinux", b"x"), (b"SCHILY.xattr.trusted.overlay.opaque", b"y")]),
            folder(b"d"),
        ),
    )
    yield (
        "acls",
        tar(
            extended([(b"SCHILY.xattr.system.posix_acl_access", NAMED_ACL), (b"SCHILY.xattr.system.posix_acl_default", ACL)]),
            folder(b"d"),
            extended([(b"SCHILY.acl.access", b"user::rwx,user:bin:r-x:2,group::r-x,mask::rwx,other::---")]),
            item(b"f"),
            extended([(b"SCHILY.acl.default", b"user::rwx\ngroup::r-x\nother::---")]),
            folder(b"e"),
        ),
    )
    for form in SPARSE_FORMATS:
        segments = [(0, 512), (4096, 700), (9000, 0)]
        yield f"sparse-{form}", tar(*sparse(b"sparse", 9000, segments, b"s" * 1212, form))
        many = [(at * 1024, 512) for at in range(30)]
        yield f"sparse-many-{form}", tar(*sparse(b"sparse", 30 * 1024, [*many, (30 * 1024, 0)], b"s" * 512 * 30, form))
        yield f"sparse-hole-{form}", tar(*sparse(b"sparse", 5000, [(5000, 0)], b"", form))
    yield (
        "merged-usr",
        tar(folder(b"usr/bin"), link(b"bin", b"usr/bin"), folder(b"bin"), item(b"bin/sh"), link(b"l", b"/bin"), item(b"l/x")),
    )
    yield "implied", tar(item(b"a/b/c/d"), folder(b"a/b", 0o700))
    yield "replaced", tar(item(b"f", data=b"one"), hard(b"h", b"f"), item(b"f", data=b"two"), link(b"f", b"h"), item(b"f"))
    yield (
        "odd-names",
        tar(*(item(name) for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m", b"e\xcc\x81", b"\xc3\xa9", b" ", b"-x", b"..."))),
    )
    yield "symlinks", tar(*(link(b"l%d" % length, b"x" * length) for length in (1, 59, 60, 100)))
    yield "links-climb-inside", tar(link(b"a/b/c", b"../../d"), item(b"d"), item(b"a/b/e"))
    yield "blocks", tar(*(item(b"f%d" % size, data=b"x" * size) for size in (1, 511, 512, 513, 4096, 4097)))
    yield "record", tar(item(b"f")) + bytes(8704)


def chains() -> Iterator[tuple[str, bytes]]:
    """What layers do to each other."""
    base = tar(
        folder(b"d/", 0o700), item(b"d/one", data=b"1"), item(b"d/two", data=b"2"), item(b"f", data=b"f"), link(b"l", b"d")
    )
    for name, items in {
        "whiteout": [item(b".wh.f"), item(b"d/.wh.one")],
        "whiteout-of-directory": [item(b"d/new"), item(b".wh.d")],
        "opaque": [item(b"d/new"), item(b"d/.wh..wh..opq"), item(b"d/newer")],
        "whiteout-as-link": [hard(b"d/.wh.one", b"f")],
        "replaced": [item(b"d"), folder(b"f"), item(b"f/x"), folder(b"l"), item(b"l/x")],
        "through-link": [item(b"l/x"), item(b"l/.wh.one"), hard(b"h", b"l/two")],
        "linked": [hard(b"h", b"d/one"), item(b"d/one", data=b"new"), item(b".wh.h")],
        "redescribed": [folder(b"./", 0o711), folder(b"d", 0o711)],
    }.items():
        yield f"layers-{name}", case([base, tar(*items)])
    yield "layers-three", case([base, tar(item(b".wh.d")), tar(item(b"d/one", data=b"again"), hard(b"d/f", b"f"))])
    yield "layers-gzip-zstd", case([gzip.compress(base, 9, mtime=0), zstandard.compress(tar(item(b"d/.wh.one")), 3)])


def framings() -> Iterator[tuple[str, bytes]]:
    """How layers are stored."""
    plain = tar(item(b"f", data=b"hello" * 100), folder(b"d"))
    packed = gzip.compress(plain, 9, mtime=0)
    frame = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(plain)
    yield "gzip", packed
    yield "gzip-members", gzip.compress(plain[:700], 9, mtime=0) + gzip.compress(plain[700:], 9, mtime=0) + bytes(9)
    yield "gzip-named", packed[:3] + b"\x18" + packed[4:10] + b"name\0comment\0" + packed[10:]
    yield "gzip-extra", packed[:3] + b"\x04" + packed[4:10] + b"\2\0ab" + packed[10:]
    yield "gzip-cut", packed[:-5]
    yield "gzip-damaged", packed[:-8] + b"\0\0\0\0" + packed[-4:]
    yield "gzip-junk", packed + b"junk"
    yield "gzip-nested", gzip.compress(packed, 9, mtime=0)
    yield "gzip-empty-members", gzip.compress(b"", 9, mtime=0) * 50 + packed
    yield "gzip-bomb", gzip.compress(bytes(9 << 20), 9, mtime=0)[:18000]
    yield "zstd", frame
    yield "zstd-frames", zstandard.compress(plain[:700]) + b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstandard.compress(plain[700:])
    yield "zstd-cut", frame[:-3]
    yield "zstd-damaged", frame[:-1] + b"\0"
    yield "zstd-largest-window", _zstd_window(tar(item(b"f", data=bytes(300_000))), 27)
    yield "zstd-too-large-window", _zstd_window(tar(item(b"f", data=bytes(300_000))), 28)
    yield "zstd-window", b"\x28\xb5\x2f\xfd\x00\xf0" + bytes(20)
    yield (
        "zstd-rle",
        b"\x28\xb5\x2f\xfd\xa0"
        + (9 << 20).to_bytes(4, "little")
        + (((128 << 10) << 3) | 2).to_bytes(3, "little")
        + b"\0"
        + b"\0",
    )
    for name, pack, trailer in (("xz", lzma.compress, 24), ("bzip2", bz2.compress, 4)):
        whole = pack(plain)
        yield name, whole
        yield f"{name}-streams", pack(plain[:700]) + pack(b"") + pack(plain[700:]) + bytes(8)
        yield f"{name}-cut", whole[:-3]
        yield f"{name}-damaged", whole[: -trailer - 1] + bytes([whole[-trailer - 1] ^ 1]) + whole[-trailer:]
        yield f"{name}-junk", whole + b"junk"
        yield f"{name}-nested", pack(whole)
        yield f"{name}-empty-streams", pack(b"") * 50 + whole
        yield f"{name}-bomb", pack(bytes(9 << 20))
    yield "xz-largest-dictionary", _xz_dictionary(plain, 128 << 20)
    yield "xz-too-large-dictionary", _xz_dictionary(plain, 192 << 20)
    for name, magic in (("xz", b"\xfd7zXZ\0"), ("bzip2", b"BZh91AY&SY"), ("lz4", b"\x04\x22\x4d\x18"), ("zip", b"PK\x03\x04")):
        yield f"other-{name}", magic + bytes(30)


def _xz_dictionary(data: bytes, size: int) -> bytes:
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}])


def _zstd_window(data: bytes, log: int) -> bytes:
    """A frame that asks for a window of 2^log bytes: the byte behind the frame's descriptor says it."""
    parameters = zstandard.ZstdCompressionParameters(window_log=20, write_content_size=False)
    frame = bytearray(zstandard.ZstdCompressor(compression_params=parameters).compress(data))
    assert not frame[4] & 0x20, "a single segment has no window"
    frame[5] = (log - 10) << 3
    return bytes(frame)


def attacks() -> Iterator[tuple[str, bytes]]:
    """The classes that are known, one or more of each."""
    yield "climb", tar(item(b"../x"))
    yield "climb-inside", tar(item(b"a/../../x"), item(b"/../x"))
    yield "climb-pax", tar(extended([(b"path", b"../x")]), item(b"x"))
    yield "climb-long", tar(long_name(b"a/../x"), item(b"x", magic=GNU))
    yield "climb-link", tar(link(b"l", b"../x"))
    yield "climb-hardlink", tar(hard(b"h", b"../x"))
    yield "absolute", tar(item(b"//abs"), item(b"/abs/x"), hard(b"h", b"/abs/x"))
    yield "root-as-link", tar(link(b"./", b"/tmp"))
    yield "root-as-file", tar(item(b"."))
    yield "empty-name", tar(item(b""))
    yield "write-through", tar(link(b"l", b"/outside"), item(b"l/x"), link(b"cur", b"."), link(b"par", b"cur/a"), item(b"par/x"))
    yield "loop", tar(link(b"a", b"b"), link(b"b", b"a"), item(b"a/x"))
    yield "ladder", tar(link(b"l0", b"."), *(link(b"l%d" % n, b"l%d/l%d" % (n - 1, n - 1)) for n in range(1, 12)), item(b"l11/x"))
    yield "file-over-link", tar(link(b"p", b"/outside"), item(b".//p", data=b"x"))
    yield "directory-over-link", tar(link(b"d", b"/outside"), folder(b"d/.", 0o777), item(b"d/x"))
    yield "link-over-directory", tar(folder(b"d"), item(b"d/f"), link(b"d", b"/outside"))
    yield "link-over-empty-directory", tar(folder(b"d"), link(b"d", b"/outside"), item(b"d/g"))
    yield "below-a-file", tar(item(b"f"), item(b"f/x"))
    yield "hardlink-to-link", tar(link(b"s", b"/etc/passwd"), item(b"h", b"1", link=b"s", mode=0o4777))
    yield "hardlink-missing", tar(hard(b"h", b"later"), item(b"later"))
    yield "hardlink-self", tar(item(b"f"), hard(b"f", b"f"))
    yield "hardlink-directory", tar(folder(b"d"), hard(b"h", b"d"))
    yield "size-desync", tar(extended([(b"size", b"1024")]), item(b"f", data=bytes(item(b"hidden").header) + bytes(512), size=0))
    yield "size-of-long-name", tar(extended([(b"size", b"2048")]), long_name(b"n" * 120), item(b"n", magic=GNU))
    yield "size-of-link", tar(item(b"l", b"2", link=b"x", size=512), item(b"f"))
    yield "size-negative", tar(item(b"f", fields={"size": binary(-512, 12)}))
    yield "size-huge", tar(item(b"f", fields={"size": binary(2**62, 12)}))
    yield "numbers-odd", tar(item(b"f", fields={"uid": b"+5"}))
    yield "pax-number-odd", tar(extended([(b"uid", b"5_0")]), item(b"f"))
    yield "owner-leave", tar(extended([(b"uid", b"4294967295")]), item(b"su", mode=0o4755))
    yield "mtime-far", tar(extended([(b"mtime", b"99999999999")]), item(b"f"))
    yield "device-far", tar(extended([(b"SCHILY.devmajor", b"4096")]), device(b"d", b"3", 0, 0))
    yield "mode-far", tar(item(b"f", fields={"mode": octal(0o7000644, 8)}))
    for name, payload in {
        "zero": b"0 path=x\n",
        "short": b"5 path=x\n",
        "long": b"99 path=x\n",
        "no-newline": b"9 path=x ",
        "no-equals": b"8 pathx\n",
        "no-key": b"5 =x\n",
        "nul": record(b"path", b"a\0b"),
        "twice": record(b"path", b"a") + record(b"path", b"b"),
        "digits": b"+9 path=x\n",
    }.items():
        yield f"pax-{name}", tar(item(b"PaxHeaders/x", b"x", payload), item(b"f"))
    yield "pax-pax", tar(extended([(b"path", b"a")]), extended([(b"path", b"b")]), item(b"f"))
    yield "pax-and-long", tar(extended([(b"path", b"a")]), long_name(b"b"), item(b"f", magic=GNU))
    yield "long-long", tar(long_name(b"a"), long_name(b"b"), item(b"f", magic=GNU))
    yield "dangling", tar(item(b"f"), extended([(b"path", b"a")]))
    yield "pax-on-v7", tar(extended([(b"path", b"a")]), item(b"f", magic=V7))
    yield "global-path", tar(extended([(b"path", b"evil")], b"g"), item(b"f"))
    yield "headers-many", tar(*(item(b"label", b"g", record(b"comment", b"x")) for _ in range(9)), item(b"f"))
    yield "header-large", tar(item(b"PaxHeaders/x", b"x", size=2**21), item(b"f"))
    for flag in b"DMNAEIXz":
        yield f"type-{chr(flag)}", tar(item(b"x", bytes([flag]), b"payload"))
    yield "file-named-directory", tar(item(b"x/", data=b"data"))
    yield "nul-type-long-name", tar(long_name(b"n" * 110 + b"/"), item(b"n", b"\0", b"data", magic=GNU))
    for form in SPARSE_FORMATS:
        yield f"sparse-overlap-{form}", tar(*sparse(b"s", 4096, [(0, 512), (256, 512)], b"x" * 1024, form))
        yield f"sparse-huge-{form}", tar(*sparse(b"s", 2**60, [(2**60, 0)], b"", form))
        yield f"sparse-sum-{form}", tar(*sparse(b"s", 4096, [(0, 512)], b"x" * 1024, form))
    yield (
        "sparse-count",
        tar(
            extended([(b"GNU.sparse.numblocks", b"999999"), (b"GNU.sparse.size", b"1"), (b"GNU.sparse.map", b"0,1")]),
            item(b"s", data=b"x"),
        ),
    )
    yield (
        "sparse-no-newline",
        tar(
            extended([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")]),
            item(b"s", data=b"1" * 2048),
        ),
    )
    yield "sparse-endless", tar(item(b"s", b"S", magic=GNU, fields={"isextended": b"\1", "realsize": octal(0, 12)}))
    yield "cut-header", tar(item(b"f"))[:700]
    yield "cut-data", tar(item(b"f", data=b"x" * 5000))[:2000]
    yield "no-end", tar(item(b"f"), tail=b"")
    yield "end-single", tar(item(b"f"), tail=bytes(512))
    yield "end-lone", tar(item(b"f"), tail=bytes(512) + tar(item(b"g")))
    yield "end-second", tar(item(b"f")) + tar(item(b"g"))
    yield "end-junk", tar(item(b"f")) + b"junk"
    yield "checksum", tar(Item(item(b"f").header[:148] + bytearray(b"0000000\0") + item(b"f").header[156:]))
    yield "xattr-unknown", tar(extended([(b"SCHILY.xattr.trusted.x", b"y")]), item(b"f"))
    yield "xattr-large", tar(extended([(b"SCHILY.xattr.user.x", b"y" * 5000)]), item(b"f"))
    yield "xattr-capability", tar(extended([(b"SCHILY.xattr.security.capability", b"\1\0\0\2")]), item(b"f"))
    yield "xattr-on-link", tar(extended([(b"SCHILY.xattr.user.x", b"y")]), link(b"l", b"x"))
    for what, stored in {
        "empty": b"",
        "dot": b".",
        "dots": b"..",
        "whiteout": b".wh.x",
        "parent": b"a/b",
        "long": b"n" * 96,
    }.items():
        yield f"whiteout-{what}", tar(item(b".wh." + stored))
    yield "deep", tar(item(b"d/" * 49 + b"f"), extended([(b"path", b"d/" * 300 + b"f")]), item(b"f"))
    yield "component-long", tar(long_name(b"n" * 256), item(b"n", magic=GNU))
    yield "lost-found", tar(folder(b"lost+found", 0o700), item(b"lost+found/x"))


def policies() -> Iterator[tuple[str, bytes]]:
    """What only a policy other than the usual one accepts, or refuses."""
    climbing = [link(b"l", b"../x"), item(b"l/f"), hard(b"h", b"../l/f"), link(b"m", b"a/../../l"), item(b"m/g")]
    special = [item(b"su", mode=0o4755), item(b"sg", mode=0o2711), folder(b"d", 0o2755), device(b"c", b"3", 1, 3)]
    yield "resolve", case([tar(*climbing)], 1)
    yield "no-devices", case([tar(*special)], 2)
    yield "no-setuid", case([tar(*special)], 4)
    yield "trailing-data", case([tar(*special) + b"junk"], 8)
    yield "trailing-archive", case([tar(*special) + tar(item(b"hidden"))], 8)
    yield "lone-zero-block", case([tar(*special, tail=bytes(512) + tar(item(b"hidden")))], 24)
    yield "no-end", case([tar(*special, tail=b"")], 16)
    yield "single-end", case([tar(*special, tail=bytes(512))], 16)
    yield "cut-end", case([tar(*special, tail=bytes(700))], 16)
    yield "gzip-no-end", case([gzip.compress(tar(*special, tail=b""), 9, mtime=0)], 16)
    yield "all", case([tar(*climbing, *special[:3], tail=b""), tar(item(b".wh.l"), item(b"l/x")) + b"junk"], 31)


def everything() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for prefix, parts in (
        ("", features()),
        ("", chains()),
        ("frame-", framings()),
        ("attack-", attacks()),
        ("policy-", policies()),
    ):
        for name, data in parts:
            assert prefix + name not in found, name
            found[prefix + name] = data
    return found


def main() -> int:
    HERE.mkdir(exist_ok=True)
    for old in HERE.iterdir():
        old.unlink()
    for name, data in everything().items():
        (HERE / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
