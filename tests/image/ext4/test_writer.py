"""Whole images: what e2fsck reports of them, what an interrupted build leaves, the same bytes from the same input."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import DeviceFailed, ImageTooSmall, LayerCorrupt, NoSpace, VolumeCorrupt
from reconciler.image.ext4 import Writer, output
from reconciler.image.tree.tree import Inode
from tests.support.ext4_images import (
    FS_UUID,
    GIB,
    MIB,
    SECOND,
    Image,
    assert_extracted,
    build_empty,
    building,
    check,
    debugfs,
    directory,
    dump_tree,
    dumpe2fs,
    fill,
    has_superblock,
    inode,
    same_bytes,
    symlink,
    volume,
)

BLOCK = 4096
GROUP = 128 * MIB


# ---------------------------------------------------------------------------------------------------------- e2fsck


@pytest.mark.parametrize(
    "size",
    [
        8 * MIB,
        64 * MIB,
        GROUP,
        GROUP + BLOCK,
        2 * GROUP,
        2 * GROUP + 700,
        3 * GROUP + 2 * BLOCK,
        GIB - 12345,
        8 * GIB,
        100 * GIB,
    ],
)
def test_e2fsck_accepts_any_size(tmp_path: Path, size: int) -> None:
    with building(tmp_path / "image", size) as image:
        fill(image)

    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_an_image_takes_no_more_of_the_host_than_what_was_written(tmp_path: Path) -> None:
    """Unused inode tables and the journal stay holes."""
    build_empty(tmp_path / "image", 8 * GIB)

    assert (tmp_path / "image").stat().st_blocks * 512 < 2 * MIB


def test_an_image_holds_nothing_that_the_tree_does_not(tmp_path: Path) -> None:
    """No lost+found: the root of the image is the root of the tar."""
    summary = build_empty(tmp_path / "image", 64 * MIB)

    check(tmp_path / "image")
    assert os.listdir(dump_tree(tmp_path / "image", tmp_path / "tree")) == []
    assert summary.used_inodes == 10


def test_the_summary_says_what_the_superblock_says(tmp_path: Path) -> None:
    with volume(tmp_path / "image", 1 * GIB) as fd:
        image = Image(Writer(fd, 1 * GIB))
        fill(image)
        summary = image.writer.finish(image.root, FS_UUID)

    said = dumpe2fs(tmp_path / "image")
    assert said["Block count"] == str(summary.blocks)
    assert said["Free blocks"] == str(summary.free_blocks)
    assert said["Inode count"] == str(summary.inodes)
    assert said["Free inodes"] == str(summary.inodes - summary.used_inodes)
    assert said["Total journal blocks"] == str(summary.journal_blocks)
    assert said["Filesystem UUID"] == str(FS_UUID)
    assert summary.used_blocks + summary.free_blocks == summary.blocks
    assert summary.next_block == image.writer.next_block


def test_a_large_file_goes_around_the_backup_in_the_second_group(tmp_path: Path) -> None:
    content = os.urandom(MIB) * 140
    with building(tmp_path / "image", 300 * MIB) as image:
        large = image.file("large", content)
        image.file("after", b"small")

    assert [len(e) for e in large.extents] == [3, 3]
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_an_image_can_be_filled_to_the_last_mib(tmp_path: Path) -> None:
    """The size that the error names is enough, and e2fsck finds nothing wrong in so little space."""
    content = bytes(range(256)) * 4 * 1024 * 20
    with pytest.raises(ImageTooSmall, match=r"they take (\d+) MiB") as caught, building(tmp_path / "small", 16 * MIB) as image:
        image.file("large", content)
    size = int(caught.value.hint.split()[-3].removesuffix("MiB")) * MIB

    with building(tmp_path / "image", size) as image:
        image.file("large", content)

    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_a_file_of_thousands_of_holes_needs_a_deep_extent_tree(tmp_path: Path) -> None:
    segments = [(2 * BLOCK * i, 100) for i in range(3000)]
    with building(tmp_path / "image", 64 * MIB) as image:
        sparse = image.file("sparse", os.urandom(300_000), segments=segments)

    assert len(sparse.extents) == 3000
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_a_directory_of_thousands_is_indexed_and_lists_every_name(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        for number in range(3500):
            image.file(f"many/entry-{number:07}-with-a-name-that-fills-the-blocks")

    assert "Root node dump" in debugfs(tmp_path / "image", "htree_dump /many")
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


def test_a_tree_of_a_thousand_levels_is_no_problem(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        image.file("/".join(["d"] * 1000 + ["leaf"]), b"deep")

    check(tmp_path / "image")


def test_a_sparse_file_of_three_gibibytes_takes_two_blocks(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        sparse = image.file("sparse", b"a" * 10 + b"z" * 5, segments=[(0, 10), (3 * GIB - 5, 5), (3 * GIB, 0)])

    assert (sparse.size, [e[2] for e in sparse.extents]) == (3 * GIB, [1, 1])
    check(tmp_path / "image")


def test_segments_may_begin_and_end_within_blocks(tmp_path: Path) -> None:
    segments = [(512, 1024), (2048, 4096), (9000, 1), (20_000, 300), (40_000, 0)]
    with building(tmp_path / "image", 64 * MIB) as image:
        sparse = image.file("sparse", os.urandom(5421), segments=segments)

    assert [(logical, count) for logical, _, count in sparse.extents] == [(0, 3), (4, 1)]
    check(tmp_path / "image")
    assert_extracted(image, dump_tree(tmp_path / "image", tmp_path / "tree"))


# --------------------------------------------------------------------------------------------------------- random trees

NAMES = st.binary(min_size=1, max_size=255).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 0x2F, 0x0A})
TIMES = st.integers(-(2**31) * SECOND, (2**33 + 2**31 - 1) * SECOND)
FIELDS = st.fixed_dictionaries(
    {"mode": st.integers(0, 0o7777), "uid": st.integers(0, 2**32 - 1), "gid": st.integers(0, 2**32 - 1), "mtime": TIMES}
)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=40).filter(lambda n: 0 not in n).map(lambda n: b"user." + n),
    st.binary(max_size=300),
    max_size=6,
)
FILES = st.tuples(st.just("file"), st.binary(max_size=9000), FIELDS, XATTRS)
LINKS = st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=200).filter(lambda t: 0 not in t), FIELDS, XATTRS)
TREES = st.recursive(st.one_of(FILES, LINKS), lambda below: st.dictionaries(NAMES, below, max_size=6), max_leaves=25).filter(
    lambda tree: isinstance(tree, dict)
)


def plant(image: Image, tree: dict[bytes, Any], place: bytes = b"") -> None:
    for name, what in tree.items():
        path = place + name
        if isinstance(what, dict):
            image.put(path, directory())
            plant(image, what, path + b"/")
        elif what[0] == "file":
            image.file(path, what[1], xattrs=what[3], **what[2])
        else:
            image.put(path, symlink(what[1], xattrs=what[3], **what[2]))


@settings(deadline=None, max_examples=25)
@given(TREES)
def test_e2fsck_accepts_any_tree(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, Any]) -> None:
    path = tmp_path_factory.mktemp("tree") / "image"
    with building(path, 16 * MIB) as image:
        plant(image, tree)

    check(path)
    path.unlink()


# ------------------------------------------------------------------------------------------------------- rehearsals


def test_a_rehearsal_allocates_as_the_writer_does_and_writes_nothing(tmp_path: Path) -> None:
    with volume(tmp_path / "image", 64 * MIB) as fd:
        image, rehearsal = Image(Writer(fd, 64 * MIB)), Image(Writer(-1, 64 * MIB, sink=True))
        for each in (image, rehearsal):
            fill(each)
        assert [i.extents for i in image.contents] == [i.extents for i in rehearsal.contents]
        assert image.writer.finish(image.root, FS_UUID) == rehearsal.writer.finish(rehearsal.root, FS_UUID)


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_build_that_breaks_off_leaves_no_file_system(tmp_path: Path) -> None:
    with pytest.raises(LayerCorrupt, match="ends at least 5 bytes early"), building(tmp_path / "image", 64 * MIB) as image:
        fill(image)
        image.writer.append(inode(stat.S_IFREG), 10, None, [b"short"])

    assert not has_superblock(tmp_path / "image")


def test_more_data_than_announced_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LayerCorrupt, match="more data"), building(tmp_path / "image", 64 * MIB) as image:
        image.writer.append(inode(stat.S_IFREG), 3, None, [b"", b"four"])


def test_the_superblocks_come_last_and_after_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the device loses before that sync, nothing takes the volume for a file system."""
    calls: list[tuple[str, int]] = []
    pwrite, fsync = os.pwrite, os.fsync

    def recorded_pwrite(fd: int, data: memoryview, offset: int) -> int:
        calls.append(("write", offset))
        return pwrite(fd, data, offset)

    def recorded_fsync(fd: int) -> None:
        calls.append(("sync", has_superblock(tmp_path / "image")))
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", recorded_pwrite)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    with building(tmp_path / "image", 1 * GIB) as image:
        fill(image)

    superblocks = {7 * GROUP, GROUP, 0}
    first_sync = calls.index(("sync", False))
    assert not superblocks & {offset for kind, offset in calls[:first_sync] if kind == "write"}
    assert calls[first_sync + 1 :] == [("write", 7 * GROUP), ("write", GROUP), ("write", 0), ("sync", True)]


