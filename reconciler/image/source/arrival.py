"""One layer's bytes on their way into one file of the spool: how far they have come, whether they are whole, what went wrong.

One producer (``download``) moves it forward, any number of readers wait on it, each with an ``Arriving`` of its own; thread-safe.
State: in memory, for as long as it is held; the bytes themselves are in ``path``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event, Thread

from reconciler.dataclass import dataclass
from reconciler.errors import NeedsOperator, NoSpace, ReconcilerError, SourceChanged, SourceUnavailable, Stopped, Terminal
from reconciler.image.source.reading import FRUITLESS_TRIES, HEARTBEAT, PIECE, Check, Fetched, Origin, Progress, sleep
from reconciler.image.source.sums import Sums

LEAD_BYTES = 512 << 20
"""How far the bytes may be ahead of a reader whose sums the producer waits for: a killed process has to fetch them again."""

LENT_SECONDS = 0.5
"""How long the producer waits for a reader that stalls: its builder may wait for something else."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to transfer: connections for each layer, bytes for each request, seconds between two records of how far it has come.

    ``answer_seconds`` is the deadline of the first answer's status and headers, None for that of every request. ``tries``: see
    ``FRUITLESS_TRIES``.
    """

    connections: int = 4
    part_bytes: int = 8 << 20
    checkpoint_seconds: float = 1.0
    answer_seconds: float | None = None
    tries: int = FRUITLESS_TRIES


@dataclass(frozen=True, slots=True)
class Arrived:
    """``length`` bytes can be read from the start; ``complete`` once there are no more and all are the right ones."""

    length: int
    complete: bool


class Arrival:
    """See the module. ``stop`` and ``cancel`` end it."""

    def __init__(self, path: Path, stop: Event) -> None:
        self.path = path
        self.etag = ""
        self.resumed = False
        """Parts of it came at an earlier time."""
        self.proved = True
        """The digest is that of bytes which this process has read."""
        self._size: int | None = None
        self._length = 0
        self._fetched: Fetched | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._stop = stop
        self._changed = Condition()
        self._producer: Thread | None = None
        self.uses_lent = True
        """The producer can use the sums of readers, which have no MD5."""
        self._lent: tuple[int, Sums] = 0, Sums(with_md5=False)
        """How many bytes, from the first one on, a reader has hashed, and their sums."""
        self._lent_at = float("-inf")

    @classmethod
    def whole(cls, path: Path, etag: str, stop: Event) -> Arrival:
        """What lies in the spool under its digest."""
        arrival = cls(path, stop)
        size = path.stat().st_size
        arrival.describe(etag, size)
        arrival.advance(size)
        arrival.proved = False
        arrival._end(digest=path.name)
        return arrival

    # -- for readers

    def open(self) -> int:
        """A new read-only descriptor of the file, good for as long as it is kept open, wherever the file is moved to.

        Raises what ended the arrival, SourceChanged where the file is gone, NeedsOperator where it can't be opened.
        """
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                try:
                    return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError as error:
                    if self._fetched is not None or not self.busy:
                        raise SourceChanged(
                            f"{self.path} was removed before it was read", hint="the next attempt fetches it again"
                        ) from error
                except OSError as error:
                    raise host_error(error, self.path.parent) from error
                self._raise_if_over()
                self._changed.wait(HEARTBEAT)  # the producer has discarded it, and is about to say why

    def wait(self, beyond: int, timeout: float | None = None) -> Arrived:
        """Wait until more than ``beyond`` bytes are there, or all of them, whole and verified; ``timeout`` in seconds.

        Raises what ended the arrival, and Stopped.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._news(beyond):
                left = HEARTBEAT if until is None else min(HEARTBEAT, until - time.monotonic())
                if left <= 0:
                    break
                self._changed.wait(left)
            return Arrived(self._length, self._fetched is not None)

    def result(self, check: Check = lambda: None) -> Fetched:
        """Wait for the end and return what arrived. Raises the error that ended it, Stopped, and what ``check`` raises."""
        while True:
            check()
            with self._changed:
                if self._fetched is not None:
                    return self._fetched
                self._raise_if_over()
                self._changed.wait(HEARTBEAT)

    def lend(self, length: int, sums: Sums) -> None:
        """The sums of the first ``length`` bytes, which a reader has read from the file: the producer need not do it again."""
        with self._changed:
            if self.uses_lent and length > self._lent[0]:
                self._lent, self._lent_at = (length, sums.copy()), time.monotonic()
                self._changed.notify_all()

    def lend_no_more(self) -> None:
        """The reader has ended, or waits for the end: the producer goes on by itself."""
        with self._changed:
            self._lent_at = float("-inf")
            self._changed.notify_all()

    @property
    def progress(self) -> Progress:
        with self._changed:
            return Progress(self._length, self._size)

    def _news(self, beyond: int) -> bool:
        if self._fetched is None:
            self._raise_if_over()
        return self._fetched is not None or self._length > beyond

    # -- for its owner

    def start(self, produce: Callable[[], str]) -> None:
        """Run ``produce`` in a thread of its own: it moves the arrival forward and returns the digest of a whole, right layer."""
        self._producer = Thread(target=self._run, args=(produce,), name=f"arrival {self.path.name}", daemon=True)
        self._producer.start()

    @property
    def over(self) -> bool:
        """Failed, cancelled or stopped: a new reader can't wait for it."""
        with self._changed:
            return self._error is not None or self._cancelled or (self._fetched is None and self._stop.is_set())

    @property
    def busy(self) -> bool:
        """The producer still holds the file."""
        return self._producer is not None and self._producer.is_alive()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the producer has let go of the file, or ``timeout`` seconds are over."""
        if self._producer is not None:
            self._producer.join(timeout)

    def _run(self, produce: Callable[[], str]) -> None:
        try:
            digest = produce()
        except OSError as error:
            self._end(error=host_error(error, self.path.parent))
        except BaseException as error:
            self._end(error=error)
        else:
            self._end(digest=digest)

    def _end(self, *, digest: str = "", error: BaseException | None = None) -> None:
        with self._changed:
            self._error = error
            if error is None:
                self._fetched = Fetched(digest, self.etag, self._size or 0)
            self._changed.notify_all()

    # -- for the producer

    def describe(self, etag: str, size: int) -> None:
        with self._changed:
            self.etag, self._size = etag, size

    def advance(self, length: int) -> None:
        """So many bytes can be read from the start. Workers may report out of order: the highest number counts."""
        with self._changed:
            self._length = max(self._length, length)
            self._changed.notify_all()

    def spoil(self, error: ReconcilerError) -> None:
        """Remove a file that does not hold what arrived; new readers get the error."""
        with self._changed:
            self.path.unlink(missing_ok=True)
            self._error = error

    def move(self, target: Path) -> None:
        """Give the file its final name."""
        with self._changed:
            self.path = self.path.replace(target)

    def to_hash(self, hashed: int) -> int:
        """Up to where the producer is to hash, which has come to ``hashed``; what a reader is about to lend is left to it.

        Waits a moment where that is nothing. Raises Stopped.
        """
        with self._changed:
            self._raise_if_over()
            lent = self._lent[0]
            awaited = hashed < lent + LEAD_BYTES and time.monotonic() < self._lent_at + LENT_SECONDS
            stop = self._length - LEAD_BYTES if awaited else self._length
            if max(stop, lent) <= hashed:
                self._changed.wait(HEARTBEAT)
            return max(stop, hashed)

    def lent(self, beyond: int) -> tuple[int, Sums] | None:
        """What a reader has hashed, where that is more than ``beyond`` bytes. The caller may go on with the sums."""
        with self._changed:
            length, sums = self._lent
            return (length, sums.copy()) if length > beyond else None

    def check(self) -> None:
        """Raises Stopped where the producer should end."""
        with self._changed:
            self._raise_if_over()

    def sleep(self, seconds: float) -> None:
        """Wait, but not for longer than the bytes are wanted. Raises Stopped."""
        sleep(seconds, self.check)

    def digest(self, descriptor: int, start: int, stop: int, into: Sums) -> None:
        """Feed bytes from ``start`` up to ``stop`` of the file to a hash. Raises Stopped, and SourceChanged if they end early."""
        buffer = memoryview(bytearray(min(PIECE, stop - start)))
        while start < stop:
            self.check()
            got = os.preadv(descriptor, [buffer[: stop - start]], start)
            if not got:
                raise SourceChanged(f"{self.path} was cut short to {start} bytes while it was read")
            into.update(buffer[:got])
            start += got

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._cancelled or self._stop.is_set():
            raise Stopped(f"stopped while {self.path.name} was on its way")


class Arriving(Origin):
    """An arrival as one reader's origin.

    ``leave`` is called when it wants no more. ``foreign``: another source than the reader's own brings the bytes.
    """

    def __init__(self, arrival: Arrival, leave: Callable[[], None], *, foreign: bool) -> None:
        self._arrival = arrival
        self._leave = leave
        self._foreign = foreign
        self._fd = -1
        self._at = 0

    def readinto(self, buffer: memoryview, check: Check) -> int:
        with self._own_errors():
            if self._fd < 0:
                self._fd = self._arrival.open()
            arrived = self._arrival.wait(self._at, HEARTBEAT)
            while not arrived.complete and arrived.length <= self._at:
                check()
                arrived = self._arrival.wait(self._at, HEARTBEAT)
        if (left := arrived.length - self._at) <= 0:
            return 0
        try:
            got = os.preadv(self._fd, [buffer[:left]], self._at)
        except OSError as error:
            raise host_error(error, self._arrival.path.parent) from error
        if not got:
            raise self._damaged()
        self._at += got
        return got

    def hashed(self, length: int, sums: Sums) -> None:
        self._arrival.lend(length, sums)

    def verify(self, digest: str) -> None:
        fetched = self.arrived(lambda: None) or self._arrival.result()
        if digest != fetched.digest:
            raise self._damaged()
        self._arrival.proved = True
        self.etag = fetched.etag

    def arrived(self, check: Check) -> Fetched | None:
        if not self._arrival.proved:
            return None
        self._arrival.lend_no_more()
        with self._own_errors():
            return self._arrival.result(check)

    def _damaged(self) -> SourceChanged:
        hint = "it is removed, and the next attempt fetches it again"
        error = SourceChanged(f"the spooled layer {self._arrival.path} was damaged", hint=hint)
        self._arrival.spoil(error)
        return error

    def progress(self, done: int) -> Progress:
        return self._arrival.progress

    def abort(self) -> None:
        self._arrival.lend_no_more()
        self._leave()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """The same layer at another place may be missing or wrong there; that proves nothing about this reader's own source."""
        try:
            yield
        except Terminal as error:
            if not self._foreign:
                raise
            message = f"another transfer of the same layer failed: {error}"
            raise SourceUnavailable(message, hint="the next attempt fetches it from its own source") from error


def host_error(error: OSError, directory: Path) -> NoSpace | NeedsOperator:
    """What a failed write into a directory means for its user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left in {directory}", hint="free some, or put the state directory on a larger file system")
    return NeedsOperator(f"{directory} can't be used: {error.strerror or error}", hint="check its disk, owner and modes")
