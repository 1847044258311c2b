"""``spec.access`` of a file pool: owner, group and mode of its snapshots."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.errors import PoolUnusable
from reconciler.host.state_directory import make_state
from reconciler.pool.driver import Condition
from reconciler.pool.file.pool import FilePool
from reconciler.pool.spec import AccessSpec
from tests.support.intents import KeptIntents

A, B = "a" * 64, "b" * 64
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def pool_at(root: Path, access: AccessSpec | None) -> FilePool:
    return FilePool("default", root, 0, KeptIntents(), access)


def build(pool: FilePool, chain: str) -> None:
    with pool.create_volume(chain, 1 << 20, None) as volume:
        os.pwrite(volume.fd, chain[:1].encode(), 0)
        volume.seal()


def access_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@root_only
@pytest.mark.parametrize("mask", [0, 0o077])
def test_created_and_replaced_snapshots_have_it_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    pool = pool_at(tmp_path / "pool", AccessSpec(str(NOBODY), "12", 0o640))
    before = os.umask(mask)
    try:
        build(pool, A)
        build(pool, B)
        old = pool.create_snapshot("web", A)
        assert access_of(pool.snapshot_path("web")) == (NOBODY, 12, 0o640)
        pool.replace_snapshot("web", B, old)
    finally:
        os.umask(before)
    assert access_of(pool.snapshot_path("web")) == (NOBODY, 12, 0o640)
    modes = [stat.S_IMODE((pool.root / name).stat().st_mode) for name in ("", "snapshots", "volumes")]
    assert modes == [0o711, 0o711, 0o700]


@root_only
def test_existing_snapshots_get_it_by_an_activation(tmp_path: Path) -> None:
    """An operator's own owner and mode stay where nothing is declared."""
    bare = pool_at(tmp_path / "pool", None)
    build(bare, A)
    identity = bare.create_snapshot("web", A)
    bare.snapshot_path("web").chmod(0o664)
    assert bare.observe({}, {"web": identity}).snapshots["web"].active

    pool = pool_at(tmp_path / "pool", AccessSpec(group=str(NOBODY), mode=0o660))
    state = pool.observe({}, {"web": identity}).snapshots["web"]
    assert (state.condition, state.active) == (Condition.INTACT, False)
    assert state.detail == f"group 0 instead of {NOBODY}; mode 0664 instead of 0660"
    pool.activate_snapshot("web", identity)

    assert pool.observe({}, {"web": identity}).snapshots["web"].active
    assert access_of(pool.snapshot_path("web")) == (0, NOBODY, 0o660)


def test_a_user_that_the_host_does_not_have_costs_this_pool_only(tmp_path: Path) -> None:
    for spec, noun in ((AccessSpec(owner="no-such-user"), "user"), (AccessSpec(group="no-such-group"), "group")):
        pool = pool_at(tmp_path / "pool", spec)
        with pytest.raises(PoolUnusable, match=f"this host has no {noun} 'no-such-{noun}'"):
            build(pool, A)
            pool.create_snapshot("web", A)


@root_only
def test_a_microvms_user_opens_its_disk_and_nothing_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the user, in a process of its own: its disk can be written, names can't be listed, all else is closed."""
    state = tmp_path_factory.mktemp("state")
    for directory in (state, *state.parents):
        if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(0o711)
    make_state(state)
    (state / "registry.sqlite3").touch(0o600)
    pool = pool_at(state / "pools/default", AccessSpec(owner=str(NOBODY), mode=0o600))
    build(pool, A)
    pool.create_snapshot("web", A)
    attempts = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.close(os.open({str(pool.snapshot_path("web"))!r}, os.O_RDWR))
for act in (
    lambda: os.listdir({str(state)!r}), lambda: os.listdir({str(pool.root / "snapshots")!r}),
    lambda: os.open({str(state / "registry.sqlite3")!r}, os.O_RDONLY), lambda: os.open({str(pool.volume_path(A))!r}, os.O_RDONLY),
    lambda: os.unlink({str(pool.snapshot_path("web"))!r}), lambda: os.mkdir({str(pool.root / "snapshots/x")!r}),
):
    try:
        act()
    except PermissionError:
        continue
    sys.exit("allowed")
"""
    subprocess.run([sys.executable, "-c", attempts], check=True)
