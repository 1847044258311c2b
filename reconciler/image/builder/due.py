"""What a builder process owes its parent, since when, and how much it may send.

Used by ``parent``. State: counters and a clock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from reconciler.errors import BuilderDied
from reconciler.image.builder import process

PROGRESS_RATE = 20
"""Reports of progress a second; those that return memory or follow a message of the parent's come on top."""


class Due:
    """The one answer that is due next, and since when. Only an answer that is due moves the deadline.

    What is due in the ring has a shorter one, and there is one for all of it: a builder that reads a little before each deadline
    would hold its slot for days.
    """

    def __init__(self) -> None:
        self._owed: tuple[str, float] = ("", 0.0)
        self._bytes = 0
        self._reading = 0.0
        """Seconds that bytes were due in all, up to those that are due now."""

    def owe(self, what: str) -> None:
        """``what`` is due from now on, or since it became due; empty: nothing is."""
        if what != self._owed[0]:
            now = time.monotonic()
            if self._owed[0].startswith("bytes"):
                self._reading += now - self._owed[1]
            self._owed = (what, now)

    def owe_bytes(self, read: int, filled: int) -> None:
        """All that lies there is to be read: what is filled meanwhile is due once that has been read."""
        if not self._owed[0].startswith("bytes") or read >= self._bytes:
            self._bytes = filled
            self.owe(f"bytes to {filled}")

    def check(self) -> None:
        """Raises BuilderDied where the answer is overdue."""
        what, since = self._owed
        bytes_due, waited = what.startswith("bytes"), time.monotonic() - since
        most = min(process.READING_SECONDS, process.PATIENCE_SECONDS) if bytes_due else process.PATIENCE_SECONDS
        hint = "run again; if only this layer fails, check it with `reconcile inspect`"
        if what and waited > most:
            raise BuilderDied(f"the builder process has not answered for {most:.0f} s", hint=hint)
        if bytes_due and self._reading + waited > process.PATIENCE_SECONDS + self._bytes / process.READING_RATE:
            raise BuilderDied(f"the builder process has taken {self._reading + waited:.0f} s for {self._bytes} bytes", hint=hint)


class Counts:
    """``most``: how many packets of each kind may come. Progress is bounded by time and by what the parent has sent."""

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = most
        self._seen: Counter[str] = Counter()
        self._began = time.monotonic()

    def add(self, kind: str, occasions: int) -> None:
        """Raises ValueError for one packet too many. ``occasions``: how often progress was due (``Feed.occasions``)."""
        self._seen[kind] += 1
        by_time = PROGRESS_RATE * (1 + time.monotonic() - self._began)
        if self._seen[kind] > (2 * occasions + by_time if kind == "progress" else self._most.get(kind, 0)):
            raise ValueError(f"more than {self._seen[kind] - 1} packets of the kind {kind}")
