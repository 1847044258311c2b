"""Many snapshots of a thin pool made by one ``reconcile --once``, and a run that finds nothing to do, beside dmsetup.

    python -m benchmarks.thin_batches [--snapshots N] [--rounds N] [--idle-rounds N] [--directory DIR] [--json FILE]

Made: the whole command, beside a loop of ``dmsetup message … create_snap`` and ``dmsetup create`` that makes as many of the same
volume, half of it before and half after; the kernel's calls are counted from outside, by strace, in a round of its own. Nothing
to do: the command with all those snapshots, less the same command for another pool with one snapshot right before it, beside
``dmsetup ls``, ``table`` and ``status`` right after it: medians over many turns, because that is a small difference of two large
times. Root and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB
from benchmarks.thin_boot import counted, image
from benchmarks.thin_ground import POOL, Ground, dmsetup, main, ratios, said, spread
from benchmarks.thin_snapshots import by_commands


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground, single, count = Ground(directory / "many"), Ground(directory / "single", pool="single"), chosen.snapshots
    told: dict[str, Any] = {"snapshots": count, "held": 1 + count * chosen.rounds}
    with ground.up(), single.up():
        for one in (single, ground):
            one.declare({"image-00": image(one, 0, 1)})
            one.once()
        told["made"] = made(ground, count, chosen.rounds)
        told["idle"] = idle(ground, single, chosen.idle_rounds)
        calls = counted(ground)
        told["idleCalls"] = sum(calls.values())
        ground.declare({"image-00": image(ground, 0, told["held"] + count)})
        busy = counted(ground)
        told["callsByName"] = {name: (number - calls.get(name, 0)) / count for name, number in busy.items()}
        told["calls"] = (sum(busy.values()) - told["idleCalls"]) / count
    return told


def made(ground: Ground, count: int, rounds: int) -> dict[str, Any]:
    base = int(next(line for line in dmsetup("table").splitlines() if f"{POOL}-web-00" in line).split()[-1]) - 1
    ours, theirs, half = [], [], count // 2
    for turn in range(rounds):
        ground.declare({"image-00": image(ground, 0, 1 + count * (turn + 1))})
        before = timed(partial(loop, turn * count, half, base))[0]
        ours.append(timed(lambda: ground.once("--progress", "none"))[0])
        theirs.append(before + timed(partial(loop, turn * count + half, count - half, base))[0])
    for number in range(count * rounds):
        dmsetup("remove", f"{POOL}-theirs-{number}")
    each = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"ours": spread(ours), "theirs": spread(theirs), "ratio": ratios(ours, theirs), "rounds": each}


def idle(ground: Ground, single: Ground, rounds: int) -> dict[str, Any]:
    """By turns, in seconds of time and of CPU: each turn has its own start-up."""
    turns = []
    for _ in range(rounds):
        works = (lambda: single.once("--progress", "none"), lambda: ground.once("--progress", "none"), listed)
        turns.append([timed(work) for work in works])
    return {name: _idle([[one[at] for one in turn] for turn in turns]) for at, name in enumerate(("wall", "cpu"))}


def _idle(turns: list[list[float]]) -> dict[str, Any]:
    start, ours, theirs = zip(*turns, strict=True)
    over = [one - other for one, other in zip(ours, start, strict=True)]
    return {"ours": spread(ours), "startUp": spread(start), "theirs": spread(theirs), "ratio": ratios(over, theirs)}


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of time, and of CPU of the commands that it runs."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loop(first: int, count: int, base: int) -> None:
    for number in range(first, first + count):
        by_commands(number, base)


def listed() -> None:
    for word in ("ls", "table", "status"):
        dmsetup(word)


def show(told: dict[str, Any]) -> None:
    made, idle = told["made"], told["idle"]
    print(f"{told['snapshots']} snapshots by one run: {said(made['ours'])} s, {told['calls']:.1f} calls of device-mapper each")
    print(", ".join(f"{name} {number:.2f}" for name, number in sorted(told["callsByName"].items(), key=lambda one: -one[1])))
    print(f"by a loop of dmsetup: {said(made['theirs'])} s; ours by theirs {said(made['ratio'], digits=3)}")
    before = (f"{one:.3f} with {1 + told['snapshots'] * turn} there" for turn, one in enumerate(made["rounds"]))
    print(f"each round: {', '.join(before)}")
    for kind, name in (("wall", "s"), ("cpu", "s of CPU")):
        found = idle[kind]
        print(f"nothing to do: {said(found['ours'])} {name} with {told['held']} snapshots, {said(found['startUp'])} with one")
        print(
            f"dmsetup ls, table, status: {said(found['theirs'])} {name}; ours beyond that of one by theirs {said(found['ratio'])}"
        )
    print(f"calls of device-mapper with nothing to do: {told['idleCalls']}")


OPTIONS: dict[str, dict[str, Any]] = {
    "--snapshots": {"type": int, "default": 200},
    "--rounds": {"type": int, "default": 3},
    "--idle-rounds": {"type": int, "default": 11, "help": "turns of runs that find nothing to do"},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=2048 * MIB)
