"""Where compressed streams begin and end: gzip members (RFC 1952), zstd frames (RFC 8878), xz and bzip2 streams.

Called by ``codec``, whose decoders do not distinguish a stream that ended from one that was cut. The decoders handle the content;
this module handles only the framing around it. State: the bytes read ahead, in ``Input``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from typing import Protocol
from zlib import crc32

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.spec import CUT

READ = 256 << 10
"""Bytes asked of a source at once: measured fastest for isal, which copies its unused input at each member's end."""

MAX_WINDOW = 1 << 27
"""Bytes of history that a zstd frame or an xz block may ask for: what ``zstd --long`` asks for at most by default."""

MAX_GZIP_HEADER = 1 << 17
"""Bytes of a gzip member's header: an extra field is at most 64 KiB, a name and a comment have no bound of their own."""

SHORTEST_TAR = 512
TARS = "layers are tars, plain or compressed with gzip, zstd, xz or bzip2"

XZ_MAGIC = b"\xfd7zXZ\0"
BZIP2_MAGIC = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)", re.DOTALL)
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_TAIL = b"\x2a\x4d\x18"

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 2, 4, 8, 16, 0xE0


class ByteSource(Protocol):
    """Stored bytes as they arrive."""

    def read(self, n: int, /) -> bytes | memoryview:
        """1 to ``n`` bytes; none only at the end. They don't change for as long as they are kept."""
        ...


class Input:
    """A source that counts what it gave, hands it out in any portions, and takes back what was read too far."""

    def __init__(self, source: ByteSource) -> None:
        self.stored = 0
        self._source = source
        self._ahead: bytes | memoryview = b""
        self._at = 0

    def read(self, n: int) -> bytes:
        """1 to ``n`` bytes; ``b""`` only at the end."""
        return bytes(self.lend(n))

    def lend(self, n: int) -> bytes | memoryview:
        """1 to ``n`` bytes as they lie; none only at the end."""
        if self._at == len(self._ahead):
            self._ahead, self._at = self._source.read(max(n, READ)), 0
            self.stored += len(self._ahead)
        start, self._at = self._at, min(self._at + n, len(self._ahead))
        return self._ahead[start : self._at]

    @property
    def consumed(self) -> int:
        """Bytes handed out and not taken back."""
        return self.stored - len(self._ahead) + self._at

    def unread(self, data: bytes) -> None:
        if self._ahead[max(0, self._at - len(data)) : self._at] == data:
            self._at -= len(data)
        else:
            self._ahead, self._at = b"".join((data, self._ahead[self._at :])), 0

    def take(self, n: int) -> bytes:
        """``n`` bytes; fewer only at the end."""
        parts: list[bytes] = []
        while n and (data := self.read(n)):
            parts.append(data)
            n -= len(data)
        return b"".join(parts)


def is_zstd(head: bytes) -> bool:
    """Whether the first four bytes begin a zstd frame, skippable ones included."""
    return head[:4] == ZSTD_MAGIC or (head[1:4] == _SKIPPABLE_TAIL and head[0] & 0xF0 == 0x50)


# ---------------------------------------------------------------------------------------------------------- gzip


def next_gzip_member(source: Input, begins: Callable[[int], None] = lambda at: None) -> bytes | None:
    """Step over the header of the next member and return its extra field; None at the end, where zero padding is allowed.

    ``begins`` is called with the position of a header that follows. Raises LayerCorrupt.
    """
    at = source.consumed
    magic = source.take(2)
    if magic in (b"", b"\0") or magic == b"\0\0":
        _require_zeros(source, "gzip")
        return None
    if magic != GZIP_MAGIC:
        raise foreign("gzip member", "gzip")
    begins(at)
    return _skip_gzip_header(source)


def _require_zeros(source: Input, form: str) -> None:
    while data := source.read(1 << 18):
        if data.strip(b"\0"):
            raise LayerCorrupt(f"bytes follow the zero padding of a {form} stream")


def foreign(part: str, form: str) -> LayerCorrupt:
    """The error for what follows one stream and begins no other one."""
    return LayerCorrupt(f"bytes that are not {form} follow a {part}", hint=f"store the layer again, as one {form} stream")


def _skip_gzip_header(source: Input) -> bytes:
    fixed = source.take(8)
    header = [GZIP_MAGIC, fixed]
    if len(fixed) < 8:
        raise cut("gzip")
    if fixed[0] != 8 or fixed[1] & _RESERVED:
        raise LayerCorrupt("a gzip header names an unknown method or unknown flags")
    flags, extra = fixed[1], b""
    if flags & _FEXTRA:
        length = source.take(2)
        extra = source.take(int.from_bytes(length, "little"))
        header += (length, extra)
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            header += _text(source)
    if flags & _FHCRC and source.take(2) != (crc32(b"".join(header)) & 0xFFFF).to_bytes(2, "little"):
        raise LayerCorrupt("a gzip header does not match its checksum", hint="store the layer again")
    return extra


def _text(source: Input) -> Iterator[bytes]:
    """A text up to its NUL, in pieces."""
    seen = 0
    while data := source.read(512):
        text, nul, rest = data.partition(b"\0")
        seen += len(text)
        if seen > MAX_GZIP_HEADER:
            raise LayerCorrupt("a gzip header is longer than 128 KiB")
        yield text + nul
        if nul:
            source.unread(rest)
            return
    raise cut("gzip")


# -------------------------------------------------------------------------------------------------- xz and bzip2

_XZ_ALIGNMENT = 4


