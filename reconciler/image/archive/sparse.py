"""Sparse files in tar: GNU's old headers, and its pax formats 0.0, 0.1 and 1.0.

Called by ``tar``. A map is a list of (offset, length), and is accepted only if it ascends, fits the file and adds up to the
data that is stored. Source: the GNU tar manual, "Storing Sparse Files". No state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reconciler.dataclass import dataclass
from reconciler.image.archive.header import BLOCK, unsigned
from reconciler.image.archive.member import Malformed, shown
from reconciler.image.archive.pax import Record, decimal

MAX_SEGMENTS = 100_000

Segments = list[tuple[int, int]]
Take = Callable[[], bytes]
"""Gives the next 512 bytes of the tar."""


@dataclass(slots=True)
class PaxSparse:
    """What the pax records say. ``segments`` is None where the map is stored in front of the data (format 1.0)."""

    size: int
    segments: Segments | None
    name: bytes | None


def check(segments: Segments, size: int, stored: int) -> None:
    """Raises Malformed unless the segments ascend without overlap, end within ``size`` and add up to ``stored`` bytes.

    All but the last one with data fill whole blocks: GNU tar reads each segment from a new block on, others go on in the same.
    """
    end = total = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise Malformed("sparse-map", "a sparse file's map overlaps, is out of order, or leaves the file")
        if length and total % BLOCK:
            raise Malformed("sparse-map", "a sparse file's segment is not a multiple of 512 bytes and another one follows it")
        end = offset + length
        total += length
    if total != stored:
        raise Malformed("sparse-map", f"a sparse file's map covers {total} bytes, and {stored} are stored")


def _bounded(count: int) -> int:
    if count > MAX_SEGMENTS:
        raise Malformed("limit-segments", f"a sparse file has more than {MAX_SEGMENTS} segments")
    return count


# ------------------------------------------------------------------------------------------------- old GNU headers


def old_gnu(header: bytes, take: Take) -> tuple[int, Segments]:
    """Apparent size and map from an ``S`` header and the blocks that continue it. Raises Malformed."""
    segments, more = _entries(header[386:482]), header[482]
    while more:
        if len(segments) % 21 != 4:
            raise Malformed("sparse-map", "a sparse file's map goes on behind its end")
        block = take()
        segments += _entries(block[:504])
        more = block[504]
        _bounded(len(segments))
    return unsigned(header[483:495]), segments


def _entries(field: bytes) -> Segments:
    found: Segments = []
    for at in range(0, len(field), 24):
        entry = field[at : at + 24]
        if not entry.strip(b"\0"):
            if field[at:].strip(b"\0"):
                raise Malformed("sparse-map", "a sparse file's map has a gap")
            break
        if (
            not entry[0] or not entry[12]
        ):  # GNU tar takes a length that begins with NUL for the map's end, bsdtar and Go an offset.
            raise Malformed(
                "sparse-map", "a number in a sparse file's map begins with a NUL: readers disagree on where the map ends"
            )
        found.append((unsigned(entry[:12]), unsigned(entry[12:])))
    return found


# ----------------------------------------------------------------------------------------------------------- pax


def from_pax(found: Iterable[Record]) -> PaxSparse:
    """Read the ``GNU.sparse.*`` records of one member, of one format. Raises Malformed."""
    single: dict[bytes, bytes] = {}
    pairs: list[Record] = []
    for key, value in found:
        key = key.removeprefix(b"GNU.sparse.")
        if key in (b"offset", b"numbytes"):
            pairs.append((key, value))
        elif key not in _KEYS or key in single:
            raise Malformed("sparse-map", f"the record GNU.sparse.{shown(key)} is unknown or given twice")
        elif key == b"numblocks" and (pairs or b"map" in single):  # GNU tar begins a new map at this record.
            raise Malformed("sparse-map", "the record GNU.sparse.numblocks comes behind the map that it counts")
        else:
            single[key] = value
    name = single.get(b"name")
    if name is not None and (not name or b"\0" in name):
        raise Malformed("pax-name", "a sparse file's name is empty or contains a NUL byte")
    return PaxSparse(_size(single), _map(single, pairs), name)


_KEYS = frozenset((b"major", b"minor", b"name", b"realsize", b"size", b"numblocks", b"map"))


def _size(single: dict[bytes, bytes]) -> int:
    sizes = {decimal(single[key]) for key in (b"realsize", b"size") if key in single}
    if len(sizes) != 1:
        raise Malformed("sparse-map", "a sparse file's size is missing, or given twice")
    return sizes.pop()


def _map(single: dict[bytes, bytes], pairs: list[Record]) -> Segments | None:
    version = single.get(b"major", b"0"), single.get(b"minor", b"1" if b"map" in single else b"0")
    if version == (b"1", b"0") and not pairs and b"map" not in single:
        return None
    if version == (b"0", b"1") and not pairs and b"map" in single:
        numbers = [decimal(text) for text in single[b"map"].split(b",")] if single[b"map"] else []
    elif version == (b"0", b"0") and b"map" not in single:
        numbers = _alternating(pairs)
    else:
        raise Malformed("sparse-map", "a sparse file's records belong to no format, or to two")
    if len(numbers) % 2 or len(numbers) // 2 != decimal(single.get(b"numblocks", b"")):
        raise Malformed("sparse-map", "a sparse file's map has another length than stated")
    _bounded(len(numbers) // 2)
    if not numbers and _size(single):
        raise Malformed("sparse-map", "a sparse file that is one hole has no map: readers disagree on what follows it")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _alternating(pairs: list[Record]) -> list[int]:
    if any(key != (b"numbytes" if at % 2 else b"offset") for at, (key, _) in enumerate(pairs)):
        raise Malformed("sparse-map", "a sparse file's offsets and lengths don't alternate")
    return [decimal(value) for _, value in pairs]


def stored_map(take: Take) -> tuple[Segments, int]:
    """Read a map of format 1.0 from the blocks in front of the data; return it and how many blocks it took. Raises Malformed."""
    lines = _Lines(take)
    count = _bounded(lines.number())
    segments = [(lines.number(), lines.number()) for _ in range(count)]
    return segments, lines.blocks


class _Lines:
    """Decimal lines across blocks; only what is left of the last block is kept."""

    def __init__(self, take: Take) -> None:
        self.blocks = 0
        self._take = take
        self._rest = b""

    def number(self) -> int:
        line, end, rest = self._rest.partition(b"\n")
        while not end:
            if len(line) > 2 * BLOCK:
                raise Malformed("sparse-map", "a sparse file's map has no end of line")
            self.blocks += 1
            line, end, rest = (line + self._take()).partition(b"\n")
        self._rest = rest
        return decimal(line)
