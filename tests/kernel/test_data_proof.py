"""A pool's data is proved to be its own before anything is activated or written: wrong, cut or foreign data is never touched."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import PoolUnusable, ReconcilerError
from reconciler.image.spec import filesystem_uuid
from reconciler.pool.driver import PoolState
from reconciler.pool.thin import backing
from reconciler.pool.thin.journal import Role
from reconciler.pool.thin.label import TAIL, head_blocks
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.proof import found_label
from tests.support.sparse import copied

from .rig import BLOCK, LABEL, MIB, A, B, Rig, read, rig, volume, write
from .test_killed import each_share, moments, next_run


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


def ext4(root: Path, chain: str, size: int = 16 * MIB) -> bytes:
    """The beginning of the file system that a chain has, up to its superblock."""
    image = root / f"{chain[:4]}.ext4"
    with image.open("wb") as file:
        file.truncate(size)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed", "-U", str(filesystem_uuid(chain)), image]
    subprocess.run(command, check=True, capture_output=True)
    return image.read_bytes()[: 64 << 10]


def filled(thin: Rig) -> dict[str, str]:
    """A pool with a volume and a snapshot that was written to; then the machine is rebooted."""
    with thin.assembled() as pool:
        known = {A: volume(pool, A, data=ext4(thin.root, A)), "web": pool.create_snapshot("web", A)}
        write(pool.snapshot_path("web"), MIB, b"mine")
    thin.take_down()
    return known


def unlabel(thin: Rig) -> None:
    """Make the pool one of an earlier version, which has no label. It is down."""
    with thin.pool() as pool:
        row = next(row for row in pool.journal.devices().values() if row.role is Role.LABEL)
        tuple(pool.assembly._activate(pool.assembly.inspect(), pool.names))
        pool.remove(row)
    thin.take_down()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def untouched(thin: Rig, *paths: Path) -> Iterator[None]:
    """Nothing is activated, and no byte of the pool's devices changes."""
    files = (thin.data, thin.metadata, *paths)
    before = [digest(path) for path in files]
    yield
    assert [digest(path) for path in files] == before
    assert thin.mappings() == set()


def refused(thin: Rig, known: dict[str, str], reason: str = "PoolDataWrong") -> str:
    """No verb of a driver does anything with the pool; what it reports."""
    with thin.pool() as pool:
        state = observed(pool, known)
        assert state.halted is not None, state
        assert state.halted.reason == reason, state.halted
        assert (state.unready, state.reachable) == ("", False), state
        message = state.halted.message
        for act in (pool.assemble, lambda: pool.create_snapshot("more", A), lambda: pool.create_volume(B, MIB, None)):
            with pytest.raises(PoolUnusable):
                act()
        assert pool.discard_leftovers({}, {}) == ()
        with pytest.raises(ReconcilerError):
            pool.activate_snapshot("web", known.get("web", ""))
    assert str(thin.data) in message
    assert str(thin.metadata) in message
    assert f"reconcile adopt {thin.name}" in message
    return message


def observed(pool: ThinPool, known: dict[str, str]) -> PoolState:
    return pool.observe({k: v for k, v in known.items() if len(k) == 64}, {k: v for k, v in known.items() if len(k) != 64})


def usable(thin: Rig, known: dict[str, str]) -> None:
    """The pool comes up with all that it held."""
    with thin.pool() as pool:
        assert all(one.note for one in observed(pool, known).troubles)
        pool.assemble()
        pool.activate_snapshot("web")
        assert read(pool.snapshot_path("web"), MIB, 4) == b"mine"
        assert observed(pool, known).snapshots["web"].active


# ------------------------------------------------------------------------------------------------------- the label


def signatures(size: int) -> bytes:
    """What blkid recognises, as it would lie in blocks of data: wherever a format's superblock is looked for."""
    found = bytearray(size)
    for at in (1 << power for power in range(14, 27) if 1 << power < size - 4096):
        header = bytearray(512)
        header[:6], header[6:16] = b"SKUL\xba\xbe", struct.pack(">HQ", 2, 4096)
        header[168:204] = b"deadbeef-1111-2222-3333-444455556666"
        header[256:264] = struct.pack(">Q", at)
        found[at : at + 512] = header
    for at in range(0, size, 64 << 10):
        found[at + 0x1000 : at + 0x1048] = b"\xde\xad".ljust(0x40, b"\1") + b"_BHRfS_M"
    found[(64 << 10) : (64 << 10) + 0x48] = bytes(0x40) + b"_BHRfS_M"
    for sector in (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087):
        found[-sector * 512 : -sector * 512 + 24] = b"Promise Technology, Inc."
    return bytes(found)


