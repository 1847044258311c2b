"""Small real layers: tar files as any tool would make them, and some that no tool should accept."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

EPOCH = 1_600_000_000


@dataclass(frozen=True)
class Layer:
    """A layer's bytes as they are stored."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def truncated(self) -> Layer:
        return Layer(self.name, self.data[: len(self.data) // 2 + 100])

    def gzipped(self) -> Layer:
        return Layer(f"{self.name}.gz", gzip.compress(self.data, mtime=0))


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no codec makes smaller, the same on every day."""
    return random.Random(seed).randbytes(size)


def tar(name: str, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Layer:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(data))
    return Layer(name, out.getvalue())


def entry(path: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, link, size, EPOCH
    return info


def file(path: str, data: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    return entry(path, mode=mode, size=len(data)), data


def root(name: str, files: Mapping[str, bytes] | None = None) -> Layer:
    """A little root file system: directories, a setuid program, a hard link, a symbolic link, a device, and ``files``."""
    shell = b"#!/bin/true\n" + name.encode() * 200
    return tar(
        name,
        *(entry(d, tarfile.DIRTYPE, mode=0o755) for d in ("bin", "dev", "etc")),
        file("bin/sh", shell, 0o4755),
        entry("bin/ash", tarfile.LNKTYPE, link="bin/sh", mode=0o4755),
        entry("bin/bash", tarfile.SYMTYPE, link="/bin/sh", mode=0o777),
        entry("dev/null", tarfile.CHRTYPE, mode=0o666),
        file("etc/hostname", name.encode() + b"\n"),
        *(file(path, data) for path, data in (files or {}).items()),
    )


def change(name: str, files: Mapping[str, bytes]) -> Layer:
    """A layer that lies on others: some files, and no directories of their own."""
    return tar(name, *(file(path, data) for path, data in files.items()))
