"""Throughput of what volumes are made in: through the writer's output, and one request at a time past the page cache.

A file of this disk, a loop device over one, and a snapshot of a thin pool. The last two need root, and a thin pool device-mapper:
where this machine has none, ``python -m benchmarks.thin_devices`` measures it in User-Mode Linux.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contestants import blank, loop_device
from benchmarks.suites.conftest import Measure
from benchmarks.thin_devices import CHAIN, Device
from benchmarks.thin_ground import POOL, Ground, usable
from reconciler.host.context import writing
from reconciler.image.ext4.output import VolumeOutput
from reconciler.image.spec import MIB
from reconciler.pool.thin.pool import ThinPool
from reconciler.settings import Settings

pytestmark = pytest.mark.timeout(0)
SMALL = 4096
NO_DEVICE_MAPPER = "this machine has no device-mapper: `python -m benchmarks.thin_devices` measures in User-Mode Linux"


@pytest.fixture
def size(short: bool) -> int:
    return (16 if short else 256) * MIB


@pytest.fixture(params=["file", "loop", "thin"])
def device(request: pytest.FixtureRequest, tmp_path: Path, size: int) -> Iterator[Path]:
    if request.param != "file" and os.geteuid():
        pytest.skip("loop devices and thin pools need root")
    if request.param == "thin" and not usable():
        pytest.skip(NO_DEVICE_MAPPER)
    with ExitStack() as stack:
        if request.param == "file":
            yield blank(tmp_path / "file", size)
        elif request.param == "loop":
            yield stack.enter_context(loop_device(tmp_path / "backing", size))
        else:
            yield stack.enter_context(thin_snapshot(tmp_path, size))


@contextmanager
def thin_snapshot(directory: Path, size: int) -> Iterator[Path]:
    """Of an empty volume: all of its blocks are new."""
    ground = Ground(directory, data=f"{2 * size // MIB}MiB")
    ground.declare({})
    with ground.up(), writing(Settings(ground.manifests, ground.state), stop=threading.Event()) as host:
        pool = cast("ThinPool", host.drivers[POOL])
        pool.assemble()
        with pool.create_volume(CHAIN, size, None) as made:
            os.pwrite(made.fd, bytes(MIB), 0)
            made.seal()
        pool.create_snapshot("bench", CHAIN)
        yield pool.snapshot_path("bench")
        pool.remove_snapshot("bench")


def through_output(path: Path, size: int) -> None:
    data = random.Random(1).randbytes(MIB)
    fd = os.open(path, os.O_RDWR)
    try:
        output = VolumeOutput(fd, size, blank=True)
        for offset in range(0, size, MIB):
            output.write(offset, data)
        output.sync()
        output.close()
    finally:
        os.close(fd)


def test_writer_output(benchmark: BenchmarkFixture, measure: Measure, device: Path, size: int) -> None:
    """What the ext4 writer writes with: gathered, from a thread of its own, synced."""
    measure(through_output, device, size)
    benchmark.extra_info.update(data_bytes=size)


@pytest.mark.parametrize("length", [SMALL, MIB], ids=["4KiB", "1MiB"])
@pytest.mark.parametrize("direction", ["write", "read"])
def test_requests(
    benchmark: BenchmarkFixture, measure: Measure, device: Path, size: int, direction: str, length: int, short: bool
) -> None:
    """One at a time: large ones in order, small ones at random."""
    offsets = list(range(0, size, length))
    if length == SMALL:
        offsets = random.Random(7).sample(offsets, 64 if short else 2048)
    through_output(device, size)
    try:
        opened = Device(device)
    except OSError as error:
        pytest.skip(f"this file system has no direct I/O: {error}")
    measure(getattr(opened, direction), offsets, length)
    opened.close()
    benchmark.extra_info.update(data_bytes=len(offsets) * length)
