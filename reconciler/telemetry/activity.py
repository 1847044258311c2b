"""Running work, where another process can read it: a file in the state directory, written by whoever holds the lock.

``Board`` is a ``Progress`` around the one that is displayed; ``read`` is for ``top``. How many bytes have passed is never in the
registry, which would have to be synced for each of them. State: the file, replaced at most once a second, gone when nothing runs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reconciler import atomic_file
from reconciler.dataclass import asdict, dataclass
from reconciler.output.progress import Progress

EVERY_SECONDS = 1.0
STALE_SECONDS = 15.0
"""A file that is older was left by a process that has died."""


@dataclass(frozen=True, slots=True)
class Running:
    """Bytes ``done`` of ``total`` (None where that is unknown) in ``state``; times are seconds since the epoch."""

    key: str
    state: str
    done: int
    total: int | None
    since: float
    at: float


class Board:
    """A ``Progress`` that also writes the running work to a file. Many threads call it."""

    def __init__(self, progress: Progress, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._progress = progress
        self._path = path
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._written = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Board:
        self._progress.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._path.unlink(missing_ok=True)
        self._progress.__exit__(*exc)

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        now = self._clock()
        with self._lock:
            before = self._running.get(key)
            since = before.since if before and before.state == state else now
            self._running[key] = Running(key, state, done, total, since, now)
            self._write(now)
        self._progress.update(key, state, done, total, detail)

    def finish(self, key: str, text: str) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._write(self._clock())
        self._progress.finish(key, text)

    def tick(self) -> None:
        with self._lock:
            self._write(self._clock())
        self._progress.tick()

    def _write(self, now: float) -> None:
        if now - self._written < EVERY_SECONDS:
            return
        self._written = now
        with suppress(OSError):  # a full disk must not end the work
            atomic_file.write(self._path, json.dumps([asdict(one) for one in self._running.values()]), durable=False)


def read(path: Path, *, clock: Callable[[], float] = time.time) -> tuple[Running, ...]:
    """The running work; empty where there is none, or where the file can't be read or is stale."""
    try:
        with path.open() as file:
            if clock() - os.fstat(file.fileno()).st_mtime > STALE_SECONDS:
                return ()
            return tuple(Running(**one) for one in json.load(file))
    except (OSError, ValueError, TypeError):
        return ()
