"""The same input gives the same bytes: in any order of names, and layer by layer as in one go."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.image.ext4.writer import Below, Writer
from tests.support.ext4_images import FS_UUID, GIB, MIB, Image, building, check, fill, has_superblock, same_bytes, volume

GROUP = 128 * MIB


def test_the_same_tree_gives_the_same_bytes_whatever_order_its_names_came_in(tmp_path: Path) -> None:
    for name, order in (("one", (0, 1, 2)), ("other", (2, 0, 1))):
        with building(tmp_path / name, 64 * MIB) as image:
            files = [image.file(f"d/{i}", b"%d" % i, xattrs={b"user.b": b"2", b"user.a": b"1"}) for i in range(3)]
            assert image.root.children is not None
            image.root.children[b"d"].children = {b"%d" % i: files[i] for i in order}

    same_bytes(tmp_path / "one", tmp_path / "other")


def first_layer(image: Image) -> None:
    fill(image, 120, b"first")
    image.file("var/lib/big", b"\x5a" * (3 * MIB), xattrs={b"user.note": b"n" * 600})


def second_layer(image: Image) -> None:
    """Smaller than the metadata of the first: some of that must be wiped."""
    doc = image.root.children[b"usr"].children[b"share"].children[b"doc"]  # type: ignore[index]
    assert doc.children is not None
    doc.children = {name: child for name, child in doc.children.items() if name > b"0060"}
    image.file("usr/share/doc/0100", b"replaced")


def third_layer(image: Image) -> None:
    """Larger than the metadata of the second."""
    image.file("opt/blob", b"third" * MIB)


def build_in_one_go(path: Path, size: int, layers: list[Any]) -> None:
    with building(path, size) as image:
        for layer in layers:
            layer(image)
            image.writer.end_layer(image.root)


def build_layer_by_layer(path: Path, size: int, layers: list[Any]) -> None:
    below_it, image = None, None
    for number, layer in enumerate(layers):
        below, current = path.with_suffix(f".{number - 1}"), path.with_suffix(f".{number}")
        if number:
            subprocess.run(["cp", "--sparse=always", below, current], check=True)
        with volume(current, size) as fd:
            writer = Writer(fd, size, below=below_it)
            image = image or Image(writer)
            image.writer = writer
            layer(image)
            assert not has_superblock(current) or number == 0
            writer.finish(image.root, FS_UUID)
            below_it = Below(image.root, writer.next_block)
        check(current)
    current.rename(path)


@pytest.mark.parametrize("size", [64 * MIB, GROUP + 8 * MIB, 8 * GIB])
def test_a_chain_built_layer_by_layer_equals_one_built_in_one_go(tmp_path: Path, size: int) -> None:
    layers = [first_layer, second_layer, third_layer, second_layer]

    build_in_one_go(tmp_path / "one-go", size, layers)
    build_layer_by_layer(tmp_path / "layered", size, layers)

    same_bytes(tmp_path / "one-go", tmp_path / "layered")


@pytest.mark.slow
def test_layers_equal_one_go_where_metadata_had_to_make_way_for_the_backup(tmp_path: Path) -> None:
    """The first layer's metadata lies around the second group's backup; the second layer's data does then."""

    def first(image: Image) -> None:
        image.file("large", b"\x5a" * (127 * MIB))
        fill(image, 400)

    build_in_one_go(tmp_path / "one-go", 400 * MIB, [first, third_layer])
    build_layer_by_layer(tmp_path / "layered", 400 * MIB, [first, third_layer])

    same_bytes(tmp_path / "one-go", tmp_path / "layered")


LAYERS = st.lists(st.dictionaries(st.sampled_from([b"a", b"b", b"c/d", b"c/e"]), st.integers(0, 300_000), max_size=4), max_size=4)


@settings(deadline=None, max_examples=12)
@given(LAYERS.filter(bool))
def test_any_chain_gives_the_same_bytes_both_ways(
    tmp_path_factory: pytest.TempPathFactory, layers: list[dict[bytes, int]]
) -> None:
    place = tmp_path_factory.mktemp("layers")

    def applied(files: dict[bytes, int]) -> Any:
        def apply(image: Image) -> None:
            for name, size in files.items():
                image.file(name, name[:1] * size)

        return apply

    build_in_one_go(place / "one-go", 8 * MIB, [applied(files) for files in layers])
    build_layer_by_layer(place / "layered", 8 * MIB, [applied(files) for files in layers])

    same_bytes(place / "one-go", place / "layered")
    shutil.rmtree(place)
