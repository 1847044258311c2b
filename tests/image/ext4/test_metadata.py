"""What a further layer changes, which numbers inodes have, and how e2fsprogs repair, resize and retune an image."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.ext4.layout import BLOCK, Geometry
from reconciler.image.ext4.writer import Below, Writer
from reconciler.image.spec import Limits
from reconciler.image.tree.tree import Tree
from tests.support.ext4_images import (
    FS_UUID,
    GIB,
    MIB,
    Image,
    assert_extracted,
    building,
    check,
    directory,
    dump_tree,
    dumpe2fs,
    fill,
    same_bytes,
    volume,
)

SIZE = 256 * MIB
REGULAR, FOLDER = 0o100000, 0o040000


def on_top(image: Image, parent: Path, child: Path, next_block: int, size: int = SIZE) -> Writer:
    """A writer of the next layer of ``image`` on a copy of its volume; the caller finishes it."""
    subprocess.run(["cp", "--sparse=always", parent, child], check=True)
    fd = os.open(child, os.O_RDWR)
    return Writer(fd, size, below=Below(image.root, next_block))


def changed_blocks(one: Path, other: Path) -> Iterator[int]:
    with one.open("rb") as a, other.open("rb") as b:
        for block in range(SIZE // BLOCK):
            if a.read(BLOCK) != b.read(BLOCK):
                yield block


# ------------------------------------------------------------------------------------------------------ further layers


def test_a_layer_of_one_file_changes_six_blocks_besides_its_data(tmp_path: Path) -> None:
    """Superblock, descriptors, both bitmaps, the directory, and the part of the inode table that has the new inode."""
    with volume(tmp_path / "below", SIZE) as fd:
        image = Image(Writer(fd, SIZE))
        fill(image, 500)
        next_block = image.writer.finish(image.root, FS_UUID).next_block
    geometry = Geometry.of_bytes(SIZE)
    image.writer = on_top(image, tmp_path / "below", tmp_path / "above", next_block)

    added = image.file("usr/bin/added", b"one block")
    image.writer.finish(image.root, UUID(int=5))

    where = image.root.children[b"usr"].children[b"bin"].extents  # type: ignore[index]
    flex = geometry.flex_groups[0]
    table = flex.tables[0] + (added.number - 1) // 16
    expected = {0, 1, flex.block_bitmap(0), flex.inode_bitmap(0), table, where[0][1], added.extents[0][1]}
    assert set(changed_blocks(tmp_path / "below", tmp_path / "above")) == expected
    check(tmp_path / "above")


def test_another_uuid_changes_the_superblock_alone(tmp_path: Path) -> None:
    for name, uuid in (("one", FS_UUID), ("other", UUID(int=7))):
        with volume(tmp_path / name, SIZE) as fd:
            image = Image(Writer(fd, SIZE))
            fill(image, 300)
            image.writer.finish(image.root, uuid)

    assert list(changed_blocks(tmp_path / "one", tmp_path / "other")) == [0]


def test_an_empty_layer_changes_nothing(tmp_path: Path) -> None:
    with volume(tmp_path / "below", SIZE) as fd:
        image = Image(Writer(fd, SIZE))
        fill(image, 300)
        next_block = image.writer.finish(image.root, FS_UUID).next_block

    on_top(image, tmp_path / "below", tmp_path / "above", next_block).finish(image.root, FS_UUID)

    same_bytes(tmp_path / "below", tmp_path / "above")


# ------------------------------------------------------------------------------------------------------------- numbers


def numbers(tree: Tree) -> dict[bytes, int]:
    return {name: child.number for name, child in (tree.root.children or {}).items()}


def applied(tree: Tree, writer: Writer, *members: Member) -> dict[bytes, int]:
    tree.begin_layer()
    for member in members:
        inode = tree.add(member)
        if inode is not None:
            writer.append(inode, 0, None, ())
    tree.end_layer()
    writer.end_layer(tree.root)
    return numbers(tree)


def file(name: bytes) -> Member:
    return Member(name, REGULAR, 0o644)


def test_a_name_that_stays_keeps_its_number_and_new_ones_take_the_lowest_that_are_free() -> None:
    tree, writer = Tree(Limits()), Writer(-1, SIZE, sink=True)

    assert applied(tree, writer, *map(file, (b"c", b"a", b"b"))) == {b"lost+found": 11, b"a": 12, b"b": 13, b"c": 14}
    second = applied(tree, writer, file(b".wh.b"), file(b"a"), file(b"d"))
    assert second == {b"lost+found": 11, b"a": 12, b"c": 14, b"d": 15}  # 13 is free from the next layer on
    third = applied(tree, writer, file(b"e"), Member(b"c", FOLDER, 0o755))
    assert third == {b"lost+found": 11, b"a": 12, b"c": 14, b"d": 15, b"e": 13}


def test_an_inode_keeps_its_number_where_one_of_its_names_is_replaced() -> None:
    tree, writer = Tree(Limits()), Writer(-1, SIZE, sink=True)
    applied(tree, writer, file(b"a"), Member(b"b", HARDLINK, linkname=b"a"))

    assert applied(tree, writer, file(b"a")) == {b"lost+found": 11, b"a": 13, b"b": 12}


def test_whiteouts_of_lost_and_found_are_counted_and_change_nothing() -> None:
    tree, writer = Tree(Limits()), Writer(-1, SIZE, sink=True)
    applied(tree, writer, file(b"lost+found/x"))

    applied(tree, writer, file(b".wh.lost+found"))

    assert tree.ignored == 1
    assert tree.root.children is not None and tree.root.children[b"lost+found"].children


# ---------------------------------------------------------------------------------------------------------- e2fsprogs


def everything(path: Path, size: int = SIZE) -> Image:
    with building(path, size) as image:
        fill(image, 200)
        for number in range(900):
            image.file(f"many/entry-{number:05}-of-a-directory-with-an-index", b"%d" % number)
        image.file("large", os.urandom(MIB) * 60)
    check(path)
    return image


@pytest.mark.parametrize("group", Geometry.of_bytes(GIB).backups)
def test_e2fsck_restores_a_file_system_from_each_backup(tmp_path: Path, group: int) -> None:
    image = everything(tmp_path / "image", GIB)
    with (tmp_path / "image").open("rb+") as file_system:
        file_system.write(bytes(2 * BLOCK))

    done = subprocess.run(["e2fsck", "-fy", "-b", str(group * 32768), "-B", "4096", tmp_path / "image"], capture_output=True)

    assert done.returncode & ~3 == 0, done
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_resize2fs_grows_and_shrinks_an_image(tmp_path: Path) -> None:
    image = everything(tmp_path / "image")
    for size in ("5G", "300M"):
        if size == "5G":
            os.truncate(tmp_path / "image", 5 * GIB)
        subprocess.run(["e2fsck", "-fp", tmp_path / "image"], check=True, capture_output=True)
        subprocess.run(["resize2fs", tmp_path / "image", size], check=True, capture_output=True)
        check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        ["-O", "^metadata_csum"],
        ["-O", "^has_journal"],
        ["-O", "^dir_index"],
        ["-O", "^resize_inode"],
        ["-O", "project,quota"],
        ["-U", "random"],
        ["-c", "30"],
        ["-m", "5"],
        ["-e", "continue"],
    ],
    ids=lambda switches: switches[-1],
)
def test_tune2fs_switches_what_it_can_of_mke2fs_s_own(tmp_path: Path, switches: list[str]) -> None:
    image = everything(tmp_path / "image")

    subprocess.run(["tune2fs", *switches, tmp_path / "image"], check=True, capture_output=True)

    subprocess.run(["e2fsck", "-fy", tmp_path / "image"], capture_output=True)
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_e2image_copies_an_image(tmp_path: Path) -> None:
    image = everything(tmp_path / "image")

    subprocess.run(["e2image", "-ra", tmp_path / "image", tmp_path / "copy"], check=True, capture_output=True)

    check(tmp_path / "copy")
    assert_extracted(image, dump_tree(tmp_path / "copy", tmp_path / "tree"))


def test_the_features_are_mke2fs_s(tmp_path: Path) -> None:
    with volume(tmp_path / "ours", GIB) as fd:
        Writer(fd, GIB).finish(directory(), FS_UUID)
    with volume(tmp_path / "theirs", GIB):
        pass
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^orphan_file,metadata_csum_seed", tmp_path / "theirs"]
    subprocess.run(command, check=True, capture_output=True)

    ours, theirs = dumpe2fs(tmp_path / "ours"), dumpe2fs(tmp_path / "theirs")
    assert set(ours["Filesystem features"].split()) == set(theirs["Filesystem features"].split())
    differing = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    assert differing == {
        "Checksum",
        "Checksum seed",
        "Directory Hash Seed",
        "Errors behavior",
        "Filesystem UUID",
        "Filesystem created",
        "Filesystem flags",
        "Last checked",
        "Last write time",
        "Lifetime writes",
        "Reserved block count",
    }
