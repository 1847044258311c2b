"""Builder processes: how one is started, ended and asked, and how it is asked.

Called by ``parent`` (a volume) and by ``status.health`` (what confines it). A builder has read hostile bytes: each answer is due
within ``PATIENCE_SECONDS``, and of a fixed shape (``protocol``). No state.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler import process
from reconciler.errors import BuilderDied, LayerCorrupt
from reconciler.image.builder.protocol import Channel, printable

COMMAND = (sys.executable, "-I", "-m", "reconciler.image.builder.child")
PATIENCE_SECONDS = 600.0
"""How long a builder may owe an answer: it has to wait for a disk at most."""

LAST_WORDS_SECONDS = 5.0
"""How long a builder that has hung up may take to end by itself, so that its exit code shows why."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running builder and our end of the conversation with it."""

    running: process.Running
    channel: Channel

    def end(self) -> None:
        """Whatever it is doing: when this returns it holds no descriptor any more."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()

    def close(self) -> None:
        self.channel.hang_up()
        self.end()
        if self.running.stderr is not None:
            self.running.stderr.close()
        self.channel.close()

    def post_mortem(self) -> BuilderDied:
        """Why it has ended without an answer."""
        until = time.monotonic() + LAST_WORDS_SECONDS
        while self.running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        self.end()
        code, said = self.running.wait(), self._said().decode(errors="replace").strip()
        last = printable(said.splitlines()[-1]) if said else "without output"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return BuilderDied(f"the builder process died ({how}): {last}")

    def _said(self) -> bytes:
        """What lies in its error output, whoever else may hold that open."""
        if self.running.stderr is None:
            return b""
        os.set_blocking(self.running.stderr.fileno(), False)
        return self.running.stderr.read(1 << 16) or b""


def start() -> Child:
    channel, theirs = Channel.pair()
    fd = theirs.fileno()
    try:
        return Child(process.spawn([*COMMAND, str(fd)], pass_fds=[fd]), channel)
    finally:
        theirs.close()


@contextlib.contextmanager
def asked() -> Iterator[Child]:
    child = start()
    try:
        yield child
    finally:
        child.close()


def confinement() -> Mapping[str, str]:
    """The measures that a builder of this user takes on this host, each with what is missing of it, or nothing.

    Raises BuilderDied.
    """
    measures = ask("probe", ()).get("measures")
    if not isinstance(measures, dict):
        raise BuilderDied("the builder process did not report its confinement")
    return {str(name): str(missing) for name, missing in measures.items()}


def check_index(fd: int) -> None:
    """Validate an index in a builder process of its own that has not read the layer. Raises BuilderDied where it is not one."""
    try:
        ask("check", (fd,))
    except LayerCorrupt as error:
        raise BuilderDied(f"the builder process left an index that is not one: {error.message}", hint="run again") from None


def ask(kind: str, fds: Sequence[int]) -> Mapping[str, Any]:
    """One question to a builder of its own. Raises BuilderDied, LayerCorrupt."""
    with asked() as child:
        child.channel.send(kind, fds=fds)
        if not select.select([child.channel], [], [], PATIENCE_SECONDS)[0]:
            raise BuilderDied(f"the builder process has not answered for {PATIENCE_SECONDS:.0f} s")
        try:
            answer = child.channel.answer()
        except ValueError as nonsense:
            raise BuilderDied(f"the builder process sent an invalid packet: {nonsense}") from nonsense
        if answer is None:
            raise child.post_mortem()
        if answer.kind == "failed":
            raise LayerCorrupt(str(answer.body["message"]))
        return answer.body
