"""How layers reach a builder: in pieces of any size, of any form, one after the other."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import zstandard

from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Identity, Milestone, Report, Request
from reconciler.image.source.reading import Check, Fetched, Progress
from reconciler.image.spec import MIB
from tests.support import chunked

SIZE = 128 * MIB
RANDOM = random.Random(7)
"""What it gives does not compress: a gzip of it is as long, and goes round the ring as often."""

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": lambda data: bz2.compress(data, 1),
}


class Bytes:
    """A layer of which ``step`` bytes arrive at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def readinto(self, buffer: memoryview) -> int:
        piece = self._data[self._at : self._at + min(self._step, len(buffer))]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def result(self, check: Check = lambda: None) -> Fetched:
        return Fetched("0" * 64, "", len(self._data))

    @property
    def progress(self) -> Progress:
        return Progress(self._at, len(self._data))

    def close(self) -> None:
        """There is nothing to let go of."""


def request(layers: Sequence[bytes], step: int, volume: int | None = None) -> Request:
    inputs = tuple(Input(f"{number}.layer", partial(Bytes, one, step), pinned=False) for number, one in enumerate(layers))
    return Request(inputs, SIZE, lambda digests: "0" * 64, volume=volume, identity=Identity(label="test"))


def built(path: Path, *layers: bytes, step: int) -> tuple[bytes, Report]:
    """The image of some layers."""
    with path.open("w+b") as file:
        file.truncate(SIZE)
        with Build(request(layers, step, file.fileno())) as build:
            report = build.wait(Milestone.WRITTEN, stop=threading.Event())
        return path.read_bytes(), report


def archive(*files: tuple[str, bytes]) -> bytes:
    return b"".join(chunked.entry(*one) for one in files) + bytes(1024)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_a_layer_that_arrives_in_tiny_pieces_is_read(form: str) -> None:
    """So many that their reports would fill the channel: parent and builder once waited for each other then."""
    layer = COMPRESS[form](archive(("a", RANDOM.randbytes(4 * MIB))))
    with Build(request([layer], step=700)) as build:
        assert build.wait(Milestone.ACCEPTED, stop=threading.Event()).layers[0]["entries"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", [MIB, 511])
def test_layers_of_any_form_follow_each_other(tmp_path: Path, step: int) -> None:
    """Bytes of a plain layer that wait to be written lie in the memory that the next one's go to."""
    tars = [
        archive((f"{number}", RANDOM.randbytes(5 * MIB + 77)), (f"small-{number}", RANDOM.randbytes(3000))) for number in range(8)
    ]
    forms = ("plain", "gzip", "plain", "zstd", "bzip2", "plain", "xz", "gzip")
    layers = [COMPRESS[form](one) for form, one in zip(forms, tars, strict=True)]
    expected, _ = built(tmp_path / "plain", *tars, step=MIB)

    image, report = built(tmp_path / "image", *layers, step=step)

    assert image == expected
    assert [layer["storedBytes"] for layer in report.layers] == [len(one) for one in layers]
    assert [layer["unpackedBytes"] for layer in report.layers] == [len(one) for one in tars]
