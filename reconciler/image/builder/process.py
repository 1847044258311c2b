"""Builder processes: how one is started, ended and asked.

Called by ``parent`` (a volume), ``program`` and ``status.health`` (what confines a builder). A builder has read hostile
bytes: each answer is due within ``PATIENCE_SECONDS``, and of a fixed shape (``protocol``). State: this process's fork server.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import signal
import site
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler import process
from reconciler.dataclass import dataclass
from reconciler.errors import BuilderDied, LayerCorrupt
from reconciler.image.builder.protocol import NAME, Channel, printable

START = Path(__file__).with_name("start.py")
COMMAND = (sys.executable, "-I", "-S", str(START), str(START.parents[3]), *site.getsitepackages())
"""Without ``site``, but with its directories: what else it does costs a tenth of a builder's start, or more."""

PATIENCE_SECONDS = 600.0
"""How long a builder may owe an answer: it has to wait for a disk at most."""

READING_SECONDS = 300.0
"""How long it may take to read what lies in the ring."""

READING_RATE = 128 << 10
"""Bytes a second that it has to read of all layers together, after ``PATIENCE_SECONDS``: of a slow disk with bytes that unpack to
two hundred times as many."""

STARTING_SECONDS = 60.0
"""How long the fork server may take to fork a builder, and at first to load itself."""

ENDING_SECONDS = 60.0
"""How long the kernel may take to end a process that was killed: one that waits for a disk ends after that."""

KILLED_SECONDS = 1.0
"""How long it usually takes at most; nothing interrupts a wait for it before."""

TURN_SECONDS = 0.1
PIECE = 64 << 10

LAST_WORDS_SECONDS = 5.0
"""How long a builder that has hung up may take to end by itself, so that its exit code shows why."""


Proceed = Callable[[], object]
"""Called now and then by what waits; what it raises ends the wait."""


def always() -> None:
    return


@dataclass(frozen=True, slots=True)
class Child:
    """A running builder and our end of the conversation with it."""

    running: Running
    channel: Channel

    def end(self) -> None:
        """Whatever it is doing: when this returns it holds no descriptor any more. Raises what ``Running.end`` raises."""
        self.running.end()

    def close(self) -> None:
        self.channel.hang_up()
        try:
            self.end()
        finally:
            self.release()

    def release(self) -> None:
        self.running.close()
        self.channel.close()

    def post_mortem(self) -> BuilderDied:
        """Why it has ended without an answer."""
        until = time.monotonic() + LAST_WORDS_SECONDS
        while self.running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        code, said = self.running.end(), self._said().decode(errors="replace").strip()
        last = printable(said.splitlines()[-1]) if said else "without output"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return BuilderDied(f"the builder process died ({how}): {last}")

    def _said(self) -> bytes:
        """What lies in its error output, whoever else may hold that open."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.running.errors.fileno(), 1 << 16)
        return b""


class Running:
    """A forked process: its pid, its error output, and its exit code once it and all that it started have ended.

    ``proceed`` is called by what waits for it.
    """

    def __init__(self, status: socket.socket, errors: int, proceed: Proceed) -> None:
        self.pid = 0
        self.errors = os.fdopen(errors, "rb", buffering=0)
        self._status = status
        self._proceed = proceed
        self._code: int | None = None
        self._given_up = False
        self._lock = threading.Lock()
        os.set_blocking(errors, False)

    def begin(self) -> None:
        """Wait until it runs. Raises OSError where the server has died or does not answer, and what ``proceed`` raises."""
        until = time.monotonic() + STARTING_SECONDS
        try:
            while not readable(self._status, TURN_SECONDS):
                self._proceed()
                if time.monotonic() > until:
                    raise TimeoutError(errno.ETIMEDOUT, f"it has not answered for {STARTING_SECONDS:.0f} s")
            if not self._took_pid():
                raise ConnectionResetError(errno.ECONNRESET, "it has ended")
        except BaseException:
            self._give_up()
            raise

    def _took_pid(self) -> bool:
        what, _, number = self._status.recv(32).partition(b" ")
        self.pid = int(number) if what == b"pid" else 0
        return self.pid > 0

    def _give_up(self) -> None:
        """From now on its pid can't be sent, and without that it does not begin; one that has begun is killed."""
        with contextlib.suppress(OSError):
            self._status.shutdown(socket.SHUT_RD)
            if self.pid or self._took_pid():
                os.killpg(self.pid, signal.SIGKILL)
        self.close()

    def poll(self) -> int | None:
        return self._ended(0)

    def end(self) -> int:
        """Kill what still runs of it, and return the exit code.

        Raises BuilderDied where the kernel does not end it within ``ENDING_SECONDS``, and, after ``KILLED_SECONDS``, what
        ``proceed`` raises.
        """
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        began = time.monotonic()
        while (code := self._ended(0 if self._given_up else TURN_SECONDS)) is None:
            passed = time.monotonic() - began
            if self._given_up or passed > ENDING_SECONDS:
                self._given_up = True
                message = f"process {self.pid} of the builder has not ended within {ENDING_SECONDS:.0f} s after SIGKILL"
                raise BuilderDied(message, hint="a device that does not answer may hold it: see dmesg")
            if passed > KILLED_SECONDS:
                self._proceed()
        return code

    def _ended(self, seconds: float) -> int | None:
        with self._lock:
            if self._code is None and readable(self._status, seconds):
                told = self._status.recv(32)
                self._code = int(told.partition(b" ")[2]) if told else self._orphaned()
            return self._code

    def _orphaned(self) -> int:
        """The server has died, so that no one reports an exit code: end the builder, if the pid is still its own."""
        with contextlib.suppress(OSError):
            if Path("/proc", str(self.pid), "comm").read_text().strip() == NAME:
                os.killpg(self.pid, signal.SIGKILL)
        return -signal.SIGKILL

    def fileno(self) -> int:
        """Readable once it has ended."""
        return self._status.fileno()

    def close(self) -> None:
        self.errors.close()
        self._status.close()


