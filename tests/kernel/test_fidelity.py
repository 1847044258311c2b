"""What the kernel mounts of a layer that a real writer wrote is what GNU tar unpacks of it, and what it was made of.

The cases are those of ``tests/fidelity``; here root plants the files, so every writer that reads real files is tried, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fidelity.cases import CASES, DEEPEST, SPARSE, Case
from tests.fidelity.large import HOLES, NAMES, many_names
from tests.fidelity.test_fidelity import IMAGE, build, layers_of, needs_writer, same
from tests.fidelity.writers import WRITERS
from tests.support import compare, images, reference
from tests.support.trees import Entry

MIB = 1 << 20
PAIRS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in CASES
    for name in case.writers
    if case is not DEEPEST and (case.privileged or name in ("gnu-pax", "bsd-pax", case.writers[-1]))
]


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_a_mounted_volume_is_what_gnu_tar_unpacks(tmp_path: Path, case: Case, name: str) -> None:
    needs_writer(name)
    with images.fresh_ext4(tmp_path / "planted", 64 * MIB) as disk:  # a tmpfs keeps neither every time nor every attribute
        stored = layers_of(case, name, disk)
    image = tmp_path / "image"
    images.build_here(stored, image, IMAGE)
    expected = reference.model(case.expected)

    with images.mounted(image, "ro") as top:
        actual = compare.of_directory(top)

    same(expected, actual)
    if name not in case.model_only:
        same(reference.forgiving(unpacked(tmp_path, stored, case.expected), expected), actual, ignoring=["data"])


def unpacked(directory: Path, stored: Sequence[bytes], chain: Sequence[Sequence[Entry]]) -> dict[bytes, compare.Facts]:
    """By GNU tar, on an ext4 of mke2fs."""
    with images.fresh_ext4(directory / "peer", 64 * MIB) as top:
        for number, (tar, layer) in enumerate(zip(stored, chain, strict=True)):
            path = directory / f"layer{number}.tar"
            path.write_bytes(tar)
            reference.unpack_with_gnu_tar(path, layer, top)
        return compare.of_directory(top)


def test_a_path_of_4096_bytes(tmp_path: Path) -> None:
    """Beyond what a system call takes in one piece: it is walked."""
    image = build(DEEPEST, "python-pax", tmp_path)
    *above, last = DEEPEST.expected[0][0].name.split(b"/")

    with images.mounted(image, "ro") as top:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        for part in above:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        found = os.open(last, os.O_RDONLY, dir_fd=fd)
        content = os.read(found, 100)
        os.close(found)
        os.close(fd)

    assert content == b"deep"


@pytest.mark.timeout(240)
def test_the_kernel_finds_each_of_60_000_names_in_one_directory(tmp_path: Path) -> None:
    """By its hash: going through the whole directory for each name would take minutes."""
    needs_writer("list-gnu")
    image = tmp_path / "image"
    images.build_here([many_names(tmp_path)], image, 256 * MIB)

    with images.mounted(image, "ro") as top:
        fd = os.open(top / "many", os.O_RDONLY | os.O_DIRECTORY)
        sizes = [os.stat(name, dir_fd=fd).st_size for name in NAMES]
        listed = os.listdir(fd)
        missing = [name for name in (b"name-60000", b"x", b"name--1") if _exists(fd, name)]
        os.close(fd)

    assert sizes == [int(number % 1000 == 0) for number in range(len(NAMES))]
    assert sorted(os.fsencode(name) for name in listed) == sorted(NAMES)
    assert not missing


def _exists(fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


@pytest.mark.timeout(240)
def test_the_kernel_can_go_on_writing_to_a_directory_of_60_000_names(tmp_path: Path) -> None:
    """The index that ours wrote is one that the kernel can insert into, split and remove from."""
    needs_writer("list-gnu")
    image = tmp_path / "image"
    images.build_here([many_names(tmp_path)], image, 256 * MIB)

    with images.mounted(image) as top:
        fd = os.open(top / "many", os.O_RDONLY | os.O_DIRECTORY)
        for name in NAMES[::7]:
            os.unlink(name, dir_fd=fd)
        for number in range(3000):
            os.close(os.open(b"added-%d" % number, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)

    images.assert_e2fsck_is_content(image)
    with images.mounted(image, "ro") as top:
        expected = {*NAMES} - {*NAMES[::7]} | {b"added-%d" % number for number in range(3000)}
        assert {os.fsencode(name) for name in os.listdir(top / "many")} == expected


@pytest.mark.parametrize("name", SPARSE)
def test_holes_are_holes_to_the_kernel(tmp_path: Path, name: str) -> None:
    """``st_blocks`` counts what is there: 8 KiB of 12 GiB."""
    needs_writer(name)
    with images.fresh_ext4(tmp_path / "planted", 64 * MIB) as disk:
        stored = WRITERS[name].write([HOLES], disk)
    images.build_here([stored], tmp_path / "image", IMAGE)

    with images.mounted(tmp_path / "image", "ro") as top:
        found = {entry.name: os.stat(os.fsencode(top) + b"/" + entry.name) for entry in HOLES}
        parts = {entry.name: b"".join(read(top, entry.name, *segment) for segment in entry.segments or ()) for entry in HOLES}

    assert {name: (s.st_size, s.st_blocks * 512) for name, s in found.items()} == {e.name: (e.size, len(e.data)) for e in HOLES}
    assert parts == {entry.name: entry.data for entry in HOLES}


def read(top: Path, name: bytes, offset: int, length: int) -> bytes:
    fd = os.open(os.fsencode(top) + b"/" + name, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)
