"""The places of a pool's backing: what the registry has recorded needs no permission, and what a manifest moves does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import HostCannot, PolicyRefused, PoolUnusable
from reconciler.image.spec import MIB
from reconciler.policy import force
from reconciler.policy.rules import Policy
from reconciler.pool.thin import permission
from reconciler.pool.thin.backing import Backing, make, opened, probe
from reconciler.pool.thin.journal import PoolRow

CREATED = PoolRow(7, (7 << 32) + 1)


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    before = force.current()
    force.use(Policy(limits_pool_files=True, limits_devices=True))
    yield
    force.use(before)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Backing, Backing]:
    for name in ("data", "meta"):
        (tmp_path / name).write_bytes(name.encode())
    return Backing(file=str(tmp_path / "data"), size=4), Backing(file=str(tmp_path / "meta"))


def test_a_recorded_backing_needs_no_permission_where_it_is(files: tuple[Backing, Backing]) -> None:
    permission.require("thin", files, permission.recorded(CREATED, files))


@pytest.mark.parametrize("which", [0, 1], ids=["data", "metadata"])
def test_a_recorded_pool_needs_permission_for_another_file(files: tuple[Backing, Backing], tmp_path: Path, which: int) -> None:
    """A copy has the pool's stamp and transaction."""
    row = permission.recorded(CREATED, files)
    copy = Path(shutil.copy(str(files[which].file), tmp_path / "copy"))
    there = Backing(file=str(copy), size=4)
    moved = (there, files[1]) if which == 0 else (files[0], there)

    with pytest.raises(
        PolicyRefused, match=f"pool thin: {copy} is not listed; the registry has recorded {files[which].file}"
    ) as no:
        permission.require("thin", moved, row)

    assert "reconcile adopt thin --apply" in str(no.value)
    assert "policy.pools.files" in no.value.hint
    assert permission.moved(row, moved) == [(files[which].file, str(copy))]
    permission.require("thin", moved, row, vouched=True)
    force.use(Policy(limits_pool_files=True, pool_files=(str(tmp_path),)))
    permission.require("thin", moved, row)


def test_another_file_of_the_same_name_needs_permission(files: tuple[Backing, Backing], tmp_path: Path) -> None:
    row = permission.recorded(CREATED, files)
    shutil.copy(tmp_path / "meta", tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "meta")

    with pytest.raises(PolicyRefused, match=str(tmp_path / "meta")):
        permission.require("thin", files, row)


def test_a_link_that_leads_elsewhere_by_now_needs_permission(files: tuple[Backing, Backing], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "data")
    linked = (Backing(file=str(link), size=4), files[1])
    row = permission.recorded(CREATED, linked)
    permission.require("thin", files, row)
    shutil.copy(tmp_path / "data", tmp_path / "copy")
    link.unlink()
    link.symlink_to(tmp_path / "copy")

    with pytest.raises(PolicyRefused, match=str(tmp_path / "copy")):
        permission.require("thin", linked, row)


def test_a_missing_file_needs_no_permission_where_it_was(files: tuple[Backing, Backing], tmp_path: Path) -> None:
    """That the pool is lost is reported then."""
    row = permission.recorded(CREATED, files)
    (tmp_path / "meta").unlink()

    permission.require("thin", files, row)


def test_what_an_earlier_version_made_needs_no_permission(files: tuple[Backing, Backing]) -> None:
    permission.require("thin", files, CREATED)
    with pytest.raises(PolicyRefused):
        permission.require("thin", files, PoolRow(7, 0))


def test_a_device_is_known_by_its_name_in_dev_and_by_what_another_name_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "disk"
    link.symlink_to("/dev/null")
    null = Backing(device="/dev/null")

    assert permission.place_of(Backing(device="/dev/disk/by-id/../by-id/nvme-A")) == "/dev/disk/by-id/nvme-A"
    assert permission.place_of(Backing(device=str(link))) == "/dev/null"
    assert permission.is_at(Backing(device=str(link)), permission.place_of(null))
    link.unlink()
    link.symlink_to("/dev/zero")
    assert not permission.is_at(Backing(device=str(link)), permission.place_of(null))
    assert not permission.is_at(null, permission.place_of(Backing(file=str(tmp_path), size=4)))
    assert os.path.realpath("/dev/null") == "/dev/null"


def test_a_file_that_is_gone_is_not_opened_as_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.touch()
    one = Backing(file=str(path), size=MIB)
    found = probe(one)
    path.unlink()

    with pytest.raises(HostCannot, match="No such file"), opened(one, found):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_path_that_leads_elsewhere_once_it_was_inspected_is_not_opened(tmp_path: Path) -> None:
    link, one = tmp_path / "link", Backing(file=str(tmp_path / "link"), size=MIB)
    for name in ("ours", "other"):
        (tmp_path / name).write_bytes(name.encode())
    link.symlink_to(tmp_path / "ours")
    found = probe(one)
    with opened(one, found) as fd:
        assert os.read(fd, 10) == b"ours"
    link.unlink()
    link.symlink_to(tmp_path / "other")

    with pytest.raises(PoolUnusable, match=f"{link} has been replaced"), opened(one, found):
        pass


@pytest.mark.parametrize("exists", [False, True])
def test_a_file_is_permitted_as_the_kernel_names_it_before_it_is_created_or_extended(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "permitted").symlink_to(tmp_path / "secret")
    if exists:
        (tmp_path / "secret/data").write_bytes(b"x")

    def permit(path: str) -> None:
        assert path == str(tmp_path / "secret/data")
        raise PolicyRefused(path)

    with pytest.raises(PolicyRefused):
        make(Backing(file=str(tmp_path / "permitted/data"), size=MIB), permit)

    assert [path.stat().st_size for path in (tmp_path / "secret").iterdir()] == ([1] if exists else [])
