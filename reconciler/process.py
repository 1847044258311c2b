"""The one door to other programs: argument lists, a chosen environment, no inherited standard input.

Called by ``image.builder``, ``image.oci.credentials`` and ``pool`` drivers. No state.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.dataclass import dataclass

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


Running = subprocess.Popen[bytes]
"""A program that has been started and not yet waited for."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind. ``command`` can be pasted into a shell."""

    command: str
    code: int
    stdout: str
    stderr: str


def find(program: str) -> str | None:
    """Absolute path of a program on the administrator's path, or None where it is not installed."""
    places = (Path(directory, program) for directory in ENVIRONMENT["PATH"].split(":"))
    return next((str(place) for place in places if place.is_file() and os.access(place, os.X_OK)), None)


TimeoutExpired = subprocess.TimeoutExpired


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    pass_fds: Sequence[int] = (),
    text: str = "",
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Completed:
    """Run a program to its end and return what it printed, whatever its exit code; ``text`` is its standard input.

    ``timeout`` is in seconds. Raises TimeoutExpired (the program is killed) and FileNotFoundError.
    """
    done = subprocess.run(
        argv, input=text.encode(), capture_output=True, env=environment, timeout=timeout, pass_fds=pass_fds, check=False
    )
    return Completed(
        shlex.join(argv), done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def spawn(argv: Sequence[str], *, pass_fds: Sequence[int]) -> Running:
    """Start a program in a session of its own, with only ``pass_fds`` besides its error output."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        pass_fds=pass_fds,
        start_new_session=True,
        cwd="/",
    )
