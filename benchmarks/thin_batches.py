"""Many snapshots of a thin pool made by one ``reconcile --once``, and a run that finds nothing to do, beside dmsetup.

    python -m benchmarks.thin_batches [--snapshots N] [--rounds N] [--directory DIR] [--json FILE]

Made: the whole command, beside a loop of ``dmsetup message … create_snap`` and ``dmsetup create`` that makes as many of the same
volume; the kernel's calls are counted from outside, by strace, in a round of its own. Nothing to do: the command with all those
snapshots, less the same command with none of them, beside ``dmsetup ls``, ``table`` and ``status``. Root and device-mapper are
needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
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
    ground, count = Ground(directory), chosen.snapshots
    told: dict[str, Any] = {"snapshots": count}
    with ground.up():
        ground.declare({"image-00": image(ground, 0, 1)})
        ground.once()
        base = int(next(line for line in dmsetup("table").splitlines() if "web-00" in line).split()[-1]) - 1
        startup = [timed(lambda: ground.once("--progress", "none")) for _ in range(chosen.rounds)]
        ours, theirs = [], []
        for turn in range(chosen.rounds):
            ground.declare({"image-00": image(ground, 0, 1 + count * (turn + 1))})
            ours.append(timed(lambda: ground.once("--progress", "none")))
            theirs.append(timed(partial(loop, turn * count, count, base)))
        each = [one / other for one, other in zip(ours, theirs, strict=True)]
        told["made"] = {"ours": spread(ours), "theirs": spread(theirs), "ratio": ratios(ours, theirs), "rounds": each}
        for number in range(count * chosen.rounds):
            dmsetup("remove", f"{POOL}-theirs-{number}")
        ours = [timed(lambda: ground.once("--progress", "none")) for _ in range(chosen.rounds)]
        theirs = [timed(listed) for _ in range(chosen.rounds)]
        over = [one - other for one, other in zip(ours, startup, strict=True)]
        told["idle"] = {"ours": spread(ours), "startUp": spread(startup), "theirs": spread(theirs), "ratio": ratios(over, theirs)}
        before = 1 + count * chosen.rounds
        told["held"] = before
        idle = counted(ground)
        told["idleCalls"] = sum(idle.values())
        ground.declare({"image-00": image(ground, 0, before + count)})
        busy = counted(ground)
        told["callsByName"] = {name: (number - idle.get(name, 0)) / count for name, number in busy.items()}
        told["calls"] = (sum(busy.values()) - told["idleCalls"]) / count
    return told


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    print(f"nothing to do, {told['held']} snapshots: {said(idle['ours'])} s, {told['idleCalls']} calls")
    print(f"nothing to do, one snapshot: {said(idle['startUp'])} s")
    print(f"dmsetup ls, table, status: {said(idle['theirs'])} s; ours beyond start-up by theirs {said(idle['ratio'])}")


OPTIONS: dict[str, dict[str, Any]] = {
    "--snapshots": {"type": int, "default": 200},
    "--rounds": {"type": int, "default": 3},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=2048 * MIB)
