"""The one-writer lock: ``flock`` on a file of the state directory. It dies with its holder; there is nothing to force open.

Acquired by ``host.context.writing`` around everything that changes the host. The file's text is for people only: it names the
holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler import atomic_file
from reconciler.errors import HostCannot, LockHeld


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock. Raises LockHeld, naming the holder, at once; HostCannot where the file can't be made."""
    fd = _open(path)
    try:
        _take(fd, path)
        _write(fd, f"{os.getpid()} {shlex.join(sys.argv)}\n")
        try:
            yield
        finally:
            _write(fd, "")
    finally:
        os.close(fd)


def holder(path: Path) -> str:
    """The holder of the lock, for people; empty where it is free.

    The kernel is asked (proc(5), ``/proc/locks``): to try the lock would keep it, for a moment, from who needs it.
    """
    try:
        inode = f":{path.stat().st_ino} "
        held = any("FLOCK" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())
        return _told(path.read_bytes()) if held else ""
    except OSError:
        return ""


def _told(text: bytes) -> str:
    pid, _, command = text.decode(errors="replace").strip().partition(" ")
    return f"process {pid} ({command})" if pid else "a process that is just starting or ending"


def _open(path: Path) -> int:
    try:
        atomic_file.make_directory(path.parent)
        atomic_file.make_private(path)
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostCannot(f"lock {path}: {error.strerror}", hint="check the state directory and its permissions") from error


def _take(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld(
            f"{path} is held by {_told(os.pread(fd, 4096, 0))}",
            hint="a service applies manifests by itself (see `reconcile wait`, `retry`); else wait, or stop that process",
        ) from None
    except OSError as error:
        raise HostCannot(f"lock {path}: {error.strerror}", hint="use a local file system for --state") from error


def _write(fd: int, text: str) -> None:
    """Best effort: the lock holds without the text, also on a full disk."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(errors="surrogateescape"), 0)
