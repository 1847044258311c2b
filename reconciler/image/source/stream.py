"""One layer on its way through a pipe, no faster than its reader: nothing lies on disk, and little is ever ahead of the reader.

Made by ``cli.inspect_layer``, which doesn't fetch the rest of a refused layer; ``spool`` serves callers that need all of
it. What is ahead: the pipe, one piece, and what the sockets hold of one answer. State: a thread, a pipe, a hash.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock

from reconciler.errors import BuilderDied, SourceChanged, SourceForbidden
from reconciler.image.source.arrival import HEARTBEAT, Arrival, Arrived, Fetched, Progress
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.s3 import GET_SECONDS, Body, Cut, Slow, get
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.source.workers import BACK_OFF_SECONDS, FRUITLESS_TRIES
from reconciler.image.spec import MIB, Source

PIECE = 256 << 10
"""Bytes that are received and hashed at once, and that the pipe holds where the system lets it."""

FIRST_RANGE, LARGEST_RANGE = MIB, 64 * MIB
"""Bytes of the first request; each one asks for twice as many as the one before, so that few are needed for a long layer, and a
refusal at the start of one has cost no more than the first."""

PATIENCE_SECONDS = 600.0
"""How long the reader may take nothing, although there is something for it."""

AFTER_THE_READER = 1.0
"""Seconds that the parent has to report why the reader has ended."""


class Flow:
    """A ``build.Fetch`` whose descriptor is a pipe: it can be opened once, and read once."""

    def __init__(self, name: str, origin: Callable[[Arrival], Origin], stop: Event) -> None:
        self._arrival = Arrival(Path(name), stop)
        self._origin = origin(self._arrival)
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)
        with suppress(OSError):  # a user with many pipes gets small ones
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIECE)
        self._length = 0
        self._arrival.start(self._run)

    def open(self) -> int:
        """The pipe's end to read from; its owner closes it."""
        reader, self._reader = self._reader, -1
        return reader

    def wait(self, beyond: int, timeout: float) -> Arrived:
        """Wait until more than ``beyond`` bytes are in the pipe or have been, or all of them, or ``timeout`` seconds are over.

        Raises what the source raised, and Stopped.
        """
        return self._arrival.wait(beyond, timeout)

    def result(self) -> Fetched:
        """Wait for the end. Raises what ``wait`` raises."""
        return self._arrival.result()

    @property
    def progress(self) -> Progress:
        return self._arrival.progress

    def close(self) -> None:
        """Let go of the source; one that does not answer is not waited for."""
        self._arrival.cancel()
        self._origin.abort()
        self._arrival.join(AFTER_THE_READER)
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    # -- the thread that brings the bytes

    def _run(self) -> str:
        sha = sha256()
        try:
            for piece in self._origin.pieces():
                sha.update(piece)
                self._put(piece)
        finally:
            os.close(self._writer)
        self._arrival.describe(self._origin.etag, self._length)
        return sha.hexdigest()

    def _put(self, piece: memoryview) -> None:
        """Put a piece into the pipe, as there is room."""
        until = time.monotonic() + PATIENCE_SECONDS
        while piece:
            self._arrival.check()
            try:
                written = os.write(self._writer, piece)
            except BlockingIOError:
                self._await_room(until)
                continue
            except BrokenPipeError:
                self._arrival.sleep(AFTER_THE_READER)
                raise BuilderDied("the builder process has let go of a layer before its end") from None
            piece = piece[written:]
            self._length += written
            self._arrival.advance(self._length)
            until = time.monotonic() + PATIENCE_SECONDS

    def _await_room(self, until: float) -> None:
        if time.monotonic() > until:
            raise BuilderDied(f"the builder process has read nothing for {PATIENCE_SECONDS:.0f} s")
        room = select.poll()
        room.register(self._writer, select.POLLOUT)
        room.poll(HEARTBEAT * 1000)


