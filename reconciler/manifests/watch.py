"""When to look again: after the manifests, or what they made, may have changed, and after the resync interval.

Used by ``service``. Events of the file system are hints: they make a look come sooner, and one that is lost, or that never comes
from a network file system, costs a tick or two. The truth is what is read: the identity of the root, the status of every file,
and the content of those that changed too recently for their times to tell. State: what was seen at the last look.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.manifests.files import MAX_ENTRIES, RACY_NANOSECONDS, SUFFIXES
from reconciler.manifests.inotify import Heard, hints

TICK_SECONDS = 0.5
"""How often what is cheap is looked at: the root's identity, the pools, the registry."""

SETTLE_SECONDS = 0.3
"""How long nothing may have changed before it is read."""

UNSETTLED_SECONDS = 60.0
"""How long a tree that never comes to rest, or a lock that somebody left in it, can put a look off."""

RESYNC_SECONDS = 300.0
JITTER = 0.2
SHARE = 0.02
"""Most of one core that walking over the tree may take while nothing changes."""

Entry = tuple[str, int, int, int, int, str]
"""Path, device, inode, size, the later of both times in nanoseconds, and the content's digest where the time is too recent."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at the tree; two that are equal saw the same manifests. ``seconds`` is what it cost."""

    root: tuple[str, int, int]
    entries: frozenset[Entry]
    locked: bool = False
    seconds: float = field(default=0.0, compare=False)


NOWHERE = ("", 0, 0)


def look(directory: Path) -> Sight:
    """See every manifest below a directory as it is now. Nothing there is a sight, too; never raises OSError."""
    started = time.thread_time()
    entries = frozenset(_entries(directory))
    return Sight(identity(directory), entries, git_is_busy(directory), time.thread_time() - started)


def identity(directory: Path) -> tuple[str, int, int]:
    """Where the root really is, through every link, with its device and inode: another one after a swap or re-creation."""
    try:
        where = os.path.realpath(directory)
        found = os.stat(where)  # noqa: PTH116 - twice a second
    except OSError:
        return NOWHERE
    return where, found.st_dev, found.st_ino


def _entries(directory: Path) -> Iterator[Entry]:
    now = time.time_ns()
    seen = 0
    for top, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen += len(names) + len(folders)
        if seen > MAX_ENTRIES:
            return  # reading them ends there, too, and says so
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield _entry(os.path.join(top, name), now)  # noqa: PTH118 - thousands of them


def _entry(path: str, now: int) -> Entry:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return path, 0, 0, 0, 0, os.strerror(error.errno or 0)
    latest = max(found.st_mtime_ns, found.st_ctime_ns)
    racy = stat.S_ISREG(found.st_mode) and now - latest < RACY_NANOSECONDS
    return path, found.st_dev, found.st_ino, found.st_size, latest, _digest(path) if racy else ""


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.blake2b(file.read(1 << 20), digest_size=16).hexdigest()
    except OSError as error:
        return os.strerror(error.errno or 0)


def same_content(before: Sight, now: Sight) -> bool:
    """Whether nothing has changed. A digest that is no longer taken, since its file has come to rest, is no change."""
    return before.root == now.root and _same_entries(before.entries, now.entries)


def _same_entries(before: frozenset[Entry], now: frozenset[Entry]) -> bool:
    if len(before) != len(now):
        return False
    return {entry[:5] for entry in before} == {entry[:5] for entry in now} and not _contradict(before, now)


def _contradict(before: frozenset[Entry], now: frozenset[Entry]) -> bool:
    digests = {entry[0]: entry[5] for entry in before if entry[5]}
    return any(entry[5] and digests.get(entry[0], entry[5]) != entry[5] for entry in now)


def git_is_busy(directory: Path) -> bool:
    """Whether a checkout is under way in the repository that the directory is part of: Git's ``index.lock`` is there."""
    try:
        return next(_git_locks(Path(os.path.realpath(directory))), False)
    except OSError:
        return False


def _git_locks(directory: Path) -> Iterator[bool]:
    for above in (directory, *directory.parents):
        git = above / ".git"
        if git.is_file():  # a linked worktree, or a submodule: "gitdir: PATH" (gitrepository-layout(5))
            git = above / git.read_text().removeprefix("gitdir:").strip()
        if git.is_dir():
            yield (git / "index.lock").exists()


# ---------------------------------------------------------------------------------------------------------- wakes


