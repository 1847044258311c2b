"""Devices that hold something: refused to new pools as root, unless this host's policy lists them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import PolicyRefused, PoolUnusable
from reconciler.image.spec import MIB
from reconciler.policy import force
from reconciler.policy.rules import Policy
from reconciler.pool.thin import backing, loop
from reconciler.pool.thin.assembly import Assembly, Geometry, Inspection
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.repair import Repair
from reconciler.registry.writer import Registry

from .rig import Journal, Rig

ROOT = Policy(limits_pool_files=True, limits_devices=True)


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Path]]:
    """Two block devices for data and metadata."""
    with ExitStack() as stack:
        found = []
        for name, size in (("data", 128 * MIB), ("meta", 4 * MIB)):
            file = tmp_path / name
            file.touch()
            with file.open("r+b") as opened:
                opened.truncate(size)
            found.append(stack.enter_context(loop.attach(file)))
        yield found


def pool(registry: Registry, rig: Rig, devices: list[Path]) -> ThinPool:
    data, metadata = (Backing(str(one), None, None) for one in devices)
    driver = rig.driver(registry)
    driver.geometry = Geometry(data, metadata, rig.block_size)
    assert isinstance(driver.journal, Journal)
    return driver


def test_a_device_that_holds_a_file_system_is_refused_to_a_new_pool(tmp_path: Path, devices: list[Path]) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-L", "precious", devices[0]], check=True)
    force.use(ROOT)
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        driver = pool(registry, Rig(tmp_path), devices)

        with pytest.raises(PolicyRefused, match=f"{devices[0]} holds an ext4 file system, labelled precious") as refused:
            driver.observe({}, {})
        assert "policy.pools.devices" in refused.value.hint
        with pytest.raises(PolicyRefused):
            driver.assemble()

        force.use(Policy(limits_devices=True, pool_devices=(str(devices[0]), str(devices[1]))))
        driver.observe({}, {})
        with pytest.raises(PoolUnusable, match="it is not overwritten"):
            driver.assemble()


def test_a_device_whose_signature_was_wiped_is_blank(devices: list[Path]) -> None:
    subprocess.run(["mkfs.ext4", "-q", devices[0]], check=True)
    assert backing.blank(devices[0])

    subprocess.run(["wipefs", "--quiet", "--all", devices[0]], check=True)

    assert backing.blank(devices[0]) == ""


def test_a_pool_on_empty_devices_is_permitted_and_stays_so(tmp_path: Path, devices: list[Path]) -> None:
    """Once it is there its devices hold a pool: that of this registry."""
    force.use(ROOT)
    rig = Rig(tmp_path)
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        try:
            pool(registry, rig, devices).assemble()
            assert not pool(registry, rig, devices).observe({}, {}).unready
        finally:
            rig.take_down()

        assert "assembled" in pool(registry, rig, devices).observe({}, {}).unready


def test_the_pool_of_another_registry_is_refused(tmp_path: Path, devices: list[Path]) -> None:
    rig = Rig(tmp_path)
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        try:
            pool(registry, rig, devices).assemble()
        finally:
            rig.take_down()
    force.use(ROOT)

    with Registry.open(tmp_path / "other.sqlite3") as registry, pytest.raises(PolicyRefused, match="data of a thin pool"):
        pool(registry, rig, devices).observe({}, {})


@pytest.mark.parametrize("moved", ["data", "metadata"])
def test_an_inactive_pool_is_not_used_with_another_file_unless_it_is_adopted(tmp_path: Path, moved: str) -> None:
    """A copy: stamp, transaction and label fit. The registry's own files need no permission."""
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    rig = Rig(state)
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        rig.driver(registry).assemble()
        rig.take_down()
        force.use(ROOT)
        assert "assembled" in rig.driver(registry).observe({}, {}).unready
        copy = Path(shutil.copy(getattr(rig, moved), elsewhere / moved))

        def declared() -> ThinPool:
            driver = rig.driver(registry)
            geometry = driver.geometry
            driver.geometry = replace(geometry, **{moved: replace(getattr(geometry, moved), file=str(copy))})
            return driver

        with pytest.raises(PolicyRefused, match=f"{copy} is not listed; the registry has recorded {getattr(rig, moved)}") as no:
            declared().assemble()
        assert "reconcile adopt rig --apply" in str(no.value)
        assert f"{registry.thin_pool('rig').stamp:08x}" not in str(no.value)  # type: ignore[union-attr]
        assert not rig.mappings()

        adopted = declared()
        adopted.vouched = True
        repair = Repair(adopted)
        assert repair.moved() == [(str(getattr(rig, moved)), str(copy))]
        repair.accept_places()
        try:
            assert "assembled" in declared().assemble()
            with pytest.raises(PolicyRefused):
                rig.driver(registry).observe({}, {})
        finally:
            rig.take_down()


@pytest.mark.parametrize("created", [False, True])
def test_a_link_that_leads_elsewhere_once_it_was_compared_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created: bool
) -> None:
    """The policy was asked about one file; another one would be opened."""
    state, secret = tmp_path / "state", tmp_path / "secret"
    link = tmp_path / "link"
    for one in (state, secret):
        one.mkdir()
    link.symlink_to(state)
    rig = Rig(link)
    inspect = Assembly.inspect

    def flipped(self: Assembly) -> Inspection:
        found = inspect(self)
        link.unlink()
        link.symlink_to(secret)
        return found

    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        if created:
            rig.driver(registry).assemble()
            rig.take_down()
            for name in ("thin.data", "thin.meta"):
                shutil.copy(state / name, secret / name)
        force.use(Policy(limits_pool_files=True, pool_files=(str(state),), limits_devices=True))
        monkeypatch.setattr(Assembly, "inspect", flipped)

        with pytest.raises((PolicyRefused, PoolUnusable), match="replaced" if created else f"{secret}/thin.data is not listed"):
            rig.driver(registry).assemble()

    assert not rig.mappings()
    assert len(list(secret.iterdir())) == (2 if created else 0)
