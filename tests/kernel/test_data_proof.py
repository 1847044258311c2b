"""A pool's data is proved to be its own before anything is activated or written: wrong, cut or foreign data is never touched."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import PoolUnusable, ReconcilerError
from reconciler.image.spec import filesystem_uuid
from reconciler.pool.driver import PoolState
from reconciler.pool.thin.journal import Role
from reconciler.pool.thin.pool import ThinPool

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
        assert observed(pool, known).troubles == ()
        pool.assemble()
        pool.activate_snapshot("web")
        assert read(pool.snapshot_path("web"), MIB, 4) == b"mine"
        assert observed(pool, known).snapshots["web"].active


# ------------------------------------------------------------------------------------------------------- the label


def test_a_new_pool_has_its_label_in_data_block_zero(thin: Rig) -> None:
    with thin.assembled() as pool:
        (row,) = pool.journal.devices().values()
        assert (row.id, row.role, row.labels) == (1, Role.LABEL, True)
        volume(pool, A, data=b"v" * BLOCK)
    thin.take_down()

    assert read(thin.data, 0, 13) == b"reconcile poo"[:13]
    assert read(thin.data, BLOCK, 4) == b"vvvv"


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
                assert "it has the label of pool rig, stamp" in refused(one, known)
                refused(two, others)
            os.rename(one.data, tmp_path / "aside")
            os.rename(two.data, one.data)
            os.rename(tmp_path / "aside", two.data)
            usable(one, known)


@pytest.mark.parametrize("size", [64 * MIB, 127 * MIB, 0])
def test_a_data_file_that_was_cut_is_not_extended(size: int, thin: Rig) -> None:
    known = filled(thin)
    copy = thin.root / "copy"
    shutil.copy(thin.data, copy)
    os.truncate(thin.data, size)

    with untouched(thin):
        assert f"it has {size} bytes, and the metadata describes {128 * MIB}" in refused(thin, known)
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
    write(thin.data, BLOCK + 1024, bytes(1024))  # the superblock of its volume: the label proves it now
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
    write(thin.data, BLOCK, other)

    with untouched(thin):
        assert f"volume {A[:12]} has the file system {filesystem_uuid(B)}" in refused(thin, known)
    write(thin.data, BLOCK, bytes(len(other)))
    with untouched(thin):
        assert "no ext4 superblock" in refused(thin, known)


def test_a_damaged_superblock_of_a_volume_proves_nothing(thin: Rig) -> None:
    known = filled(thin)
    unlabel(thin)
    write(thin.data, BLOCK + 1024 + 0x200, b"x")

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
