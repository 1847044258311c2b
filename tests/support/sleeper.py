"""A process that sleeps and holds a file open. Used by tests of the holders of a file or a device. No state."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def sleeper(stdin: IO[bytes], stdout: IO[bytes] | None = None) -> Iterator[int]:
    """Its process id, for as long as it sleeps."""
    with subprocess.Popen(["sleep", "600"], stdin=stdin, stdout=stdout) as process:
        try:
            await_name(process.pid, "sleep")
            yield process.pid
        finally:
            process.kill()


def await_name(pid: int, name: str) -> None:
    """Return once /proc calls the process so: that is later than ``Popen`` returns, which waits for what exec does first."""
    deadline = time.monotonic() + 20
    while command_name(pid) != name:
        assert time.monotonic() < deadline, f"process {pid} is called {command_name(pid)}, not {name}"
        time.sleep(0.002)


def command_name(pid: int) -> str:
    """Its name as proc_pid_comm(5) has it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()
