"""The parts of an object that a transfer still has to bring: which comes next, and up to where there is no gap.

Used by ``workers`` and ``download``; thread-safe. State: in memory, one window for each transfer.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

from reconciler.dataclass import dataclass
from reconciler.image.source.exchange import Body


@dataclass(slots=True)
class Part:
    """A range that one worker brings; ``at`` moves towards ``stop``. ``body`` is an answer that is open already."""

    at: int
    stop: int
    body: Body | None = None


class Window:
    """Parts of ``part_bytes`` from ``start`` up to ``size``. The first error of any worker ends it for all."""

    def __init__(self, start: int, size: int, part_bytes: int, first: Body | None = None) -> None:
        self._next = start
        self._size = size
        self._part_bytes = part_bytes
        self._first = first
        self._under_way: deque[Part] = deque()
        self._error: BaseException | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        """Parts that no worker has taken yet."""
        return max(0, -(-(self._size - self._next) // self._part_bytes))

    def take(self) -> Part | None:
        """The next part, None where there is none left."""
        with self._lock:
            if self._next >= self._size:
                return None
            part = Part(self._next, min(self._next + self._part_bytes, self._size), self._first)
            self._next, self._first = part.stop, None
            self._under_way.append(part)
            return part

    def landed(self, part: Part, length: int) -> int:
        """Another ``length`` bytes of a part are in the file; returns the frontier: where the first gap begins."""
        with self._lock:
            part.at += length
            while self._under_way and self._under_way[0].at == self._under_way[0].stop:
                self._under_way.popleft()
            return self._under_way[0].at if self._under_way else self._next

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    def check(self) -> None:
        """Raises what the first worker failed with."""
        with self._lock:
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Close the first answer where no worker has taken it."""
        if self._first is not None:
            self._first.close()
