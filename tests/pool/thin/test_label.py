"""The label of a thin pool: read as it was written, refused when damaged, and nothing that blkid reports."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.pool.thin import backing
from reconciler.pool.thin.label import HEAD, TAIL, VERSION, Label, data_blocks, head_blocks, new_id
from reconciler.pool.thin.metadata import BLOCK

LABEL = Label(0x12345678, "00112233445566778899aabbccddeeff", "thin")


@pytest.mark.parametrize("pool", ["thin", "p", "n" * 63, "n" * 64])
def test_a_label_is_read_as_it_was_written(pool: str) -> None:
    label = Label(1, new_id(), pool)

    assert len(label.encoded()) == BLOCK
    assert Label.parse(label.encoded()) == label


def test_its_bytes_are_those_of_the_format() -> None:
    """Pools in use have them: they don't change within a format version."""
    begin = b"reconcile pool\0\0" + bytes.fromhex("01000000 78563412 00112233445566778899aabbccddeeff") + b"thin"

    assert LABEL.encoded()[:104] == begin.ljust(104, b"\0")
    assert LABEL.encoded()[108:] == bytes(BLOCK - 108)


@pytest.mark.parametrize("at", [0, 15, 16, 20, 24, 39, 40, 103, 104, 107])
def test_a_flipped_bit_makes_it_no_label(at: int) -> None:
    block = bytearray(LABEL.encoded())
    block[at] ^= 1

    assert Label.parse(bytes(block)) is None


@pytest.mark.parametrize("block", [b"", bytes(BLOCK), b"x" * BLOCK, LABEL.encoded()[:100]])
def test_anything_else_is_no_label(block: bytes) -> None:
    assert Label.parse(block) is None


def test_two_pools_never_have_the_same_id() -> None:
    assert len({new_id() for _ in range(100)}) == 100


def test_a_label_proves_its_own_pool_only() -> None:
    assert LABEL.proves(Label(LABEL.stamp, LABEL.id, "renamed"))
    assert not LABEL.proves(Label(LABEL.stamp, new_id(), LABEL.pool))
    assert not LABEL.proves(Label(LABEL.stamp + 1, LABEL.id, LABEL.pool))
    assert not LABEL.proves(Label(LABEL.stamp, LABEL.id, LABEL.pool, VERSION + 1))


@pytest.mark.skipif(shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin") is None, reason="needs blkid (util-linux)")
def test_blkid_reports_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(LABEL.encoded() + bytes((16 << 20) - BLOCK))

    assert backing.blank(path) == "the data of a thin pool"
    done = subprocess.run(["/usr/sbin/blkid", "-p", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("block", [64 << 10, 192 << 10, 1 << 20, 4 << 20, 1 << 30])
def test_a_new_pool_leaves_both_ends_of_its_data_device_free(block: int) -> None:
    size = 5 << 30

    assert head_blocks(block) * block >= HEAD > (head_blocks(block) - 1) * block
    assert size - data_blocks(size, block) * block >= TAIL


def test_a_pool_is_never_shorter_than_its_metadata_has_recorded() -> None:
    assert data_blocks(1 << 30, 64 << 10, recorded=16384) == 16384
    assert data_blocks(2 << 30, 64 << 10, recorded=16384) == 32768 - 32
    assert data_blocks(0, 64 << 10) == 0
