"""Changes to archives that leave them archives: bytes and a seed give other bytes, always the same ones.

Used as libFuzzer's custom mutator, by the hypothesis tests and, with ``minimise``, to make findings small. Most changes put the
checksum right again, or nothing behind the first header would ever be reached; some don't, and some know nothing of tar at all.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from random import Random

import zstandard

from tests.fuzz import tarball
from tests.fuzz.tarball import BLOCK, END, FIELDS, Archive, Item, Record

MOST_UNPACKED = 1 << 20
"""Bytes of a compressed layer that the mutator is ready to take apart."""

NAMES = (
    b"", b".", b"./", b"/", b"..", b"../x", b"a/../../x", b"/../x", b"//abs", b"a/..", b"a", b"a/", b"a/b", b"a/b/c", b"b",
    b"b/c", b"l", b"l/x", b"l/..", b"etc/passwd", b"/etc/passwd", b"usr/bin/sh", b"bin", b"bin/x", b"d", b"d/", b"d/.",
    b".//a", b"a//b", b".wh.a", b"a/.wh.b", b".wh..wh..opq", b"a/.wh..wh..opq", b".wh.", b".wh..", b".wh...", b".wh..wh.x",
    b".wh.a/b", b"a/.wh..wh.plnk", b"\xff\xfe", b"new\nline", b"\x1b[31m", b"a\0b", b"n" * 100, b"n" * 255, b"n" * 256,
    b".wh." + b"n" * 251, b".wh." + b"n" * 255, b"d/" * 70 + b"f", b"d/" * 40, b"lost+found", b"lost+found/x",
    b"GNUSparseFile.0/x", b"e\xcc\x81", b"\xc3\xa9",
)  # fmt: skip
TARGETS = (
    *NAMES, b"../..", b"../../..", b"../b", b"./b", b"a/up/../..", b"/proc/self/root", b"x" * 59, b"x" * 60, b"x" * 4095,
    b"x" * 4096, b"l/l/l", b"/l", b"l", b"..//..", b"b/" * 30,
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 7, 8, 511, 512, 513, 1024, 4095, 4096, 4097, 0o7777, 0o4755, 0o177777, 0o200000, 65535, 65536, 2**21 - 1, 2**21,
    2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**33 - 1, 2**33 + 2**31, 2**34, 2**62, 2**63 - 1, 2**63, -1, -512,
    -(2**31), -(2**31) - 1, 2**22,
)  # fmt: skip
TEXTS = (
    b"+5",
    b"-1",
    b"0x5",
    b"5_0",
    b" 5",
    b"5 ",
    b"",
    b"\xd9\xa1",
    b"1e3",
    b"0" * 25 + b"7",
    b"9" * 30,
    b"1.5",
    b"-0.5",
    b"nan",
)
FLAGS = b"0000\x001122233445566777SSxxgLKVDMNAEIX9z\x80\xff"
KEYS = (
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"uname", b"comment", b"hdrcharset", b"charset",
    b"SCHILY.devmajor", b"SCHILY.devminor", b"SCHILY.xattr.user.x", b"SCHILY.xattr.security.capability",
    b"SCHILY.xattr.trusted.overlay.x", b"SCHILY.xattr.security.selinux", b"SCHILY.xattr.system.posix_acl_access",
    b"SCHILY.xattr.system.posix_acl_default", b"SCHILY.xattr.user.", b"SCHILY.xattr.user.a%3Db%25",
    b"LIBARCHIVE.xattr.user.y", b"LIBARCHIVE.xattr.user.%41", b"RHT.security.selinux", b"SCHILY.acl.access",
    b"SCHILY.acl.default", b"SCHILY.acl.ace", b"SCHILY.realsize", b"SCHILY.fflags", b"GNU.sparse.major", b"GNU.sparse.minor",
    b"GNU.sparse.name", b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.numblocks", b"GNU.sparse.map",
    b"GNU.sparse.offset", b"GNU.sparse.numbytes", b"GNU.dumpdir", b"GNU.volume.label", b"LIBARCHIVE.creationtime", b"",
)  # fmt: skip
ACL = b"\2\0\0\0" + b"".join(bytes((tag, 0, 7, 0)) + b"\xff" * 4 for tag in (1, 4, 32))
NAMED_ACL = ACL[:12] + b"\2\0\5\0\xe8\3\0\0" + ACL[12:20] + b"\x10\0\7\0" + b"\xff" * 4 + ACL[20:]
VALUES = (
    *TEXTS, b"1", b"0", b"512", b"1,0", b"0,512", b"0,1,512,1", b"512,512,0,512", b"\1\0\0\2" + bytes(16),
    b"\1\0\0\3" + bytes(20), ACL, NAMED_ACL, b"u::rwx,g::r-x,o::r--",
    b"user::rwx,user:bin:r-x:2,group::r-x,mask::rwx,other::---", b"user::rwx,user:name:r-x,group::r-x,mask::rwx,other::---",
    b"x" * 300, b"x" * 4000, b"YWJj", b"YWJ", b"BINARY", b"a=b\nc", b"1234567890.123456789", b"-1.5", b"8589934592",
)  # fmt: skip

Change = Callable[[Archive, Random], None]


def mutate(data: bytes, seed: int, most: int = 1 << 16) -> bytes:
    """Another case, of at most ``most`` bytes."""
    random = Random(seed)
    layers, policy = tarball.layers_of(data) or [b""], tarball.policy_of(data)
    if random.random() < 0.05:
        policy ^= 1 << random.randrange(5)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        if random.random() < 0.06:
            layers = _change_chain(layers, random)
        else:
            at = random.randrange(len(layers))
            layers[at] = _change_layer(layers[at], random)
    found = tarball.case(layers, policy)
    return found if len(found) <= most else found[:most]


def cross(one: bytes, other: bytes, seed: int, most: int = 1 << 16) -> bytes:
    """Members of two cases in one."""
    random, policy = Random(seed), tarball.policy_of(one)
    mine, theirs = tarball.layers_of(one) or [b""], tarball.layers_of(other) or [b""]
    if random.random() < 0.3:
        return tarball.case([*mine, random.choice(theirs)][:4], policy)[:most]
    at = random.randrange(len(mine))
    taken = tarball.parse(unpacked(random.choice(theirs))).items
    archive = tarball.parse(unpacked(mine[at]))
    start = random.randint(0, len(archive.items))
    first = random.randint(0, len(taken))
    archive.items[start:start] = taken[first : first + random.choice((1, 1, 2, 4))]
    mine[at] = archive.join()
    return tarball.case(mine, policy)[:most]


# ----------------------------------------------------------------------------------------------------- layers


def _change_chain(layers: list[bytes], random: Random) -> list[bytes]:
    what = random.randrange(5)
    at = random.randrange(len(layers))
    if what == 0:
        return [*layers, layers[at]][:4]
    if what == 1 and len(layers) > 1:
        return layers[:at] + layers[at + 1 :]
    if what == 2:
        random.shuffle(layers)
        return layers
    archive = tarball.parse(unpacked(layers[at]))
    if what == 3 or len(layers) == 1:
        cut = random.randint(0, len(archive.items))
        halves = [Archive(archive.items[:cut]).join(), Archive(archive.items[cut:], archive.tail).join()]
        return [*layers[:at], *halves, *layers[at + 1 :]][:4]
    following = tarball.parse(unpacked(layers[at - 1]))
    joined = Archive(following.items + archive.items, archive.tail).join()
    return [layer for index, layer in enumerate(layers) if index not in (at, (at - 1) % len(layers))] + [joined]


def _change_layer(layer: bytes, random: Random) -> bytes:
    chance = random.random()
    if chance < 0.07:
        return flip(layer, random)
    if chance < 0.13:
        return _frame(unpacked(layer), random)
    inside = unpacked(layer)
    archive = tarball.parse(inside)
    random.choice(_CHANGES)(archive, random)
    changed = archive.join()
    if inside is not layer and random.random() < 0.5:
        return _packed_as(layer, changed)
    return changed


def _packed_as(layer: bytes, changed: bytes) -> bytes:
    """The same compression as a layer's."""
    if layer[:2] == b"\x1f\x8b":
        return gzip.compress(changed, 1, mtime=0)
    if layer[:2] == b"BZ":
        return bz2.compress(changed, 1)
    if layer[:2] == b"\xfd7":
        return lzma.compress(changed, preset=0)
    return zstandard.compress(changed, 1)


