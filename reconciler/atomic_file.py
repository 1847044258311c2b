"""Files that appear whole or not at all: written under a private name, then renamed over their target.

The private name of ``dir/name`` is ``dir/.name.partial``. A crash can leave it behind; the next writer removes it.
Called by every package that writes a file in one step. State: the files, and a ``flock`` on the private one while it is written.

Errors are OSError whose ``strerror`` names the obstacle, so that callers add the object and the hint.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.dataclass import dataclass

MODE = 0o600
WAIT_SECONDS = 2.0
"""How long a writer waits for another one. It covers the last moments of a process that was killed."""

_POLL_SECONDS = 0.02
_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link", stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is being written: ``fd`` is open for reading and writing, ``path`` is its private name."""

    target: Path
    path: Path
    fd: int

    def publish(self, *, durable: bool = True) -> None:
        """Give the file its target's name. Raises OSError where something else than a regular file has that name."""
        check_target(self.target)
        if durable:
            os.fsync(self.fd)
        rename(self.path, self.target, durable=durable)


@contextmanager
def draft(target: Path, *, lock: bool = True, mode: int = MODE) -> Iterator[Draft]:
    """A new, empty file beside ``target``; removed at the end unless it was published.

    ``lock`` excludes a second writer of the same target, which gets BlockingIOError after ``WAIT_SECONDS``. Callers that hold
    a lock of their own pass False; a leftover is then replaced at once. Raises OSError.
    """
    check_target(target)
    path = private(target)
    fd = _locked(path) if lock else create(path)
    try:
        if mode != MODE:
            os.fchmod(fd, mode)
        yield Draft(target, path, fd)
    finally:
        if _is_at(fd, path):  # still ours: not published, and not replaced by a later writer
            path.unlink(missing_ok=True)
        os.close(fd)


def write(target: Path, data: bytes | str, *, durable: bool = True, mode: int = MODE) -> None:
    """Replace ``target`` by ``data`` in one step. Raises OSError."""
    content = data.encode() if isinstance(data, str) else data
    with draft(target, mode=mode) as made:
        with os.fdopen(os.dup(made.fd), "wb") as file:
            file.write(content)
        made.publish(durable=durable)


def private(target: Path) -> Path:
    """The name under which ``target`` is written."""
    return target.with_name(f".{target.name}.partial")


def check_target(target: Path) -> None:
    """Raises FileExistsError unless ``target`` is a regular file or absent. A symbolic link is not followed."""
    try:
        kind = stat.S_IFMT(target.lstat().st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        raise FileExistsError(errno.EEXIST, f"is {_KINDS.get(kind, 'something else')}, not a regular file", str(target))


def create(path: Path) -> int:
    """A new file of mode 0600, open for reading and writing; what had the name is removed. Raises OSError.

    For callers that exclude other writers.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    return _new(path)


def keep_access(fd: int, like: Path) -> None:
    """Give a file the owner and mode of another one, as far as this process may; nothing where the other one is absent."""
    with suppress(PermissionError, FileNotFoundError):
        old = like.stat(follow_symlinks=False)
        os.fchown(fd, old.st_uid, old.st_gid)
        os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def rename(path: Path, target: Path, *, durable: bool = True) -> None:
    """Rename within one directory; the new name survives a power cut where ``durable``."""
    path.replace(target)
    if durable:
        sync_directory(target.parent)


def make_directory(directory: Path, mode: int = 0o700, *, above: int = 0o711) -> None:
    """Create a directory and its missing parents with these modes, whatever the umask; durable when it returns."""
    if directory.is_dir():
        return
    make_directory(directory.parent, above, above=above)
    try:
        directory.mkdir(mode)
    except FileExistsError:
        return
    directory.chmod(mode)
    sync_directory(directory.parent)


def make_private(path: Path) -> None:
    """Create an empty file that its owner alone may use; an existing one stays. Raises OSError for what is not a regular file."""
    try:
        fd = _new(path)
        os.fchmod(fd, MODE)
        os.close(fd)
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.ELOOP, "it is not a regular file", str(path)) from None


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _new(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def _locked(path: Path) -> int:
    """A new file that only this process writes: the lock tells a writer that lives from a leftover of one that died."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fd = _new(path)
        except FileExistsError:
            _remove_leftover(path)
        else:
            if _lock(fd) and _is_at(fd, path):
                return fd
            os.close(fd)
        if time.monotonic() > until:
            raise BlockingIOError(errno.EAGAIN, f"another process is writing it (as {path.name})", str(path))
        time.sleep(_POLL_SECONDS)


def _remove_leftover(path: Path) -> None:
    """Remove a file that no process writes; one that is being written stays. Raises OSError for what is not a regular file."""
    check_target(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _lock(fd) and _is_at(fd, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether ``path`` still names the open file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))
