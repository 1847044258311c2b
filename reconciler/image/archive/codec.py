"""A layer's stored bytes as a decompressed stream: plain, gzip, zstd, xz, bzip2, in bounded memory.

Read by ``tar`` inside the builder process. The stream is inflated a chunk at a time, with the limits checked between
chunks, so that a bomb is stopped while it inflates; it is accepted only once it has been read to its end, where the
trailers are. Decoders get their input in pieces of one size, so that no verdict depends on how fast a layer arrives.
Compression inside of compression is not unwrapped. State: one decoder and its input, a MiB or so, besides the
history that a zstd frame or an xz block asks for.
"""

from __future__ import annotations

import bz2
import lzma
import time
from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.archive.estargz import Members
from reconciler.image.archive.framing import (
    BZIP2_MAGIC,
    GZIP_MAGIC,
    MAX_WINDOW,
    READ,
    XZ_MAGIC,
    ByteSource,
    Input,
    ZstdFrames,
    cut,
    is_zstd,
    next_bzip2_stream,
    next_gzip_member,
    next_xz_stream,
    not_a_tar,
    too_many_members,
)
from reconciler.image.archive.header import BLOCK, checksum_holds
from reconciler.image.spec import CUT, MIB, Limits

Decoder = Callable[[Input, int, Members], Iterator[bytes | memoryview]]

CHUNK = MIB
"""Most bytes that one call of a decoder may give."""

TINY = 512
"""Bytes that a gzip member has to give so that it doesn't count: seekable tars have one for each entry or some KiB."""

_XZ_MEMORY = MAX_WINDOW + MIB
"""Bytes that the xz decoder may take: a dictionary, and little besides."""

_UNSUPPORTED = (
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP\x01", "lzip"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x9d", "compress"),
)


class Stream:
    """Decompressed bytes. ``stored`` counts bytes read from the source, ``unpacked`` bytes given out; ``compression`` is a word.

    A chunk does not change: views of it stay valid for as long as they are held.
    """

    def __init__(self, source: Input, compression: str, limits: Limits) -> None:
        self.compression = compression
        self.unpacked = 0
        self._input = source
        self._members = Members()
        self._chunks = _DECODERS[compression](source, 4 * limits.max_entries, self._members)
        self._limits = limits
        self._deadline = time.process_time() + limits.max_seconds

    @property
    def stored(self) -> int:
        return self._input.stored

    def read(self) -> bytes | memoryview:
        """The next chunk, at most 1 MiB; an empty one only at the end, once every trailer has been verified.

        Raises LayerCorrupt (damaged, cut short) and LayerRefused (``limit-unpacked``, ``limit-ratio``, ``limit-members``,
        ``limit-seconds``, ``zstd-window``, ``xz-dictionary``, ``xz-check``).
        """
        for chunk in self._chunks:
            self.unpacked += len(chunk)
            self._check()
            if chunk:
                return chunk
        return b""

    @property
    def contents_at(self) -> int | None:
        """Where in an eStargz layer the member with its table of contents begins; None in others, and before the end."""
        return self._members.contents_at(self._input.stored)

    def _check(self) -> None:
        if self.unpacked > self._limits.max_unpacked_bytes:
            raise LayerRefused(
                f"the layer unpacks to more than {self._limits.max_unpacked_bytes} bytes",
                rule="limit-unpacked",
                hint="raise limits.maxUnpackedBytes if it is meant",
            )
        # Below the floor any ratio is fine: a few MiB of zeros are a thousand to one and harmless.
        if self.unpacked > self._limits.ratio_floor_bytes and self.unpacked > self._limits.max_ratio * self._input.consumed:
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
    return Stream(stored, compression, limits)


