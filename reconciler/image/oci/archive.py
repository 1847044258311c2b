"""Archives of images: tars whose files are found without reading the layers in them.

The strict reader goes from header to header; it runs in this process, unlike for layers. A plain tar needs no decoder, the
reader is Python alone and bounded in members and headers, nothing is written, and what is read of the files in it is JSON, which
this process parses anyway. An archive in S3 is read by small ranges, and from ``MOST_REQUESTS`` on in one piece. Of one that is
compressed as a whole the decompressed copy is read (``unpacked``). Used by ``stored``. State: a descriptor or a connection, and
the places of the files.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

from reconciler.errors import ImageRefused, LayerCorrupt, LayerRefused, NeedsOperator, SourceChanged, SourceUnavailable
from reconciler.image.archive.framing import GZIP_MAGIC, XZ_MAGIC, ZSTD_MAGIC
from reconciler.image.archive.header import BLOCK, checksum_holds
from reconciler.image.archive.tar import Reader
from reconciler.image.source import exchange, remote
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import Body
from reconciler.image.source.local import opened
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.spec import Limits, Packed, Source
from reconciler.policy import force

WINDOW = 16 << 10
"""Bytes that are asked for at once: a header, and the small files beside it."""

MOST_REQUESTS = 256
WALK_SECONDS = 20 * exchange.GET_SECONDS
"""The deadline for all that is read of an archive in S3 to resolve an image."""

MOST_LINKS = 4
LIMITS = Limits(max_entries=16_384)

_COMPRESSED = ((GZIP_MAGIC, "gzip"), (ZSTD_MAGIC, "zstd"), (XZ_MAGIC, "xz"), (b"BZh", "bzip2"))
_HINT = "save the image again"


class _File(NamedTuple):
    """Where a member's data is; ``link`` where it is a symlink."""

    start: int = 0
    size: int = 0
    link: str = ""


class _Bytes(Protocol):
    """A file or an object: its bytes at any place."""

    head: Head

    def at(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes, none only at the end."""
        ...

    def close(self) -> None: ...


Unpacked = Callable[[str], Path | None]
"""The decompressed copy of an archive, by its key; None where there is none."""


def nothing_unpacked(_: str) -> None:
    return None


def key_of(source: Source, head: Head) -> str:
    """What identifies the bytes of an archive, as 64 hex digits. The first 32 are those of its place."""
    place, identity = (source.s3.endpoint_url or "", source.url), (head.etag, str(head.size))
    return "".join(sha256("\n".join(one).encode()).hexdigest()[:32] for one in (place, identity))


class Archive:
    """A context manager. ``source`` is a path or ``s3://bucket/key``. Raises what reading a layer raises, and ImageRefused."""

    def __init__(self, source: Source, unless: Callable[[], bool] | None = None, unpacked: Unpacked = nothing_unpacked) -> None:
        self.name = self._place = source.url
        self._source = source
        self._bytes: _Bytes = _Object(source, unless) if source.is_s3 else _Local(source.url)
        self.head = self._bytes.head
        self.etag = f"{self.head.etag} {self.head.size}" if source.is_s3 else ""
        self.key = key_of(source, self.head)
        self._found: dict[str, _File] | None = None
        if (copy := unpacked(self.key)) is not None:
            self._bytes.close()
            self._bytes, self._place = _Copy(copy), f"unpacked:{self.key}:{self.name}"

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bytes.close()

    @property
    def _files(self) -> dict[str, _File]:
        if self._found is None:
            self._found = self._indexed()
        return self._found

    @property
    def packed(self) -> Packed | None:
        """How the archive is compressed as a whole; None where it isn't. Raises ImageRefused where it is so more than once."""
        form = compression(self._part(0, 512))
        found = Packed(self._source, self.key, self.head.size, form) if form else None
        if found and isinstance(self._bytes, _Copy):
            raise refusal(found)
        return found

    def read(self, path: str, most: int) -> bytes | None:
        file = self._file(path)
        if file is None:
            return None
        if file.size > most:
            raise ImageRefused(f"{path} in {self.name} has {file.size} bytes, more than {most}", hint=_HINT)
        return self._part(file.start, file.size)

    def begins(self, path: str, most: int) -> bytes:
        file = self._file(path)
        return self._part(file.start, min(file.size, most)) if file else b""

    def place(self, path: str) -> tuple[str, int]:
        file = self._file(path)
        if file is None:
            raise ImageRefused(f"{self.name} has no file {path}", hint=_HINT)
        return f"part:{file.start}+{file.size}:{self._place}", file.size

    def _part(self, start: int, length: int) -> bytes:
        parts: list[bytes] = []
        while length and (data := self._bytes.at(start, length)):
            parts.append(data)
            start, length = start + len(data), length - len(data)
        return b"".join(parts)

    def _file(self, path: str) -> _File | None:
        """A regular file, links within the archive followed."""
        for _ in range(MOST_LINKS):
            file = self._files.get(_normal(path))
            if file is None or not file.link:
                return file
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), file.link))
            if path.startswith(("/", "../")):
                raise ImageRefused(f"{self.name} has a link that leads out of it: {file.link}", hint=_HINT)
        raise ImageRefused(f"{self.name} has links that lead in a circle: {path}", hint=_HINT)

    def _indexed(self) -> dict[str, _File]:
        if packed := self.packed:
            raise refusal(packed)
        window = _Window(self._bytes)
        found: dict[str, _File] = {}
        try:
            reader = Reader(window, LIMITS, window.seek)
            for member in reader:
                name = _normal(os.fsdecode(member.name))
                if len(found) >= LIMITS.max_entries or name in found:
                    why = f"has {name} twice" if name in found else f"has more than {LIMITS.max_entries} members"
                    raise ImageRefused(f"{self.name} {why}", hint=_HINT)
                if member.type == stat.S_IFREG and member.segments is None:
                    found[name] = _File(reader.data_at, member.size)
                elif member.type == stat.S_IFLNK:
                    found[name] = _File(link=os.fsdecode(member.linkname))
        except (LayerRefused, LayerCorrupt) as error:
            raise ImageRefused(f"{self.name} is refused as an archive: {error.message}", hint=_HINT) from error
        return found