def next_xz_stream(source: Input) -> bool:
    """Whether another stream follows; zero padding before it is passed over. Raises LayerCorrupt."""
    padding = 0
    while head := source.take(len(XZ_MAGIC) if not padding else READ):
        if found := head.lstrip(b"\0"):
            source.unread(found)
        padding += len(head) - len(found)
        if found:
            break
    if padding % _XZ_ALIGNMENT:
        raise LayerCorrupt("the zero padding of an xz stream is not a multiple of 4 bytes", hint="store the layer again")
    magic = source.take(len(XZ_MAGIC))
    source.unread(magic)
    if magic and magic != XZ_MAGIC:
        raise foreign("xz stream", "xz")
    return bool(magic)


def next_bzip2_stream(source: Input) -> bool:
    """Whether another stream follows; at the end, zero padding is allowed. Raises LayerCorrupt."""
    head = source.take(10)
    if not head.strip(b"\0"):
        _require_zeros(source, "bzip2")
        return False
    source.unread(head)
    if not BZIP2_MAGIC.match(head):
        raise cut("bzip2") if len(head) < 10 and b"BZh".startswith(head[:3]) else foreign("bzip2 stream", "bzip2")
    return True


# ---------------------------------------------------------------------------------------------------------- zstd

_TINY = 16
"""Bytes of a block below which it counts as a member: endless empty blocks cost time and give nothing."""

_Walk = Generator[tuple[int, int], bytes, None]


class ZstdFrames:
    """Follows the frames and blocks of the bytes that pass. ``whole`` is True between frames."""

    def __init__(self, max_frames: int) -> None:
        self.whole = True
        self._frames_left = max_frames
        self._head = b""
        self._walk = self._frames()
        self._skip, self._want = next(self._walk)

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream. Raises LayerCorrupt for bad framing, LayerRefused for too large a window."""
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
            else:
                step = min(self._want - len(self._head), end - at)
                self._head += data[at : at + step]
                if len(self._head) == self._want:
                    head, self._head = self._head, b""
                    self._skip, self._want = self._walk.send(head)
            at += step
        self.whole = self._between_frames and not self._skip and not self._head

    def _frames(self) -> _Walk:
        """Yields (bytes to step over, bytes wanted after them)."""
        skip = 0
        while True:
            self._between_frames = True
            magic = yield skip, 4
            self._between_frames = False
            if magic == ZSTD_MAGIC:  # counted by its tiny blocks: each of the others gives something
                skip = yield from self._blocks()
            elif is_zstd(magic):
                self._count()
                skip = int.from_bytes((yield 0, 4), "little")
            else:
                raise foreign("zstd frame", "zstd")

    def _blocks(self) -> Generator[tuple[int, int], bytes, int]:
        checksum = yield from self._frame_header()
        skip, last = 0, False
        while not last:
            header = int.from_bytes((yield skip, 3), "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            if kind == 3:
                raise LayerCorrupt("a zstd block has the reserved type")
            skip = 1 if kind == 1 else size
            if size < _TINY:
                self._count()
        return skip + checksum

    def _frame_header(self) -> Generator[tuple[int, int], bytes, int]:
        descriptor = (yield 0, 1)[0]
        single = descriptor >> 5 & 1
        window = 0 if single else _window((yield 0, 1)[0])
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        content = (single, 2, 4, 8)[descriptor >> 6]
        if dictionary + content:
            fields = yield 0, dictionary + content
            if any(fields[:dictionary]):
                raise LayerRefused(
                    "a zstd frame needs a dictionary, which the layer does not hold",
                    rule="zstd-dictionary",
                    hint="compress the layer without a dictionary",
                )
            if single:
                window = int.from_bytes(fields[dictionary:], "little") + (256 if content == 2 else 0)
        if window > MAX_WINDOW:
            raise LayerRefused(
                f"a zstd frame needs a window of {window} bytes, more than {MAX_WINDOW}",
                rule="zstd-window",
                hint="compress the layer with a window of at most 128 MiB (zstd --long=27)",
            )
        return 4 if descriptor & 4 else 0

    def _count(self) -> None:
        self._frames_left -= 1
        if self._frames_left < 0:
            raise too_many_members()


def _window(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + (base >> 3) * (descriptor & 7)


_OTHERS = (
    (b"QFI\xfb", "a qcow2 disk image", "convert it with qemu-img and pack its files as a tar"),
    (b"<", "an XML or HTML page", "the source may have answered with an error page: check its address"),
    (b"{", "a JSON document", "declare the layer's own address, not that of its manifest"),
    (b"\x7fELF", "an ELF program", TARS),
    (b"\x5d\0\0", "lzma", TARS),
    (b"\x89LZO", "lzop", TARS),
)
"""What is given for a layer by mistake, by its first bytes."""


def not_a_tar(head: bytes) -> LayerCorrupt:
    """The error for a stream that does not begin with a header, with what it seems to be."""
    found = next(((form, hint) for magic, form, hint in _OTHERS if head.startswith(magic)), None)
    if found:
        return LayerCorrupt(f"this is not a tar: it looks like {found[0]}", hint=found[1])
    if len(head) < SHORTEST_TAR:
        return LayerCorrupt(f"this is not a tar: it has {len(head)} bytes, fewer than one header", hint=TARS)
    return LayerCorrupt("this is not a tar: its first block is not a header", hint=TARS)


def cut(form: str) -> LayerCorrupt:
    """The error for a stream that ends before its own end."""
    return LayerCorrupt(f"the {form} stream is cut short", hint=CUT)


def too_many_members() -> LayerRefused:
    return LayerRefused(
        "the compressed stream is made of too many members", rule="limit-members", hint="store the layer as one stream"
    )
