"""One directory of image files, and the file names that it uses.

    <name>.ext4              finished: complete and durable before it got this name
    .<name>.partial          being written; a leftover after a crash
    <name>.ext4.aside-<n>    found at the path of a finished file; kept for the operator, never touched again

Anything else is foreign. A file becomes durable in the order that survives a power cut: the data, the name, the directory.
Called by ``pool.file.pool``; the directory is its state.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from reconciler import atomic_file
from reconciler.dataclass import dataclass
from reconciler.errors import Terminal
from reconciler.pool.file.identity import FileState, examine, give_id

SUFFIX = ".ext4"
_ASIDE = re.compile(r"(?P<name>.+)\.ext4\.aside-\d+", re.DOTALL)
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Listing:
    """File names of one directory by what they are; ``finished`` holds names without the suffix."""

    finished: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """``name`` matches our names, ``noun`` is used in messages, ``mode`` is that of a new directory."""

    directory: Path
    name: re.Pattern[str]
    noun: str
    mode: int

    def path(self, name: str) -> Path:
        """Path of the finished file. Raises Terminal for a name that is not allowed."""
        return self.directory / f"{self._checked(name)}{SUFFIX}"

    def find(self, name: str) -> tuple[str, FileState | None]:
        """The path of a finished file and the file's state; a name that is not allowed has neither. Raises OSError."""
        if not self.accepts(name):
            return "", None
        path = f"{self.directory}/{name}{SUFFIX}"
        return path, examine(path)

    def partial(self, name: str) -> Path:
        return atomic_file.private(self.directory / self._checked(name))

    def accepts(self, name: str) -> bool:
        return self.name.fullmatch(name) is not None

    def _checked(self, name: str) -> str:
        if not self.accepts(name):
            raise Terminal(f"{name!r} can't be the name of a {self.noun}", hint=f"names match {self.name.pattern}")
        return name

    def scan(self) -> Listing:
        """List the directory; one that does not exist yet is empty. Raises OSError if it can't be read."""
        kinds: dict[str, list[str]] = {"finished": [], "partial": [], "foreign": []}
        try:
            with os.scandir(self.directory) as found:
                entries = sorted(entry.name for entry in found)
        except FileNotFoundError:
            return Listing()
        for entry in entries:
            kind, name = self._classify(entry)
            kinds[kind].append(name)
        return Listing(**{kind: tuple(names) for kind, names in kinds.items()})

    def pulse(self) -> tuple[int, int]:
        """A value that changes when a file is added, removed or renamed."""
        try:
            found = self.directory.stat()
        except OSError as error:
            return 0, error.errno or 0
        return found.st_ino, found.st_mtime_ns

    def _classify(self, entry: str) -> tuple[str, str]:
        if entry.endswith(SUFFIX) and self.accepts(entry.removesuffix(SUFFIX)):
            return "finished", entry.removesuffix(SUFFIX)
        if entry.startswith(".") and entry.endswith(".partial") and self.accepts(entry[1 : -len(".partial")]):
            return "partial", entry
        return "foreign", entry

    def describe(self, entry: str) -> str:
        """Describe a foreign entry: its path, and that it is left alone."""
        shown = os.fsencode(self.directory / entry).decode(errors="backslashreplace")
        aside = _ASIDE.fullmatch(entry)
        if aside and self.accepts(aside["name"]):
            return f"{shown}: set aside, because it was at the path of {self.noun} {aside['name']}; keep it or delete it"
        return f"{shown}: not a file of this pool; left alone"

    def begin(self, name: str) -> int:
        """A new, empty partial file, open for reading and writing; an earlier one under the name is discarded."""
        atomic_file.make_directory(self.directory, self.mode)
        fd = atomic_file.create(self.partial(name))
        give_id(fd)
        return fd

    def replace(self, name: str) -> None:
        """Give the synced partial file its name, replacing an older file; anything but a regular file there is set aside."""
        path = self.path(name)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            self.set_aside(name)
        atomic_file.rename(self.partial(name), path)

    def publish(self, name: str) -> None:
        """Give the synced partial file its name, which must be free. ``sync`` makes the name durable. Raises FileExistsError."""
        partial, path = self.partial(name), self.path(name)
        try:
            os.link(partial, path, follow_symlinks=False)
            partial.unlink()
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.lexists(path):
                raise
            partial.rename(path)

    def sync(self) -> None:
        """Make the names in the directory durable; nothing to do if it does not exist."""
        with suppress(FileNotFoundError):
            atomic_file.sync_directory(self.directory)

    def exchange(self, name: str) -> None:
        """Give the synced partial file its name, replacing the file that has it."""
        atomic_file.rename(self.partial(name), self.path(name))

    def set_aside(self, name: str) -> Path:
        """Rename the file that has the name. Raises FileNotFoundError."""
        path = self.path(name)
        free = (path.with_name(f"{path.name}.aside-{n}") for n in itertools.count(1))
        aside = next(candidate for candidate in free if not os.path.lexists(candidate))
        path.rename(aside)
        atomic_file.sync_directory(self.directory)
        return aside

    def remove(self, name: str) -> None:
        path = self.path(name)
        if path.is_symlink() or not path.is_file():
            self.set_aside(name)
            return
        path.unlink()
        atomic_file.sync_directory(self.directory)

    def discard(self, name: str) -> None:
        """Remove the partial file, if there is one."""
        with suppress(FileNotFoundError):
            self.partial(name).unlink()


def nearest_directory(path: Path) -> Path:
    """The path itself, or the first directory above it that exists."""
    return next(p for p in (path, *path.parents) if p.is_dir())