def recognised(path: Path) -> str:
    return subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("block", [64 << 10, 1 << 20])
def test_no_layer_and_no_guest_can_give_the_data_device_a_signature(tmp_path: Path, block: int) -> None:
    """Every block that can be written has, at its place, what blkid looks for there."""
    with rig(tmp_path, block_size=block) as thin:
        content = signatures(thin.data_bytes)
        whole = tmp_path / "whole"
        whole.write_bytes(content)
        assert backing.blank(whole), "blkid recognises it where every byte of the device can be written"
        with thin.assembled() as pool:
            head = head_blocks(block) * block
            room = pool.observe({}, {}).space.free
            assert room == (thin.data_bytes - TAIL) // block * block - head
            with pool.create_volume(A, room, None) as made:
                for at in range(0, room, MIB):
                    os.pwrite(made.fd, content[head + at : head + min(at + MIB, room)], at)
                made.seal()
            assert pool.observe({}, {}).space.free == 0
        thin.take_down()

        there = thin.data.read_bytes()
        assert there[BLOCK:head] == bytes(head - BLOCK)
        assert there[-TAIL:] == bytes(TAIL)
        assert content[head : head + MIB] in there
        assert recognised(thin.data) == ""
        assert backing.blank(thin.data) == "the data of a thin pool"


def test_a_data_device_that_grows_keeps_its_end_free(thin: Rig) -> None:
    with thin.assembled() as pool:
        before = pool.observe({}, {}).space.total
    thin.data_bytes += 32 * MIB
    with thin.assembled() as pool:
        state = pool.observe({}, {})
        assert (state.unready, state.space.total) == ("", before + 32 * MIB)


