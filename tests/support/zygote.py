"""Real processes of ``reconcile`` that need not import everything first: a process that has, and forks one for each command.

Loading the libraries takes several times as long as what most stories ask for. A forked command has its own process id,
session, signals, standard streams, environment and exit code, as the installed one does; ``test_converge`` runs that one too.
``die_at`` makes a command kill itself, as a power cut would, at the Nth moment at which it is about to change something durable.

Run as ``python -m tests.support.zygote SOCKET``; ends when standard input does.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LOADED = [
    "reconciler.cli.main",
    "reconciler.status.inventory",
    "reconciler.status.health",
    "reconciler.cli.build_image",
    "reconciler.cli.inspect_layer",
]
LOADED += ["boto3.session", "botocore.config", "botocore.httpsession", "botocore.parsers", "watchfiles"]

STACKS = signal.SIGUSR1
"""Has a command tell on standard error where each of its threads is."""

IMAGE = """\
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: warm}
spec: {size: 16MiB, layers: [{source: layer.tar}], snapshots: [{name: warm}]}
"""


class Zygote:
    """The client's side; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "zygote")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Zygote:
        command = [sys.executable, "-m", "tests.support.zygote", self._path]
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "it ended while it was loading; its standard error says why"
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.communicate()

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, out: int, err: int, die_at: int = 0) -> Command:
        """Run ``reconcile`` with these arguments; ``out`` and ``err`` are descriptors for its standard streams."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._path)
        asked = {"argv": list(argv), "env": dict(env), "cwd": str(cwd), "die_at": die_at}
        socket.send_fds(connection, [json.dumps(asked).encode()], [out, err])
        return Command(connection)


@functools.cache
def shared() -> Zygote:
    """The one of this test process, for tests that take no fixture; it ends with the process."""
    directory = tempfile.TemporaryDirectory(prefix="zygote-")
    atexit.register(directory.cleanup)
    zygote = Zygote(Path(directory.name))
    atexit.register(zygote.__exit__)
    return zygote.__enter__()


class Command:
    """What stories use of ``subprocess.Popen``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = int(connection.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("reconcile", timeout or 0)
            self.returncode = int(self._connection.recv(64))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


# ------------------------------------------------------------------------------------------------ in the zygote


def main(path: str) -> int:
    """Wait for commands to run, until standard input ends."""
    warm_up()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        running: dict[int, tuple[int, socket.socket]] = {}
        while True:
            ready, _, _ = select.select([sys.stdin, listener, *running], [], [])
            if sys.stdin in ready:
                return end(running)
            for ended in running.keys() & ready:
                report(ended, *running.pop(ended))
            if listener in ready:
                connection, _ = listener.accept()
                pid = fork(connection)
                running[os.pidfd_open(pid)] = pid, connection


def end(running: Mapping[int, tuple[int, socket.socket]]) -> int:
    """A story that failed may have left a command running: nothing outlives the stories."""
    for pid, _ in running.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 0


def fork(connection: socket.socket) -> int:
    """Start the command that the connection asks for, and tell its process id."""
    told, streams, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    if (pid := os.fork()) == 0:
        become(json.loads(told), *streams)
    for stream in streams:
        os.close(stream)
    connection.send(str(pid).encode())
    return pid


def report(ended: int, pid: int, connection: socket.socket) -> None:
    """Tell how a command has ended, and let go of it."""
    _, status = os.waitpid(pid, 0)
    os.close(ended)
    with connection, contextlib.suppress(BrokenPipeError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def warm_up() -> None:
    """Load everything, and have the libraries compile what they compile at its first use."""
    from reconciler.cli import main as cli

    for name in LOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        Path(scratch, "image.yaml").write_text(IMAGE)
        tarfile.open(Path(scratch, "layer.tar"), "w").close()
        for words in (["--once", "--progress", "none"], ["plan"], ["list"]):
            cli.main([*words, "-o", "json", "-f", scratch, "--state", f"{scratch}/state"])


def become(asked: Mapping[str, Any], out: int, err: int) -> NoReturn:
    """Run the command to its end. What an interpreter does at its end is done, but for taking all modules apart again."""
    from reconciler.cli import main as cli

    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["reconcile", *asked["argv"]]
    faulthandler.register(STACKS)
    if asked["die_at"]:
        Death(asked["die_at"], asked["env"]["RECONCILER_STATE"]).await_it()
    code = cli.main()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


class Death:
    """Counts what the process is about to do to its state directory or the kernel's devices, and kills it at the Nth time."""

    EVENTS = frozenset(
        {"open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
    )
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def __init__(self, moment: int, state: str) -> None:
        self._left = moment
        self._state = state
        self._lock = threading.Lock()

    def await_it(self) -> None:
        from reconciler.pool.thin.devmapper import DeviceMapper

        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(self._hear_sql)
            return connection

        sqlite3.connect = traced
        sys.addaudithook(self._hear)
        for name in ("create", "load", "suspend", "resume", "remove", "message"):
            self._around(DeviceMapper, name)

    def _around(self, owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._come_nearer()
            try:
                return real(*arguments, **options)
            finally:
                self._come_nearer()

        setattr(owner, name, call)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.EVENTS and self._concerns(event, arguments):
            self._come_nearer()

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & self.WRITING):
            return False
        return isinstance(arguments[0], int) or os.fsdecode(arguments[0]).startswith(self._state)

    def _hear_sql(self, statement: str) -> None:
        if statement.startswith(("BEGIN", "COMMIT")):
            self._come_nearer()

    def _come_nearer(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
