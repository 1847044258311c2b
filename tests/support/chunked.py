"""Layers that are an index of themselves, written as their own tools write them: eStargz and zstd:chunked.

After containerd's ``docs/estargz.md`` (stargz-snapshotter) and containers/storage's ``pkg/chunked``.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterable

import zstandard

CONTENTS = "stargz.index.json"
PREFETCH, NO_PREFETCH = ".prefetch.landmark", ".no.prefetch.landmark"


def entry(name: str, data: bytes = b"") -> bytes:
    """One file of a tar, without an end marker."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def footer(at: int, *, legacy: bool = False) -> bytes:
    """The empty gzip member that names the byte where the table of contents begins."""
    text = b"%016xSTARGZ" % at
    extra = text if legacy else b"SG" + len(text).to_bytes(2, "little") + text
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra
    return head + b"\x01\0\0\xff\xff" + bytes(8)


def estargz(files: Iterable[tuple[str, bytes]], landmark: str = NO_PREFETCH, *, legacy: bool = False, shift: int = 0) -> bytes:
    """A layer of these files. ``shift`` makes the footer wrong by so many bytes."""
    members = [*([entry(landmark, b"\x0f")] if landmark else []), *(entry(name, data) for name, data in files)]
    stored = b"".join(gzip.compress(one, mtime=0) for one in members)
    contents = entry(CONTENTS, json.dumps({"version": 1, "entries": []}).encode()) + bytes(1024)
    return stored + gzip.compress(contents, mtime=0) + footer(len(stored) + shift, legacy=legacy)


def zstd_chunked(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Frames for each file, and the table of contents and its footer in frames that decoders skip."""
    squeeze = zstandard.ZstdCompressor().compress
    stored = b"".join(squeeze(entry(name, data)) for name, data in files) + squeeze(bytes(1024))
    contents = squeeze(json.dumps({"version": 1, "entries": []}).encode())
    numbers = (len(stored) + 8, len(contents), 40, 1, 0x6465_6C62_6174_5947)
    tail = b"".join(number.to_bytes(8, "little") for number in numbers) + b"GNUlInUx"
    return stored + skippable(contents) + skippable(tail)


def skippable(data: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def tar_of(layer: bytes) -> bytes:
    """What a gzip layer unpacks to."""
    return gzip.decompress(layer)
