"""One layer's bytes for one reader: in order, each hashed in the buffer that it goes to, checked at the end.

Made by ``spool`` and ``cli.inspect_layer`` around an ``Origin``; read by ``builder.feed`` into the memory that it shares with the
builder. There is no other way of bytes to a builder. State: sums and a position.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock
from typing import NamedTuple

from reconciler.dataclass import dataclass
from reconciler.errors import ReconcilerError, SourceUnavailable, Stopped
from reconciler.image.source.sums import Sums

PIECE = 1 << 20
"""Bytes that are received, written or hashed at once: large beside the cost of a call, small beside a processor's cache."""

HEARTBEAT = 0.1
"""Seconds after which a waiting reader checks whether it is to stop."""

FRUITLESS_TRIES = 4
"""Answers in a row that bring not a single byte, or stay below the minimum rate, before a transfer is given up."""

CLOSING_SECONDS = 1.0
"""How long ``close`` waits for a reader that another thread is in; a file system that hangs is not waited for."""

Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole, verified layer: sha256 of its bytes as stored (64 hex digits), the source's ETag, length in bytes."""

    digest: str
    etag: str
    size: int


class Progress(NamedTuple):
    """Bytes that have arrived, and bytes in all (None until the source has answered)."""

    done: int
    total: int | None


class Origin(ABC):
    """Where a reading's bytes come from. All but ``progress`` and ``abort`` are called by one thread at a time."""

    etag = ""
    size: int | None = None

    @abstractmethod
    def readinto(self, buffer: memoryview, check: Check) -> int:
        """The next bytes, 1 to ``len(buffer)`` of them, 0 at the end. ``check`` raises where a wait is to end.

        Raises SourceChanged, SourceUnavailable, SourceNotFound, SourceForbidden, NoSpace, NeedsOperator.
        """

    def hashed(self, length: int, sums: Sums) -> None:  # noqa: B027 - few need it
        """Told after each piece: the sums of the first ``length`` bytes, to be copied within this call."""

    def verify(self, digest: str) -> None:  # noqa: B027 - a stream has nothing to compare with
        """Raises where the bytes that have been read, to the end, are not the right ones: DigestMismatch, SourceChanged."""

    def recheck(self) -> None:  # noqa: B027
        """Raises SourceChanged where the source has become another one since it was read."""

    def arrived(self, check: Check) -> Fetched | None:
        """Wait for the end without reading, where another thread brings and verifies the bytes; else None."""
        return None

    def progress(self, done: int) -> Progress:
        return Progress(done, self.size)

    def abort(self) -> None:  # noqa: B027
        """No more bytes are wanted; called once, by any thread, while another one may wait for bytes."""

    def close(self) -> None:  # noqa: B027
        """Let go of the source; called once."""


class Reading:
    """A context manager. ``stop`` ends it with Stopped."""

    def __init__(self, name: str, origin: Origin, stop: Event) -> None:
        self.name = name
        self._origin = origin
        self._stop = stop
        self._sums = Sums(with_md5=False)
        self._done = 0
        self._fetched: Fetched | None = None
        self._closed = False
        self._turn = Lock()

    def readinto(self, buffer: memoryview) -> int:
        """The next bytes, 1 to ``len(buffer)`` of them, hashed where they lie; 0 at the end, once all are the right ones.

        Raises what ended the transfer: SourceChanged, SourceUnavailable, SourceNotFound, SourceForbidden, DigestMismatch,
        NoSpace, NeedsOperator, Stopped.
        """
        with self._turn:
            return self._next(buffer, self._check)

    def result(self, check: Check = lambda: None) -> Fetched:
        """Wait for the end and return what was read. What the reader has left is read here. Raises what ``readinto`` raises.

        ``check`` is called now and then; it raises where the wait is to end.
        """

        def both() -> None:
            check()
            self._check()

        with self._turn:
            found = self._fetched or self._origin.arrived(both) or self._rest(both)
            self._origin.recheck()
            return found

    def _rest(self, check: Check) -> Fetched:
        buffer = memoryview(bytearray(PIECE))
        while self._next(buffer, check):
            check()
        assert self._fetched is not None
        return self._fetched

    def _next(self, buffer: memoryview, check: Check) -> int:
        check()
        try:
            got = self._origin.readinto(buffer, check) if self._fetched is None else 0
        except SourceUnavailable:
            check()  # a request that was ended because nothing waits for it is no failure of the source
            raise
        if got:
            self._sums.update(buffer[:got])
            self._done += got
            self._origin.hashed(self._done, self._sums)
        elif self._fetched is None:
            digest = self._sums.sha256
            self._origin.verify(digest)
            self._fetched = Fetched(digest, self._origin.etag, self._done)
        return got

    @property
    def progress(self) -> Progress:
        return self._origin.progress(self._done)

    def _check(self) -> None:
        if self._closed or self._stop.is_set():
            raise Stopped(f"stopped while {self.name} was on its way")

    def close(self) -> None:
        """Let go of the source; one that does not answer is not waited for."""
        if self._closed:
            return
        self._closed = True
        self._origin.abort()
        if self._turn.acquire(timeout=CLOSING_SECONDS):
            with suppress(OSError):
                self._origin.close()
            self._turn.release()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def sleep(seconds: float, check: Check) -> None:
    """Wait, but not for longer than the bytes are wanted: ``check`` raises then."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(HEARTBEAT, left))


def ended(check: Check) -> bool:
    """Whether the bytes are not wanted any more."""
    try:
        check()
    except ReconcilerError:
        return True
    return False