def readable(one: socket.socket | Channel, seconds: float) -> bool:
    """Whether there is something to read, or the other side has closed, within so many seconds; for any descriptor's number."""
    ready = select.poll()
    ready.register(one, select.POLLIN)
    return bool(ready.poll(seconds * 1000))


class Server:
    """A ``fork_server`` that runs."""

    def __init__(self, command: Sequence[str]) -> None:
        self._idle = True
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            self._running = process.spawn([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()])

    def fork(self, kind: str, fds: Sequence[int], proceed: Proceed, **body: Any) -> Running:
        """What it has forked. Raises OSError where the server has died or does not answer, and what ``proceed`` raises."""
        self._idle = False
        status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors, their_errors = os.pipe2(os.O_CLOEXEC)
        running = Running(status, errors, proceed)
        with their_status:
            try:
                Channel(self._control).send(kind, (their_status.fileno(), their_errors, *fds), **body)
            except BaseException:
                running.close()
                raise
            finally:
                os.close(their_errors)
        running.begin()
        return running

    def close(self, seconds: float = 0.0) -> str:
        """End it, by force where it has not ended within so many seconds; return the last line of its error output.

        One that was never asked for anything has nothing to end.
        """
        self._control.close()
        try:
            _, said = self._running.communicate(timeout=0.0 if self._idle else seconds)
        except process.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            try:
                _, said = self._running.communicate(timeout=LAST_WORDS_SECONDS)
            except process.TimeoutExpired:
                return ""
        return printable(said.decode(errors="replace").strip().rpartition("\n")[2])


_servers: dict[tuple[int, Sequence[str]], Server] = {}
"""By the process that started it, which a fork of that process is not, and its command."""
_starting = threading.Lock()
"""Held while the table is read or changed, and while a server is started, which does not wait for it to load."""


@atexit.register
def end_server() -> None:
    """End the fork server of this process, where there is one; the next builder starts another."""
    for key in [key for key in _servers if key[0] == os.getpid()]:
        _servers.pop(key).close(LAST_WORDS_SECONDS)


def start(proceed: Proceed = always) -> Child:
    """A builder that waits for its request. Raises BuilderDied, and what ``proceed`` raises."""
    channel, theirs = Channel.pair()
    try:
        return Child(forked("build", (theirs.fileno(),), proceed), channel)
    except BaseException:
        channel.close()
        raise
    finally:
        theirs.close()


def load() -> None:
    """Start this process's fork server, so that it loads while this process does something else."""
    with contextlib.suppress(OSError):  # the first builder reports it
        _server()


def _server() -> Server:
    key = (os.getpid(), COMMAND)
    with _starting:
        return _servers.get(key) or _servers.setdefault(key, Server(COMMAND))


def forked(kind: str, fds: Sequence[int], proceed: Proceed, **body: Any) -> Running:
    """The server is started with the first builder, and once more where it has died since."""
    key, words = (os.getpid(), COMMAND), ""
    for _ in range(2):
        server = _server()
        try:
            return server.fork(kind, fds, proceed, **body)
        except OSError as error:
            words = str(error)
        with _starting:
            mine = _servers.get(key) is server and _servers.pop(key)
        if mine:
            words = server.close() or words
    raise BuilderDied(f"no builder process can be started: {words}", hint="`reconcile health` checks the host")


@contextlib.contextmanager
def asked(proceed: Proceed = always) -> Iterator[Child]:
    child = start(proceed)
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


def check_index(fd: int, proceed: Proceed = always) -> None:
    """Validate an index in a builder process of its own that has not read the layer. Raises BuilderDied where it is not one."""
    try:
        ask("check", (fd,), proceed)
    except LayerCorrupt as error:
        raise BuilderDied(f"the builder process left an index that is not one: {error.message}", hint="run again") from None


def ask(kind: str, fds: Sequence[int], proceed: Proceed = always) -> Mapping[str, Any]:
    """One question to a builder of its own. Raises BuilderDied, LayerCorrupt, and what ``proceed`` raises."""
    with asked(proceed) as child:
        child.channel.send(kind, fds=fds)
        until = time.monotonic() + PATIENCE_SECONDS
        while not readable(child.channel, TURN_SECONDS):
            proceed()
            if time.monotonic() > until:
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
