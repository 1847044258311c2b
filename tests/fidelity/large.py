"""What is large: 60,000 names in one directory, files of many GiB. State: none."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.support.trees import sparse

from .writers import run

MIB, GIB = 1 << 20, 1 << 30
HOLES = [
    sparse(b"12GiB", 12 * GIB, [(4 * GIB, b"x" * 4096), (12 * GIB - 4096, b"y" * 4096)]),
    sparse(b"beyond-8GiB", 8 * GIB + 4 * MIB, [(8 * GIB, b"z" * 4096)]),
]
"""Sparse files that nobody reads from end to end: sizes and offsets need more than 33 bits, and more than 11 octal digits."""

NAMES = [b"name-%d" % number for number in range(60_000)]


def many_names(directory: Path) -> bytes:
    """A layer with all of them in the directory ``many``; each thousandth has a byte. bsdtar writes it from a list."""
    empty, full, archive = directory / "empty", directory / "full", directory / "many.tar"
    empty.write_bytes(b"")
    full.write_bytes(b"x")
    lines = [b"many type=dir mode=0755 uid=0 gid=0 time=0"]
    lines += [b"many/%s contents=%s" % (name, os.fsencode(empty if number % 1000 else full)) for number, name in enumerate(NAMES)]
    told = b"#mtree\n/set type=file mode=0644 uid=0 gid=0 time=0\n" + b"\n".join(lines) + b"\n"
    run("bsdtar", "-c", "--format", "gnutar", "-f", archive, "@-", stdin=told)
    return archive.read_bytes()


class Noise(io.RawIOBase):
    """A file of ``size`` bytes that don't compress, each MiB of them another, and the same every time."""

    def __init__(self, size: int) -> None:
        self._parts = noise(size)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def noise(size: int) -> Iterator[bytes]:
    for number in range(size // MIB):
        yield Random(number).randbytes(MIB)
    yield Random(-1).randbytes(size % MIB)
