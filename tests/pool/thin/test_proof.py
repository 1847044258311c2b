"""The data of a thin pool is proved from its devices alone: metadata made by thin_restore, and a data file beside it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import HostCannot
from reconciler.image.spec import filesystem_uuid
from reconciler.pool.file import identity
from reconciler.pool.thin import metadata
from reconciler.pool.thin.backing import Found
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State
from reconciler.pool.thin.label import Label
from reconciler.pool.thin.metadata import BLOCK, crc32c
from reconciler.pool.thin.proof import Proof, found_label

from .test_metadata import mapped_singly, restore, xml

pytestmark = pytest.mark.skipif(shutil.which("thin_restore") is None, reason="needs thin_restore (thin-provisioning-tools)")

STAMP, ID, UNIT, MIB = 0x1234, "ab" * 16, 64 << 10, 1 << 20
A, B = "a" * 64, "b" * 64
LABEL = Label(STAMP, ID, "thin")
ROW = DeviceRow(1, Role.LABEL, ID, "", UNIT, 7, State.HELD, mapped=1)
VOLUME = DeviceRow(2, Role.VOLUME, A, A, 16 * MIB, 7, State.HELD, mapped=1)
OTHER = DeviceRow(3, Role.VOLUME, B, B, 16 * MIB, 7, State.HELD, mapped=1)
PLACES = {1: 5, 2: 9, 3: 0}
"""The data block of each device's first block."""


def superblock(chain: str, size: int = 16 * MIB, *, checksum: bool = True) -> bytes:
    """An ext4 superblock where it belongs, in the first block of a volume."""
    block = bytearray(1024)
    struct.pack_into("<I", block, 4, size // BLOCK)
    struct.pack_into("<I", block, 24, 2)
    struct.pack_into("<H", block, 0x38, 0xEF53)
    struct.pack_into("<I", block, 0x64, 0x400)
    block[0x68:0x78] = filesystem_uuid(chain).bytes
    struct.pack_into("<I", block, 0x3FC, crc32c(bytes(block[:0x3FC])) ^ (not checksum))
    return bytes(1024) + bytes(block)


def proof(tmp_path: Path, rows: Sequence[DeviceRow], content: dict[int, bytes], held: Sequence[int] = (1, 2, 3)) -> Proof:
    """The pool holds these devices; ``content`` is what is in the first blocks of devices."""
    head, _, tail = xml([], transaction=STAMP << 32 | 9, data_blocks=16).partition("\n")
    devices = [mapped_singly(thin_id, [(0, PLACES[thin_id])]) for thin_id in held]
    meta = restore(tmp_path / "meta", "\n".join([head, *devices, tail]))
    data = tmp_path / "data"
    with data.open("wb") as file:
        file.truncate(16 * UNIT)
        for thin_id, block in content.items():
            file.seek(PLACES[thin_id] * UNIT)
            file.write(block)
    found = metadata.read(meta)
    assert found is not None
    size = data.stat().st_size
    by_id = {row.id: row for row in rows}
    return Proof("thin", Found(data, True, size), Found(meta, True, size), found, PoolRow(STAMP, 9), by_id, filesystem_uuid)


def reason(one: Proof) -> str:
    trouble = one.trouble()
    if trouble is None:
        return ""
    assert str(one.data.path) in trouble.message
    assert str(one.metadata.path) in trouble.message
    assert trouble.halts
    return trouble.reason


SOUND = {1: LABEL.encoded(), 2: superblock(A), 3: superblock(B)}


def test_a_pool_with_its_label_is_proved_whatever_its_volumes_hold(tmp_path: Path) -> None:
    assert reason(proof(tmp_path, [ROW, VOLUME], {1: LABEL.encoded()})) == ""


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"", "there is no label of this pool on it"),
        (superblock(A), "there is no label of this pool on it"),
        (Label(STAMP + 1, ID, "other").encoded(), "it has the label of pool other"),
        (Label(STAMP, "cd" * 16, "thin").encoded(), "it has the label of pool thin"),
        (Label(STAMP, ID, "thin", version=2).encoded(), "it has the label of pool thin"),
        (LABEL.encoded()[:30] + b"x" + LABEL.encoded()[31:], "there is no label of this pool on it"),
    ],
)
def test_another_label_is_wrong_data_though_the_volumes_are_right(block: bytes, words: str, tmp_path: Path) -> None:
    one = proof(tmp_path, [ROW, VOLUME, OTHER], SOUND | {1: block})

    assert reason(one) == "PoolDataWrong"
    assert words in str(one.trouble())


def test_an_active_pool_with_a_label_is_not_proved_again(tmp_path: Path) -> None:
    assert reason(replace(proof(tmp_path, [ROW], {}), live=True)) == ""


