"""Machines of our own in User-Mode Linux: a real kernel with device-mapper, up in seconds, whose power can be cut at any moment.

The guest has this host's files, read only, under the same names (hostfs): the same interpreter, virtual environment, checkout.
``/run``, ``/dev`` and ``/var/tmp`` are its own, in memory, and end with it; what Python needs of the host below them is mounted
there again (``readable``). Data that has to survive a power cut belongs on a disk made with ``make_disk``. ``guest_init.py`` is
process 1. State: a private directory on the host for each guest, removed with it; a watcher in the guest's process group ends the
guest and removes the directory if this process dies first.
"""

from __future__ import annotations

import atexit
import compileall
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.policy import PERMISSIVE

KERNEL = "linux.uml"
MODULES = "/usr/lib/uml/modules"
CHECKOUT = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("guest_init.py")
LOADED = ("dm-thin-pool", "dm-flakey", "dm-log-writes", "dm-dust", "dm-delay", "loop")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/run/home",
    "RECONCILER_HOST_FILE": "/run/host.yaml",
    "TMPDIR": "/run/tmp",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
    "DM_DISABLE_UDEV": "1",  # there is no udev: libdevmapper makes the nodes of /dev/mapper itself
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/run/tmp/hypothesis",
}
DISK = "/run/disk"
"""The default mount point of a guest's disk."""
BOOTED = itertools.count()
BOOT = STOP = 60.0
POLL = 0.005
TAIL = 60
WATCHED = 'exec 3<&0; { read -r _ <&3; rm -rf -- "$0"; kill -9 0; } & exec "$@" 3<&- </dev/null'
"""The shell becomes the guest; its child waits for the end of the pipe that the host holds open."""


class GuestDied(Exception):
    """The guest has ended, or has never booted. The text has the end of its console."""


class GuestTimeout(Exception):
    """A command exceeded its timeout and was killed. The text has its output."""


@dataclass(frozen=True, slots=True)
class Completed:
    """``code`` is negative for a signal, as in ``subprocess``."""

    code: int
    stdout: str
    stderr: str

    def check(self) -> Completed:
        assert self.code == 0, f"exit code {self.code}\n{self.stdout}{self.stderr}"
        return self


def unusable() -> str:
    """Why this host can't run guests; empty if it can."""
    if not shutil.which(KERNEL):
        return f"{KERNEL} is not installed (Debian: apt-get install user-mode-linux kmod)"
    if not shutil.which("modprobe", path=PATH):
        return "modprobe is not installed (Debian: apt-get install kmod)"
    if not os.path.isdir(MODULES):
        return f"{MODULES} is missing (Debian: apt-get install user-mode-linux)"
    if re.search(r'["\n]', tempfile.gettempdir()):
        return f"the temporary directory {tempfile.gettempdir()!r} has a quote or a newline in its name (set TMPDIR to another)"
    return ""


def python_directories() -> tuple[Path, ...]:
    """Where this interpreter, its packages and the checkout are: a guest runs the same ones."""
    named = [CHECKOUT, sys.prefix, sys.base_prefix, Path(sys.executable).parent, Path(sys.executable).resolve().parent, *sys.path]
    found = dict.fromkeys(path for name in named if (path := Path(name).absolute()).is_dir())
    return tuple(path for path in found if not any(parent in found for parent in path.parents))


@cache
def compile_sources() -> None:
    """Bytecode of the checkout: a guest can't write there, and would compile all for each command."""
    for name in ("reconciler", "tests", "samples", "benchmarks"):
        compileall.compile_dir(CHECKOUT / name, quiet=1)


def make_disk(path: Path, size: int) -> Path:
    """A sparse file of ``size`` bytes with an empty ext4."""
    with path.open("xb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", path], check=True)
    return path


