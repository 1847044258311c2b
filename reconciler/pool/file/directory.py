"""One directory of image files, and the only names that may stand in it.

    <name>.ext4              finished: whole, and durable since before it got this name
    .<name>.partial          being written; ours, and nobody's after a crash
    <name>.ext4.aside-<n>    found where a finished file was to stand; kept for a person, never touched again

Anything else is foreign. A name is made durable in the order that survives a power cut: the data, then the name, then
the directory. Called by ``pool.file``; the directory is its state.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler import atomic_file
from reconciler.errors import Terminal
from reconciler.pool.file.identity import Look, look

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
    """``name`` says which names are ours, ``noun`` what they are called in messages, ``mode`` what a new directory gets."""

    directory: Path
    name: re.Pattern[str]
    noun: str
    mode: int

    def path(self, name: str) -> Path:
        """Where the finished file stands. Raises Terminal for a name that must not become a file's."""
        return self.directory / f"{self._checked(name)}{SUFFIX}"

    def find(self, name: str) -> tuple[str, Look | None]:
        """The path of a finished file and what stands there; a name that can't be ours has neither. Raises OSError."""
        if not self.accepts(name):
            return "", None
        path = f"{self.directory}/{name}{SUFFIX}"
        return path, look(path)

    def partial(self, name: str) -> Path:
        return atomic_file.private(self.directory / self._checked(name))

    def accepts(self, name: str) -> bool:
        return self.name.fullmatch(name) is not None

    def _checked(self, name: str) -> str:
        if not self.accepts(name):
            raise Terminal(f"{name!r} can't be the name of a {self.noun}", hint=f"names match {self.name.pattern}")
        return name

    def scan(self) -> Listing:
        """What stands here; a directory that does not exist yet is empty. Raises OSError where it can't be read."""
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
        """Changes whenever a name in the directory has come or gone."""
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
        """A foreign entry, for people: where it is, what it seems to be, and that nothing of ours will touch it."""
        shown = os.fsencode(self.directory / entry).decode(errors="backslashreplace")
        aside = _ASIDE.fullmatch(entry)
        if aside and self.accepts(aside["name"]):
            return f"{shown}: set aside because it stood where {self.noun} {aside['name']} belongs; keep it or delete it"
        return f"{shown}: not a name of ours; left alone"

    def begin(self, name: str) -> int:
        """A new, empty partial file, open for reading and writing; an earlier one under the name is discarded."""
        atomic_file.make_directory(self.directory, self.mode)
        return atomic_file.create(self.partial(name))

    def replace(self, name: str) -> None:
        """Give the synced partial file its name, over an older file; what is not a file there is set aside."""
        path = self.path(name)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            self.set_aside(name)
        atomic_file.rename(self.partial(name), path)

    def publish(self, name: str) -> None:
        """Give the synced partial file its name, where nothing stands. Raises FileExistsError."""
        partial, path = self.partial(name), self.path(name)
        try:
            os.link(partial, path, follow_symlinks=False)
            partial.unlink()
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.lexists(path):
                raise
            partial.rename(path)
        atomic_file.sync_directory(self.directory)

    def set_aside(self, name: str) -> Path:
        """Rename what stands under the name; FileNotFoundError where nothing does."""
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
