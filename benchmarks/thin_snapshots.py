"""A snapshot made and activated by the pool's driver beside the two dmsetup commands that it replaces.

    python -m benchmarks.thin_snapshots [--rounds N] [--profile] [--directory DIR] [--json FILE]

Both make it of the same volume of the same pool, by turns. The driver's time is that of ``ThinPool.create_snapshot``: a check of
space and of the pool's state, the journal's intent and result on disk, the message, the transaction id, the device with its node.
That of the commands is two processes from their start to their end, which write nothing down and check nothing. How much of it is
the start of two processes is told by two that do nothing: very much in a guest, where a process takes many times as long.
Root and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import shutil
import threading
import time
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import MIB
from benchmarks.thin_ground import POOL, Ground, main, ratios, said, spread
from reconciler.host.context import writing
from reconciler.pool.thin.journal import Role
from reconciler.pool.thin.pool import ThinPool
from reconciler.settings import Settings

CHAIN = "c" * 64
SIZE = 64 * MIB
WRITTEN = 8 * MIB
THEIRS = 1 << 20
"""Their thin ids begin here, far from those that the driver gives."""


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(directory)
    ground.declare({})
    settings = Settings(ground.manifests, ground.state)
    with ground.up(), writing(settings, stop=threading.Event()) as host:
        pool = cast("ThinPool", host.drivers[POOL])
        pool.assemble()
        with pool.create_volume(CHAIN, SIZE, None) as made:
            for offset in range(0, WRITTEN, MIB):
                os.pwrite(made.fd, os.urandom(MIB), offset)
            made.seal()
        return compared(pool, chosen)


def compared(pool: ThinPool, chosen: argparse.Namespace) -> dict[str, Any]:
    base = next(row.id for row in pool.journal.devices().values() if row.role is Role.VOLUME)
    ours, theirs, idle, profile = [], [], [], cProfile.Profile()
    before = pool.dm.ioctls
    for number in range(chosen.rounds + 1):
        began = time.perf_counter()
        if chosen.profile and number:
            profile.runcall(pool.create_snapshot, f"ours-{number}", CHAIN)
        else:
            pool.create_snapshot(f"ours-{number}", CHAIN)
        between = time.perf_counter()
        by_commands(number, base)
        ended = time.perf_counter()
        for _ in range(2):
            run("true")
        last = time.perf_counter()
        if number:  # the first turn of each does not count
            ours.append(between - began)
            theirs.append(ended - between)
            idle.append(last - ended)
    if chosen.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    calls = (pool.dm.ioctls - before) / (chosen.rounds + 1)
    times = {"ours": spread(ours), "theirs": spread(theirs), "idle": spread(idle)}
    return {**times, "ratio": ratios(theirs, ours), "kernelCalls": calls}


def by_commands(number: int, base: int) -> None:
    thin_id = THEIRS + number
    found = Path("/dev/mapper", POOL).stat().st_rdev
    table = f"0 {SIZE // 512} thin {os.major(found)}:{os.minor(found)} {thin_id}"
    run("dmsetup", "message", POOL, "0", f"create_snap {thin_id} {base}")
    run("dmsetup", "create", f"{POOL}-theirs-{number}", "--table", table)


def run(*words: str) -> None:
    """The cheapest way to start a process and to wait for it."""
    program = shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert program
    pid = os.posix_spawn(program, words, os.environ)
    _, status = os.waitpid(pid, 0)
    assert status == 0, words


def show(told: dict[str, Any]) -> None:
    print(f"driver        {said(told['ours'], 1000)} ms, {told['kernelCalls']:.1f} calls of device-mapper")
    print(f"two commands  {said(told['theirs'], 1000)} ms")
    print(f"two processes that do nothing  {said(told['idle'], 1000)} ms")
    print(f"the driver is {said(told['ratio'], digits=1)} times as fast")


OPTIONS: dict[str, dict[str, Any]] = {
    "--rounds": {"type": int, "default": 100},
    "--profile": {"action": "store_true", "help": "also show where the driver's time goes (which then takes longer)"},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=512 * MIB)
