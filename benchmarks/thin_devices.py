"""Reading and writing through a snapshot beside the same through a raw loop device over a file of the same disk.

    python -m benchmarks.thin_devices [--rounds N] [--block-sizes SIZE,SIZE...] [--directory DIR] [--json FILE]

One request at a time with O_DIRECT, by turns: 1 MiB in order over 64 MiB, 4 KiB in random places; each kind of writing ends with
fsync. A first write meets blocks that the snapshot shares with its volume: one of 4 KiB makes the pool copy the rest of the
block, one that covers whole blocks does not. The others meet blocks that are the snapshot's own already. Each round has new
snapshots. Root and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import MIB
from benchmarks.thin_ground import POOL, Ground, main, ratios, said, spread
from reconciler.host.context import writing
from reconciler.pool.thin import loop
from reconciler.pool.thin.pool import ThinPool
from reconciler.settings import Settings
from reconciler.sizes import parse_size

CHAIN = "c" * 64
SIZE = 64 * MIB
SMALL = 4096
SCATTERED, FIRSTS = 512, 48
"""How many requests of 4 KiB: anywhere, and each in a block of its own."""


class Device:
    """What is measured: a block device, opened past the page cache."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, MIB)
        self._buffer.write(random.Random(1).randbytes(MIB))

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offsets: Sequence[int], length: int) -> float:
        view = memoryview(self._buffer)[:length]
        began = time.perf_counter()
        for offset in offsets:
            os.preadv(self._fd, [view], offset)
        return time.perf_counter() - began

    def write(self, offsets: Sequence[int], length: int) -> float:
        view = memoryview(self._buffer)[:length]
        began = time.perf_counter()
        for offset in offsets:
            os.pwritev(self._fd, [view], offset)
        os.fsync(self._fd)
        return time.perf_counter() - began


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    return {size: at_block_size(directory / size, size, chosen.rounds) for size in chosen.block_sizes.split(",")}


def at_block_size(directory: Path, block_size: str, rounds: int) -> dict[str, Any]:
    ground = Ground(directory, "512MiB", block_size)
    ground.declare({})
    raw = directory / "raw"
    with raw.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
    with (
        ground.up(),
        writing(Settings(ground.manifests, ground.state), stop=threading.Event()) as host,
        loop.attach(raw) as device,
    ):
        pool = cast("ThinPool", host.drivers[POOL])
        pool.assemble()
        with pool.create_volume(CHAIN, SIZE, None) as made:
            for offset in range(0, SIZE, MIB):
                os.pwrite(made.fd, random.Random(offset).randbytes(MIB), offset)
            made.seal()
        plain = Device(device)
        plain.write(range(0, SIZE, MIB), MIB)
        found: dict[str, tuple[list[float], list[float]]] = {}
        for number in range(rounds + 1):
            print(f"{block_size}, round {number}", file=sys.stderr, flush=True)
            for name, ours, theirs in one_round(pool, plain, parse_size(block_size)):
                if number:  # the first one does not count
                    for times, took in zip(found.setdefault(name, ([], [])), (ours, theirs), strict=True):
                        times.append(took)
        plain.close()
    raw.unlink()
    (directory / "thin.data").unlink()
    return {
        name: {"snapshot": spread(ours), "raw": spread(raws), "ratio": ratios(ours, raws)} for name, (ours, raws) in found.items()
    }


def one_round(pool: ThinPool, plain: Device, block: int) -> list[tuple[str, float, float]]:
    """(what, seconds through the snapshot, seconds through the loop device)"""
    chosen = random.Random(7)
    whole = range(0, SIZE, MIB)
    scattered = chosen.sample(range(0, SIZE, SMALL), SCATTERED)
    firsts = chosen.sample(range(0, SIZE, block), FIRSTS)
    pool.create_snapshot("first", CHAIN)
    pool.create_snapshot("second", CHAIN)
    first, second = Device(pool.snapshot_path("first")), Device(pool.snapshot_path("second"))
    done = [
        ("read 1 MiB", first.read(whole, MIB), plain.read(whole, MIB)),
        ("read 4 KiB", first.read(scattered, SMALL), plain.read(scattered, SMALL)),
        ("first write 4 KiB", first.write(firsts, SMALL), plain.write(firsts, SMALL)),
        ("first write 1 MiB", second.write(whole, MIB), plain.write(whole, MIB)),
        ("write 1 MiB", second.write(whole, MIB), plain.write(whole, MIB)),
        ("write 4 KiB", second.write(scattered, SMALL), plain.write(scattered, SMALL)),
    ]
    for device, name in ((first, "first"), (second, "second")):
        device.close()
        pool.remove_snapshot(name)
    return done


def show(told: dict[str, Any]) -> None:
    print("time through the snapshot, by the time through the loop device")
    for size, lines in told.items():
        for name, line in lines.items():
            times = f"{line['snapshot']['median'] * 1000:8.1f} ms to {line['raw']['median'] * 1000:8.1f} ms"
            print(f"{size:>7}  {name:18}{said(line['ratio']):>22}{times:>26}")


OPTIONS: dict[str, dict[str, Any]] = {
    "--rounds": {"type": int, "default": 7},
    "--block-sizes": {"default": "64KiB,256KiB,1MiB"},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=3072 * MIB)
