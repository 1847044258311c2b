"""What ``benchmarks.fleet`` runs: agents that are forks of one process, the way of a third of them to the centre, and costs.

Every process ends with the benchmark, however that ends. State: below one directory, and processes.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from reconciler import process as programs
from reconciler.cli.main import main as reconcile
from reconciler.image.builder import child, libc, process

SERVICE = ("reconciler.controller.service", "reconciler.api.server", "reconciler.fleet.reporter", "psycopg", "watchfiles")
"""What a service imports beside ``--once``."""
SPARE_BYTES = 1 << 30
"""Of the machine's memory, below which no agent is started."""
BACKLOG = 512
TICKS = os.sysconf("SC_CLK_TCK")


def preload(directory: Path, manifests: Path) -> None:
    """Load all that an agent needs, before the forks: they then share most of their memory."""
    for module in SERVICE:
        __import__(module)
    policy = directory / "host.yaml"
    words = ["--once", "-f", manifests, "--state", directory / "state", "--host-file", policy, "--progress", "none", "-o", "json"]
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        code = reconcile([str(word) for word in words])
    assert code == 0, f"a run exits with {code}"
    process.end_server()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()


def is_roomy() -> bool:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")) > SPARE_BYTES


def forked(work: Callable[[], int]) -> int:
    """The pid of a process of its own that does the work, and is killed when this one ends."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        libc.end_with_parent()
        os.setsid()
        code = work()
    finally:
        os._exit(code)


def agent(log: Path, words: Iterable[object]) -> int:
    """The pid of a service. Everything else on the machine, the database too, goes before it (SCHED_IDLE)."""

    def work() -> int:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with log.open("ab") as out:
            for descriptor in (1, 2):
                os.dup2(out.fileno(), descriptor)
        programs.spawn = Builders(programs.spawn).spawn
        return reconcile([str(word) for word in words])

    return forked(work)


class Builders:
    """The fork server of an agent as a fork, which shares the memory that a program of its own would have: 10 MiB for each agent.

    It waits for its socket from the time on when the agent has one thread. One that is started after it is a program.
    """

    def __init__(self, others: Callable[..., Any]) -> None:
        self._others = others
        self._ours, theirs = socket.socketpair()
        self.pid = forked(lambda: self._become(theirs))
        theirs.close()

    def _become(self, theirs: socket.socket) -> int:
        self._ours.close()
        _, (control,), _, _ = socket.recv_fds(theirs, 1, 1)
        os.dup2(control, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.chdir("/")
        return child.main(["", "3"])

    def spawn(self, argv: Sequence[str], *, pass_fds: Sequence[int]) -> Any:
        if self._ours.fileno() < 0:
            return self._others(argv, pass_fds=pass_fds)
        with self._ours:
            socket.send_fds(self._ours, [b"\0"], list(pass_fds))
        return self

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        until = time.monotonic() + timeout
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > until:
                raise programs.TimeoutExpired([], timeout)
            time.sleep(0.01)
        return b"", b""


# ------------------------------------------------------------------------------------------------------- partition


class Way:
    """A process between some of the agents and the centre: ``cut``, and all that passes it is lost without an answer."""

    def __init__(self, directory: Path, database: Path, endpoint: str) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        near = socket.socket(socket.AF_UNIX)
        near.bind(str(directory / database.name))
        (directory / database.name).chmod(0o777)
        store = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        near.listen(BACKLOG)
        self.endpoint = f"http://127.0.0.1:{store.getsockname()[1]}"
        host, _, port = endpoint.rpartition("/")[2].partition(":")

        def work() -> int:
            _passing(near, lambda: _connected(database))
            _passing(store, lambda: socket.create_connection((host, int(port))))
            threading.Event().wait()
            return 0

        self._pid = forked(work)
        near.close()
        store.close()

    def cut(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def restore(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _connected(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(path))
    except OSError:
        found.close()
        raise
    return found


def _passing(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Pass what comes on to what ``connect`` returns, in threads."""

    def accept() -> NoReturn:
        while True:
            peer, _ = listener.accept()
            try:
                far = connect()
            except OSError:
                peer.close()
                continue
            for one, other in ((peer, far), (far, peer)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while piece := one.recv(1 << 16):
            other.sendall(piece)
    with suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)
        one.shutdown(socket.SHUT_RDWR)


# ------------------------------------------------------------------------------------------------------------ costs


def tree(pid: int) -> Iterator[int]:
    """A process and all below it that live."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in thread.read_text().split():
                yield from tree(int(child))


def cpu(pids: Iterable[int]) -> float:
    """Seconds that these processes and those below them have used, with those that have ended."""
    return sum(_cpu(one) for pid in pids for one in tree(pid))


def _cpu(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS
    return 0.0


def wakes(pids: Iterable[int]) -> int:
    """How often a thread of these processes has begun to wait."""
    return sum(_wakes(path) for pid in pids for one in tree(pid) for path in Path(f"/proc/{one}/task").glob("*/status"))


def _wakes(path: Path) -> int:
    with suppress(OSError):
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("voluntary_ctxt"))
    return 0


def memory(pid: int) -> float:
    """MiB of a process and those below it, with their share of what forks have in common."""
    return sum(_pss(one) for one in tree(pid)) / 1024


def _pss(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0