class Job:
    """A command that runs in a guest."""

    def __init__(self, guest: Guest, name: str) -> None:
        self._guest, self._name = guest, name

    def poll(self) -> int | None:
        """Its exit code once it has ended. Raises ``GuestDied``."""
        done = self._guest.answer(f"{self._name}.done")
        if done is None:
            self._guest.check()
            done = self._guest.answer(f"{self._name}.done")
        return None if done is None else int(done["code"])

    @property
    def stdout(self) -> str:
        """Its output so far, with some tenths of a second of delay while it runs."""
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        return self._printed("stderr")

    def _printed(self, kind: str) -> str:
        return (self._guest.private / "out" / f"{self._name}.{kind}").read_text(errors="replace")

    def signal(self, number: int = signal.SIGKILL) -> None:
        """To all of its process group."""
        self._guest.ask({"do": "signal", "job": self._name, "signal": int(number)})

    def wait(self, timeout: float = 60) -> Completed:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.signal()
                raise GuestTimeout(f"not done after {timeout} s\n{self.stdout}{self.stderr}\n{self._guest.tail()}")
            time.sleep(POLL)
        return Completed(code, self.stdout, self.stderr)


class Guest:
    """Booted by ``with`` or ``boot()``; after ``cut()`` or ``shutdown()`` it can be booted again, with the same disks.

    ``disk`` is mounted at ``mount``; each of ``raw`` is a bare disk, ``/dev/ubdb`` and so on. ``shared`` are directories of this
    host that the guest may write to, ``readable`` those that it must be able to read, under the same names. ``memory`` is in "M"
    or "G"; files in ``/run`` take up to half of it.
    """

    def __init__(
        self,
        disk: Path | None = None,
        *,
        mount: str = DISK,
        raw: Sequence[Path] = (),
        shared: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        memory: str = "2G",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.disk, self.mount, self.raw, self.shared, self.memory = disk, mount, tuple(raw), tuple(shared), memory
        self.readable = (*python_directories(), *readable)
        self.environment = {**ENVIRONMENT, **(env or {})}
        self.private = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def __enter__(self) -> Guest:
        self.boot()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()

    # ------------------------------------------------------------------------------------------------ power

    def boot(self) -> None:
        """Raises ``GuestDied`` if it doesn't boot."""
        assert self._process is None, "it runs already"
        compile_sources()
        self.private = Path(tempfile.mkdtemp(prefix="guest-"))
        atexit.register(self.cut)
        try:
            self._write_settings()
            self._process = self._spawn()
            self.until(lambda: self.answer("ready") is not None or self.answer("refused") is not None, BOOT, "booted")
            if refused := self.answer("refused"):
                raise GuestDied(f"{refused['error']}\n{self.tail()}")
        except BaseException:
            self.cut()
            raise

    def boot_once(self) -> None:
        """Boots and ends it, to find out whether guests can run here. Raises ``GuestDied`` and ``GuestTimeout``."""
        with self:
            pass

    def _write_settings(self) -> None:
        for name in ("in", "out", "uml"):
            (self.private / name).mkdir()
        settings = {
            "environment": self.environment,
            "host_file": PERMISSIVE,
            "load": LOADED,
            "modules": MODULES,
            "mount": self.mount if self.disk else "",
            "readable": [str(path) for path in self.readable],
            "shared": [str(path.resolve()) for path in self.shared],
        }
        (self.private / "boot.json").write_text(json.dumps(settings))
        init = self.private / "init"
        init.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-I', '-S', str(INIT), str(self.private)])}\n")
        init.chmod(0o755)

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = [f"mem={self.memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]
        arguments += [
            "quiet",
            "loglevel=5",
            "oops=panic",
            "con=null",
            "con0=fd:0,fd:1",
            "uml_dir=uml",  # relative names: the kernel splits its arguments at blanks, and a socket's path has 107 bytes at most
            "umid=guest",
            f'init="{self.private}/init"',
        ]
        if any(str(path.resolve()).startswith("/dev/") for path in (self.private, *self.readable)):
            arguments.append(
                "devtmpfs.mount=0"
            )  # process 1 mounts it: until then /dev is the host's, with what the kernel starts
        for letter, disk in zip("abcdefgh", (self.disk, *self.raw), strict=False):
            if disk:  # through a link: a comma or a colon in the file's own name would mean something
                (self.private / f"disk-{letter}").symlink_to(disk.resolve(strict=True))
                arguments.append(f"ubd{letter}=disk-{letter}")
        with (self.private / "console").open("wb") as console:
            return subprocess.Popen(
                ["taskset", "-c", str(one_processor()), "/bin/sh", "-c", WATCHED, str(self.private), KERNEL, *arguments],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.private,
                env={"PATH": f"{os.environ.get('PATH', '')}:{PATH}", **memory_directory(self.memory)},
            )

    def cut(self) -> None:
        """Cuts the power: the guest ends at once, and only its disks remain. Does nothing if it doesn't run."""
        atexit.unregister(self.cut)
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin
            process.stdin.close()
        if self.private != Path():
            shutil.rmtree(self.private, ignore_errors=True)
            self.private = Path()

    def shutdown(self) -> None:
        """Kills the jobs, syncs the disks and powers off. Raises ``GuestTimeout``."""
        self.ask({"do": "stop"})
        assert self._process
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise GuestTimeout(f"not shut down after {STOP} s\n{self.tail()}") from None
        finally:
            self.cut()

    # ------------------------------------------------------------------------------------------------ commands

    def run(
        self,
        command: str | Sequence[str | Path],
        timeout: float = 60,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = CHECKOUT,
    ) -> Completed:
        """A shell script (a string) or a program with its arguments. Raises ``GuestTimeout`` and ``GuestDied``."""
        return self.start(command, env=env, cwd=cwd).wait(timeout)

    def start(self, command: str | Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path = CHECKOUT) -> Job:
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        job = f"job-{self._asked:06}"
        for kind in ("stdout", "stderr"):
            (self.private / "out" / f"{job}.{kind}").touch()
        self.ask({"do": "run", "job": job, "argv": argv, "env": dict(env or {}), "cwd": str(cwd)})
        return Job(self, job)

    def ask(self, request: Mapping[str, object]) -> None:
        """Process 1 takes requests in their order."""
        self.check()
        post(self.private / "in", f"{self._asked:06}", request)
        self._asked += 1

    def answer(self, name: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = json.loads((self.private / "out" / name).read_text())
        except FileNotFoundError:
            return None
        return answer

    def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Waits for something that the guest does. Raises ``GuestDied`` if it dies before, ``GuestTimeout`` if it hangs."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise GuestTimeout(f"not {what} after {timeout} s\n{self.tail()}")
            try:
                self.check()
            except GuestDied:
                if not condition():
                    raise
            time.sleep(POLL)

    def check(self) -> None:
        """Raises ``GuestDied`` if it doesn't run."""
        if self._process is None:
            raise GuestDied("the guest doesn't run")
        if self._process.poll() is not None:
            raise GuestDied(f"the guest has ended, exit code {self._process.returncode}\n{self.tail()}")

    def tail(self, lines: int = TAIL) -> str:
        """The end of its console."""
        try:
            console = (self.private / "console").read_text(errors="replace")
        except FileNotFoundError:
            return "no console"
        return "\n".join(["the guest's console:", *console.replace("\r", "").splitlines()[-lines:]])


def post(directory: Path, name: str, content: object) -> None:
    """Writes a file that gets its name when it is complete."""
    (directory / f".{name}").write_text(json.dumps(content))
    os.rename(directory / f".{name}", directory / name)


def one_processor() -> int:
    """A processor for a guest. Its processes wait for each other all the time: on one they are five times as fast as on two."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[(os.getpid() + next(BOOTED)) % len(allowed)]


def memory_directory(memory: str) -> dict[str, str]:
    """TMPDIR for the guest's memory, a file without a name: in memory if it has room and allows programs."""
    size = int(memory[:-1]) << {"M": 20, "G": 30}[memory[-1]]
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize >= size and not room.f_flag & os.ST_NOEXEC:
            return {"TMPDIR": "/dev/shm"}
    return {"TMPDIR": tempfile.gettempdir()}
