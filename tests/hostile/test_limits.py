"""Each limit stops the stream when it is passed: every layer here goes on for ever, and is read no further than it must be."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Iterator

import pytest

from reconciler.errors import LayerRefused
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import MIB, Limits
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Tree
from tests.hostile.archive import entry, file, long_name, pax

AHEAD = 2 * MIB
"""Stored bytes that may have been read beyond those that pass the limit: a piece of the stream and what was read for the next."""


class Endless:
    """A layer that never ends, and counts what was read of it."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.given = 0
        self._parts = iter(parts)
        self._rest = b""

    def read(self, n: int, /) -> bytes:
        while len(self._rest) < n:
            self._rest += next(self._parts)
        data, self._rest = self._rest[:n], self._rest[n:]
        self.given += len(data)
        return data


def ever(first: bytes = b"") -> Iterator[bytes]:
    """Something, and then innocent files without end."""
    return itertools.chain([first], itertools.repeat(file(b"x") * 64))


def gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    return (data for part in parts if (data := packer.compress(part)))


LAYERS = [
    ("max_unpacked_bytes", Limits(max_unpacked_bytes=MIB), "limit-unpacked", ever(), MIB),
    ("max_unpacked_bytes", Limits(max_unpacked_bytes=MIB), "limit-unpacked", gzipped(ever()), 1 << 15),
    ("max_file_bytes", Limits(max_file_bytes=MIB), "limit-file", ever(entry(b"f", b"0", size=MIB + 1)), 512),
    ("max_entries", Limits(max_entries=100), "limit-entries", ever(), 100 * 512),
    ("max_entries", Limits(max_entries=100), "limit-entries", (file(b"%d/d/d/f" % at) for at in itertools.count()), 25 * 512),
    ("max_ratio", Limits(max_ratio=10, ratio_floor_bytes=MIB), "limit-ratio", gzipped(ever()), 1 << 15),
    ("ratio_floor_bytes", Limits(max_ratio=1, ratio_floor_bytes=8 * MIB), "limit-ratio", gzipped(ever()), 1 << 17),
    ("max_depth", Limits(max_depth=9), "limit-depth", ever(file(b"d/" * 9 + b"f")), 512),
    ("max_name_bytes", Limits(max_name_bytes=9), "name-length", ever(file(b"n" * 10)), 512),
    ("max_path_bytes", Limits(max_path_bytes=9), "name", ever(file(b"12345/7890")), 512),
    (
        "max_xattr_bytes",
        Limits(max_xattr_bytes=9),
        "limit-xattrs",
        ever(pax((b"SCHILY.xattr.user.a", b"9999")) + file(b"f")),
        2048,
    ),
    ("max_metadata_bytes", Limits(max_metadata_bytes=MIB), "limit-metadata", ever(long_name(b"n" * 8 * MIB)), 512),
    ("max_seconds", Limits(max_seconds=0), "limit-seconds", ever(), 512),
]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("limits", "rule", "parts", "passed"), [pytest.param(*layer[1:], id=layer[0]) for layer in LAYERS])
def test_a_limit_stops_the_stream_when_it_is_passed(limits: Limits, rule: str, parts: Iterable[bytes], passed: int) -> None:
    source = Endless(parts)

    with pytest.raises(LayerRefused) as refused:
        judge, tree, reader = Judge(limits), Tree(limits), Reader(open_stream(source, limits), limits)
        for member in reader:
            judge.check(member)
            tree.add(member)

    assert refused.value.rule == rule
    assert source.given <= passed + AHEAD


def test_no_limit_is_left_out() -> None:
    numbers = {field.name for field in dataclasses.fields(Limits) if field.type in ("int", int)}

    assert {layer[0] for layer in LAYERS} == numbers
