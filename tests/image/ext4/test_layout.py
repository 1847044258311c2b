"""The arithmetic of a file system: what lies where, which blocks come next, what size would do."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import ImageTooSmall, Terminal
from reconciler.image.ext4 import journal, structs, superblock
from reconciler.image.ext4.allocator import Allocator, BlockBitmap, free_bits, inode_bitmap, mark
from reconciler.image.ext4.groups import of_empty
from reconciler.image.ext4.layout import ALIGNMENT, BLOCK, BLOCKS_PER_GROUP, Geometry
from reconciler.image.ext4.writer import Writer
from reconciler.image.spec import base_id, default_bytes_per_inode
from tests.support.ext4_images import FS_UUID, GIB, MIB, directory, dumpe2fs, inode

REG = 0o100000
TIB = 1 << 40


def mke2fs(size: int, *options: str, path: Path) -> str:
    """What mke2fs reports that it would make."""
    with path.open("wb") as file:
        file.truncate(size)
    command = ["mke2fs", "-n", "-F", "-t", "ext4", "-b", "4096", "-O", "^orphan_file", *options, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


SIZES = [
    8 * MIB,
    64 * MIB,
    128 * MIB,
    256 * MIB + 700,
    511 * MIB,
    512 * MIB,
    8 * GIB - 12345,
    100 * GIB,
    4 * TIB - GIB,
    4 * TIB,
    15 * TIB,
]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_inodes_and_backups_are_those_of_mke2fs(tmp_path: Path, size: int) -> None:
    geometry = Geometry.of_bytes(size)

    said = mke2fs(size, path=tmp_path / "image")

    assert f"with {geometry.blocks} 4k blocks and {geometry.inodes} inodes" in said
    backups = re.findall(r"\d+", said.partition("stored on blocks:")[2])
    assert [int(block) for block in backups] == [group * BLOCKS_PER_GROUP for group in geometry.backups]


@pytest.mark.parametrize("ratio", [4096, 8192, 65536])
def test_chosen_bytes_per_inode_give_the_inodes_of_mke2fs(tmp_path: Path, ratio: int) -> None:
    geometry = Geometry.of_bytes(3 * GIB, ratio)

    assert f"and {geometry.inodes} inodes" in mke2fs(3 * GIB, "-i", str(ratio), path=tmp_path / "image")


@pytest.mark.parametrize("size", [8 * MIB, 200 * MIB, GIB, 3 * GIB, 9 * GIB])
def test_journal_and_room_for_growth_are_those_of_mke2fs(tmp_path: Path, size: int) -> None:
    geometry = Geometry.of_bytes(size)
    with (tmp_path / "image").open("wb") as file:
        file.truncate(size)
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^orphan_file", tmp_path / "image"],
        check=True,
        capture_output=True,
    )

    said = dumpe2fs(tmp_path / "image")
    assert int(said["Total journal blocks"]) == geometry.journal_blocks
    assert int(said.get("Reserved GDT blocks", 0)) == geometry.reserved_blocks
    assert int(said["Overhead clusters"]) == superblock.overhead(geometry, journal.place(geometry))


@pytest.mark.parametrize("size", [16 * MIB, 512 * MIB, 5 * TIB, 20 * TIB])
def test_declared_bytes_per_inode_make_another_chain_only_where_they_are_not_the_defaults(size: int) -> None:
    default = default_bytes_per_inode(size)
    ids = {ratio: base_id(size, bytes_per_inode=ratio) for ratio in (0, 4096, 16384, 32768, 65536)}

    assert ids[0] == ids[default] == base_id(size)
    assert len(set(ids.values())) == 4


def test_backups_in_groups_that_the_field_has_no_number_for_have_the_highest_one() -> None:
    geometry = Geometry.of_bytes(10 * TIB)
    empty = of_empty(geometry, journal.place(geometry))

    blocks = {group: superblock.backup(empty, bytes(256), group) for group in (59049, 78125)}

    assert geometry.backups[-1] == 78125
    assert {group: structs.superblock_number(block, "s_block_group_nr") for group, block in blocks.items()} == {
        59049: 59049,
        78125: 65535,
    }


def test_above_16_tib_there_is_no_resize_inode() -> None:
    assert Geometry.of_bytes(16 * TIB - BLOCK).resizable
    assert not Geometry.of_bytes(16 * TIB).resizable
    assert Geometry.of_bytes(16 * TIB).reserved_blocks == 0


def test_more_than_64_tib_are_refused_by_name() -> None:
    assert Geometry.of_bytes(64 * TIB).groups == 524_288
    with pytest.raises(Terminal, match="64 TiB or less"):
        Geometry.of_bytes(64 * TIB + BLOCK)


@settings(deadline=None, max_examples=60)
@given(st.integers(2048, 3_000_000), st.sampled_from([4, 8, 16, 32, 64]))
def test_no_two_fixed_places_overlap(blocks: int, ratio: int) -> None:
    geometry = Geometry.of_blocks(blocks, ratio * 1024)
    placed = journal.place(geometry)
    runs = [geometry.base(group) for group in (0, *geometry.backups)]
    runs += [geometry.lost_and_found, range(geometry.resize_block, geometry.resize_block + 1)]
    runs += [range(geometry.root_block, geometry.root_block + 1), *placed.runs]
    runs += [range(block, block + 1) for block in placed.tree]
    for flex in geometry.flex_groups:
        for at, table in enumerate(flex.tables):
            bitmaps = flex.block_bitmap(at), flex.inode_bitmap(at)
            runs += [*(range(one, one + 1) for one in bitmaps), range(table, table + geometry.table_blocks)]

    ordered = sorted((run for run in runs if run), key=lambda run: run.start)
    assert all(one.stop <= other.start for one, other in pairwise(ordered))
    if placed.end <= geometry.blocks:
        assert ordered[-1].stop <= geometry.blocks
    behind = [run for run in ordered if run.start >= placed.end]
    assert all(any(run.start >= place.start and run.stop <= place.stop for place in geometry.skipped) for run in behind)


def test_what_a_small_layer_changes_lies_in_one_piece_of_64_kib() -> None:
    """The root's block, the bitmaps of the first four groups, and the beginning of the inode table."""
    flex = Geometry.of_bytes(8 * GIB).flex_groups[0]
    places = [
        flex.root_block,
        flex.tables[0],
        *(bitmap(at) for at in range(4) for bitmap in (flex.block_bitmap, flex.inode_bitmap)),
    ]

    assert len({place // ALIGNMENT for place in places}) == 1


RANGES = st.lists(
    st.builds(lambda start, length: range(start, start + length), st.integers(0, 300), st.integers(0, 60)), max_size=6
)


@given(st.integers(0, 300), st.lists(st.integers(0, 40), max_size=20))
def test_blocks_are_given_out_once_in_order_and_never_over_a_fixed_place(start: int, requests: list[int]) -> None:
    skipped = (range(50, 53), range(200, 203))
    allocator = Allocator(start, skipped)
    given_out: list[int] = []
    for count in requests:
        runs = allocator.take(count)
        assert sum(map(len, runs)) == count
        given_out.extend(block for run in runs for block in run)
        if not count:
            allocator.align()

    assert given_out == sorted(set(given_out))
    assert not {block for place in skipped for block in place} & set(given_out)


@given(RANGES)
def test_a_bitmap_has_a_bit_for_each_block(runs: list[range]) -> None:
    bits = bytearray(64)
    for run in runs:
        mark(bits, run)

    assert {i for i in range(8 * len(bits)) if bits[i >> 3] >> (i & 7) & 1} == {block for run in runs for block in run}


def test_blocks_behind_the_end_count_as_used() -> None:
    geometry = Geometry.of_blocks(BLOCKS_PER_GROUP + 4000, 16384)
    bitmap = BlockBitmap()
    bitmap.mark(BLOCKS_PER_GROUP + 1000, 5)

    bits = bitmap.of_group(geometry, 1)

    assert bits is not None
    assert free_bits(bits) == 4000 - geometry.base_blocks(1) - 5
    assert bits[125] == 0x1F
    assert bits[500:] == b"\xff" * (BLOCK - 500)


def test_the_kernel_makes_the_bitmap_of_an_empty_group_itself() -> None:
    geometry = Geometry.of_bytes(8 * GIB)
    empty = BlockBitmap()

    assert empty.of_group(geometry, 1) is None
    assert empty.of_group(geometry, geometry.groups - 1) is not None


def test_inodes_that_a_group_does_not_have_count_as_used() -> None:
    bits = inode_bitmap(b"\1" * 11 + b"\0\1" + bytes(100), 4096)

    assert (bits[:3], bits[511:514]) == (b"\xff\x17\0", b"\0\xff\xff")


# ------------------------------------------------------------------------------------------------- what size would do


def rehearse(size: int, files: list[int], ratio: int | None = None) -> None:
    """Allocate files of the given numbers of blocks in a volume of ``size`` bytes, writing nothing."""
    writer, root = Writer(-1, size, ratio=ratio, sink=True), directory()
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


@pytest.mark.slow
def test_more_inodes_than_a_size_has_ask_for_more_groups_or_fewer_bytes_per_inode() -> None:
    files = [0] * 33_000
    with pytest.raises(ImageTooSmall) as caught:
        rehearse(512 * MIB, files)

    assert "has 32768 inodes, and the layers need 33044" in str(caught.value)
    assert "declare bytesPerInode: 8KiB, or declare a size of " in str(caught.value)
    rehearse(needed(512 * MIB, files), files)
    rehearse(512 * MIB, files, ratio=8192)


def test_a_volume_of_nothing_is_too_small() -> None:
    assert needed(0, []) <= 8 * MIB
