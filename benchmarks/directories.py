"""What creating files costs in a directory that came with a layer, beside one that the kernel filled, as root.

    python -m benchmarks.directories [--before N] [--files N] [--rounds N] [--directory DIR] [--json FILE]

Two file systems of one size: an image whose directory has ``--before`` files, and one of mke2fs in which the kernel has created
the same files. A round copies both, mounts each and creates ``--files`` more in the directory, by turns; the order changes with
each round. Measured: CPU of the creating process. State: a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, Spread
from tests.support import images
from tests.support.layers import pack
from tests.support.trees import directory, file

SIZE = 512 * MIB
NAME = "package-{:05}.list"
OURS, PEER = "image", "mke2fs"


def make(root: Path, before: int) -> None:
    layer = pack([directory(b"d"), *(file(f"d/{NAME.format(number)}".encode()) for number in range(before))])
    images.build_here([layer], root / OURS, SIZE)
    with (root / PEER).open("wb") as blank:
        blank.truncate(SIZE)
    images.run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^orphan_file", root / PEER)
    with mounted(root / PEER) as top:
        (top / "d").mkdir()
        create(top / "d", range(before))


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Through a loop device; inode tables are not zeroed meanwhile."""
    with images.mounted(image, "noatime", "noinit_itable") as top:
        yield top


def create(place: Path, numbers: range) -> None:
    for number in numbers:
        os.close(os.open(place / NAME.format(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def cost(image: Path, numbers: range) -> float:
    """Seconds of CPU, user and system."""
    with mounted(image) as top:
        os.sync()
        began = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        create(top / "d", numbers)
        return sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - began


def measure(root: Path, before: int, files: int, rounds: int) -> dict[str, Any]:
    make(root, before)
    costs: dict[str, list[float]] = {OURS: [], PEER: []}
    for number in range(-1, rounds):
        for name in (OURS, PEER) if number % 2 else (PEER, OURS):
            subprocess.run(["cp", "--sparse=always", root / name, root / "copy"], check=True)
            spent = cost(root / "copy", range(before, before + files))
            costs[name] += [spent] if number >= 0 else []
    ratios = [ours / its for ours, its in zip(costs[OURS], costs[PEER], strict=True)]
    return {name: asdict(Spread.of(found)) for name, found in costs.items()} | {"ratio": asdict(Spread.of(ratios))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=int, default=3000)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as root:
        found = measure(Path(root), chosen.before, chosen.files, chosen.rounds)
    for name, spread in found.items():
        print(f"{name:8}{spread['median']:8.3f} ({spread['lowest']:.3f}-{spread['highest']:.3f})")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
