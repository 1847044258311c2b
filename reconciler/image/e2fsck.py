"""e2fsck: checks a written volume before it is used, with code that is not ours.

Called by ``controller`` (each volume before it is sealed), ``cli.build_image`` and ``status.health``. No state.
It runs confined (``builder.checker``), for a bounded time and with bounded output: what it reads was written by a process that a
layer may have taken over. e2fsprogs is not required: where it is missing the volume is sealed unchecked, and ``health`` reports
that.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from reconciler import process
from reconciler.errors import BuilderDied, VolumeCorrupt
from reconciler.image.builder import program as confined
from reconciler.image.builder.protocol import printable

TIMEOUT_SECONDS = 1800
MOST_OUTPUT = 1 << 20
"""Bytes: a file system without errors has a few lines."""

OPTIONS = ("-fn",)
FOUND = 4 | 8
"""Bits of its exit code: errors are left; it can't read the file system."""


def present() -> bool:
    return process.find("e2fsck") is not None


def check(path: Path, pass_fds: Sequence[int] = (), proceed: Callable[[], object] = lambda: None) -> bool:
    """Check a file system with e2fsck, read-only; False where e2fsck is not installed.

    Raises VolumeCorrupt with e2fsck's first complaint, BuilderDied where it ends without a verdict (killed, not started),
    PolicyRefused where it lacks a measure that the host's policy requires. Exit code 0 of ``e2fsck -fn`` means that nothing is
    wrong (e2fsck(8)).
    ``proceed`` is called now and then; what it raises ends the check.
    """
    program = process.find("e2fsck")
    if program is None:
        return False
    command = [program, *OPTIONS, str(path)]
    try:
        found = str(path.absolute())  # the fork server has another working directory
        done = confined.run(
            [program, *OPTIONS, found], found, timeout=TIMEOUT_SECONDS, most=MOST_OUTPUT, proceed=proceed, pass_fds=pass_fds
        )
    except process.TimeoutExpired:
        raise VolumeCorrupt(f"{path}: e2fsck has not ended after {TIMEOUT_SECONDS} s", hint=_hint(command)) from None
    if done.code != 0:
        said = [line for line in done.stdout.splitlines() if line and not line.startswith(("Pass ", "e2fsck "))]
        complaint = printable(said[0] if said else done.stderr.strip() or f"it ended with code {done.code}")
        if not said and (done.code < 0 or not done.code & FOUND):
            raise BuilderDied(f"{path}: e2fsck ended without a verdict: {complaint}", hint=_hint(command))
        raise VolumeCorrupt(f"{path}: e2fsck reported errors: {complaint}", hint=_hint(command))
    return True


def _hint(command: Sequence[str]) -> str:
    return f"see all of them with: {shlex.join(command)}"
