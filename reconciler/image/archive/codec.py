"""A layer's stored bytes as a decompressed stream: plain, gzip, zstd, in bounded memory.

Read by ``tar`` inside the builder process. The stream is inflated a chunk at a time, with the limits checked between
chunks, so that a bomb is stopped while it inflates; it is accepted only once it has been read to its end, where the
trailers are. Compression inside of compression is not unwrapped. State: one decoder and its input, a MiB or so, besides the
window that a zstd frame asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import IO, cast

import zstandard
from isal import igzip_lib

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.archive.framing import (
    GZIP_MAGIC,
    MAX_WINDOW,
    READ,
    ByteSource,
    Input,
    ZstdFrames,
    cut,
    is_zstd,
    next_gzip_member,
    not_a_tar,
    too_many_members,
)
from reconciler.image.archive.header import BLOCK, checksum_holds
from reconciler.image.spec import MIB, Limits

Decoder = Callable[[Input, int], Iterator[bytes]]

CHUNK = MIB
"""Most bytes that one call of a decoder may give."""

TINY = 512
"""Bytes that a gzip member has to give so that it doesn't count: seekable tars have one for each entry or some KiB."""

_UNSUPPORTED = (
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP\x01", "lzip"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x9d", "compress"),
)


class Stream:
    """Decompressed bytes. ``stored`` counts bytes read from the source, ``unpacked`` bytes given out; ``compression`` is a word.

    A chunk is an immutable object of its own: views of it stay valid for as long as they are held.
    """

    def __init__(self, source: Input, compression: str, chunks: Iterator[bytes], limits: Limits) -> None:
        self.compression = compression
        self.unpacked = 0
        self._input = source
        self._chunks = chunks
        self._limits = limits
        self._deadline = time.process_time() + limits.max_seconds

    @property
    def stored(self) -> int:
        return self._input.stored

    def read(self) -> bytes:
        """The next chunk, at most 1 MiB; ``b""`` only at the end, once every trailer has been verified.

        Raises LayerCorrupt (damaged, cut short) and LayerRefused (``limit-unpacked``, ``limit-ratio``, ``limit-members``,
        ``limit-seconds``, ``zstd-window``).
        """
        chunk = next(self._chunks, b"")
        self.unpacked += len(chunk)
        if self.unpacked > self._limits.max_unpacked_bytes:
            raise LayerRefused(
                f"the layer unpacks to more than {self._limits.max_unpacked_bytes} bytes",
                rule="limit-unpacked",
                hint="raise limits.maxUnpackedBytes if it is meant",
            )
        # Below the floor any ratio is fine: a few MiB of zeros are a thousand to one and harmless.
        if self.unpacked > self._limits.ratio_floor_bytes and self.unpacked > self._limits.max_ratio * self.stored:
            raise LayerRefused(
                f"the layer unpacks to more than {self._limits.max_ratio} times its stored size",
                rule="limit-ratio",
                hint="raise limits.maxRatio if it is meant",
            )
        if time.process_time() > self._deadline:
            raise LayerRefused(
                f"the layer takes more than {self._limits.max_seconds} seconds of CPU to read",
                rule="limit-seconds",
                hint="raise limits.maxSeconds if it is meant",
            )
        return chunk


def open_stream(source: ByteSource, limits: Limits) -> Stream:
    """Tell the compression from the first bytes and decompress what follows.

    Raises LayerRefused (``compression``) for a compression that is not supported, LayerCorrupt for an empty layer.
    """
    stored = Input(source)
    head = stored.take(BLOCK)
    stored.unread(head)
    compression = _compression(head)
    if compression == "none" and len(head) < BLOCK and head.strip(b"\0"):
        raise not_a_tar(head)
    return Stream(stored, compression, filter(None, _DECODERS[compression](stored, 4 * limits.max_entries)), limits)


def _compression(head: bytes) -> str:
    if not head:
        raise LayerCorrupt("the layer is empty", hint="it was not stored whole; store it again")
    if len(head) == BLOCK and checksum_holds(head):
        return "none"  # a first member's name may begin like anything
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if is_zstd(head):
        return "zstd"
    _refuse_unsupported(head)
    return "none"


def _refuse_unsupported(head: bytes) -> None:
    form = next((form for magic, form in _UNSUPPORTED if head.startswith(magic)), "")
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        form = "bzip2"
    if form:
        raise LayerRefused(
            f"the layer is stored as {form}, which is not supported",
            rule="compression",
            hint="store it as a plain tar, or compressed with gzip or zstd",
        )


def _plain(source: Input, _max_members: int) -> Iterator[bytes]:
    while data := source.read(CHUNK):
        yield data


def _gunzip(source: Input, max_members: int) -> Iterator[bytes]:
    members = 0
    try:
        while next_gzip_member(source):
            given = 0
            # Headers are parsed by ``framing``: isal takes a header for damaged that lies across two of its inputs.
            for data in _inflate(source, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)):
                given += len(data)
                yield data
            members += given < TINY
            if members > max_members:
                raise too_many_members()
    except cast(type[Exception], igzip_lib.IsalError) as error:
        raise LayerCorrupt(f"the gzip stream is damaged: {error}", hint="store the layer again") from error


def _inflate(source: Input, decoder: igzip_lib.IgzipDecompressor) -> Iterator[bytes]:
    while not decoder.eof:
        data = source.read(READ) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise cut("gzip")
        yield decoder.decompress(data, CHUNK)
    source.unread(decoder.unused_data)


class _Watched:
    """The source as the zstd decoder reads it, with its frames followed."""

    def __init__(self, source: Input, frames: ZstdFrames) -> None:
        self._source = source
        self._frames = frames

    def read(self, n: int) -> bytes:
        data = self._source.read(n)
        self._frames.feed(data)
        return data


def _unzstd(source: Input, max_members: int) -> Iterator[bytes]:
    frames = ZstdFrames(max_members)
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    try:
        watched = cast(IO[bytes], _Watched(source, frames))
        with decoder.stream_reader(watched, read_size=READ, read_across_frames=True) as reader:
            while data := reader.read(CHUNK):
                yield data
    except zstandard.ZstdError as error:
        raise LayerCorrupt(f"the zstd stream is damaged: {error}", hint="store the layer again") from error
    if not frames.whole:
        raise cut("zstd")


_DECODERS: dict[str, Decoder] = {"none": _plain, "gzip": _gunzip, "zstd": _unzstd}
