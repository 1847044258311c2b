"""When a service runs its next pass: after a change of the manifests, pools or registry, and after the resync interval.

Called by ``controller/service``. Events of the file system are hints: a lost event (network file systems send none) delays a
pass by a tick or two. What decides is a scan: the identity of the root, the status of every file, and the content of files that
changed too recently for their times to differ. State: the last scan, in ``Watch``.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from pathlib import Path

from reconciler.dataclass import dataclass, field
from reconciler.manifests.files import MAX_ENTRIES, RACY_NANOSECONDS, SUFFIXES
from reconciler.manifests.inotify import ChangedFiles, hints

TICK_SECONDS = 0.5
"""Interval of the cheap checks: the root's identity, the pools, the registry."""

SETTLE_SECONDS = 0.3
"""The manifests are read once nothing has changed for this time."""

UNSETTLED_SECONDS = 60.0
"""Longest delay of a pass by a tree that keeps changing, or by a stale ``index.lock``."""

RESYNC_SECONDS = 300.0
JITTER = 0.2
SHARE = 0.02
"""Largest share of one core that scans may use while nothing changes."""

Entry = tuple[str, int, int, int, int, str]
"""Path, device, inode, size, the later of both times in nanoseconds, and the content's digest where the time is too recent."""


@dataclass(frozen=True, slots=True)
class TreeState:
    """The result of a scan; equal for the same manifests. ``seconds`` is the CPU time of the scan."""

    root: tuple[str, int, int]
    entries: frozenset[Entry]
    seconds: float = field(default=0.0, compare=False)


NOWHERE = ("", 0, 0)


def scan(directory: Path) -> TreeState:
    """The state of every manifest below a directory. A missing directory has a state, too; never raises OSError."""
    started = time.thread_time()
    entries = frozenset(_entries(directory))
    return TreeState(identity(directory), entries, time.thread_time() - started)


def identity(directory: Path) -> tuple[str, int, int]:
    """The root's path with all links resolved, device and inode: differs after a swap or re-creation."""
    try:
        where = os.path.realpath(directory)
        found = os.stat(where)  # noqa: PTH116 - twice a second
    except OSError:
        return NOWHERE
    return where, found.st_dev, found.st_ino


def inode(directory: Path) -> tuple[int, int]:
    """The part of the identity that costs one call: a swap leaves it only where the number of a removed root is used again."""
    try:
        found = os.stat(directory)  # noqa: PTH116
    except OSError:
        return NOWHERE[1:]
    return found.st_dev, found.st_ino


def _entries(directory: Path) -> Iterator[Entry]:
    now = time.time_ns()
    seen = 0
    for top, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen += len(names) + len(folders)
        if seen > MAX_ENTRIES:
            return  # reading ends there, too, with a fault
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


def same_content(before: TreeState, now: TreeState) -> bool:
    """Whether nothing has changed. A file whose digest is only in one of both, because it is at rest now, has not changed."""
    return before.root == now.root and _same_entries(before.entries, now.entries)


def _same_entries(before: frozenset[Entry], now: frozenset[Entry]) -> bool:
    if len(before) != len(now):
        return False
    return {entry[:5] for entry in before} == {entry[:5] for entry in now} and not _contradict(before, now)


def _contradict(before: frozenset[Entry], now: frozenset[Entry]) -> bool:
    digests = {entry[0]: entry[5] for entry in before if entry[5]}
    return any(entry[5] and digests.get(entry[0], entry[5]) != entry[5] for entry in now)


def git_is_busy(directory: Path) -> bool:
    """Whether a checkout is running in the repository that the directory is part of: Git's ``index.lock`` exists."""
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
"""A wake that names no file: read and observe everything."""


