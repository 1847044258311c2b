"""The first run after a reboot: the pool is assembled and every snapshot activated again by one ``reconcile --once``.

    python -m benchmarks.thin_boot [--images N] [--snapshots N] [--rounds N] [--directory DIR] [--json FILE]

Before each round all mappings and loop devices are taken down, as a reboot would leave them; caches stay as they are. Timed is
the whole command, from its start to its end. The kernel's calls are counted from outside, by strace, in a round of its own. Root
and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB
from benchmarks.thin_ground import Ground, dmsetup, main, said, spread, take_down
from samples import layers as samples

CALL = re.compile(r"\b(DM_[A-Z_]+)")


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(directory)
    ground.declare({f"image-{number:02}": image(ground, number, chosen.snapshots) for number in range(chosen.images)})
    with ground.up():
        began = time.perf_counter()
        ground.once()
        told: dict[str, Any] = {"made": time.perf_counter() - began, "snapshots": chosen.images * chosen.snapshots}
        print(f"made in {told['made']:.1f} s", file=sys.stderr, flush=True)
        told["idle"] = spread([timed(ground, 0) for _ in range(chosen.rounds)])
        told["boot"] = spread([rebooted(ground, told["snapshots"]) for _ in range(chosen.rounds)])
        take_down()
        told["calls"] = counted(ground)
    return told


def image(ground: Ground, number: int, snapshots: int) -> dict[str, Any]:
    layer = ground.layers / f"{number}.tar"
    samples.pack(layer, [samples.file("etc/hostname", f"image-{number}\n")])
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    names = [{"name": f"web-{number:02}", "count": snapshots}]
    return {"size": "16MiB", "layers": [{"source": str(layer), "sha256": digest}], "snapshots": names}


def rebooted(ground: Ground, expected: int) -> float:
    take_down()
    took = timed(ground, expected)
    print(f"activated in {took:.2f} s", file=sys.stderr, flush=True)
    active = len(dmsetup("ls").splitlines())
    assert active == expected + 1, f"{active} devices are active"
    return took


def timed(ground: Ground, changes: int) -> float:
    began = time.perf_counter()
    told = ground.once("--progress", "none")
    took = time.perf_counter() - began
    assert told["changed"] >= changes, told
    return took


def counted(ground: Ground) -> dict[str, int]:
    """Calls of /dev/mapper/control by the whole command, by name."""
    trace = ground.root / "trace"
    tracer = ["strace", "-f", "-qq", "-e", "trace=ioctl", "-e", "signal=none", "-o", str(trace)]
    subprocess.run([*tracer, *ground.command("--once", "-o", "json")], stdout=subprocess.DEVNULL, check=True)
    lines = (line for line in trace.read_text().splitlines() if "resumed>" not in line)
    return dict(collections.Counter(found[1] for line in lines if (found := CALL.search(line))))


def show(told: dict[str, Any]) -> None:
    snapshots, calls = told["snapshots"], sum(told["calls"].values())
    each = 1000 * told["boot"]["median"] / snapshots
    print(f"{snapshots} snapshots active again after {said(told['boot'])} s, {each:.1f} ms each")
    print(f"a run that finds nothing to do: {said(told['idle'])} s; all of it made in {told['made']:.1f} s")
    listed = ", ".join(f"{name} {count}" for name, count in sorted(told["calls"].items(), key=lambda item: -item[1]))
    print(f"{calls} calls of device-mapper, {calls / snapshots:.2f} for each snapshot: {listed}")


OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {"type": int, "default": 20},
    "--snapshots": {"type": int, "default": 25, "help": "of each image"},
    "--rounds": {"type": int, "default": 3},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=2048 * MIB)
