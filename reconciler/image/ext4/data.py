"""File contents: from the segments of a tar member to blocks, and from its chunks to the bytes of those blocks.

Called by ``writer.Writer.append``. No state. Segments are (offset, length) in bytes of the file, ascending, and do not overlap;
extents are (logical block, physical block, blocks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from reconciler.errors import LayerCorrupt
from reconciler.image.ext4.allocator import Allocator
from reconciler.image.ext4.layout import BLOCK, ceil_div

Segment = tuple[int, int]
Extent = tuple[int, int, int]


def allocate(segments: Sequence[Segment], allocator: Allocator) -> tuple[Extent, ...]:
    """Blocks for every block of the file that a segment touches; the others stay holes."""
    extents = []
    for logical in _touched(segments):
        position = logical.start
        for run in allocator.take(len(logical)):
            extents.append((position, run.start, len(run)))
            position += len(run)
    return tuple(extents)


def _touched(segments: Sequence[Segment]) -> list[range]:
    touched: list[range] = []
    for offset, length in segments:
        run = range(offset // BLOCK, ceil_div(offset + length, BLOCK))
        if length and touched and run.start <= touched[-1].stop:
            touched[-1] = range(touched[-1].start, run.stop)
        elif length:
            touched.append(run)
    return touched


def copy(
    chunks: Iterable[bytes | memoryview],
    segments: Sequence[Segment],
    extents: Sequence[Extent],
    write: Callable[[int, memoryview], None],
) -> None:
    """Deliver the chunks, in order, to the bytes of the volume that the segments lie on. Raises LayerCorrupt."""
    source = iter(chunks)
    pending = memoryview(b"")
    for place, room in _places(segments, extents):
        while room:
            if not pending:
                pending = _next(source, room)
            piece = pending[:room]
            write(place, piece)
            place, room, pending = place + len(piece), room - len(piece), pending[len(piece) :]
    if pending or any(len(chunk) for chunk in source):
        raise LayerCorrupt("a file has more data than its header states")


def blocks(size: int) -> int:
    return ceil_div(size, BLOCK)


def copy_whole(chunks: Iterable[bytes | memoryview], size: int, place: int, write: Callable[[int, memoryview], None]) -> None:
    """What ``copy`` does for a file without holes that lies in one run, from the byte ``place`` of the volume on."""
    end = place + size
    for chunk in chunks:
        if len(chunk) > end - place:
            raise LayerCorrupt("a file has more data than its header states")
        if chunk:
            write(place, memoryview(chunk))
        place += len(chunk)
    if place < end:
        raise LayerCorrupt(f"a file's data ends at least {end - place} bytes early")


def _next(source: Iterator[bytes | memoryview], missing: int) -> memoryview:
    chunk = next(source, None)
    if chunk is None:
        raise LayerCorrupt(f"a file's data ends at least {missing} bytes early")
    return memoryview(chunk)


def _places(segments: Sequence[Segment], extents: Sequence[Extent]) -> Iterator[tuple[int, int]]:
    """(byte of the volume, bytes) of each part of the data."""
    ahead = iter(extents)
    end = shift = 0
    for offset, length in segments:
        while length:
            while offset >= end:
                logical, physical, blocks = next(ahead)
                end, shift = (logical + blocks) * BLOCK, (physical - logical) * BLOCK
            part = min(length, end - offset)
            yield offset + shift, part
            offset, length = offset + part, length - part