def test_a_child_is_no_file_system_until_it_is_finished(tmp_path: Path) -> None:
    next_block = build_empty(tmp_path / "image", 64 * MIB).next_block
    with volume(tmp_path / "image", 64 * MIB) as fd:
        writer = Writer(fd, 64 * MIB, next_block=next_block)
        writer.close()

    assert not has_superblock(tmp_path / "image")


def test_a_volume_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 64 * MIB)

    with volume(tmp_path / "image", 64 * MIB) as fd, pytest.raises(VolumeCorrupt, match="not empty"):
        Writer(fd, 64 * MIB)
    assert has_superblock(tmp_path / "image")


def test_a_child_of_nothing_is_refused(tmp_path: Path) -> None:
    with volume(tmp_path / "image", 64 * MIB) as fd, pytest.raises(VolumeCorrupt, match="no file system"):
        Writer(fd, 64 * MIB, next_block=100)


def test_a_child_of_another_size_is_refused(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 64 * MIB)

    with volume(tmp_path / "image", 128 * MIB) as fd, pytest.raises(VolumeCorrupt, match="another size"):
        Writer(fd, 128 * MIB, next_block=100)


def test_an_image_that_is_too_small_says_how_much_it_takes_and_does_not_grow_the_volume(tmp_path: Path) -> None:
    with pytest.raises(ImageTooSmall, match=r"they take 4[0-9] MiB"), building(tmp_path / "image", 24 * MIB) as image:
        for number in range(40):
            image.file(f"{number}", bytes(MIB))

    assert (tmp_path / "image").stat().st_size == 24 * MIB
    assert not has_superblock(tmp_path / "image")


