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
from dataclasses import dataclass
from pathlib import Path

from reconciler.manifests.files import SUFFIXES

STEP_SECONDS = 0.1
"""Interval of ``SILENCE``: it delays the detection of files at rest by as much."""


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
    import watchfiles

    step = int(1000 * STEP_SECONDS)
    root = os.path.join(os.getcwd(), directory)  # noqa: PTH109, PTH118 - as it is spelled: a link may be swapped
    for changes in watchfiles.watch(
        root, watch_filter=None, stop_event=stop, rust_timeout=step, yield_on_timeout=True, debounce=100, step=20
    ):
        yield Hint(True, frozenset(_manifests(root, directory, (path for _, path in changes)))) if changes else SILENCE


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