def unpacked(layer: bytes) -> bytes:
    """What is inside of a compressed layer, as far as it can be read; anything else as it is."""
    try:
        if layer[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(layer, MOST_UNPACKED) or layer
        if layer[:4] == b"\x28\xb5\x2f\xfd":
            with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(layer) as reader:
                return reader.read(MOST_UNPACKED) or layer
        if layer[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=16 << 20).decompress(layer, MOST_UNPACKED) or layer
        if layer[:4] == b"BZh9":
            return bz2.BZ2Decompressor().decompress(layer, MOST_UNPACKED) or layer
    except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError):
        pass
    return layer


def flip(data: bytes, random: Random) -> bytes:
    """Change bytes without knowing what they are."""
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randint(0, len(raw))
        what = random.randrange(6)
        if what == 0:
            del raw[at : at + random.choice((1, 3, 100, BLOCK))]
        elif what == 1:
            raw[at:at] = random.randbytes(random.choice((1, 2, 10)))
        elif what == 2:
            raw[at:at] = bytes(random.choice((1, BLOCK - 1, BLOCK, 2 * BLOCK)))
        elif what == 3:
            del raw[at:]
        elif at < len(raw):
            raw[at] = random.randrange(256) if what == 4 else raw[at] ^ 1 << random.randrange(8)
    return bytes(raw)