class Origin(ABC):
    """Where a flow's bytes come from. A piece is good until the next one is asked for."""

    etag = ""

    @abstractmethod
    def pieces(self) -> Iterator[memoryview]:
        """Raises SourceChanged, SourceUnavailable, SourceNotFound, SourceForbidden, and Stopped."""

    def abort(self) -> None:  # noqa: B027 - most origins have nothing to wake
        """Wake the thread that waits for a piece, where that can be done; called by another one."""


class Ranges(Origin):
    """An object of S3, one request after the other, the next one once its bytes have a place to go to."""

    def __init__(self, source: Source, arrival: Arrival) -> None:
        self._source = source
        self._arrival = arrival
        self._head: Head | None = None
        self._at = 0
        self._cutoff: Cutoff | None = None
        self._lock = Lock()

    def pieces(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(PIECE))
        stop, length = 0, FIRST_RANGE
        while self._head is None or self._at < self._head.size:
            stop, length = stop + length, min(2 * length, LARGEST_RANGE)
            yield from self._range(stop, buffer)

    def _range(self, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """The bytes up to ``stop``; what is left of them when an answer breaks off is asked for again."""
        fruitless = 0
        while self._at < self._end(stop):
            before = self._at
            try:
                with self._answer(self._end(stop)) as body:
                    while (left := min(stop, body.head.size) - self._at) > 0:
                        got = body.readinto(buffer[:left])
                        self._at += got
                        yield buffer[:got]
            except Cut as error:
                self._arrival.check()
                fruitless = 0 if self._at > before and not isinstance(error, Slow) else fruitless + 1
                if fruitless == FRUITLESS_TRIES:
                    raise
                self._arrival.sleep(BACK_OFF_SECONDS * 2**fruitless * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret

    def _end(self, stop: int) -> int:
        return stop if self._head is None else min(stop, self._head.size)

    @contextmanager
    def _answer(self, stop: int) -> Iterator[Body]:
        """The server's answer for what is left up to ``stop``, where that is still the same object."""
        cutoff = Cutoff(GET_SECONDS)
        with self._lock:
            self._cutoff = cutoff
        self._arrival.check()  # an abort may have come before there was something to abort
        body = get(self._source, self._at, stop, self.etag, cutoff=cutoff, pause=self._arrival.sleep)
        try:
            if self._head not in (None, body.head):
                message = f"{self._source.url} was {self._head}, and is {body.head} now"
                raise SourceChanged(message, hint="the next attempt fetches the new one")
            self._head, self.etag = body.head, body.head.etag
            self._arrival.describe(body.head.etag, body.head.size)
            yield body
        finally:
            with self._lock:
                self._cutoff = None
            body.close()

    def abort(self) -> None:
        with self._lock:
            if self._cutoff is not None:
                self._cutoff.cut()


class File(Origin):
    """A file of this host, which has to stay as it is while it is read."""

    def __init__(self, path: str, arrival: Arrival) -> None:
        self._path = path
        self._arrival = arrival

    def pieces(self) -> Iterator[memoryview]:
        before = stamp(self._path)
        self.etag = before.head.etag
        self._arrival.describe(before.head.etag, before.size)
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError as error:
            raise SourceForbidden(f"{self._path} may not be read", hint="check its owner and mode") from error
        try:
            yield from _read(fd)
        finally:
            os.close(fd)
        if stamp(self._path) != before:
            raise SourceChanged(f"{self._path} has changed while it was read", hint="the next try takes it as it is")


class Descriptor(Origin):
    """Standard input."""

    def __init__(self, fd: int, arrival: Arrival) -> None:
        self._fd = fd
        self._arrival = arrival

    def pieces(self) -> Iterator[memoryview]:
        ready = select.poll()
        ready.register(self._fd, select.POLLIN)

        def wait() -> None:
            while not ready.poll(HEARTBEAT * 1000):
                self._arrival.check()

        return _read(self._fd, wait)


def _read(fd: int, wait: Callable[[], None] = lambda: None) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(PIECE))
    while True:
        wait()
        got = os.readv(fd, [buffer])
        if not got:
            return
        yield buffer[:got]
