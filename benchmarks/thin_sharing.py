"""How much of a pool images take that share four of their five layers, beyond the shared ones and their own.

    python -m benchmarks.thin_sharing [--images N] [--block-size SIZE] [--directory DIR] [--json FILE]

Compared: the blocks that the pool's metadata counts as used when all images are there, with those after the first image plus
what the other images' private layers need: whole blocks of 4 KiB for each of their files and directories, and 256 bytes for the
inode of each. What ext4 keeps beside files counts as overhead. What the first image has beyond the blocks that its own volume
maps, because there is a volume for each of its layers, is told too. Each layer has many small files and a few large ones, of
bytes that are nowhere else. Root and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB
from benchmarks.thin_ground import POOL, Ground, main
from reconciler.pool import metadata
from reconciler.records import Records
from samples import layers as samples

FS_BLOCK = 4096
INODE = 256
SHARED_MIB = (28, 16, 12, 8)
PRIVATE_MIB = 10
LARGE_BYTES = (MIB, 4 * MIB)
SMALL_BYTES = 12_000
"""The mean of the small files, which are half of a layer's bytes."""
FILES_A_DIRECTORY = 40


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(directory, block=chosen.block_size)
    block = 0
    shared = [source(ground, f"shared-{number}", size)[0] for number, size in enumerate(SHARED_MIB)]
    images: dict[str, Any] = {}
    used, mapped, needed = [], [], []
    with ground.up():
        for number in range(chosen.images):
            private, need = source(ground, f"private-{number}", PRIVATE_MIB)
            images[f"image-{number}"] = {"layers": [*shared, private], "snapshots": [{"name": f"web-{number}"}]}
            ground.declare(images)
            ground.once()
            found = metadata.read(ground.metadata)
            assert found is not None
            block = found.block_size
            with Records.of(ground.state / "registry.sqlite3", list, read_only=True) as records:
                rows = records.thin_devices(POOL)
            snapshot = next(row for row in rows.values() if row.name == f"web-{number}")
            used.append(found.data_used)
            mapped.append(found.devices[snapshot.id].mapped_blocks)
            needed.append(need / block)
            print(
                f"image {number}: {found.data_used} blocks used, its own layer needs {need / block:.1f}",
                file=sys.stderr,
                flush=True,
            )
    return {
        "blockBytes": block,
        "used": used,
        "mapped": mapped,
        "needed": needed,
        "over": [(used[n] - used[0] - sum(needed[1 : n + 1])) / (used[0] + sum(needed[1 : n + 1])) for n in range(1, len(used))],
        "overVolume": (used[-1] - mapped[0] - sum(needed[1:])) / (mapped[0] + sum(needed[1:])),
    }


def source(ground: Ground, name: str, size: int) -> tuple[dict[str, str], int]:
    """A layer of so many MiB as a manifest names it, and the bytes that it needs in a file system."""
    entries = list(contents(name, size * MIB))
    path = ground.layers / f"{name}.tar"
    samples.pack(path, iter(entries))
    need = sum(INODE + max(FS_BLOCK if info.isdir() else 0, -(-info.size // FS_BLOCK) * FS_BLOCK) for info, _ in entries)
    with path.open("rb") as file:
        return {"source": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}, need


def contents(name: str, size: int) -> Iterator[samples.Entry]:
    chosen, made, number = random.Random(name), 0, 0
    yield samples.folder(name)
    while made < size // 2:
        if number % FILES_A_DIRECTORY == 0:
            yield samples.folder(f"{name}/d{number // FILES_A_DIRECTORY:03}")
        length = min(1 + int(chosen.expovariate(1 / SMALL_BYTES)), size // 2 - made)
        yield samples.file(f"{name}/d{number // FILES_A_DIRECTORY:03}/f{number:05}", chosen.randbytes(length))
        made, number = made + length, number + 1
    while made < size:
        length = min(chosen.randint(*LARGE_BYTES), size - made)
        yield samples.file(f"{name}/large-{number}", chosen.randbytes(length))
        made, number = made + length, number + 1


def show(told: dict[str, Any]) -> None:
    print(f"blocks of {told['blockBytes'] >> 10} KiB; used after each image: {', '.join(map(str, told['used']))}")
    print(f"the private layers need {', '.join(f'{need:.0f}' for need in told['needed'])}")
    for images, over in enumerate(told["over"], 2):
        print(f"{images} images: {over:.1%} over what the first one and the private layers of the others need")
    print(f"the first image's own volume maps {told['mapped'][0]}; over that and the private layers: {told['overVolume']:.1%}")


OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {"type": int, "default": 4},
    "--block-size": {"default": "64KiB"},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=2048 * MIB)