def _frame(tar: bytes, random: Random) -> bytes:
    """Compress, in ways that are whole and in ways that are not."""
    what = random.randrange(14)
    cut = random.randint(0, len(tar))
    if what < 2:
        return tar
    if what < 4:
        packed = b"".join(gzip.compress(part, 1, mtime=0) for part in (tar[:cut], tar[cut:]))
        return packed + random.choice((b"", b"", bytes(7), b"\1", b"\x1f\x8b", bytes(4) + b"x"))
    if what < 5:
        return _gzip_with_header(tar, random)
    if what < 8:
        compressor = zstandard.ZstdCompressor(
            level=1, write_checksum=random.random() < 0.5, write_content_size=random.random() < 0.5
        )
        skipped = random.choice((b"", b"", b"\x50\x2a\x4d\x18\4\0\0\0abcd", b"\x5f\x2a\x4d\x18\xff\xff\xff\xff"))
        return skipped + compressor.compress(tar[:cut]) + skipped + compressor.compress(tar[cut:])
    if what in (10, 11):
        pack = (lzma.compress, bz2.compress)[what - 10]
        return pack(tar[:cut]) + bytes(random.choice((0, 0, 4, 3))) + pack(tar[cut:]) + bytes(random.choice((0, 4, 7)))
    packers = {
        8: lambda: gzip.compress(tar, 1, mtime=0),
        12: lambda: lzma.compress(tar, preset=0),
        13: lambda: bz2.compress(tar, 1),
    }
    return flip(packers.get(what, lambda: zstandard.compress(tar, 1))(), random)


