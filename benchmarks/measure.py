"""Wall time, CPU time and peak memory of a command and of every process below it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 0.05
MIB = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Of one run. ``peaks`` are bytes of resident memory by the process's name, ``largest`` that of the largest process.

    ``largest`` is the kernel's own record at the end of the command; the others are looked up while it runs. ``anonymous`` is the
    most that one process had of its own: neither shared memory nor pages of files that it has mapped.
    """

    wall: float
    cpu: float
    largest: int
    peaks: dict[str, int]
    anonymous: int = 0

    @property
    def resident(self) -> int:
        return self.largest


def run(command: Sequence[str], **options: Any) -> Cost:
    """Run a command to its end, with the options of Popen. Raises CalledProcessError; then its errors are printed."""
    with tempfile.TemporaryFile() as errors:
        try:
            return _run(command, {"stdout": subprocess.DEVNULL, "stderr": errors, **options})
        except subprocess.CalledProcessError:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise


def _run(command: Sequence[str], options: dict[str, Any]) -> Cost:
    began = time.perf_counter()
    child = subprocess.Popen(command, **options)
    peaks = Peaks(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    found = peaks.stop()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, found, peaks.anonymous)


def summed(costs: Sequence[Cost]) -> Cost:
    """Of commands one after the other."""
    peaks: dict[str, int] = {}
    for cost in costs:
        peaks = {name: max(peaks.get(name, 0), cost.peaks.get(name, 0)) for name in peaks.keys() | cost.peaks.keys()}
    wall, cpu = sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs)
    return Cost(wall, cpu, max(cost.largest for cost in costs), peaks, max(cost.anonymous for cost in costs))


class Peaks:
    """A thread that reads the memory of a process and its descendants. ``VmHWM`` is a high-water mark: few looks are enough."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._found: dict[str, int] = {}
        self.anonymous = 0
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
                    name, status = called(pid), Path(f"/proc/{pid}/status").read_text()
                    self._found[name] = max(self._found.get(name, 0), field(status, "VmHWM"))
                    self.anonymous = max(self.anonymous, field(status, "RssAnon"))


def tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):  # a process may end meanwhile
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from tree(int(child))


def called(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    named = [Path(word).name for word in words if word and not word.startswith("-")]
    return next((name for name in named if name.startswith("reconcile")), named[0] if named else "?")


def high_water(pid: int) -> int:
    return field(Path(f"/proc/{pid}/status").read_text(), "VmHWM")


def field(status: str, name: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class Spread:
    """Seconds of several runs."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))
