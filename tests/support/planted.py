"""A builder with a planted flaw: a hostile archive "runs code" in it, in the tar reader's place, and reports its results.

Run by ``child.COMMAND``, with ``SETTINGS`` (JSON) as its first argument: ``without`` names measures to leave out, ``user`` is a
uid to start as, ``targets`` is what to reach for. The reason of the layer's refusal has the result of each attempt.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from reconciler.errors import LayerCorrupt
from reconciler.image.archive.member import Member
from reconciler.image.archive.tar import Reader
from reconciler.image.builder import child, libc, seccomp

NOT_THERE = OSError(errno.ENOSYS, "left out by the test")


def attempts(targets: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What hostile code would try first. Each returns where it worked, and raises OSError where it did not."""
    descriptors = [fd for fd in range(64) if _is_open(fd)]
    return {
        "read a file of the host": lambda: os.open(targets["secret"], os.O_RDONLY),
        "write a file of the host": lambda: os.open(targets["directory"] + "/planted", os.O_WRONLY | os.O_CREAT),
        "list the root directory": lambda: _must(os.listdir("/")),
        "read a process's memory": lambda: os.open(f"/proc/{targets['victim']}/mem", os.O_RDONLY),
        "climb out by dot-dot": lambda: os.open("../../../../../../etc/passwd", os.O_RDONLY),
        "climb out by a descriptor": lambda: [os.open("../../../etc/passwd", os.O_RDONLY, dir_fd=fd) for fd in descriptors],
        "climb out by another root": _second_chroot,
        "reach a server on this host": lambda: _connect(targets["port"]),
        "send a datagram": lambda: _datagram(targets["port"]),
        "reach an abstract socket": lambda: _abstract(targets["abstract"]),
        "signal its parent": lambda: os.kill(targets["parent"], 0),
        "signal another process": lambda: os.kill(targets["victim"], signal.SIGTERM),
        "run a program": lambda: os.execv("/bin/sh", ["sh", "-c", "true"]),
        "trace its parent": lambda: libc._checked(libc._libc.ptrace(16, targets["parent"], 0, 0)),
        "become root": lambda: os.setresuid(0, 0, 0),
        "mount": lambda: libc._checked(libc._libc.mount(b"none", b"/", b"tmpfs", 0, None)),
        "fill its pool with one call": lambda: [os.posix_fallocate(fd, 0, 1 << 20) for fd in descriptors],
    }


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _must(found: list[str]) -> None:
    if not found:
        raise OSError(errno.ENOENT, "there is nothing in it")


def _second_chroot() -> int:
    os.mkdir("inner")
    os.chroot("inner")
    return os.open("../../../../etc/passwd", os.O_RDONLY)


def _connect(port: int) -> None:
    with socket.socket(socket.AF_INET) as out:
        out.settimeout(2)
        out.connect(("127.0.0.1", port))


def _datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"out", ("127.0.0.1", port))


def _abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as out:
        out.connect("\0" + name)


class Planted(Reader):
    """Reads as far as the first member, and then runs the planted code."""

    def __iter__(self) -> Iterator[Member]:
        yield next(super().__iter__())
        raise LayerCorrupt(json.dumps({name: _outcome(attempt) for name, attempt in attempts(SETTINGS["targets"]).items()}))


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _refuse(*_: object) -> NoReturn:
    raise NOT_THERE


def main() -> int:
    child.Reader = Planted  # type: ignore[misc]
    if "seccomp" in SETTINGS["without"]:
        seccomp.prepare = seccomp.prepare_for_program = _refuse
    if "Landlock" in SETTINGS["without"]:
        libc.landlock = _refuse
    if "namespaces" in SETTINGS["without"]:
        libc.unshare = _refuse
    child.prepare()
    if SETTINGS["user"]:
        os.setgroups([])
        os.setresgid(SETTINGS["user"], SETTINGS["user"], SETTINGS["user"])
        os.setresuid(SETTINGS["user"], SETTINGS["user"], SETTINGS["user"])
    return child.main(sys.argv)


SETTINGS: dict[str, Any] = json.loads(sys.argv.pop(1)) if __name__ == "__main__" else {}

if __name__ == "__main__":
    sys.exit(main())
