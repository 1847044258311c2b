"""Images made and looked at: built in this process or by the command, checked by e2fsck, mounted by the kernel."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.ext4.writer import Summary, Writer
from reconciler.image.spec import MIB, Limits
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Tree
from tests.support.origin import eventually

SIZE = 64 * MIB
ANY_UUID = UUID("00000000-0000-4000-8000-000000000001")
COMMAND = str(Path(sys.executable).with_name("reconcile"))
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def build_here(layers: Sequence[bytes], path: Path, size: int = SIZE) -> Summary:
    """The builder's own loop without its process: quick enough to be run hundreds of times."""
    limits = Limits()
    tree = Tree(limits)
    with path.open("wb+") as file:
        file.truncate(size)
        writer = Writer(file.fileno(), size)
        try:
            for layer in layers:
                add_layer(layer, tree, writer, limits)
            return writer.finish(tree.root, ANY_UUID)
        finally:
            writer.close()


def add_layer(layer: bytes, tree: Tree, writer: Writer, limits: Limits) -> None:
    judge, reader = Judge(limits, tree.accounts), Reader(open_stream(io.BytesIO(layer), limits))
    tree.begin_layer()
    for member in reader:
        judge.check(member)
        inode = tree.add(member)
        if inode is not None:
            writer.append(inode, member.size, member.segments, tree.accounts.read(member, inode, reader.data(member)))
    judge.finish()
    tree.end_layer()


def build(
    layers: Sequence[Path], path: Path, size: str = "64MiB", environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """``reconcile build`` as a user runs it; what it printed as JSON."""
    command = [COMMAND, "build", *map(str, layers), "--output", str(path), "--size", size, "-o", "json"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **(environment or {})}, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{(done.stdout + done.stderr).decode(errors='replace')}"
    return done.stdout.decode(errors="replace")


def assert_e2fsck_is_content(path: Path) -> None:
    """Exit code 0, and no line besides the five passes and the totals."""
    lines = run("e2fsck", "-fn", path).splitlines()
    unexpected = [line for line in lines if line and not line.startswith("Pass ")]
    assert len(unexpected) == 1 and unexpected[0].startswith(f"{str(path).replace(' ', '_')}: "), "\n".join(lines)


@contextmanager
def mounted(image: Path, *options: str) -> Iterator[Path]:
    """An image mounted through a loop device (root only); always unmounted and detached again."""
    top = image.with_name(f"{image.name}.mounted")
    top.mkdir()
    try:
        run("mount", "-t", "ext4", "-o", ",".join(("loop", *options)), image, top)
        try:
            yield top
        finally:
            run("umount", top)
            # A builder of another test that is about to leave the mounts it was started with keeps this one for a moment.
            eventually(lambda: not run("losetup", "-j", image))
    finally:
        top.rmdir()


@contextmanager
def fresh_ext4(image: Path, size: int) -> Iterator[Path]:
    """An empty ext4 of mke2fs, mounted for writing."""
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-I", "256", "-i", "4096", image)
    with mounted(image, "nodev", "nosuid", "noexec") as top:
        (top / "lost+found").rmdir()
        yield top
