"""Many images: what they share is stored once, and after a reboot all of their snapshots are back with few kernel calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.main import main
from reconciler.pool.thin.devmapper import DeviceMapper
from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import Layer, change, noise, root
from tests.support.zygote import Zygote

from .rig import MIB, rig, volume
from .workshop import ThinWorkshop

IMAGES, EACH = 20, 5


@pytest.mark.timeout(300)
def test_a_reboot_costs_fewer_than_ten_kernel_calls_a_snapshot(tmp_path: Path) -> None:
    """From the look that finds them inactive to the one that finds nothing to do."""
    with rig(tmp_path, metadata_bytes=8 * MIB) as thin:
        volumes, snapshots = {}, {}
        with thin.assembled() as pool:
            for n in range(IMAGES):
                chain = f"{n:064x}"
                volumes[chain] = volume(pool, chain, size=MIB)
                for m in range(EACH):
                    snapshots[f"s{n}-{m}"] = pool.create_snapshot(f"s{n}-{m}", chain)
        thin.take_down()

        with thin.pool() as pool:
            before = pool.observe(volumes, snapshots)
            assert not [one for one in before.snapshots.values() if one.active]
            pool.assemble()
            after = pool.observe(volumes, snapshots)
            for name, one in after.snapshots.items():
                assert not one.active
                pool.activate_snapshot(name)
            state = pool.observe(volumes, snapshots)
            assert [one.active for one in state.snapshots.values()] == [True] * (IMAGES * EACH)
            assert pool.dm.ioctls < 10 * IMAGES * EACH


@pytest.fixture
def host(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    workshop = ThinWorkshop(tmp_path, zygote, data_size="512MiB")
    yield workshop
    workshop.take_down()
    ThinWorkshop.up = None


def many(name: str, directory: str, files: int, size: int) -> Layer:
    return change(name, {f"{directory}/{name}/{n:04}": noise(size) for n in range(files)})


def used(host: ThinWorkshop) -> int:
    """Data blocks of the pool that are mapped."""
    return int(host.rig.status().split()[5].partition("/")[0])


def calls(host: ThinWorkshop, *words: str) -> int:
    """How often a command calls the kernel's device-mapper, run in a child of this process."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        real = DeviceMapper._run

        def counted(*arguments: Any) -> bool:
            os.write(writing, b".")
            return real(*arguments)

        DeviceMapper._run = counted  # type: ignore[method-assign]
        os.environ.update(host.environment)
        os.chdir(host.root)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(words))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        count = len(pipe.read())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return count


@pytest.mark.timeout(300)
def test_a_run_that_finds_nothing_to_do_calls_the_kernel_as_often_for_many_snapshots_as_for_few(host: ThinWorkshop) -> None:
    layers = [root("base")]
    host.image("web", layers, snapshots=[{"name": "web", "count": 2}])
    host.converge()
    few = calls(host, "--once")
    host.image("web", layers, snapshots=[{"name": "web", "count": 40}])
    host.converge()

    assert 0 < calls(host, "--once") == few <= 20


@pytest.mark.timeout(300)
def test_shared_layers_are_stored_once(host: ThinWorkshop) -> None:
    """Four of five layers are the same: each further image takes its own layer, and less than three in a hundred of the shared.

    That little is the file system's own: each image has inode tables and directories for all of its files.
    """
    shared = [root("base", {"srv/base": noise(4 * MIB)})]
    shared += [many(f"layer{n}", "srv", 200, 20_000) for n in range(3)]
    own = [many(name, "opt", 40, 20_000) for name in ("one", "two", "three")]
    host.image("one", [*shared, own[0]], size="64MiB", snapshots=[])
    host.converge()
    alone = used(host)
    private = -(-40 * 20_480 // 65536)
    for layer in own[1:]:
        before = used(host)
        host.image(layer.name, [*shared, layer], size="64MiB", snapshots=[])
        host.converge()

        assert used(host) - before - private <= 0.03 * alone, (alone, before, used(host), private)
