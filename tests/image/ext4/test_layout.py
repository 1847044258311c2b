"""The arithmetic of a file system: what lies where, which blocks come next, what size would do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import ImageTooSmall, Terminal
from reconciler.image.ext4 import Writer
from reconciler.image.ext4.allocator import Allocator, BlockBitmap, inode_bitmap, mark, subtract
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, Geometry
from tests.support.ext4_images import FS_UUID, GIB, MIB, directory, inode

REG = 0o100000
TIB = 1 << 40


def test_a_file_system_of_one_group_has_no_backup() -> None:
    geometry = Geometry.of_bytes(64 * MIB)

    assert (geometry.groups, geometry.backups, geometry.first_data) == (1, (), 2)


def test_the_second_and_the_last_group_back_up_the_superblock() -> None:
    geometry = Geometry.of_bytes(8 * GIB)

    assert (geometry.groups, geometry.backups) == (64, (1, 63))
    assert geometry.skipped == (range(32768, 32770), range(63 * 32768, 63 * 32768 + 2))


def test_a_last_group_that_is_too_small_for_a_backup_has_none() -> None:
    assert Geometry.of_blocks(3 * BLOCKS_PER_GROUP + 1).backups == (1,)
    assert Geometry.of_blocks(3 * BLOCKS_PER_GROUP + 2).backups == (1, 3)


@pytest.mark.parametrize(("size", "blocks"), [(64 * MIB, 1024), (1 * GIB, 4096), (8 * GIB, 16384), (1 * TIB, 16384)])
def test_the_journal_takes_a_64th_between_4_and_64_mib(size: int, blocks: int) -> None:
    assert Geometry.of_bytes(size).journal_blocks == blocks


def test_there_is_an_inode_for_16_kib() -> None:
    assert Geometry.of_bytes(8 * GIB).inodes_per_group(11) == 8192


def test_a_tree_of_many_small_files_gets_more_inodes_and_leaves_some_to_the_user() -> None:
    geometry = Geometry.of_bytes(8 * GIB)

    assert geometry.inodes_per_group(500_000) * geometry.groups == pytest.approx(625_000, rel=0.01)


def test_16_tib_and_more_are_refused_by_name() -> None:
    Geometry.of_bytes(16 * TIB - BLOCK)
    with pytest.raises(Terminal, match="below 16 TiB"):
        Geometry.of_bytes(16 * TIB)


RANGES = st.lists(
    st.builds(lambda start, length: range(start, start + length), st.integers(0, 300), st.integers(0, 60)), max_size=6
)


@given(RANGES, RANGES)
def test_subtracting_leaves_the_blocks_that_only_the_first_has(first: list[range], second: list[range]) -> None:
    left = {block for run in subtract(first, second) for block in run}

    assert left == {block for run in first for block in run} - {block for run in second for block in run}


@given(st.integers(0, 300), st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=20))
def test_blocks_are_given_out_once_in_order_and_never_over_a_backup(start: int, requests: list[tuple[bool, int]]) -> None:
    skipped = (range(50, 53), range(200, 203))
    allocator = Allocator(start, skipped)
    given_out: list[int] = []
    for in_one_run, count in requests:
        if in_one_run:
            first = allocator.take_run(count)
            given_out.extend(range(first, first + count))
        else:
            runs = allocator.take(count)
            assert sum(map(len, runs)) == count
            given_out.extend(block for run in runs for block in run)

    assert given_out == sorted(set(given_out))
    assert not {block for place in skipped for block in place} & set(given_out)


@given(RANGES)
def test_a_bitmap_has_a_bit_for_each_block(runs: list[range]) -> None:
    bits = bytearray(64)
    for run in runs:
        mark(bits, run)

    assert {i for i in range(8 * len(bits)) if bits[i >> 3] >> (i & 7) & 1} == {block for run in runs for block in run}


def test_blocks_behind_the_end_count_as_used() -> None:
    geometry = Geometry.of_blocks(BLOCKS_PER_GROUP + 100)
    bitmap = BlockBitmap()
    bitmap.mark(BLOCKS_PER_GROUP + 10, 5)

    bits, free = bitmap.of_group(geometry, 1)

    assert free == 100 - 2 - 5
    assert bits[:2] == b"\x03\x7c"
    assert bits[13:] == b"\xff" * (BLOCK - 13)


def test_inodes_that_a_group_does_not_have_count_as_used() -> None:
    bits = inode_bitmap(11, 4096)

    assert (bits[:3], bits[511:514]) == (b"\xff\x07\0", b"\0\xff\xff")


# ------------------------------------------------------------------------------------------------- what size would do


def rehearse(size: int, files: list[int]) -> None:
    """Allocate files of the given numbers of blocks in a volume of ``size`` bytes, writing nothing."""
    writer, root = Writer(-1, size, sink=True), directory()
    assert root.children is not None
    for number, blocks in enumerate(files):
        below = root.children.setdefault(b"%d" % (number // 1000), directory())
        assert below.children is not None
        below.children[b"%d" % number] = made = inode(REG)
        writer.append(made, blocks * BLOCK, None, ())
    writer.finish(root, FS_UUID)


def needed(size: int, files: list[int]) -> int:
    with pytest.raises(ImageTooSmall) as caught:
        rehearse(size, files)
    match = re.search(r"declare a size of (\d+)MiB", str(caught.value))
    assert match
    return int(match[1]) * MIB


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 90_000), max_size=12), st.integers(0, 300))
def test_the_size_that_the_error_names_does(large: list[int], small: int) -> None:
    files = large + [1] * small

    rehearse(needed(4 * MIB, files), files)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 90_000), max_size=12))
def test_the_size_that_the_error_names_is_not_much_more_than_it_takes(files: list[int]) -> None:
    enough = needed(4 * MIB, files)

    with pytest.raises(ImageTooSmall):
        rehearse(enough - enough // 16 - 8 * MIB, files)


def test_more_inodes_than_ext4_has_in_a_size_ask_for_more_groups() -> None:
    assert needed(128 * MIB, [0] * 33_000) > 128 * MIB


def test_a_volume_of_nothing_is_too_small() -> None:
    assert needed(0, []) <= 8 * MIB
