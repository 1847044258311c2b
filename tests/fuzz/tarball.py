"""Archives as lists of headers with their payloads, right or wrong: what the generators build and the mutator takes apart.

``parse`` never fails and ``join`` gives the same bytes back; everything between may be changed, and ``seal`` puts a header's
checksum right again. A *case* is what the oracle runs: the layers of one image, packed into one string of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)
MAGICS = (POSIX, GNU, V7)
WITH_PAYLOAD = b"\x000347SLKxgVDMNAEIX"
"""Typeflags behind whose headers the mutator looks for as much payload as they say (devices too: readers must not)."""

LAYERS = b"layers:"
POLICY = 0x40
"""What the byte behind the mark is made of: this, and five bits for the policies that are not the default."""
FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "checksum": (148, 8),
    "typeflag": (156, 1),
    "linkname": (157, 100),
    "magic": (257, 8),
    "uname": (265, 32),
    "gname": (297, 32),
    "devmajor": (329, 8),
    "devminor": (337, 8),
    "prefix": (345, 155),
    "sparse": (386, 96),
    "isextended": (482, 1),
    "realsize": (483, 12),
}

_octal = re.compile(rb"[ \0]*([0-7]+)[ \0]*").fullmatch

Record = tuple[bytes, bytes]


def case(layers: Sequence[bytes], policy: int = 0) -> bytes:
    """One layer under the usual policies as it is; else the layers behind a mark, each with its length (4 bytes) in front."""
    if len(layers) == 1 and not policy and not layers[0].startswith(LAYERS):
        return layers[0]
    mark = LAYERS + bytes([POLICY | policy & 0x1F])
    return mark + b"".join(len(layer).to_bytes(4, "little") + layer for layer in layers)


def policy_of(data: bytes) -> int:
    """Five bits."""
    return data[len(LAYERS)] & 0x1F if data.startswith(LAYERS) and len(data) > len(LAYERS) else 0


def layers_of(data: bytes, most: int = 4) -> list[bytes]:
    """The layers of a case; lengths that lie are cut at the end of the case."""
    if not data.startswith(LAYERS):
        return [data]
    found: list[bytes] = []
    at = len(LAYERS) + 1
    while at + 4 <= len(data) and len(found) < most:
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        found.append(data[start:at])
    return found


@dataclass(slots=True)
class Item:
    """A header block and the bytes behind it up to the next one, padding included."""

    header: bytearray
    payload: bytes = b""

    def get(self, name: str) -> bytes:
        at, width = FIELDS[name]
        return bytes(self.header[at : at + width])

    def put(self, name: str, value: bytes) -> None:
        """Set a field; what is too long is cut, what is too short filled with zeros. The checksum is left as it is."""
        at, width = FIELDS[name]
        self.header[at : at + width] = value[:width].ljust(width, b"\0")

    @property
    def flag(self) -> bytes:
        return self.get("typeflag")

    def seal(self) -> Item:
        """Make the checksum hold."""
        self.put("checksum", b" " * 8)
        self.put("checksum", b"%06o\0 " % (sum(self.header) & 0o777777))
        return self

    def copy(self) -> Item:
        return Item(bytearray(self.header), self.payload)


@dataclass(slots=True)
class Archive:
    """``tail`` is what stands behind the last header that could be read: the end marker, in a whole tar."""

    items: list[Item] = field(default_factory=list)
    tail: bytes = END

    def join(self) -> bytes:
        return b"".join(bytes(item.header) + item.payload for item in self.items) + self.tail


def parse(tar: bytes) -> Archive:
    """Take a tar apart as far as it goes."""
    found, at = Archive(), 0
    size: int | None = None
    while at + BLOCK <= len(tar) and any(tar[at : at + BLOCK]):
        header = bytearray(tar[at : at + BLOCK])
        item = Item(header)
        start = at = at + BLOCK
        if item.flag == b"S":
            at += _continued(tar, at, header[482])
        stored = size if size is not None and item.flag in b"\x0007S" else number(item.get("size"))
        if item.flag in WITH_PAYLOAD:
            at += -(-stored // BLOCK) * BLOCK
        item.payload = tar[start:at]
        size = _size_record(item) if item.flag == b"x" else None if item.flag not in b"LK" else size
        found.items.append(item)
    found.tail = tar[at:]
    return found


def _continued(tar: bytes, at: int, more: int) -> int:
    """Bytes of the blocks that continue an old GNU sparse map."""
    taken = 0
    while more and at + taken + BLOCK <= len(tar):
        more = tar[at + taken + 504]
        taken += BLOCK
    return taken


def _size_record(item: Item) -> int | None:
    value = dict(records(item.payload)).get(b"size", b"")
    return int(value) if value.isdigit() and len(value) < 19 else None


def number(field: bytes) -> int:
    """A numeric field as readers take it; 0 where it is none, or would reach beyond any archive."""
    digits = _octal(field)
    value = int(digits[1], 8) if digits else int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else 0
    return min(value, 1 << 40)


def records(payload: bytes) -> list[Record]:
    """The records of an extended header, up to the first that is none."""
    found, at = [], 0
    while at < len(payload):
        digits, space, _ = payload[at : at + 24].partition(b" ")
        if not (space and digits.isdigit()):
            break
        body = payload[at + len(digits) + 1 : at + int(digits)]
        key, equals, value = body.removesuffix(b"\n").partition(b"=")
        if not equals:
            break
        found.append((key, value))
        at += int(digits)
    return found


# ------------------------------------------------------------------------------------------------------- writing


def octal(value: int, width: int) -> bytes:
    return (b"%0*o" % (width - 1, value))[: width - 1] + b"\0"


def binary(value: int, width: int) -> bytes:
    """GNU's base-256, for what octal digits can't say."""
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width, "big")[1:]


def numeric(value: int, width: int) -> bytes:
    return octal(value, width) if 0 <= value < 8 ** (width - 1) else binary(value, width)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def item(
    name: bytes = b"f",
    flag: bytes = b"0",
    data: bytes = b"",
    *,
    magic: bytes = POSIX,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    size: int | None = None,
    fields: dict[str, bytes] | None = None,
) -> Item:
    """A header with its data; ``size`` may lie, and ``fields`` are put in as they are."""
    made = Item(bytearray(BLOCK), padded(data))
    plain = {"mode": mode, "uid": uid, "gid": gid, "size": len(data) if size is None else size, "mtime": mtime}
    for key, value in plain.items():
        made.put(key, numeric(value, FIELDS[key][1]))
    if magic != V7:
        made.put("devmajor", octal(0, 8))
        made.put("devminor", octal(0, 8))
    for key, text in {"name": name, "typeflag": flag, "linkname": link, "magic": magic, **(fields or {})}.items():
        made.put(key, text)
    return made.seal()


def record(key: bytes, value: bytes) -> bytes:
    """``length SP key=value LF``, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def extended(pairs: Iterable[Record], flag: bytes = b"x", *, magic: bytes = POSIX) -> Item:
    return item(b"PaxHeaders/x", flag, b"".join(record(*pair) for pair in pairs), magic=magic)


