"""``reconcile build`` beside GNU tar and bsdtar that unpack the same layers onto a fresh ext4, as root.

    python -m benchmarks.compare_extract [--rounds N] [--size SIZE] [--directory DIR] [--json FILE] LAYER...

What is timed: for ``build`` the whole command, digest, sync and e2fsck included; for the others the command, ``umount``, and
``fsync`` of the backing file. What is not: their ``mkfs.ext4`` and ``mount``. Inputs are read once before each run, so that the
page cache is warm for all; everything dirty is written back between runs; the tools take turns. The others apply no whiteouts,
judge nothing and compute no digest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, Cost, Spread, run
from reconciler.sizes import parse_size

RECONCILE = "reconcile build"
GNU_TAR = ["tar", "--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]
BSDTAR = ["bsdtar", "--extract", "--numeric-owner", "--same-owner", "-p", "--xattrs"]

Contestant = Callable[[Sequence[Path], Path, int], Cost]


def reconcile(layers: Sequence[Path], directory: Path, size: int) -> Cost:
    output = directory / "built.ext4"
    command = [str(Path(sys.executable).with_name("reconcile")), "build", *map(str, layers), "-o", "json"]
    try:
        return run([*command, "--output", str(output), "--size", str(size)])
    finally:
        output.unlink(missing_ok=True)


def unpacker(command: Sequence[str]) -> Contestant:
    def unpack(layers: Sequence[Path], directory: Path, size: int) -> Cost:
        backing = directory / "backing.ext4"
        with backing.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(backing)], check=True)
        try:
            with mounted(backing) as (top, synced):
                costs = [run([*command, "--directory", str(top), "--file", str(layer)]) for layer in layers]
                began = time.perf_counter()
                synced()
                rest = time.perf_counter() - began
        finally:
            backing.unlink()
        return replace(summed(costs), wall=sum(cost.wall for cost in costs) + rest)

    return unpack


@contextmanager
def mounted(backing: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A loop-mounted file, and what makes everything in it durable: umount and fsync."""
    top = Path(tempfile.mkdtemp(dir=backing.parent))
    subprocess.run(["mount", "-o", "loop", str(backing), str(top)], check=True)

    def synced() -> None:
        subprocess.run(["umount", str(top)], check=True)
        with backing.open("rb+") as file:
            os.fsync(file.fileno())

    try:
        yield top, synced
    finally:
        if top.is_mount():
            subprocess.run(["umount", str(top)], check=True)
        top.rmdir()


def summed(costs: Sequence[Cost]) -> Cost:
    peaks: dict[str, int] = {}
    for cost in costs:
        peaks = {name: max(peaks.get(name, 0), cost.peaks.get(name, 0)) for name in peaks.keys() | cost.peaks.keys()}
    return Cost(sum(c.wall for c in costs), sum(c.cpu for c in costs), max(c.largest for c in costs), peaks)


def contestants() -> dict[str, Contestant]:
    found: dict[str, Contestant] = {RECONCILE: reconcile}
    found |= {name: unpacker(command) for name, command in (("GNU tar", GNU_TAR), ("bsdtar", BSDTAR)) if shutil.which(command[0])}
    return found


def interleaved(layers: Sequence[Path], directory: Path, size: int, rounds: int) -> dict[str, list[Cost]]:
    """Each tool in turn, ``rounds`` times, after one turn of each that does not count."""
    tools = contestants()
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for number in range(rounds + 1):
        for name, contestant in tools.items():
            warm(layers)
            os.sync()
            cost = contestant(layers, directory, size)
            print(f"round {number}  {name:16}{cost.wall:8.2f} s", file=sys.stderr, flush=True)
            costs[name] += [cost] if number else []
    return costs


def warm(layers: Sequence[Path]) -> None:
    for layer in layers:
        with layer.open("rb", buffering=0) as file:
            while file.read(MIB):
                pass


def summary(costs: Mapping[str, list[Cost]]) -> dict[str, Any]:
    """By tool: seconds, peaks, and the ratio of our wall time to its: of the medians, and over the pairs of each round."""
    ours = [cost.wall for cost in costs[RECONCILE]]
    return {name: described(found, ours) for name, found in costs.items()}


def described(found: list[Cost], ours: list[float]) -> dict[str, Any]:
    walls = [cost.wall for cost in found]
    wall, cpu = Spread.of(walls), Spread.of([cost.cpu for cost in found])
    pairs = [our / its for our, its in zip(ours, walls, strict=True)]
    return {
        "wall": asdict(wall),
        "cpu": asdict(cpu),
        "ratio": {"ofMedians": Spread.of(ours).median / wall.median, "lowest": min(pairs), "highest": max(pairs)},
        "peakBytes": summed(found).peaks,
        "largestProcessBytes": max(cost.largest for cost in found),
    }


def show(told: Mapping[str, Any]) -> None:
    print(f"{'':16}{'wall, s':>22}{'CPU, s':>9}{'build/tool':>22}   peak RSS of each process, MiB")
    for name, line in told.items():
        wall, ratio = line["wall"], line["ratio"]
        peaks = ", ".join(f"{process} {size / MIB:.0f}" for process, size in sorted(line["peakBytes"].items()))
        print(
            f"{name:16}{wall['median']:8.2f} ({wall['lowest']:.2f}-{wall['highest']:.2f}){line['cpu']['median']:9.2f}"
            f"{ratio['ofMedians']:8.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})   {peaks}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="+", type=Path, metavar="LAYER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=parse_size, default=parse_size("4GiB"))
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where images are made: the disk that is measured")
    parser.add_argument("--json", type=Path, help="also write the summary there")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("loop devices and mounts need root")
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        told = summary(interleaved([p.absolute() for p in chosen.layers], Path(directory), chosen.size, chosen.rounds))
    show(told)
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
