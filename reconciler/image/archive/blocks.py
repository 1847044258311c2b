"""A decompressed stream, taken apart: header blocks, small payloads, the data between them.

Used by ``tar``. Nothing is copied but headers: data is handed out as views of the stream's chunks. State: the current chunk and
the place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from reconciler.errors import LayerCorrupt
from reconciler.image.archive.header import BLOCK
from reconciler.image.spec import CUT

NOTHING = memoryview(b"")


class Chunks(Protocol):
    """What ``codec.Stream`` does."""

    def read(self) -> bytes | memoryview:
        """The next chunk, which does not change; an empty one only at the end."""
        ...


class Blocks:
    """``offset`` is the place in the decompressed stream. Running out of bytes raises LayerCorrupt.

    ``seek`` moves the stream to a byte, where it can: data is passed over without being read then.
    """

    __slots__ = ("_at", "_base", "_length", "_seek", "_stream", "_view")

    def __init__(self, stream: Chunks, seek: Callable[[int], None] | None = None) -> None:
        self._stream = stream
        self._seek = seek
        self._base = 0
        self._at = 0
        self._length = 0
        self._view = NOTHING

    @property
    def offset(self) -> int:
        return self._base + self._at

    def peek(self, offset: int) -> bytes:
        """The 512 bytes at ``offset``, which is not behind, where they lie in the current chunk; nothing is taken."""
        at = offset - self._base
        return bytes(self._view[at : at + BLOCK])

    def take_peeked(self, offset: int) -> None:
        """What lies before ``offset``, and the block there, which ``peek`` has returned, have been read."""
        self._at = offset - self._base + BLOCK

    def block_or_end(self) -> bytes:
        """The next 512 bytes; ``b""`` where the stream ends here."""
        at = self._at
        block = bytes(self._view[at : at + BLOCK])
        if len(block) == BLOCK:
            self._at = at + BLOCK
            return block
        return b"" if self.at_end() else self.take(BLOCK)

    def block(self) -> bytes:
        """The next 512 bytes."""
        return self.block_or_end() or self.take(BLOCK)

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes in one piece; for what is small and bounded."""
        return b"".join(map(bytes, self.pieces(n)))

    def view(self, n: int) -> memoryview | None:
        """The next ``n`` bytes without a copy where the current chunk holds them all, else None and nothing is taken."""
        view = self._view[self._at : self._at + n]
        if len(view) < n:
            return None
        self._at += n
        return view

    def pieces(self, n: int) -> Iterator[memoryview]:
        """The next ``n`` bytes as they lie in the stream's chunks."""
        end = self.offset + n
        while (left := end - self.offset) > 0:
            if self._at == self._length and not self._next_chunk():
                raise LayerCorrupt(
                    f"the tar ends at byte {self.offset}, in the middle of a member",
                    hint=CUT,
                )
            piece = self._view[self._at : self._at + left]
            self._at += len(piece)
            yield piece

    def skip_to(self, offset: int) -> None:
        """Pass over what lies before ``offset``."""
        left = offset - self._base - self._at
        if left <= self._length - self._at:
            self._at += left
        elif self._seek is not None:
            self._seek(offset)
            self._base, self._length, self._view, self._at = offset, 0, NOTHING, 0
        else:
            for _ in self.pieces(left):
                pass

    def at_end(self) -> bool:
        """Whether the stream has been read to its end."""
        return self._at == self._length and not self._next_chunk()

    def rest_is_zero(self) -> bool:
        """Read the stream to its end; False as soon as anything but zeros is found."""
        while not self.at_end():
            rest = bytes(self._view[self._at :])
            if rest != bytes(len(rest)):
                return False
            self._at = self._length
        return True

    def read_out(self) -> None:
        """Read the stream to its end, whatever there is: its trailers are verified there."""
        while self._next_chunk():
            pass

    def _next_chunk(self) -> bool:
        self._base += self._length
        self._view = NOTHING
        self._view = memoryview(self._stream.read())
        self._length, self._at = len(self._view), 0
        return bool(self._length)
