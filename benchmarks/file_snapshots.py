"""Many snapshots of one volume in a file pool that shares blocks, made by one ``reconcile --once``: CPU, all processes.

    python -m benchmarks.file_snapshots [--snapshots N] [--rounds N] [--files N] [--against RECONCILE] [--directory D] [--json F]

The state directory is on an XFS of its own with reflinks, in a loop-mounted file below D; each round begins on a new one, with
the volume and one snapshot made. A run that finds nothing to do, once all are there, is the start-up. ``--files`` also makes
them with so many files of 1 KiB of their own each, and ``--against`` names an older version's command: rounds by turns. Root is
needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.control import RECONCILE, Ground
from benchmarks.measure import MIB, Spread

DISK = 2048 * MIB


@contextmanager
def xfs(directory: Path) -> Iterator[Path]:
    disk, point = directory / "disk", directory / "xfs"
    with disk.open("wb") as file:
        file.truncate(DISK)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", disk, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def round_of(reconcile: str, root: Path, count: int, files: int) -> dict[str, float]:
    """Seconds of CPU of the run that makes them all, and of one that finds nothing to do."""
    with xfs(root) as point:
        ground = Ground(point / "ground")
        os.environ.update(ground.environment)
        command = ground.command("--once", "--progress", "none", reconcile=reconcile)
        declare(ground, 0)
        measure.run(command)
        declare(ground, count, files)
        made = measure.run(command)
        assert len(list((ground.state / "pools/default/snapshots").glob("web-*.ext4"))) == count
        return {"cpu": made.cpu, "wall": made.wall, "idle": measure.run(command).cpu}


def declare(ground: Ground, count: int, files: int = 0) -> None:
    """One image with one snapshot, and so many more as instances of another one."""
    own = [{"path": f"/etc/own/{number}", "content": "{snapshot}\n".ljust(1024, "x")} for number in range(files)]
    more = [{"name": "web", "count": count, **({"files": own} if own else {})}] if count else []
    ground.image("web", ground.layer("web"), snapshots=[{"name": "first"}, *more])


def told(rounds: Sequence[Mapping[str, float]], count: int) -> dict[str, Any]:
    each = {
        "CPU each, ms": [1000 * one["cpu"] / count for one in rounds],
        "beyond start-up, ms": [1000 * (one["cpu"] - one["idle"]) / count for one in rounds],
        "wall, s": [one["wall"] for one in rounds],
        "nothing to do, CPU, s": [one["idle"] for one in rounds],
    }
    return {what: asdict(Spread.of(values)) for what, values in each.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=0, help="of each snapshot's own, besides a run without")
    parser.add_argument("--against", help="the command of an older version")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    contestants = [("reconcile", RECONCILE, 0)]
    contestants += [(f"{chosen.files} files each", RECONCILE, chosen.files)] if chosen.files else []
    contestants += [("older", chosen.against, 0)] if chosen.against else []
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in contestants}
    for _ in range(chosen.rounds):
        for name, command, files in contestants:
            with tempfile.TemporaryDirectory(dir=chosen.directory, prefix="file-snapshots-") as root:
                found[name].append(round_of(command, Path(root), chosen.snapshots, files))
    results = {name: told(rounds, chosen.snapshots) for name, rounds in found.items()}
    for name, result in results.items():
        for what, line in result.items():
            print(f"{name:16} {what:24} {line['median']:.2f} ({line['lowest']:.2f}-{line['highest']:.2f})", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