def refusal(packed: Packed) -> ImageRefused:
    """Of an archive that can't be read before it is decompressed."""
    message = f"{packed.archive.url} is compressed as a whole ({packed.form})"
    return ImageRefused(message, hint="an archive is compressed once: decompress it, and save it again")


def compression(head: bytes) -> str:
    """What the first bytes of a file are compressed with; empty where they are a tar's, or look like nothing that is known."""
    if len(head) >= BLOCK and checksum_holds(head[:BLOCK]):
        return ""  # a first member's name may begin like anything
    return next((form for magic, form in _COMPRESSED if head.startswith(magic)), "")


def _normal(path: str) -> str:
    return posixpath.normpath(path)


class _Window:
    """The stream that the reader gets: some bytes at a time, from any place on."""

    def __init__(self, held: _Bytes) -> None:
        self._held = held
        self._at = 0

    def read(self) -> bytes:
        data = self._held.at(self._at, WINDOW)
        self._at += len(data)
        return data

    def seek(self, offset: int) -> None:
        self._at = offset


class _Local:
    """A file, within the host's policy."""

    def __init__(self, path: str) -> None:
        force.require_file(path)
        self.head = stamp(path).head
        self._path, self._fd = path, opened(path)

    def at(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, start)
        except OSError as error:
            raise NeedsOperator(f"{self._path} can't be read: {error.strerror}", hint="check its disk") from error

    def close(self) -> None:
        os.close(self._fd)


class _Copy(_Local):
    """A decompressed copy, which is ours."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SourceChanged(f"{path} can't be opened: {error.strerror}", hint="the next attempt makes it again") from error
        self.head = Head("", os.fstat(self._fd).st_size)


class _Object:
    """An object of S3: ranges at first, then one stream whose bytes are passed over."""

    def __init__(self, source: Source, unless: Callable[[], bool] | None) -> None:
        self.head = remote.head_one(source, unless)
        self._source, self._unless = source, unless
        self._until = time.monotonic() + WALK_SECONDS
        self._requests = 0
        self._stream: Body | None = None
        self._stream_at = 0
        self._window, self._window_at = b"", 0

    def at(self, start: int, length: int) -> bytes:
        try:
            return self._at(start, length)
        except SourceUnavailable as error:
            if time.monotonic() < self._until:
                raise
            message = f"{self._source.url} could not be read as an archive in {WALK_SECONDS:.0f} s"
            hint = "its endpoint is too slow for its members: make an archive of one image, or push the image to a registry"
            raise SourceUnavailable(message, hint=hint) from error

    def _at(self, start: int, length: int) -> bytes:
        cached = self._window[start - self._window_at :][:length] if start >= self._window_at else b""
        if cached:
            return cached
        length = min(length, self.head.size - start)
        if length <= 0:
            return b""
        if self._requests >= MOST_REQUESTS and start >= self._stream_at:
            return self._streamed(start, length)
        self._requests += 1
        end = min(max(start + length, start + WINDOW), self.head.size)
        body = self._body(start, end)
        try:
            self._window, self._window_at = _filled(body, end - start), start
        finally:
            body.close()
        return self._window[:length]

    def _streamed(self, start: int, length: int) -> bytes:
        if self._stream is None:
            self._stream, self._stream_at = self._body(start, self.head.size), start
        while self._stream_at < start:
            self._stream_at += len(_filled(self._stream, min(start - self._stream_at, 1 << 20)))
        self._stream_at += length
        return _filled(self._stream, length)

    def _body(self, start: int, end: int) -> Body:
        cutoff = Cutoff(min(exchange.GET_SECONDS, max(0.0, self._until - time.monotonic())), self._is_over)
        body = remote.get(self._source, start, end, self.head.etag, cutoff=cutoff, pause=time.sleep)
        if body.head != self.head:
            body.close()
            message = f"{self._source.url} was {self.head}, and is {body.head} now"
            raise SourceChanged(message, hint="the next attempt reads the new one")
        return body

    def _is_over(self) -> bool:
        return time.monotonic() >= self._until or (self._unless is not None and self._unless())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _filled(body: Body, length: int) -> bytes:
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        at += body.readinto(view[at:])
    return bytes(data)
