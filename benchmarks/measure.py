"""Wall time, CPU time and peak memory of a command and of every process below it."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL_SECONDS = 0.05
MIB = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Of one run. ``peaks`` are bytes of resident memory by the process's name, ``largest`` that of the largest process.

    ``largest`` is the kernel's own record at the end of the command; the others are looked up while it runs.
    """

    wall: float
    cpu: float
    largest: int
    peaks: dict[str, int]


def run(command: Sequence[str]) -> Cost:
    """Run a command to its end. Raises CalledProcessError."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = Peaks(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    found = peaks.stop()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, found)


class Peaks:
    """A thread that looks at ``VmHWM`` of a process and its descendants: a high-water mark, so few looks are enough."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._found: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._done.set()
        self._thread.join()
        return self._found

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            for pid in tree(self._pid):
                with suppress(OSError, StopIteration):
                    name = called(pid)
                    self._found[name] = max(self._found.get(name, 0), high_water(pid))


def tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from tree(int(child))


def called(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    named = [Path(word).name for word in words if word and not word.startswith("-")]
    return next((name for name in named if name.startswith("reconcile")), named[0] if named else "?")


def high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@dataclass(frozen=True)
class Spread:
    """Seconds of several runs."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))
