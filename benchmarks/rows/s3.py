"""From an object in S3 to a snapshot that is ready, in a file pool, beside what a script does: the seed's pipeline.

That is: download, SHA-256, unpack, mkfs.ext4, mount, copy, unmount, and a copy of the volume as the snapshot.
Both end with a sync.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.contest import OURS, Contest, Place, Row, Target, Work
from benchmarks.contestants import GNU_TAR, IMAGE_BYTES, available, blank, to_nothing, tool
from benchmarks.ground import Ground, pinned
from benchmarks.measure import Cost, run, summed
from benchmarks.rows.compressed import layer_of
from samples.s3 import S3Server, upload

SEED = "the seed's pipeline"
BUCKET = "layers"


def reconciled(ground: Ground, *options: str) -> Work:
    """From nothing."""

    def turn() -> Cost:
        ground.forget()
        try:
            return synced(run(ground.command("--once", *options)), ground.root)
        finally:
            ground.forget()

    return turn


def synced(cost: Cost, directory: Path) -> Cost:
    began = time.perf_counter()
    subprocess.run([tool("sync"), "--file-system", str(directory)], check=True)
    return replace(cost, wall=cost.wall + time.perf_counter() - began)


def scripted(url: str, directory: Path) -> Work:
    def turn() -> Cost:
        directory.mkdir()
        download, top, mounted, image = (directory / name for name in ("layer", "top", "mounted", "volume.ext4"))
        top.mkdir()
        mounted.mkdir()
        blank(image, IMAGE_BYTES)
        commands = [
            ["curl", "--silent", "--fail", "--output", download, url],
            ["openssl", "dgst", "-sha256", download],
            [*GNU_TAR, "--directory", top, "--file", download],
            ["mkfs.ext4", "-q", "-F", image],
            ["mount", "-o", "loop", image, mounted],
            ["cp", "--archive", f"{top}/.", mounted],
            ["umount", mounted],
            ["cp", "--sparse=always", "--reflink=auto", image, directory / "snapshot.ext4"],
        ]
        try:
            cost = summed([run([tool(str(words[0])), *map(str, words[1:])]) for words in commands])
            return synced(cost, directory)
        finally:
            if mounted.is_mount():
                subprocess.run([tool("umount"), str(mounted)], check=True)
            shutil.rmtree(directory)

    return turn


@contextmanager
def contest(compression: str, place: Place) -> Iterator[Contest]:
    layer = layer_of(compression, place.quick)
    ground = Ground(place.directory / "ground")
    with S3Server() as server:
        upload(server.endpoint, {layer.name: layer}, BUCKET)
        s3 = {"endpointUrl": server.endpoint, "region": "us-east-1", "anonymous": True}
        url = f"{server.endpoint}/{BUCKET}/{layer.name}"
        layers = [pinned(f"s3://{BUCKET}/{layer.name}", layer)]
        ground.declare("web", layers, [{"name": "web"}], size="4GiB", s3=s3)
        works = {
            OURS: lambda: reconciled(ground),
            SEED: lambda: scripted(url, place.directory / "script"),
            "download alone": lambda: to_nothing("curl", "-sfo", "/dev/null", url),
        }
        able, missing = available(works, root=[SEED])
        yield Contest(able, [], {"bytes": layer.stat().st_size}, missing)


ROWS = tuple(
    Row(
        f"s3-{compression}",
        f"S3 to a ready snapshot, {compression}",
        partial(contest, compression),
        partial(layer_of, compression),
        (Target(0.3, (SEED,), was=was),),
        warm_up=False,
        rounds=3,
    )
    for compression, was in (("plain", 0.56), ("gzip", 0.47))
)