class Watch:
    """Wakes for one directory of manifests. ``pulse`` is a cheap value that differs once pools or registry have changed.

    A wake without names asks for a full pass. A wake with names comes before it: an event has named these files, and they are at
    rest. No other file has been checked then, so the caller may only create objects because of it.
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
        self._changed = ChangedFiles()
        self._baseline: TreeState | None = None
        self._pulse_before: Hashable = None
        self._pulse_observed: Hashable = None
        self._next_tick = 0.0
        self._next_scan = 0.0
        self._due = 0.0

    def wakes(self) -> Iterator[frozenset[str]]:
        """Yield at once, and then after each change; ends when ``stop`` is set.

        A wake that names files is always followed by one that names none.
        """
        self.set_baseline()
        yield EVERYTHING
        for hint in hints(self._directory, lambda: inode(self._directory), self._stop, TICK_SECONDS):
            if self._stop.is_set():
                return
            self._tick()
            self._changed.add(hint)
            if not (hint.happened or self._changed.named or self._is_tick_due()):
                continue
            if not self._is_urgent():
                if self._changed.are_recent(SETTLE_SECONDS, UNSETTLED_SECONDS):
                    continue
                named = self._changed.take()
                if named and self._is_at_rest(named):
                    yield named
                elif not self._has_changed(hinted=hint.happened or bool(named)):
                    continue
            self.set_baseline(self._settle())
            self._changed.take()
            if self._stop.is_set():
                return
            yield EVERYTHING

    def set_baseline(self, state: TreeState | None = None) -> None:
        """Compare later scans with the current state, or with ``state``: a pass must not be woken by its own changes."""
        self._baseline = state or scan(self._directory)
        self._pulse_before = self._pulse()
        self._due = time.monotonic() + self._resync * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not for secrets
        self._schedule_scan(self._baseline)

    def wake_by(self, when: float) -> None:
        """Wake at that time (monotonic seconds) at the latest."""
        self._due = min(self._due, max(when, time.monotonic()))

    def begin_observation(self) -> None:
        """Record the pulse before pools and registry are observed: the observation may miss later changes."""
        self._pulse_observed = self._pulse()

    def end_observation(self) -> None:
        """Compare the pulse with the recorded one from now on; a change of the manifests still wakes."""
        self._pulse_before, self._pulse_observed = self._pulse() if self._pulse_observed is None else self._pulse_observed, None

    def _is_tick_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_tick:
            return False
        self._next_tick = now + TICK_SECONDS
        return True

    def _is_urgent(self) -> bool:
        seen = self._baseline
        return (
            seen is None
            or time.monotonic() >= self._due
            or self._pulse() != self._pulse_before
            or inode(self._directory) != seen.root[1:]
        )

    def _is_at_rest(self, named: Collection[str]) -> bool:
        """Whether these files differ from the last scan, were not written for a moment, and no checkout is running."""
        now = time.time_ns()
        entries = frozenset(_entry(path, now) for path in named)
        before = frozenset(entry for entry in self._baseline.entries if entry[0] in named) if self._baseline else frozenset()
        moment = now - int(SETTLE_SECONDS * 1e9)
        if _same_entries(before, entries) or not all(inode and latest <= moment for _, _, inode, _, latest, _ in entries):
            return False
        return not git_is_busy(self._directory)

    def _has_changed(self, *, hinted: bool) -> bool:
        if not hinted and time.monotonic() < self._next_scan:
            return False
        now = scan(self._directory)
        self._schedule_scan(now)
        return self._baseline is None or not same_content(self._baseline, now)

    def _schedule_scan(self, state: TreeState) -> None:
        self._next_scan = time.monotonic() + max(2 * TICK_SECONDS, state.seconds / SHARE)

    def _settle(self) -> TreeState:
        """Wait until nothing has changed for a moment and no checkout is running; return the last scan."""
        give_up = time.monotonic() + UNSETTLED_SECONDS
        last = scan(self._directory)
        while not self._stop.wait(SETTLE_SECONDS) and time.monotonic() < give_up:
            now = scan(self._directory)
            if same_content(last, now) and not git_is_busy(self._directory):
                return now
            last = now
        return last