def test_a_pool_of_an_earlier_version_keeps_its_length_and_its_label_of_one_block(
    thin: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("reconciler.pool.thin.label.TAIL", 0)
        earlier.setattr("reconciler.pool.thin.labelling.head_blocks", lambda block: 1)
        known = filled(thin)

    usable(thin, known)

    with thin.pool() as pool:
        state = observed(pool, known)
        assert (state.unready, state.space.total) == ("", thin.data_bytes)
        assert [row.size for row in pool.journal.devices().values() if row.role is Role.LABEL] == [BLOCK]
        assert found_label(pool.assembly.proof(pool.assembly.inspect())) is not None  # type: ignore[arg-type]


def test_a_new_pool_has_its_label_in_data_block_zero(thin: Rig) -> None:
    with thin.assembled() as pool:
        (row,) = pool.journal.devices().values()
        assert (row.id, row.role, row.labels) == (1, Role.LABEL, True)
        volume(pool, A, data=b"v" * BLOCK)
    thin.take_down()

    assert read(thin.data, 0, 13) == b"reconcile poo"[:13]
    assert read(thin.data, BLOCK, 4) == bytes(4)
    assert read(thin.data, LABEL, 4) == b"vvvv"


def test_a_label_is_not_a_leftover_and_is_written_once(thin: Rig) -> None:
    known = filled(thin)
    with thin.assembled() as pool:
        row = next(row for row in pool.journal.devices().values() if row.role is Role.LABEL)
        pool.discard_leftovers({A: known[A]}, {"web": known["web"]})
        volume(pool, B)
        assert [one for one in pool.journal.devices().values() if one.role is Role.LABEL] == [row]
        assert observed(pool, known).leftovers == (f"thin id 4 (volume {B[:12]})",)


# ---------------------------------------------------------------------------------------------------- wrong data


def test_a_foreign_file_system_in_place_of_the_data_is_not_touched(thin: Rig) -> None:
    known = filled(thin)
    os.rename(thin.data, thin.root / "ours")
    with thin.data.open("wb") as file:
        file.truncate(thin.data_bytes)
    subprocess.run(["mke2fs", "-q", "-F", thin.data], check=True)

    with untouched(thin):
        assert "there is no label of this pool on it" in refused(thin, known)
    os.replace(thin.root / "ours", thin.data)
    usable(thin, known)


def test_the_swapped_data_files_of_two_pools_of_one_manifest_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with rig(tmp_path / "one") as one:
        known = filled(one)
        with rig(tmp_path / "two") as two:
            others = filled(two)
            os.rename(one.data, tmp_path / "aside")
            os.rename(two.data, one.data)
            os.rename(tmp_path / "aside", two.data)

            with untouched(one), untouched(two):
                assert "it has the label of pool rig" in refused(one, known)
                refused(two, others)
            os.rename(one.data, tmp_path / "aside")
            os.rename(two.data, one.data)
            os.rename(tmp_path / "aside", two.data)
            usable(one, known)


@pytest.mark.parametrize("size", [64 * MIB, 125 * MIB, 0])
def test_a_data_file_that_was_cut_is_not_extended(size: int, thin: Rig) -> None:
    known = filled(thin)
    copy = thin.root / "copy"
    copied(thin.data, copy)
    os.truncate(thin.data, size)

    with untouched(thin):
        assert f"it has {size} bytes, and the metadata describes {126 * MIB}" in refused(thin, known)
    os.replace(copy, thin.data)
    usable(thin, known)


# ------------------------------------------------------------------------------------------- pools of earlier versions


def test_a_pool_of_an_earlier_version_is_proved_by_its_volumes_and_gets_a_label(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)

    usable(thin, known)

    with thin.pool() as pool:
        assert [row.labels for row in pool.journal.devices().values() if row.role is Role.LABEL] == [True]
    thin.take_down()
    write(thin.data, LABEL + 1024, bytes(1024))  # the superblock of its volume: the label proves it now
    usable(thin, known)


def test_an_active_pool_of_an_earlier_version_gets_a_label_with_its_next_change(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)
    with thin.pool() as pool:
        tuple(pool.assembly._activate(pool.assembly.inspect(), pool.names))
        assert observed(pool, known).unready == "", "no change for the label alone"
        pool.create_snapshot("more", A)
        roles = {row.id: row.role for row in pool.journal.devices().values()}
        assert [roles[thin_id] for thin_id in sorted(roles)][-2:] == [Role.LABEL, Role.SNAPSHOT], "the label comes first"


def test_the_swapped_data_of_pools_of_an_earlier_version_is_refused(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)
    os.rename(thin.data, thin.root / "ours")
    with thin.data.open("wb") as file:
        file.truncate(thin.data_bytes)
    other = ext4(thin.root, B)
    write(thin.data, LABEL, other)

    with untouched(thin):
        assert f"volume {A[:12]} has the file system {filesystem_uuid(B)}" in refused(thin, known)
    write(thin.data, LABEL, bytes(len(other)))
    with untouched(thin):
        assert "no ext4 superblock" in refused(thin, known)


def test_a_damaged_superblock_of_a_volume_proves_nothing(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)
    write(thin.data, LABEL + 1024 + 0x200, b"x")

    with untouched(thin):
        assert "wrong checksum" in refused(thin, known)


def test_a_pool_without_label_and_volumes_is_not_used_until_it_is_accepted(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)
    with thin.assembled() as pool:
        pool.remove(next(row for row in pool.journal.devices().values() if row.role is Role.LABEL))
        pool.remove_volume(A)
    thin.take_down()
    del known[A]

    with untouched(thin):
        assert "nothing proves" in refused(thin, known, "PoolDataUnproved")


@pytest.mark.parametrize("signature", [False, True])
def test_a_pool_that_maps_nothing_is_used_unless_its_data_holds_something(signature: bool, thin: Rig) -> None:
    with thin.assembled():
        pass
    thin.take_down()
    unlabel(thin)
    if signature:
        subprocess.run(["mke2fs", "-q", "-F", thin.data], check=True)
        with untouched(thin):
            refused(thin, {}, "PoolDataUnproved")
    else:
        with thin.pool() as pool:
            assert "label written" in pool.assemble()


# ------------------------------------------------------------------------------------------- interrupted at each step


def rebooted(tmp_path: Path, first: int, prepare: Callable[[Rig], None]) -> Iterator[Rig]:
    for one, _ in moments(first, tmp_path, prepare, lambda pool: pool.assemble()):
        one.take_down()
        yield one


@each_share
@pytest.mark.timeout(600)
def test_the_power_is_cut_while_a_new_pool_gets_its_label(first: int, tmp_path: Path) -> None:
    for one in rebooted(tmp_path, first, lambda thin: None):
        with next_run(one, {}) as (pool, state):
            assert state.space.total - state.space.free == LABEL
            assert [row.labels for row in pool.journal.devices().values()] == [True]
        one.take_down()
        assert read(one.data, 0, 14) == b"reconcile pool", "data block 0"


@each_share
@pytest.mark.timeout(600)
def test_the_power_is_cut_while_a_pool_of_an_earlier_version_gets_its_label(first: int, tmp_path: Path) -> None:
    known: dict[str, str] = {}

    def prepare(thin: Rig) -> None:
        known.update(filled(thin))
        unlabel(thin)

    for one in rebooted(tmp_path, first, prepare):
        with next_run(one, known) as (pool, _):
            assert [row.labels for row in pool.journal.devices().values() if row.role is Role.LABEL] == [True]
            pool.activate_snapshot("web")
            assert read(pool.snapshot_path("web"), MIB, 4) == b"mine"
