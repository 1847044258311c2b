"""Threads that bring the parts of one object into one file, each over a connection of its own.

Memory: one piece for each thread, whatever the size of parts and objects. A piece goes to its offset of the file as soon as it
is there; readers that need the bytes in order read them behind the frontier, out of the page cache. Used by ``download``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread

from reconciler.errors import SourceChanged
from reconciler.image.source.arrival import Arrival, Manner
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import BETWEEN_REQUESTS, GET_SECONDS, Body, Cut, Slow
from reconciler.image.source.reading import PIECE
from reconciler.image.source.remote import get
from reconciler.image.source.stamp import Head
from reconciler.image.source.window import Part, Window
from reconciler.image.spec import Source


class Workers:
    """A context manager: the threads start when it is entered, and all have ended when it is left."""

    def __init__(self, source: Source, head: Head, window: Window, descriptor: int, arrival: Arrival, manner: Manner) -> None:
        self._source = source
        self._head = head
        self._window = window
        self._descriptor = descriptor
        self._arrival = arrival
        self._tries = manner.tries
        self._cutoffs: set[Cutoff] = set()
        self._lock = Lock()
        self._threads = [
            Thread(target=self._work, name=f"part {i}", daemon=True) for i in range(min(manner.connections, len(window)))
        ]

    def __enter__(self) -> Workers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._window.fail(error)
            self._abort()
        for thread in self._threads:
            thread.join()
        self._window.close()

    def _abort(self) -> None:
        with self._lock:
            for cutoff in self._cutoffs:
                cutoff.cut()

    def _work(self) -> None:
        buffer = memoryview(bytearray(PIECE))
        try:
            while (part := self._window.take()) is not None:
                self._bring(part, buffer)
        except BaseException as error:
            self._window.fail(error)

    def _bring(self, part: Part, buffer: memoryview) -> None:
        """Bring one part; what is left of it when an answer breaks off is asked for again."""
        fruitless = 0
        while part.at < part.stop:
            before = part.at
            try:
                self._stream(part, buffer)
            except Cut as error:
                self._window.check()
                fruitless = 0 if part.at > before and not isinstance(error, Slow) else fruitless + 1
                if fruitless == self._tries:
                    raise
                self._arrival.sleep(BETWEEN_REQUESTS.seconds(fruitless))

    def _stream(self, part: Part, buffer: memoryview) -> None:
        with self._answer(part) as body:
            while part.at < part.stop:
                self._arrival.check()
                self._window.check()
                piece = buffer[: part.stop - part.at]
                got = body.readinto(piece)
                _write(self._descriptor, piece[:got], part.at)
                self._arrival.advance(self._window.landed(part, got))

    @contextmanager
    def _answer(self, part: Part) -> Iterator[Body]:
        """The server's answer for the rest of a part, where that is still the same object."""
        body, part.body = part.body, None
        cutoff = body.cutoff if body else Cutoff(GET_SECONDS)
        with self._lock:
            self._cutoffs.add(cutoff)
        try:
            if body is None:
                self._window.check()  # ended before there was something to end
                body = get(self._source, part.at, part.stop, self._head.etag, cutoff=cutoff, pause=self._arrival.sleep)
            if body.head != self._head:
                raise SourceChanged(
                    f"{self._source.url} was {self._head}, and is {body.head} now", hint="the next attempt fetches the new one"
                )
            yield body
        finally:
            with self._lock:
                self._cutoffs.discard(cutoff)
            if body is not None:
                body.close()


def _write(descriptor: int, piece: memoryview, offset: int) -> None:
    while piece:
        written = os.pwrite(descriptor, piece, offset)
        piece, offset = piece[written:], offset + written
