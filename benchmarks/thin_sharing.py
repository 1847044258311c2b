"""How much of a pool images take that share four of their five layers, beyond the shared ones and their own.

    python -m benchmarks.thin_sharing [--images N] [--block-size SIZE] [--root TAR] [--directory DIR] [--json FILE]

Compared: the blocks that the pool's metadata counts as used when all images are there, with those after the first image plus
what the other images' private layers need: whole blocks of 4 KiB for each of their files and directories, and 256 bytes for the
inode of each. What ext4 keeps beside files counts as overhead. What the first image has beyond the blocks that its own volume
maps, because there is a volume for each of its layers, is told too. Each layer has many small files and a few large ones, of
bytes that are nowhere else; or a root file system's tar is cut into five, the last of which each image has under a directory of
its own. Root and device-mapper are needed; a machine without starts a guest (see ``benchmarks.thin_ground``).
"""

from __future__ import annotations

import argparse
import hashlib
import posixpath
import random
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB
from benchmarks.thin_ground import POOL, Ground, main
from reconciler.pool.thin import metadata
from reconciler.registry.reader import Records
from samples import layers as samples

FS_BLOCK = 4096
INODE = 256
SHARED = 4
SIZES_MIB = (28, 16, 12, 8, 10)
"""Of the shared layers, and of a private one."""
LARGE_BYTES = (MIB, 4 * MIB)
SMALL_BYTES = 12_000
"""The mean of the small files, which are half of a layer's bytes."""
FILES_A_DIRECTORY = 40


def measure(directory: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(directory, block=chosen.block_size)
    block = 0
    make = cut(ground, chosen.root) if chosen.root else generated(ground)
    shared = [make(f"shared-{number}", number)[0] for number in range(SHARED)]
    images: dict[str, Any] = {}
    used, mapped, needed = [], [], []
    with ground.up():
        for number in range(chosen.images):
            private, need = make(f"private-{number}", SHARED)
            images[f"image-{number}"] = {"layers": [*shared, private], "snapshots": [{"name": f"web-{number}"}]}
            ground.declare(images)
            ground.once()
            found = metadata.read(ground.metadata)
            assert found is not None
            block = found.block_size
            with Records.of(ground.state / "registry.sqlite3", read_only=True) as records:
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


Make = Callable[[str, int], tuple[dict[str, str], int]]
"""Makes the layer of this name and number: as a manifest names it, and the bytes that it needs in a file system."""


def generated(ground: Ground) -> Make:
    def make(name: str, number: int) -> tuple[dict[str, str], int]:
        entries = list(contents(name, SIZES_MIB[number] * MIB))
        path = ground.layers / f"{name}.tar"
        samples.pack(path, iter(entries))
        return named(path), sum(need(info) for info, _ in entries)

    return make


def cut(ground: Ground, root: Path) -> Make:
    """By bytes, in the order of the tar."""
    with tarfile.open(root) as whole:
        members = whole.getmembers()
    total = sum(map(need, members))
    ends = list(accumulate(map(need, members)))
    parts = [[one for one, end in zip(members, ends, strict=True) if (end - 1) * 5 // total == n] for n in range(SHARED + 1)]

    def make(name: str, number: int) -> tuple[dict[str, str], int]:
        path = ground.layers / f"{name}.tar"
        chosen = parts[number] if number < SHARED else list(moved(parts[number], f"opt/{name}"))
        with tarfile.open(root) as whole, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as layer:
            for one in chosen:
                layer.addfile(one, whole.extractfile(one) if one.isreg() else None)
        return named(path), sum(map(need, chosen))

    return make


def moved(members: Sequence[tarfile.TarInfo], top: str) -> Iterator[tarfile.TarInfo]:
    """The same below another directory, with the directories that they stand in; without links to what is not among them."""
    there = {posixpath.normpath(one.name) for one in members}
    made = {""}
    for one in members:
        name = posixpath.join(top, posixpath.normpath(one.name))
        if one.islnk() and posixpath.normpath(one.linkname) not in there:
            continue
        for parent, _ in samples.parents(name):
            if parent.name not in made:
                made.add(parent.name)
                yield parent
        if one.isdir() and name in made:
            continue
        made.add(name)
        link = posixpath.join(top, posixpath.normpath(one.linkname)) if one.islnk() else one.linkname
        yield one.replace(name=name, linkname=link, deep=False)


def need(info: tarfile.TarInfo) -> int:
    """Bytes: hard links share an inode, a short symbolic link lies in its own."""
    if info.islnk():
        return 0
    blocks = 1 if info.isdir() else -(-info.size // FS_BLOCK) if info.isreg() else 0
    return INODE + blocks * FS_BLOCK


def named(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"source": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
    "--root": {"type": Path, "metavar": "TAR", "help": "a root file system, to be cut into five layers"},
}

if __name__ == "__main__":
    main(__doc__, measure, show, OPTIONS, disk=4096 * MIB)
