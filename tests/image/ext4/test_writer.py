"""Whole images: what e2fsck reports of them, what an interrupted build leaves, the same bytes from the same input."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import DeviceFailed, ImageTooSmall, LayerCorrupt, NoSpace, VolumeCorrupt
from reconciler.image.ext4 import output
from reconciler.image.ext4.writer import Below, Writer
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
    """Unused inode tables and the journal stay holes. The resize inode's map has 1,023 blocks, as mke2fs's."""
    build_empty(tmp_path / "image", 8 * GIB)

    assert (tmp_path / "image").stat().st_blocks * 512 < 6 * MIB


def test_an_empty_image_holds_lost_and_found_alone(tmp_path: Path) -> None:
    summary = build_empty(tmp_path / "image", 64 * MIB)

    check(tmp_path / "image")
    assert os.listdir(dump_tree(tmp_path / "image", tmp_path / "tree")) == ["lost+found"]
    said = debugfs(tmp_path / "image", "stat /lost+found")
    assert re.search(r"Inode: 11 +Type: directory +Mode: +0700", said)
    assert "Size: 16384" in said
    assert summary.used_inodes == 11


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


@pytest.mark.slow
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

NO_FILES = (b".", b"..", b"lost+found")
"""Names of directories alone: a tree refuses any other type."""
NAMES = st.binary(min_size=1, max_size=255).filter(lambda n: n not in NO_FILES and not set(n) & {0, 0x2F, 0x0A})
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


def test_the_primary_superblock_comes_last_and_after_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the device loses before that sync, nothing takes the volume for a file system."""
    calls: list[tuple[str, int]] = []
    pwritev, fsync = os.pwritev, os.fsync

    def recorded_write(fd: int, pieces: list[memoryview], offset: int) -> int:
        calls.append(("write", offset))
        return pwritev(fd, pieces, offset)

    def recorded_fsync(fd: int) -> None:
        calls.append(("sync", has_superblock(tmp_path / "image")))
        fsync(fd)

    monkeypatch.setattr(os, "pwritev", recorded_write)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    with building(tmp_path / "image", 1 * GIB) as image:
        fill(image)

    first_sync = calls.index(("sync", False))
    assert ("write", 0) not in calls[:first_sync]
    assert [call for call in calls[:first_sync] if call[1] % GROUP == 0][-4:] == [("write", n * GROUP) for n in (1, 3, 5, 7)]
    assert calls[first_sync + 1 :] == [("write", 0), ("sync", True)]


def test_a_child_is_no_file_system_until_it_is_finished(tmp_path: Path) -> None:
    below = Below(directory(), build_empty(tmp_path / "image", 64 * MIB).next_block)
    with volume(tmp_path / "image", 64 * MIB) as fd:
        writer = Writer(fd, 64 * MIB, below=below)
        writer.close()

    assert not has_superblock(tmp_path / "image")


def test_a_volume_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 64 * MIB)

    with volume(tmp_path / "image", 64 * MIB) as fd, pytest.raises(VolumeCorrupt, match="not empty"):
        Writer(fd, 64 * MIB)
    assert has_superblock(tmp_path / "image")


def test_a_child_of_nothing_is_refused(tmp_path: Path) -> None:
    with volume(tmp_path / "image", 64 * MIB) as fd, pytest.raises(VolumeCorrupt, match="no file system"):
        Writer(fd, 64 * MIB, below=Below(directory(), 100))


def test_a_child_of_another_size_is_refused(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 64 * MIB)

    with volume(tmp_path / "image", 128 * MIB) as fd, pytest.raises(VolumeCorrupt, match="another size"):
        Writer(fd, 128 * MIB, below=Below(directory(), 100))


def test_an_image_that_is_too_small_says_how_much_it_takes_and_does_not_grow_the_volume(tmp_path: Path) -> None:
    with pytest.raises(ImageTooSmall, match=r"they take (4[0-9]|50) MiB"), building(tmp_path / "image", 24 * MIB) as image:
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

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(NoSpace, match="No space left on device"), building(tmp_path / "image", 64 * MIB) as image:
        fill(image)