def test_directories_that_do_not_fit_behind_the_data_do_not_grow_the_volume(tmp_path: Path) -> None:
    with pytest.raises(ImageTooSmall), building(tmp_path / "image", 16 * MIB) as image:
        image.file("almost everything", bytes(16 * MIB - 5 * BLOCK))
        for number in range(60):
            image.put(f"{number}", directory())

    assert (tmp_path / "image").stat().st_size == 16 * MIB


def test_a_host_without_space_is_told_from_a_broken_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace, match="No space left on device"), building(tmp_path / "image", 64 * MIB) as image:
        fill(image)


def test_a_broken_device_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(DeviceFailed, match="Input/output error"), building(tmp_path / "image", 64 * MIB) as image:
        for number in range(40):
            image.file(f"{number}", bytes(MIB))


@pytest.fixture(params=["refuses the flag", "refuses the write"])
def without_direct_io(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file system that takes no direct I/O: found out when the flag is set, or only by the first write."""
    pwrite = os.pwrite
    if request.param == "refuses the flag":
        monkeypatch.setattr(output, "O_DIRECT", 0)
    else:

        def refuse(fd: int, data: memoryview, offset: int) -> int:
            if os.O_DIRECT & output.fcntl.fcntl(fd, output.fcntl.F_GETFL):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", refuse)
    yield


def test_buffered_writes_give_the_same_bytes(tmp_path: Path, without_direct_io: None, request: pytest.FixtureRequest) -> None:
    with building(tmp_path / "buffered", 64 * MIB) as image:
        fill(image)
    request.getfixturevalue("monkeypatch").undo()
    with building(tmp_path / "direct", 64 * MIB) as image:
        fill(image)

    same_bytes(tmp_path / "buffered", tmp_path / "direct")


def test_the_descriptor_is_left_as_it_was(tmp_path: Path) -> None:
    with volume(tmp_path / "image", 64 * MIB) as fd:
        before = output.fcntl.fcntl(fd, output.fcntl.F_GETFL)
        Writer(fd, 64 * MIB).finish(directory(), FS_UUID)
        assert output.fcntl.fcntl(fd, output.fcntl.F_GETFL) == before


def test_links_to_what_a_file_was_given(tmp_path: Path) -> None:
    """Several names of one inode are one inode on the image, and its count says how many."""
    with building(tmp_path / "image", 64 * MIB) as image:
        file: Inode = image.file("a", b"once")
        image.put("z/b", file)
        image.put("z/c", file)

    check(tmp_path / "image")
    said = debugfs(tmp_path / "image", "stat /a", "stat /z/c")
    assert said.count("Inode: 11 ") == 2
    assert said.count("Links: 3 ") == 2