def _compression(head: bytes) -> str:
    if not head:
        raise LayerCorrupt("the layer is empty", hint=CUT)
    if len(head) == BLOCK and checksum_holds(head):
        return "none"  # a first member's name may begin like anything
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if is_zstd(head):
        return "zstd"
    if head.startswith(XZ_MAGIC):
        return "xz"
    if BZIP2_MAGIC.match(head):
        return "bzip2"
    _refuse_unsupported(head)
    return "none"


def _refuse_unsupported(head: bytes) -> None:
    if form := next((form for magic, form in _UNSUPPORTED if head.startswith(magic)), ""):
        raise LayerRefused(
            f"the layer is stored as {form}, which is not supported",
            rule="compression",
            hint="store it as a plain tar, or compressed with gzip, zstd, xz or bzip2",
        )


def _plain(source: Input, _max_members: int, _members: Members) -> Iterator[bytes | memoryview]:
    while data := source.lend(CHUNK):
        yield data


class _Inflater(Protocol):
    """A decoder of one gzip member, xz stream or bzip2 stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Count:
    """Members that give next to nothing cost time; there may be so many of them."""

    def __init__(self, most: int) -> None:
        self._left = most

    def member(self, given: int) -> None:
        self._left -= given < TINY
        if self._left < 0:
            raise too_many_members()


def _gunzip(source: Input, max_members: int, members: Members) -> Iterator[bytes]:
    count = _Count(max_members)
    while (extra := next_gzip_member(source, members.begin)) is not None:
        given = 0
        # Headers are parsed by ``framing``: isal takes a header for damaged that lies across two of its inputs.
        decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)
        for data in _inflate(source, decoder, "gzip", igzip_lib.IsalError):
            given += len(data)
            yield data
        members.end(extra, given, source.consumed)
        count.member(given)


def _unxz(source: Input, max_members: int, _members: Members) -> Iterator[bytes]:
    count = _Count(max_members)
    while next_xz_stream(source):
        given = 0
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        for data in _inflate(source, decoder, "xz", lzma.LZMAError):
            given += len(data)
            yield data
        if not lzma.is_check_supported(decoder.check):
            raise LayerRefused(
                f"an xz stream has a check of the unknown kind {decoder.check}, so that damage would not be noticed",
                rule="xz-check",
                hint="compress the layer with one of xz's own checks",
            )
        count.member(given)


def _bunzip(source: Input, max_members: int, _members: Members) -> Iterator[bytes]:
    count = _Count(max_members)
    while next_bzip2_stream(source):
        given = 0
        for data in _inflate(source, bz2.BZ2Decompressor(), "bzip2", OSError):
            given += len(data)
            yield data
        count.member(given)


def _inflate(source: Input, decoder: _Inflater, form: str, damage: object) -> Iterator[bytes]:
    while not decoder.eof:
        data = source.take(READ) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise cut(form)
        try:
            inflated = decoder.decompress(data, CHUNK)
        except cast(type[Exception], damage) as error:
            raise _failed(form, error) from error
        yield inflated
    source.unread(decoder.unused_data)


def _failed(form: str, error: Exception) -> LayerCorrupt | LayerRefused:
    if form == "xz" and "memory usage limit" in str(error).lower():
        return LayerRefused(
            "an xz block needs a dictionary of more than 128 MiB",
            rule="xz-dictionary",
            hint="compress the layer with a dictionary of at most 128 MiB (xz -9 has 64 MiB)",
        )
    return LayerCorrupt(f"the {form} stream is damaged: {error}", hint="store the layer again")


class _Watched:
    """The source as the zstd decoder reads it, with its frames followed."""

    def __init__(self, source: Input, frames: ZstdFrames) -> None:
        self._source = source
        self._frames = frames

    def read(self, n: int) -> bytes:
        data = self._source.take(n)
        self._frames.feed(data)
        return data


def _unzstd(source: Input, max_members: int, _members: Members) -> Iterator[bytes]:
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


_DECODERS: dict[str, Decoder] = {"none": _plain, "gzip": _gunzip, "zstd": _unzstd, "xz": _unxz, "bzip2": _bunzip}
