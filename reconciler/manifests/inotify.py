"""What the file system tells of a directory of manifests while it is watched: that something has happened, and to which of them.

Used by ``watching``, and the one place that knows watchfiles. Hints, and no more: events get lost without a word (a full queue, a
root that is swapped, a network file system), so whoever hears of none still looks now and then, and nothing that can't be taken
back follows from one alone. State: the names that were heard of and have not come to rest.
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
"""How often silence is told: what has come to rest is known that much later at most."""


@dataclass(frozen=True, slots=True)
class Hint:
    """``named`` are the manifests among what ``happened``, by their paths as ``repository`` spells them."""

    happened: bool = False
    named: frozenset[str] = frozenset()


SILENCE = Hint()


def hints(directory: Path, identity: Callable[[], Hashable], stop: threading.Event, pause: float) -> Iterator[Hint]:
    """For ever, until ``stop`` is set. Begins anew whenever ``identity``, the root's, has become another one.

    Where nothing can be watched silence is told every ``pause`` seconds.
    """
    while not stop.is_set():
        began = identity()
        try:
            for hint in _events(directory, stop):
                yield hint
                if identity() != began:
                    break
        except (OSError, RuntimeError):
            # The directory has gone, or holds a name that the watcher can't decode: ticks are enough.
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


class Heard:
    """The manifests that were named, until nothing has happened for a while."""

    def __init__(self) -> None:
        self.named: frozenset[str] = frozenset()
        self._first = self._last = 0.0

    def hear(self, hint: Hint) -> None:
        now = time.monotonic()
        if hint.happened:
            self._first = self._first if self.named else now
            self._last = now
        self.named |= hint.named

    def pending(self, settle: float, longest: float) -> bool:
        """Whether any was named, and something has happened within ``settle`` seconds; for ``longest`` seconds at most."""
        now = time.monotonic()
        return bool(self.named) and now - self._last < settle and now - self._first < longest

    def take(self) -> frozenset[str]:
        taken, self.named = self.named, frozenset()
        return taken