def _gzip_with_header(tar: bytes, random: Random) -> bytes:
    flags = random.randrange(32 if random.random() < 0.9 else 256)
    extra = b"\4\0abcd" if flags & 4 else b""
    texts = b"name\0" * bool(flags & 8) + b"comment\0" * bool(flags & 16)
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + texts
    check = (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = deflate.compress(tar) + deflate.flush()
    length = len(tar) if random.random() < 0.9 else random.choice(NUMBERS)
    return header + check + body + zlib.crc32(tar).to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")


# ---------------------------------------------------------------------------------------------------- members


def _pick(archive: Archive, random: Random) -> Item:
    if not archive.items:
        archive.items.append(tarball.item(b"a"))
    return random.choice(archive.items)


def _place(archive: Archive, random: Random, items: list[Item]) -> None:
    at = random.randint(0, len(archive.items))
    archive.items[at:at] = items


def _group(archive: Archive, random: Random) -> slice:
    groups = list(tarball.members(archive))
    if not groups:
        return slice(0, 0)
    chosen = random.choice(groups)
    return slice(chosen.start, chosen.stop)


def _drop(archive: Archive, random: Random) -> None:
    if random.random() < 0.3 and archive.items:
        del archive.items[random.randrange(len(archive.items))]
    else:
        del archive.items[_group(archive, random)]


def _repeat(archive: Archive, random: Random) -> None:
    copies = [item.copy() for item in archive.items[_group(archive, random)]]
    _place(archive, random, copies * random.choice((1, 1, 1, 2, 9)))


def _swap(archive: Archive, random: Random) -> None:
    if len(archive.items) > 1:
        one, other = random.sample(range(len(archive.items)), 2)
        archive.items[one], archive.items[other] = archive.items[other], archive.items[one]


def _move(archive: Archive, random: Random) -> None:
    group = _group(archive, random)
    taken = archive.items[group]
    del archive.items[group]
    _place(archive, random, taken)


def _field(archive: Archive, random: Random) -> None:
    item = _pick(archive, random)
    name = random.choice(tuple(FIELDS))
    at, width = FIELDS[name]
    what = random.randrange(6)
    if what == 0:
        item.put(name, random.choice(archive.items).get(name))
    elif what == 1:
        item.put(name, random.choice(TEXTS))
    elif what == 2:
        item.header[at + random.randrange(width)] = random.randrange(256)
    elif what == 3:
        item.put(name, random.choice((b"\xff", b"\x80", b"\0", b" ")) * width)
    else:
        item.put(name, _some_number(random, width) if width in (8, 12) else random.choice(NAMES))
    if random.random() < 0.97:
        item.seal()


def _some_number(random: Random, width: int) -> bytes:
    value = random.choice(NUMBERS)
    if random.random() < 0.2 and -(2 ** (8 * width - 9)) <= value < 2 ** (8 * width - 9):
        return tarball.binary(value, width)
    return tarball.numeric(value, width) if abs(value) < 2 ** (8 * width - 9) else b"7" * (width - 1) + b"\0"


def _flag(archive: Archive, random: Random) -> None:
    item = _pick(archive, random)
    item.put("typeflag", bytes([random.choice(FLAGS)]))
    item.seal()


def _magic(archive: Archive, random: Random) -> None:
    item = _pick(archive, random)
    item.put("magic", random.choice((*tarball.MAGICS, b"ustar  \1", b"ustar\x0001", b"ustar   ")))
    item.seal()


def _size(archive: Archive, random: Random) -> None:
    """A size that is wrong, or right for other data."""
    item = _pick(archive, random)
    size = random.choice((len(item.payload), *NUMBERS[:16]))
    if random.random() < 0.7:
        fill = random.choice((bytes(1), b"x", item.payload[:BLOCK] or b"y"))
        item.payload = tarball.padded((fill * (size // len(fill) + 1))[:size]) if 0 <= size <= 8192 else b""
    item.put("size", tarball.numeric(size, 12))
    item.seal()


def _payload(archive: Archive, random: Random) -> None:
    item = _pick(archive, random)
    what = random.randrange(4)
    if what == 0:
        item.payload = flip(item.payload, random)
        item.payload = item.payload[: -(len(item.payload) % BLOCK) or None]
    elif what == 1:
        item.payload = item.payload[BLOCK:]
    elif what == 2:
        item.payload += random.choice((bytes(BLOCK), b"x" * BLOCK, bytes(item.header)))
    else:
        item.payload = random.choice(archive.items).payload


def _known_names(archive: Archive, random: Random) -> Iterator[bytes]:
    while True:
        yield random.choice(archive.items).get("name").rstrip(b"\0") if archive.items else b"a"


def some_name(archive: Archive, random: Random) -> bytes:
    """A name from the list, one that the archive has, or one that goes through, below or beside it."""
    known = next(_known_names(archive, random))
    parent, slash, last = known.rstrip(b"/").rpartition(b"/")
    chance = random.random()
    if chance < 0.35:
        return random.choice(NAMES)
    if chance < 0.55:
        return known
    if chance < 0.75:
        return known.rstrip(b"/") + b"/" + random.choice((b"x", b".", b"..", b"a", last, b".wh.a", b".wh..wh..opq"))
    if chance < 0.85:
        return parent + slash + b".wh." + last
    if chance < 0.95:
        return b"/".join((known, next(_known_names(archive, random))))
    return random.randbytes(random.choice((1, 4, 20, 99)))


def _name(archive: Archive, random: Random) -> None:
    item = _pick(archive, random)
    item.put("name", some_name(archive, random))
    item.seal()


def _some_target(archive: Archive, random: Random) -> bytes:
    target = random.choice(TARGETS) if random.random() < 0.4 else some_name(archive, random)
    return random.choice((b"", b"", b"/", b"../", b"./")) + target


def _target(archive: Archive, random: Random) -> None:
    links = [item for item in archive.items if item.flag in b"12"]
    item = random.choice(links) if links else _pick(archive, random)
    item.put("linkname", _some_target(archive, random))
    item.seal()


def _link(archive: Archive, random: Random) -> None:
    _place(
        archive,
        random,
        [tarball.item(some_name(archive, random), random.choice((b"1", b"2")), link=_some_target(archive, random))],
    )


def _chain_of_links(archive: Archive, random: Random) -> None:
    """Links that lead to links: loops, ladders, and ways that get twice as long with each step."""
    count = random.choice((2, 5, 39, 40, 41, 60))
    step = random.choice((b"l%d", b"l%d/l%d", b"/l%d", b"./l%d/../l%d"))
    made = []
    for number in range(count):
        below = max(0, number - 1)
        made.append(tarball.item(b"l%d" % number, b"2", link=step % ((below,) * step.count(b"%d"))))
    made[0] = tarball.item(b"l0", b"2", link=random.choice((b"l%d" % (count - 1), b".", b"a", b"..", b"/")))
    _place(archive, random, [*made, tarball.item(b"l%d/x" % (count - 1))])


def _new(archive: Archive, random: Random) -> None:
    """One more member, of any type and layout."""
    flag = bytes([random.choice(b"00122345567")])
    data = random.choice((b"", b"", b"x", b"x" * BLOCK, bytes(4097), b"y" * 5000)) if flag in b"07" else b""
    made = tarball.item(
        some_name(archive, random),
        flag,
        data,
        magic=random.choice(tarball.MAGICS),
        mode=random.choice((0o644, 0o755, 0o4755, 0o1777, 0)),
        uid=random.choice((0, 1000, 2**21, 2**32 - 2)),
        mtime=random.choice((0, 1, -1, 2**31, 2**33)),
        link=_some_target(archive, random) if flag in b"12" else b"",
    )
    _place(archive, random, [made])


def _long(archive: Archive, random: Random) -> None:
    flag = random.choice((b"L", b"L", b"K"))
    name = _some_target(archive, random) if flag == b"K" else some_name(archive, random)
    header = tarball.long_name(random.choice((name, name * 3, name.ljust(101, b"z"))), flag)
    _place(archive, random, [header])


def _sparse(archive: Archive, random: Random) -> None:
    segments, at = [], 0
    for _ in range(random.choice((0, 1, 2, 5, 26))):
        at += random.choice((0, 512, 1000, 4096))
        length = random.choice((0, 1, 512, 600))
        segments.append((at, length))
        at += length
    data = b"s" * sum(length for _, length in segments)
    size = at + random.choice((0, 0, 1, 5000))
    if random.random() < 0.3 and segments:
        spot = random.randrange(len(segments))
        segments[spot] = (random.choice((0, at, *NUMBERS[:20])), random.choice((0, 1, *NUMBERS[:12])))
    form = random.choice(tarball.SPARSE_FORMATS)
    _place(archive, random, tarball.sparse(some_name(archive, random)[:100], size, segments, data, form))


# ------------------------------------------------------------------------------------------- extended headers


def _records(archive: Archive, random: Random) -> None:
    headers = [item for item in archive.items if item.flag in b"xg"]
    if not headers or random.random() < 0.2:
        _place(archive, random, [tarball.extended([_some_record(archive, random)], random.choice((b"x", b"x", b"x", b"g")))])
        return
    header = random.choice(headers)
    found = tarball.records(header.payload)
    what = random.randrange(5)
    if found and what == 0:
        del found[random.randrange(len(found))]
    elif found and what == 1:
        found.append(random.choice(found))
    elif found and what == 2:
        at = random.randrange(len(found))
        found[at] = (found[at][0], _some_record(archive, random)[1])
    else:
        found.insert(random.randint(0, len(found)), _some_record(archive, random))
    payload = b"".join(tarball.record(*pair) for pair in found)
    if random.random() < 0.1:
        payload = flip(payload, random)
    header.put("size", tarball.octal(len(payload), 12))
    header.payload = tarball.padded(payload)
    header.seal()


def _some_record(archive: Archive, random: Random) -> Record:
    key = random.choice(KEYS)
    chance = random.random()
    if key in (b"path", b"linkpath", b"GNU.sparse.name") and chance < 0.8:
        return key, some_name(archive, random) if key != b"linkpath" else _some_target(archive, random)
    if chance < 0.4:
        return key, b"%d" % random.choice(NUMBERS)
    return key, random.choice(VALUES)


# ------------------------------------------------------------------------------------------------- the end


def _tail(archive: Archive, random: Random) -> None:
    again = b"".join(bytes(item.header) + item.payload for item in archive.items[:2])
    archive.tail = random.choice(
        (
            b"",
            END,
            END,
            bytes(BLOCK),
            bytes(BLOCK + 7),
            END + b"x",
            END + bytes(8000),
            bytes(BLOCK) + again + END,
            END + again + END,
        )
    )


_CHANGES: tuple[Change, ...] = (
    *(_drop, _repeat, _swap, _move, _field, _field, _field, _flag, _magic, _size, _payload, _name, _name, _target, _link, _link),
    *(_chain_of_links, _new, _new, _long, _sparse, _records, _records, _records, _tail),
)


# ------------------------------------------------------------------------------------------------- findings


def minimise(data: bytes, still: Callable[[bytes], bool], tries: int = 2000) -> bytes:
    """A smaller case of which ``still`` holds: layers and members dropped, payloads cut, bytes made zero."""
    best, left = data, tries
    improved = True
    while improved and left > 0:
        improved = False
        for smaller in _smaller(best):
            left -= 1
            if left < 0:
                break
            if _weight(smaller) < _weight(best) and still(smaller):
                best, improved = smaller, True
                break
    return best


def _weight(data: bytes) -> tuple[int, int]:
    return len(data), len(data) - data.count(0) - data.count(b"0")


def _smaller(data: bytes) -> Iterator[bytes]:
    layers, policy = tarball.layers_of(data), tarball.policy_of(data)
    for bit in range(5):
        if policy & 1 << bit:
            yield tarball.case(layers, policy & ~(1 << bit))
    for at, layer in enumerate(layers):
        if len(layers) > 1:
            yield tarball.case(layers[:at] + layers[at + 1 :], policy)
        for changed in _smaller_layers(layer):
            yield tarball.case([*layers[:at], changed, *layers[at + 1 :]], policy)


def _smaller_layers(layer: bytes) -> Iterator[bytes]:
    inside = unpacked(layer)
    if inside is not layer:
        yield inside
        return
    whole = tarball.parse(layer)
    for at in range(len(whole.items)):
        yield Archive(whole.items[:at] + whole.items[at + 1 :], whole.tail).join()
    if len(whole.tail) > len(END):
        yield Archive(whole.items, END).join()
    for at, item in enumerate(whole.items):
        for header, payload in _simpler(item):
            changed = Item(header, payload).seal()
            yield Archive([*whole.items[:at], changed, *whole.items[at + 1 :]], whole.tail).join()


def _simpler(item: Item) -> Iterator[tuple[bytearray, bytes]]:
    if item.payload and item.flag not in b"xgLK":
        short = Item(bytearray(item.header))
        short.put("size", tarball.octal(0, 12))
        yield short.header, b""
    for name in ("mode", "uid", "gid", "mtime", "uname", "gname", "prefix", "linkname", "devmajor", "devminor"):
        width = FIELDS[name][1]
        plain = Item(bytearray(item.header))
        plain.put(name, tarball.octal(0, width) if width in (8, 12) else b"")
        yield plain.header, item.payload