EVERYTHING: frozenset[str] = frozenset()
"""A wake that names no file: everything is to be looked at."""


class Watch:
    """Wakes for one directory of manifests. ``pulse`` tells pools and registry apart from what they were, at little cost.

    Whoever is woken reads everything. Before that, a wake may name files: those that the file system says have changed, and that
    are at rest. Nobody has looked at any other yet, so that it is no more than a hint: what it leads to must only add something.
    """

    def __init__(
        self,
        directory: Path,
        pulse: Callable[[], Hashable],
        *,
        stop: threading.Event,
        resync: float = RESYNC_SECONDS,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._pulse = pulse
        self._stop = stop
        self._resync = resync
        self._tick = tick
        self._heard = Heard()
        self._seen: Sight | None = None
        self._felt: Hashable = None
        self._feeling: Hashable = None
        self._next_tick = 0.0
        self._next_look = 0.0
        self._due = 0.0

    def wakes(self) -> Iterator[frozenset[str]]:
        """At once, and then whenever it is time to look again; ends when ``stop`` is set.

        A wake that names files is always followed by one that names none.
        """
        self.rest()
        yield EVERYTHING
        for hint in hints(self._directory, lambda: identity(self._directory), self._stop, TICK_SECONDS):
            if self._stop.is_set():
                return
            self._tick()
            self._heard.hear(hint)
            if not (hint.happened or self._heard.named or self._is_time_to_look()):
                continue
            if not self._is_urgent():
                if self._heard.pending(SETTLE_SECONDS, UNSETTLED_SECONDS):
                    continue
                named = self._heard.take()
                if named and self._is_at_rest(named):
                    yield named
                elif not self._has_changed(hinted=hint.happened or bool(named)):
                    continue
            self.rest(self._settle())
            self._heard.take()
            if self._stop.is_set():
                return
            yield EVERYTHING

    def rest(self, seen: Sight | None = None) -> None:
        """Take what is there now, or was a moment ago, for known: what a pass has changed itself must not wake it again."""
        self._seen = seen or look(self._directory)
        self._felt = self._pulse()
        self._due = time.monotonic() + self._resync * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not for secrets
        self._plan_look(self._seen)

    def wake_by(self, when: float) -> None:
        """Wake at that time (monotonic seconds) if nothing else has done so before."""
        self._due = min(self._due, max(when, time.monotonic()))

    def feel(self) -> None:
        """Called before somebody looks at pools and registry: what changes from then on, he may not have seen."""
        self._feeling = self._pulse()

    def felt(self) -> None:
        """Take what pools and registry were before the last look for known; the manifests may have changed meanwhile."""
        self._felt, self._feeling = self._pulse() if self._feeling is None else self._feeling, None

    def _is_time_to_look(self) -> bool:
        now = time.monotonic()
        if now < self._next_tick:
            return False
        self._next_tick = now + TICK_SECONDS
        return True

    def _is_urgent(self) -> bool:
        seen = self._seen
        return (
            seen is None or time.monotonic() >= self._due or self._pulse() != self._felt or identity(self._directory) != seen.root
        )

    def _is_at_rest(self, named: Collection[str]) -> bool:
        """Whether these files are others than at the last look, nobody has written to them for a moment, and no checkout runs."""
        now = time.time_ns()
        entries = frozenset(_entry(path, now) for path in named)
        before = frozenset(entry for entry in self._seen.entries if entry[0] in named) if self._seen else frozenset()
        moment = now - int(SETTLE_SECONDS * 1e9)
        if _same_entries(before, entries) or not all(inode and latest <= moment for _, _, inode, _, latest, _ in entries):
            return False
        return not git_is_busy(self._directory)

    def _has_changed(self, *, hinted: bool) -> bool:
        if not hinted and time.monotonic() < self._next_look:
            return False
        now = look(self._directory)
        self._plan_look(now)
        return self._seen is None or not same_content(self._seen, now)

    def _plan_look(self, sight: Sight) -> None:
        self._next_look = time.monotonic() + max(2 * TICK_SECONDS, sight.seconds / SHARE)

    def _settle(self) -> Sight:
        """Wait until nothing has changed for a moment, and no checkout is under way; what was seen last."""
        give_up = time.monotonic() + UNSETTLED_SECONDS
        last = look(self._directory)
        while not self._stop.wait(SETTLE_SECONDS) and time.monotonic() < give_up:
            now = look(self._directory)
            if same_content(last, now) and not now.locked:
                return now
            last = now
        return last