def long_name(name: bytes, flag: bytes = b"L") -> Item:
    return item(b"././@LongLink", flag, name + b"\0", magic=GNU)


def device(name: bytes, flag: bytes, major: int, minor: int) -> Item:
    return item(name, flag, fields={"devmajor": numeric(major, 8), "devminor": numeric(minor, 8)})


SPARSE_FORMATS = ("0.0", "0.1", "1.0", "gnu")


def sparse(name: bytes, size: int, segments: Sequence[tuple[int, int]], data: bytes, form: str) -> list[Item]:
    """A sparse file in one of GNU's formats, whether its map makes sense or not."""
    if form == "gnu":
        return [_old_sparse(name, size, segments, data)]
    head = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(segments))]
    if form == "1.0":
        versions = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        lines = [len(segments), *(value for segment in segments for value in segment)]
        stored = padded(b"".join(b"%d\n" % line for line in lines)) + data
        named = [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", b"%d" % size)]
        return [extended([*versions, *named]), item(b"GNUSparseFile.0/" + name[-80:], data=stored)]
    if form == "0.1":
        numbers = b",".join(b"%d,%d" % segment for segment in segments)
        return [extended([*head, (b"GNU.sparse.name", name), (b"GNU.sparse.map", numbers)]), item(name, data=data)]
    pairs = ([(b"GNU.sparse.offset", b"%d" % a), (b"GNU.sparse.numbytes", b"%d" % b)] for a, b in segments)
    return [extended([*head, *(pair for both in pairs for pair in both)]), item(name, data=data)]


def _old_sparse(name: bytes, size: int, segments: Sequence[tuple[int, int]], data: bytes) -> Item:
    listed = [numeric(offset, 12) + numeric(length, 12) for offset, length in segments]
    first, rest = listed[:4], listed[4:]
    made = item(name, b"S", data, magic=GNU)
    made.put("sparse", b"".join(first))
    made.put("realsize", numeric(size, 12))
    made.put("isextended", b"\1" if rest else b"\0")
    blocks = [rest[at : at + 21] for at in range(0, len(rest), 21)]
    more = (b"".join(b).ljust(504, b"\0") + (b"\1" if b is not blocks[-1] else b"\0") + bytes(7) for b in blocks)
    made.payload = b"".join(more) + made.payload
    return made.seal()


def members(archive: Archive) -> Iterator[range]:
    """The items of each member: the headers in front of it, and its own."""
    start = 0
    for at, found in enumerate(archive.items):
        if found.flag not in b"LKxgV":
            yield range(start, at + 1)
            start = at + 1
    if start < len(archive.items):
        yield range(start, len(archive.items))
