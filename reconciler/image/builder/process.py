"""Builder processes: how one is started, ended and asked, and how its words are taken.

Called by ``build`` (a volume) and by ``checks`` (what confines it). A builder has read hostile bytes: what it says is believed as
far as it is a number or a printable word of bounded length. No state.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler import process
from reconciler.errors import BuilderDied, LayerCorrupt
from reconciler.image.builder.protocol import Channel

COMMAND = (sys.executable, "-I", "-m", "reconciler.image.builder.child")
PATIENCE_SECONDS = 600.0
"""How long a builder may owe an answer: it has to wait for a disk at most."""

MAX_WORD = 4096
MAX_NUMBER = 2**64


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
        code = self.running.wait()
        said = self.running.stderr.read(1 << 16).decode(errors="replace").strip() if self.running.stderr else ""
        last = printable(said.splitlines()[-1]) if said else "without output"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return BuilderDied(f"the builder process died ({how}): {last}")


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
    body = ask("probe", ())
    measures = body.get("measures")
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
        answer = child.channel.receive()
        if answer is None:
            raise child.post_mortem()
        body = believable(answer.body)
        if answer.kind == "failed":
            raise LayerCorrupt(str(body.get("message")))
        return body


def believable(body: Any) -> Mapping[str, Any]:
    """A packet's fields: numbers that fit 64 bits, printable words, and lists and mappings of them. Raises ValueError."""
    if not isinstance(body, dict):
        raise ValueError("it is not a mapping")
    return {printable(key): _believable(value) for key, value in body.items()}


def _believable(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case int() | float() if -MAX_NUMBER < value < MAX_NUMBER:
            return value
        case str():
            return printable(value)
        case list():
            return [_believable(one) for one in value]
        case dict():
            return believable(value)
    raise ValueError("it holds a number that is out of range")


def printable(text: str) -> str:
    """Without what moves a terminal's cursor; cut where it is long."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[:MAX_WORD])
