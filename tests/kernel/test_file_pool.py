"""The file pool on real file systems: mounted read-only, full, or another user's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import NoSpace, PoolUnusable
from reconciler.pool.driver import Condition
from reconciler.pool.file.pool import FilePool
from tests.pool.contract import MIB, SIZE, A, B, build, made, requests
from tests.pool.file.test_contract import FileBench
from tests.support.intents import KeptIntents

EXT4, TMPFS = "ext4", "tmpfs"


@contextmanager
def mounted(kind: str, root: Path, size: int = 64 * MIB) -> Iterator[Path]:
    """A small file system of this kind."""
    top = root / "mnt"
    top.mkdir()
    if kind == TMPFS:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", top], check=True)
    else:
        image = root / "image"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", "-l", top], check=True)


@pytest.fixture(params=[EXT4, TMPFS])
def top(request: pytest.FixtureRequest) -> Iterator[Path]:
    """In a directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="file-pool-") as directory:
        Path(directory).chmod(0o755)
        with mounted(request.param, Path(directory)) as found:
            yield found


def remount(top: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", top], check=True)


def test_a_read_only_mount_is_read_and_reported_and_nothing_is_missing(top: Path) -> None:
    pool = FilePool("default", top / "pool", 0, KeptIntents())
    volumes, snapshots = {A: build(pool, A)}, made(pool, A, "web")
    remount(top, "ro")

    pool = FilePool("default", top / "pool", 0, KeptIntents())
    state = pool.observe(volumes, snapshots)
    assert {one.condition for one in (*state.volumes.values(), *state.snapshots.values())} == {Condition.INTACT}
    assert state.halted is not None
    assert "mounted read-only" in state.halted.message
    assert pool.shares_blocks is False
    with pytest.raises(PoolUnusable):
        pool.create_volume(B, SIZE, None)
    assert {type(one) for one in pool.create_snapshots(requests(A, "one", "two")).values()} == {PoolUnusable}

    remount(top, "rw")
    assert pool.observe(volumes, snapshots).troubles == ()
    made(pool, A, "one", "two")


def test_a_pool_of_another_user_is_read_and_reported(top: Path) -> None:
    top.chmod(0o755)
    bench = FileBench(top / "pool")
    pool = bench.driver()
    volumes, snapshots = {A: build(pool, A)}, made(pool, A, "web")
    for directory in (pool.root, pool.root / "volumes", pool.root / "snapshots"):
        directory.chmod(0o755)
    with bench.without_privileges():
        state = bench.driver().observe(volumes, snapshots)

    assert {one.condition for one in (*state.volumes.values(), *state.snapshots.values())} == {Condition.INTACT}
    assert state.halted is not None
    assert "user 65534 may not write" in state.halted.message


def test_files_that_can_not_be_examined_are_unknown_and_not_missing(top: Path) -> None:
    top.chmod(0o755)
    bench = FileBench(top / "pool")
    pool = bench.driver()
    volumes, snapshots = {A: build(pool, A)}, made(pool, A, "web")
    (pool.root / "snapshots").chmod(0o700)
    with bench.without_privileges():
        state = bench.driver().observe(volumes, snapshots, whole=False)

    found = [state.volumes[A], state.snapshots["web"]]
    assert [one.condition for one in found] == [Condition.UNKNOWN] * 2
    assert all("Permission denied" in one.detail for one in found)
    assert not state.snapshots["web"].active


def test_a_full_file_system_refuses_work_and_removes(top: Path) -> None:
    pool = FilePool("default", top / "pool", 0, KeptIntents())
    volumes, snapshots = {A: build(pool, A, data=os.urandom(4 * MIB))}, made(pool, A, "web")
    fill(top)

    pool = FilePool("default", top / "pool", 0, KeptIntents())
    assert pool.shares_blocks is False
    found = pool.create_snapshots(requests(A, "one", "two"))
    assert {type(one) for one in found.values()} == {NoSpace}
    state = pool.observe(volumes, snapshots)
    assert {one.condition for one in (*state.volumes.values(), *state.snapshots.values())} == {Condition.INTACT}
    assert state.leftovers == ()
    pool.remove_snapshot("web")
    (top / "filler").unlink()
    made(pool, A, "one")


def fill(top: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (top / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_a_volume_that_runs_out_of_space_is_a_failure_of_its_pool(top: Path) -> None:
    pool = FilePool("default", top / "pool", 0, KeptIntents())
    with pool.create_volume(A, SIZE, None) as volume:
        fill(top)
        with pytest.raises(OSError, match="No space left"):
            os.pwrite(volume.fd, os.urandom(4 * MIB), 0)
            os.pwrite(volume.fd, os.urandom(4 * MIB), 4 * MIB)
            os.fsync(volume.fd)

    (top / "filler").unlink()
    assert pool.observe({}, {}).leftovers == ()
    build(pool, A)