def test_a_short_device_is_wrong_even_if_the_pool_is_active(tmp_path: Path) -> None:
    one = proof(tmp_path, [ROW], SOUND)
    short = replace(one, data=replace(one.data, size=16 * UNIT - 1))

    assert reason(short) == reason(replace(short, live=True)) == "PoolDataWrong"
    assert f"it has {16 * UNIT - 1} bytes, and the metadata describes {16 * UNIT}" in str(short.trouble())
    assert reason(replace(one, data=replace(one.data, size=17 * UNIT))) == "", "a larger one grows the pool"


def test_without_a_label_all_sealed_volumes_prove_the_data(tmp_path: Path) -> None:
    assert reason(proof(tmp_path, [VOLUME, OTHER], SOUND)) == ""


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"", "no ext4 superblock"),
        (superblock(B), "instead of"),
        (superblock(A, size=8 * MIB), f"a file system of {8 * MIB} bytes instead of {16 * MIB}"),
        (superblock(A, checksum=False), "a superblock with a wrong checksum"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_one_volume_that_is_another_makes_the_data_wrong(block: bytes, words: str, live: bool, tmp_path: Path) -> None:
    one = replace(proof(tmp_path, [VOLUME, OTHER], SOUND | {2: block}), live=live)

    assert reason(one) == "PoolDataWrong"
    assert words in str(one.trouble())
    assert f"volume {A[:12]}" in str(one.trouble())
    assert "1 of 2 volumes" in str(one.trouble())


def test_a_volume_that_the_pool_does_not_hold_any_more_proves_nothing(tmp_path: Path) -> None:
    gone = replace(VOLUME, transaction=8)

    assert reason(proof(tmp_path, [gone], SOUND)) == "PoolDataUnproved"
    assert reason(proof(tmp_path, [VOLUME], SOUND, held=[3])) == "PoolDataUnproved"


@pytest.mark.parametrize("live", [False, True])
def test_a_pool_without_label_and_sealed_volumes_is_unproved(live: bool, tmp_path: Path) -> None:
    snapshot = DeviceRow(2, Role.SNAPSHOT, "web", A, 16 * MIB, 7, State.HELD)

    assert reason(replace(proof(tmp_path, [snapshot], SOUND), live=live)) == "PoolDataUnproved"
    assert reason(replace(proof(tmp_path, [replace(VOLUME, mapped=0)], SOUND), live=live)) == "PoolDataUnproved"


def test_a_pool_that_maps_nothing_needs_data_without_a_signature(tmp_path: Path) -> None:
    one = proof(tmp_path, [], {}, held=[])
    assert reason(one) == ""

    one.data.path.write_bytes(superblock(A).ljust(16 * UNIT, b"\0"))
    blkid_sees_it = reason(one)

    assert blkid_sees_it == "PoolDataUnproved"


def test_a_label_that_was_begun_is_no_obstacle(tmp_path: Path) -> None:
    """The power was cut before its row was completed: its block is written, or empty."""
    begun = replace(ROW, mapped=0)

    assert reason(proof(tmp_path, [begun], {1: LABEL.encoded()}, held=[1])) == ""
    assert reason(proof(tmp_path, [begun], {}, held=[1])) == ""
    assert reason(proof(tmp_path, [begun, VOLUME], SOUND | {1: b""})) == ""
    assert reason(proof(tmp_path, [begun, VOLUME], {1: b"x"})) == "PoolDataWrong"


def test_a_registry_that_has_lost_the_label_finds_it(tmp_path: Path) -> None:
    assert found_label(proof(tmp_path, [], SOUND)) == ROW
    assert found_label(proof(tmp_path, [], {2: superblock(A)})) is None


def test_data_that_can_not_be_read_is_reported_with_pool_and_device(tmp_path: Path) -> None:
    one = proof(tmp_path, [ROW], SOUND)
    one.data.path.unlink()
    one.data.path.mkdir()

    with pytest.raises(
        HostCannot, match=f"pool thin: its data device {one.data.path} can't be read at byte {5 * UNIT}: Is a dir"
    ):
        one.trouble()


@pytest.mark.parametrize("log", [0, 2, 6, 0xFFFFFFFF])
def test_a_superblock_with_an_impossible_size_has_none(log: int) -> None:
    """Guests write superblocks; the registry has 63 bits for a size."""
    block = bytearray(superblock(A))
    struct.pack_into("<I", block, 1024 + 4, 0xFFFFFFFF)
    struct.pack_into("<I", block, 1024 + 24, log)
    block[1024 + 0x60] |= 0x80
    struct.pack_into("<I", block, 1024 + 0x150, 0xFFFFFFFF)

    assert identity.filesystem_of(bytes(block[1024:2048])) == (None, str(filesystem_uuid(A)))
