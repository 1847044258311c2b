"""Events of the file system below a directory of manifests: that something changed, and which manifests.

Used by ``watch``; the only user of watchfiles. Events are hints: they get lost silently (a full queue, a swapped root, a network
file system), so ``watch`` scans the tree as well, and no event alone leads to a removal or replacement. State: ``ChangedFiles``,
the names of files that are not at rest yet.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.manifests.files import SUFFIXES

STEP_SECONDS = 0.1
"""Interval of ``SILENCE`` after an event: it delays the detection of files at rest by as much."""

QUIET_SECONDS = 0.5
"""The same where there was no event for ``BUSY_SECONDS``: it delays that of a swapped root."""

BUSY_SECONDS = 1.0

LOOK_SECONDS = 0.02, 0.1
"""How often watchfiles looks whether there was an event: after one, and else. It polls, for each two steps of delay."""

POLL_MILLISECONDS = 300
"""How often watchfiles looks at the files themselves, where the kernel has no inotify."""


@dataclass(frozen=True, slots=True)
class Hint:
    """``happened`` is true for any event; ``named`` are the paths of changed manifests, spelled as in ``files``."""

    happened: bool = False
    named: frozenset[str] = frozenset()


SILENCE = Hint()


def hints(directory: Path, identity: Callable[[], Hashable], stop: threading.Event, pause: float) -> Iterator[Hint]:
    """Yield hints until ``stop`` is set. Starts a new watch whenever ``identity``, that of the root, changes.

    Where nothing can be watched, yields ``SILENCE`` every ``pause`` seconds.
    """
    while not stop.is_set():
        began = identity()
        try:
            for hint in _events(directory, stop):
                yield hint
                if identity() != began:
                    break
        except (OSError, RuntimeError):
            # The directory is missing, or holds a name that the watcher can't decode: ticks are enough.
            stop.wait(pause)
            yield SILENCE


def _events(directory: Path, stop: threading.Event) -> Iterator[Hint]:
    from watchfiles._rust_notify import RustNotify  # ``watchfiles.watch`` can't change its pace

    root = os.path.join(os.getcwd(), directory)  # noqa: PTH109, PTH118 - as it is spelled: a link may be swapped
    last = -BUSY_SECONDS
    with RustNotify([root], False, False, POLL_MILLISECONDS, True, False) as watcher:
        while not stop.is_set():
            quiet = time.monotonic() - last > BUSY_SECONDS
            look, silence = LOOK_SECONDS[quiet], QUIET_SECONDS if quiet else STEP_SECONDS
            found = watcher.watch(100, int(1000 * look), int(1000 * silence), stop)
            if isinstance(found, str):  # "timeout", "stop"
                yield SILENCE
                continue
            last = time.monotonic()
            yield Hint(True, frozenset(_manifests(root, directory, (path for _, path in found))))


def _manifests(root: str, directory: Path, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        inside = path.removeprefix(root).strip("/")
        if path.endswith(SUFFIXES) and path != inside and not any(part.startswith(".") for part in inside.split("/")):
            yield os.path.join(directory, inside)  # noqa: PTH118


class ChangedFiles:
    """The manifests that events have named, until there was no event for a while."""

    def __init__(self) -> None:
        self.named: frozenset[str] = frozenset()
        self._first = self._last = 0.0

    def add(self, hint: Hint) -> None:
        now = time.monotonic()
        if hint.happened:
            self._first = self._first if self.named else now
            self._last = now
        self.named |= hint.named

    def are_recent(self, settle: float, longest: float) -> bool:
        """Whether any is named and the last event is less than ``settle`` seconds old; for ``longest`` seconds at most."""
        now = time.monotonic()
        return bool(self.named) and now - self._last < settle and now - self._first < longest

    def take(self) -> frozenset[str]:
        taken, self.named = self.named, frozenset()
        return taken
