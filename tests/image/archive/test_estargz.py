"""Layers that are an index of themselves leave nothing of it in the image, and nothing else is taken for one."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest

from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.estargz import Own
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits
from tests.support.chunked import CONTENTS, NO_PREFETCH, PREFETCH, entry, estargz, footer

FILES = [("a", b"one"), ("b", b"two" * 1000)]


def own_files(layer: bytes) -> set[bytes]:
    stream = open_stream(io.BytesIO(layer), Limits())
    own = Own[bytes]()
    for member in Reader(stream):
        own.see(member, member.name)
    return set(own.files(stream.contents_at))


def test_the_footer_is_an_empty_member() -> None:
    assert (len(footer(0)), len(footer(0, legacy=True))) == (51, 47)
    assert zlib.decompress(footer(0), wbits=31) == b""


@pytest.mark.parametrize("landmark", [PREFETCH, NO_PREFETCH, ""])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_layers_own_files_are_recognised(landmark: str, legacy: bool) -> None:
    wanted = {CONTENTS.encode(), landmark.encode()} - {b""}

    assert own_files(estargz(FILES, landmark, legacy=legacy)) == wanted


NO_INDEX = {
    "a plain tar": entry(NO_PREFETCH, b"\x0f") + entry(CONTENTS, b"{}") + bytes(1024),
    "gzip without a footer": gzip.compress(entry(NO_PREFETCH, b"\x0f") + entry(CONTENTS, b"{}") + bytes(1024)),
    "a footer that names another byte": estargz(FILES, shift=1),
    "a footer that names the member before": estargz(FILES, shift=-len(gzip.compress(entry(*FILES[-1]), mtime=0))),
    "zeros behind the footer": estargz(FILES) + bytes(512),
    "a member behind the footer": estargz(FILES) + gzip.compress(bytes(512), mtime=0),
    "two footers": estargz(FILES) + footer(0),
    "no table of contents": gzip.compress(entry("a") + bytes(1024), mtime=0) + footer(0),
    "a table that is not the last file": gzip.compress(entry(CONTENTS) + entry("a") + bytes(1024), mtime=0) + footer(0),
    "a table that its member does not begin with": gzip.compress(entry("a") + entry(CONTENTS) + bytes(1024), mtime=0) + footer(0),
    "a table in a directory": gzip.compress(entry(f"d/{CONTENTS}") + bytes(1024), mtime=0) + footer(0),
}


@pytest.mark.parametrize("layer", NO_INDEX.values(), ids=NO_INDEX)
def test_files_of_these_names_stay_where_the_stored_bytes_are_no_index(layer: bytes) -> None:
    assert own_files(layer) == set()


def test_files_of_these_names_in_directories_stay() -> None:
    layer = estargz([*FILES, (f"d/{PREFETCH}", b"x"), (f"d/{CONTENTS}", b"y")])

    assert own_files(layer) == {CONTENTS.encode(), NO_PREFETCH.encode()}
