"""Process 1 of a guest (``guest.py``): prepares the guest, then runs the requests of the host.

It starts before anything is mounted, and uses the standard library only. It exchanges messages with the host through a directory
of the host that is mounted with hostfs: requests are files in ``in``, answers are files in ``out``, each complete when it has
its name.
State: the running jobs, in memory. If it fails, the kernel panics and the console has the traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

POLL = 0.01
FLUSH = 0.2  # seconds until the host has the output of a running job
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8  # mount(2)
POWER_OFF = 0x4321FEDC  # reboot(2)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
KMOD = "/run/kmod"
OWN = ("/run", "/dev", "/var/tmp")
"""Where the guest has file systems of its own, over the host's."""

libc = ctypes.CDLL(None, use_errno=True)


def main(channel: Path) -> None:
    settings = json.loads((channel / "boot.json").read_text())
    try:
        prepare(channel, settings)
    except OSError as error:
        post(channel / "out", "refused", {"error": str(error)})
        power_off()
    post(channel / "out", "ready", {"kernel": os.uname().release, "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)})
    os.environ["PATH"] = settings["environment"]["PATH"]
    Agent(channel, settings["environment"]).serve()


def prepare(channel: Path, settings: dict[str, Any]) -> None:
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    mount("sysfs", "/sys", "sysfs", NOSUID | NODEV | NOEXEC)
    mount("tmpfs", "/run", "tmpfs", NOSUID, "mode=755")
    mount("tmpfs", "/var/tmp", "tmpfs", NOSUID, "mode=1777")  # for programs without TMPDIR: /tmp is the host's, read only
    mount("devtmpfs", "/dev", "devtmpfs", NOSUID)
    for name, kind in (("shm", "tmpfs"), ("pts", "devpts")):
        os.makedirs(f"/dev/{name}", exist_ok=True)
        mount(kind, f"/dev/{name}", kind, NOSUID)
    for name in ("tmp", "home", "lock"):
        os.makedirs(f"/run/{name}", 0o755)
    os.chmod("/run/tmp", 0o1777)
    host_file = Path(settings["environment"]["RECONCILER_HOST_FILE"])
    host_file.write_text(settings["host_file"])
    host_file.chmod(0o600)
    for path in filter(hidden, map(os.path.realpath, settings["readable"])):
        of_the_host(path, RDONLY)
    for path in map(os.path.realpath, (channel, *settings["shared"])):
        of_the_host(path)
    loopback_up()
    load(settings["modules"], settings["load"], settings["environment"])
    if settings["mount"]:
        os.makedirs(settings["mount"], exist_ok=True)
        mount("/dev/ubda", settings["mount"], "ext4", NOSUID)


def hidden(path: str) -> bool:
    """Whether the guest has a file system of its own over the host's ``path``."""
    return any(path.startswith(f"{root}/") for root in OWN)


def of_the_host(path: str, flags: int = 0) -> None:
    """Mounts a directory of the host under its own name."""
    if hidden(path):
        os.makedirs(path, exist_ok=True)
    mount("none", path, "hostfs", NOSUID | flags, path)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        code = ctypes.get_errno()
        if code != errno.EBUSY:
            raise OSError(code, f"mount {kind} on {target}: {os.strerror(code)}")


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("h", request, 16)
        struct.pack_into("h", request, 16, flags | IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def load(modules: str, names: list[str], environment: dict[str, str]) -> None:
    """Loads some modules now; the kernel loads others on demand, as on any host."""
    os.makedirs(f"{KMOD}/lib")
    os.symlink(modules, f"{KMOD}/lib/modules")
    Path(f"{KMOD}/modprobe").write_text(f'#!/bin/sh\nPATH={environment["PATH"]}\nexec modprobe -d {KMOD} "$@"\n')
    os.chmod(f"{KMOD}/modprobe", 0o755)
    with contextlib.suppress(FileNotFoundError):  # a kernel that loads nothing by itself
        Path("/proc/sys/kernel/modprobe").write_text(f"{KMOD}/modprobe")
    child = os.posix_spawn(f"{KMOD}/modprobe", ["modprobe", "-a", *names], environment)
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.ENOPKG, f"modprobe {' '.join(names)}: exit code {os.waitstatus_to_exitcode(status)}")


def post(directory: Path, name: str, content: object) -> None:
    """Through hostfs a file has its content on the host once it is closed."""
    (directory / f".{name}").write_text(json.dumps(content))
    os.rename(directory / f".{name}", directory / name)


def power_off() -> None:
    os.sync()
    libc.reboot(ctypes.c_int(POWER_OFF))


class Agent:
    def __init__(self, channel: Path, environment: dict[str, str]) -> None:
        self.requests, self.answers, self.environment = channel / "in", channel / "out", environment
        self.jobs: dict[int, tuple[str, list[int]]] = {}  # by process: name, the files that it prints to

    def serve(self) -> None:
        flushed = 0.0
        while True:
            for name in sorted(os.listdir(self.requests)):
                if not name.startswith("."):
                    self.handle(name)
            self.reap()
            if self.jobs and time.monotonic() - flushed > FLUSH:
                self.flush()
                flushed = time.monotonic()
            time.sleep(POLL)

    def handle(self, name: str) -> None:
        path = self.requests / name
        request = json.loads(path.read_text())
        path.unlink()
        if request["do"] == "run":
            self.start(request)
        elif request["do"] == "signal":
            for process, (job, _) in self.jobs.items():
                if job == request["job"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process, request["signal"])
        else:
            self.stop()

    def start(self, request: dict[str, Any]) -> None:
        """Spawned, not forked: to copy this process costs ten times as much."""
        job, argv = request["job"], request["argv"]
        outputs = [os.open(self.answers / f"{job}.{kind}", os.O_WRONLY | os.O_APPEND) for kind in ("stdout", "stderr")]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(outputs, 1)),
        ]
        try:
            os.chdir(request["cwd"])
            environment = {**self.environment, **request["env"]}
            self.jobs[os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsid=True)] = (job, outputs)
        except OSError as error:
            os.write(outputs[1], f"{argv[0]}: {error}\n".encode())
            self.ended(job, outputs, 127)
        finally:
            os.chdir("/")

    def reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if process in self.jobs:
                self.ended(*self.jobs.pop(process), os.waitstatus_to_exitcode(status))

    def ended(self, job: str, outputs: list[int], code: int) -> None:
        for fd in outputs:
            os.fsync(fd)  # a process that it left behind may still hold them
            os.close(fd)
        post(self.answers, f"{job}.done", {"code": code})

    def flush(self) -> None:
        for _, outputs in self.jobs.values():
            for fd in outputs:
                os.fsync(fd)

    def stop(self) -> None:
        for process in self.jobs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        power_off()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
