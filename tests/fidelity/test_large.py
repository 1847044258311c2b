"""What is large comes out whole: 60,000 names in one directory, holes of GiB, a file of five GiB."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits
from tests.support import ext4, images

from .cases import SPARSE
from .large import GIB, HOLES, MIB, NAMES, Noise, many_names, noise
from .test_fidelity import IMAGE, needs_e2fsprogs, needs_writer
from .writers import WRITERS

INDEXED = 0x1000  # EXT4_INDEX_FL


@needs_e2fsprogs
@pytest.mark.slow
def test_60_000_names_in_one_directory_are_indexed_and_all_there(tmp_path: Path) -> None:
    needs_writer("list-gnu")
    image = tmp_path / "image"

    images.build_here([many_names(tmp_path)], image, 256 * MIB)

    images.assert_e2fsck_is_content(image)
    told = images.run("debugfs", "-R", "stat /many", image)
    assert int(told.split("Flags: ")[1].split()[0], 16) & INDEXED
    with ext4.opened(image) as opened:
        found = {name: facts.size for name, facts in opened.describe(largest=0).items() if name.startswith(b"many/")}
    assert found == {b"many/" + name: int(number % 1000 == 0) for number, name in enumerate(NAMES)}


@needs_e2fsprogs
@pytest.mark.parametrize("name", SPARSE)
def test_holes_of_many_gib_take_no_blocks(tmp_path: Path, name: str) -> None:
    needs_writer(name)
    image = tmp_path / "image"
    (tmp_path / "files").mkdir()

    images.build_here([WRITERS[name].write([HOLES], tmp_path / "files")], image, IMAGE)

    images.assert_e2fsck_is_content(image)
    with ext4.opened(image) as opened:
        found = opened.describe(largest=MIB)
        blocks = sorted(content for _, content in opened.file_blocks())
    assert {entry.name: found[entry.name].size for entry in HOLES} == {entry.name: entry.size for entry in HOLES}
    for entry in HOLES:
        assert found[entry.name].data == tuple((offset // 4096, length // 4096) for offset, length in entry.segments or ())
    assert blocks == sorted(letter * 4096 for letter in (b"x", b"y", b"z"))


@pytest.mark.parametrize("format", [1, 2])  # GNU's and pax
def test_sizes_beyond_11_octal_digits_are_read(format: Literal[1, 2]) -> None:
    info = tarfile.TarInfo("f")
    info.size = 9 * GIB

    found = next(iter(Reader(open_stream(io.BytesIO(info.tobuf(format)), Limits()))))

    assert (found.size, found.stored) == (9 * GIB, 9 * GIB)


@needs_e2fsprogs
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_five_gib_comes_out_whole(tmp_path: Path) -> None:
    """Through the command, as users build: written by ``tarfile``, read back block by block."""
    size = 5 * GIB + 12_345
    layer, image = tmp_path / "layer.tar", tmp_path / "image"
    with tarfile.open(layer, "w") as tar:
        info = tarfile.TarInfo("large")
        info.size = size
        tar.addfile(info, Noise(size))

    images.build([layer], image, "6GiB")

    layer.unlink()
    images.assert_e2fsck_is_content(image)
    wanted = hashlib.sha256()
    for part in noise(size):
        wanted.update(part)
    assert ext4.of_image(image)[b"large"].digest == wanted.hexdigest()
