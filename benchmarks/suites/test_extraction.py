"""Extraction and its parts. ``extra_info`` holds what one round works on, so that rates can be worked out."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.suites.conftest import Measure
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.member import Member
from reconciler.image.archive.tar import Reader
from reconciler.image.ext4.writer import Writer
from reconciler.image.spec import GIB, MIB, Limits
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Inode, Tree

pytestmark = pytest.mark.timeout(0)

SIZE = 4 * GIB
LIMITS = Limits()
COMMAND = str(Path(sys.executable).with_name("reconcile"))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "volume"
    yield path
    path.unlink(missing_ok=True)


def read(layer: Path) -> int:
    """Every member, and every byte of data, to the verified end of the stream."""
    entries = 0
    with layer.open("rb", buffering=0) as source:
        reader = Reader(open_stream(source, LIMITS))
        for member in reader:
            entries += 1
            for _ in reader.data(member):
                pass
    return entries


def test_tar_reader(benchmark: BenchmarkFixture, measure: Measure, layer: Path) -> None:
    entries = measure(read, layer)
    benchmark.extra_info.update(entries=entries, stored_bytes=layer.stat().st_size)


def members(layer: Path) -> list[Member]:
    with layer.open("rb", buffering=0) as source:
        return list(Reader(open_stream(source, LIMITS)))


def judge_and_place(found: list[Member]) -> Tree:
    judge, tree = Judge(LIMITS), Tree(LIMITS)
    for member in found:
        judge.check(member)
        tree.add(member)
    return tree


def test_judge_and_tree(benchmark: BenchmarkFixture, measure: Measure, plain_layer: Path) -> None:
    found = members(plain_layer)
    measure(judge_and_place, found)
    benchmark.extra_info.update(entries=len(found))


@dataclass(frozen=True)
class Work:
    """What the writer is given: a tree, and its files with their sizes, in the order of the layer."""

    tree: Tree
    files: list[tuple[Inode, int]]


def work(found: list[Member]) -> Work:
    judge, tree, files = Judge(LIMITS), Tree(LIMITS), []
    for member in found:
        judge.check(member)
        inode = tree.add(member)
        if inode is not None:
            files.append((inode, member.size))
    return Work(tree, files)


def write(todo: Work, volume: Path) -> None:
    data = memoryview(os.urandom(MIB))
    with volume.open("wb+") as file:
        file.truncate(SIZE)
        writer = Writer(file.fileno(), SIZE)
        for inode, size in todo.files:
            writer.append(inode, size, None, (data[: min(MIB, size - at)] for at in range(0, size, MIB)))
        writer.finish(todo.tree.root, UUID(int=1))


def test_ext4_writer(benchmark: BenchmarkFixture, measure: Measure, plain_layer: Path, volume: Path) -> None:
    """Data from memory, and all of the metadata, synced."""
    found = [member for member in members(plain_layer) if member.segments is None]

    def fresh() -> tuple[tuple[Work, Path], dict[str, object]]:
        volume.unlink(missing_ok=True)
        return (work(found), volume), {}

    measure(write, setup=fresh)
    benchmark.extra_info.update(
        entries=len(found), data_bytes=sum(member.size for member in found if member.type == stat.S_IFREG)
    )


def build(layer: Path, volume: Path) -> None:
    command = [COMMAND, "build", str(layer), "--output", str(volume), "--size", "4GiB", "-o", "json"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def test_whole_build(benchmark: BenchmarkFixture, measure: Measure, layer: Path, volume: Path) -> None:
    """The command as users run it: two processes, digest, image, sync, e2fsck."""
    measure(build, layer, volume)
    benchmark.extra_info.update(stored_bytes=layer.stat().st_size)
