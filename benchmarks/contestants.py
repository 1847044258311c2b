"""The programs of the rows as turns: each makes a file system of a layer, writes it to the disk, and removes it again.

Not in the cost: a fresh file or device, ``mkfs`` and ``mount`` of those that unpack, and removing. In it: ``umount`` and fsync.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import peers
from benchmarks.contest import Work
from benchmarks.measure import MIB, Cost, run, summed

RECONCILE = str(Path(sys.executable).with_name("reconcile"))
PYTHON = sys.executable
IMAGE_BYTES = 4096 * MIB
GNU_TAR = ("tar", "--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*")
BSDTAR = ("bsdtar", "--extract", "--numeric-owner", "--same-owner", "-p", "--xattrs")
UNPACKERS = {"GNU tar": GNU_TAR, "bsdtar": BSDTAR}

Command = Callable[[Path], Sequence[str]]
"""A command line that writes to a path."""


def tool(program: str) -> str:
    return peers.path_of(program) or program


def quietly(*command: str | Path) -> None:
    subprocess.run([tool(str(command[0])), *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)


def ours(*layers: Path | str, size: int = IMAGE_BYTES) -> Command:
    """``reconcile build``: digest, judge, image, sync and e2fsck; ``--force`` is for devices."""
    command = [RECONCILE, "build", *map(str, layers), "-o", "json", "--progress", "none", "--size", str(size)]
    return lambda target: [*command, "--output", str(target), *(["--force"] if target.is_block_device() else [])]


def blank(path: Path, size: int = IMAGE_BYTES) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def fsync(path: Path) -> float:
    """Seconds."""
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return time.perf_counter() - began


def to_file(command: Command, directory: Path, source: Path | None = None) -> Work:
    """Writes a file that does not exist yet. ``source`` is what the program reads from standard input."""

    def turn() -> Cost:
        target = directory / "target"
        with ExitStack() as stack:
            stack.callback(target.unlink, missing_ok=True)
            options = {"stdin": stack.enter_context(source.open("rb"))} if source else {}
            cost = run(command(target), **options)
            return replace(cost, wall=cost.wall + fsync(target))

    return turn


def to_device(command: Command, directory: Path) -> Work:
    """Writes a loop device with direct I/O over a new file."""

    def turn() -> Cost:
        with loop_device(directory / "backing") as device:
            cost = run(command(device))
            return replace(cost, wall=cost.wall + fsync(device))

    return turn


def to_nothing(*command: str | Path) -> Work:
    return lambda: run([tool(str(command[0])), *map(str, command[1:])])


def unpacked(command: Sequence[str], layer: Path, directory: Path) -> Work:
    """Unpacks into a fresh ext4 of a loop device with direct I/O."""

    def turn() -> Cost:
        with loop_device(directory / "backing") as device:
            quietly("mkfs.ext4", "-q", "-F", device)
            with mounted(device, directory) as top:
                cost = run([tool(command[0]), *command[1:], "--directory", str(top), "--file", str(layer)])
                began = time.perf_counter()
                quietly("umount", top)
                return replace(cost, wall=cost.wall + time.perf_counter() - began + fsync(device))

    return turn


@contextmanager
def loop_device(backing: Path, size: int = IMAGE_BYTES) -> Iterator[Path]:
    """Direct I/O keeps the data out of a second page cache; a file system that can't do it gets an ordinary device."""
    blank(backing, size)
    with ExitStack() as stack:
        stack.callback(backing.unlink)
        attach = [tool("losetup"), "--find", "--show", "--direct-io=on", str(backing)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        stack.callback(quietly, "losetup", "--detach", device)
        yield Path(device)


@contextmanager
def mounted(device: Path, directory: Path, *options: str) -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(dir=directory))
    quietly("mount", *options, device, top)
    try:
        yield top
    finally:
        if top.is_mount():
            quietly("umount", top)
        top.rmdir()


def in_turn(*works: Work) -> Work:
    """One after the other, as one turn."""
    return lambda: summed([work() for work in works])


def available(works: Mapping[str, Callable[[], Work]], root: Sequence[str] = ()) -> tuple[dict[str, Work], dict[str, str]]:
    """Those that this machine can run, and why it can't run the others. ``root`` names those that need root."""
    lacking = {name: peers.missing(name) for name in works if name in peers.PEERS}
    if os.geteuid():
        lacking |= dict.fromkeys(root, peers.NO_ROOT)
    missing = {name: reason for name, reason in lacking.items() if reason}
    return {name: make() for name, make in works.items() if name not in missing}, missing