def test_a_broken_device_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwritev", broken)
    with pytest.raises(DeviceFailed, match="Input/output error"), building(tmp_path / "image", 64 * MIB) as image:
        for number in range(40):
            image.file(f"{number}", bytes(MIB))


@pytest.fixture(params=["refuses the flag", "refuses the write", "wants aligned memory", "writes a part"])
def odd_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that takes no direct I/O, found out when the flag is set, or only by the first write; other ones that are picky."""
    pwritev = os.pwritev
    if request.param == "refuses the flag":
        monkeypatch.setattr(output, "O_DIRECT", 0)
    else:

        def write(fd: int, pieces: list[memoryview], offset: int) -> int:
            direct = os.O_DIRECT & output.fcntl.fcntl(fd, output.fcntl.F_GETFL)
            aligned = all(isinstance(piece.obj, mmap.mmap) for piece in pieces)
            if direct and (request.param == "refuses the write" or (request.param == "wants aligned memory" and not aligned)):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            whole = b"".join(pieces)
            part = max(BLOCK, len(whole) // 3 & -BLOCK) if request.param == "writes a part" else len(whole)
            return pwritev(fd, pieces if part == len(whole) else [memoryview(whole)[:part]], offset)

        monkeypatch.setattr(os, "pwritev", write)
    yield


def fill_with_large_ones(image: Image) -> None:
    """Files around the sizes from which on they are written from where they lie, in pieces that end anywhere; a sparse one."""
    fill(image)
    content = bytes(range(251)) * 20_000
    for size in (output.LARGE - 1, output.LARGE, output.LARGE + 1, 5 * output.LARGE + 4095, output.BUFFER + BLOCK):
        cuts = [0, *sorted({size % 1000, output.LARGE + 7, 4 * output.LARGE + 7} & set(range(size))), size]
        made = image.put(f"large/{size}", inode(stat.S_IFREG))
        image.writer.append(made, size, None, [memoryview(content)[one:two] for one, two in itertools.pairwise(cuts)])
    made, segments = image.put("sparse", inode(stat.S_IFREG)), [(0, output.LARGE), (3 * BLOCK + output.LARGE, 2 * output.LARGE)]
    image.writer.append(made, sum(segments[-1]), segments, [content[: 3 * output.LARGE]])


def test_every_file_system_gets_the_same_bytes(tmp_path: Path, odd_file_system: None, request: pytest.FixtureRequest) -> None:
    with building(tmp_path / "odd", 64 * MIB) as image:
        fill_with_large_ones(image)
    request.getfixturevalue("monkeypatch").undo()
    with building(tmp_path / "plain", 64 * MIB) as image:
        fill_with_large_ones(image)

    same_bytes(tmp_path / "odd", tmp_path / "plain")


def test_what_is_written_from_where_it_lies_is_what_would_have_been_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with building(tmp_path / "views", 64 * MIB) as image:
        fill_with_large_ones(image)
    monkeypatch.setattr(output._Target, "takes_views", property(lambda _: False, lambda _, __: None), raising=False)
    with building(tmp_path / "copies", 64 * MIB) as image:
        fill_with_large_ones(image)

    check(tmp_path / "views")
    same_bytes(tmp_path / "views", tmp_path / "copies")


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
    assert said.count("Inode: 12 ") == 2
    assert said.count("Links: 3 ") == 2


def test_a_writer_that_lets_go_has_copied_what_it_was_given(tmp_path: Path) -> None:
    """In the middle of a block, between data that it has copied already and data to come."""
    source, path = bytearray(random.Random(1).randbytes(BLOCK + 200 * 1024 + 512)), tmp_path / "volume"
    expected = bytes(source)
    with path.open("w+b") as file:
        file.truncate(MIB)
        written = output.VolumeOutput(file.fileno(), MIB, blank=True)
        written.write(0, memoryview(source)[:100])
        written.write(100, memoryview(source)[100:BLOCK])
        written.write(BLOCK, memoryview(source)[BLOCK:])
        written.let_go()
        source[:] = bytes(len(source))
        written.write(len(source), b"more")
        written.sync()
        written.close()

    assert path.read_bytes().rstrip(b"\0") == expected + b"more"
