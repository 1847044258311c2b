"""Runs a program of the host that reads what a builder has written, confined (``checker``), for a bounded time and output.

Called by ``image.e2fsck`` and ``status.health`` (what confines it). No state.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence

from reconciler import process
from reconciler.errors import BuilderDied
from reconciler.image.builder.measures import NOT_EXECUTED, gaps
from reconciler.image.builder.process import PATIENCE_SECONDS, PIECE, TURN_SECONDS, Proceed, Running, always, forked
from reconciler.image.builder.protocol import printable
from reconciler.policy import force
from reconciler.policy.rules import Refusal


def run(
    program: Sequence[str], subject: str, *, timeout: float, most: int, proceed: Proceed, pass_fds: Sequence[int] = ()
) -> process.Completed:
    """Run a program of the host that reads ``subject``, confined (``checker``), and keep ``most`` bytes of what it prints.

    One that prints more is killed. ``proceed`` is called ten times a second; what it raises kills the program.
    Raises TimeoutExpired, BuilderDied where it can't be started, PolicyRefused where it lacks a measure that the policy requires.
    """
    policy = force.current()
    required = policy.requires_confinement and policy.enforced
    done = _run(program, subject, required, timeout=timeout, most=most, proceed=proceed, pass_fds=pass_fds)
    if required and done.code == NOT_EXECUTED:
        missing = "; ".join(str(gap) for gap in gaps(_measures(done)) if gap.required)
        policy.require(Refusal("policy.confinement", f"{program[0]} is not fully confined: {missing}"))
    return done


def confinement() -> Mapping[str, str]:
    """The measures that ``run`` takes on this host, each with what is missing of it, or nothing. Raises BuilderDied."""
    return _measures(_run((), "/", False, timeout=PATIENCE_SECONDS, most=PIECE, proceed=always))


def _measures(done: process.Completed) -> Mapping[str, str]:
    try:
        return {str(name): str(missing) for name, missing in json.loads(done.stdout).items()}
    except (ValueError, AttributeError):
        raise BuilderDied(f"no process can be confined for e2fsck: {printable(done.stderr.strip())}") from None


def _run(
    program: Sequence[str],
    subject: str,
    required: bool,
    *,
    timeout: float,
    most: int,
    proceed: Proceed,
    pass_fds: Sequence[int] = (),
) -> process.Completed:
    until = time.monotonic() + timeout
    output, theirs = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(output, "rb", buffering=0) as stdout:
        try:
            body = {"program": list(program), "subject": subject, "numbers": list(pass_fds), "required": required}
            running = forked("program", (theirs, *pass_fds), proceed, **body)
        finally:
            os.close(theirs)
        found = {stdout.fileno(): bytearray(), running.errors.fileno(): bytearray()}
        try:
            for _ in _pieces(running, found):
                proceed()
                if time.monotonic() > until:
                    raise process.TimeoutExpired(program, timeout)
                if sum(map(len, found.values())) > most:
                    break
            code = running.end()
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(running.close)
                running.end()
    out, said = (bytes(one[:most]).decode(errors="replace") for one in found.values())
    return process.Completed(shlex.join(program), code, out, said)


def _pieces(running: Running, found: Mapping[int, bytearray]) -> Iterator[None]:
    """Collect what a process prints until it has ended; at least every ``TURN_SECONDS`` the caller gets a turn."""
    waiting = select.poll()
    for fd in (running.fileno(), *found):
        waiting.register(fd, select.POLLIN)
    open_ones = set(found)
    while open_ones or running.poll() is None:
        yield
        for fd, _ in waiting.poll(TURN_SECONDS * 1000):
            if fd not in found:
                waiting.unregister(fd)  # it has ended; what it printed may still lie in the pipes
            elif piece := os.read(fd, PIECE):
                found[fd] += piece
            else:
                open_ones.discard(fd)
                waiting.unregister(fd)
