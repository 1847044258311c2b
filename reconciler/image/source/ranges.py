"""An object of S3 in order, one request after the other, the next one once its bytes are wanted: nothing of it lies on disk.

For ``cli.inspect_layer``, which doesn't fetch the rest of a refused layer; ``spool`` serves callers that need all of it.
State: one answer that is being read.
"""

from __future__ import annotations

from reconciler.errors import SourceChanged
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import BETWEEN_REQUESTS, GET_SECONDS, Body, Cut, Slow
from reconciler.image.source.reading import FRUITLESS_TRIES, Check, Origin, ended, sleep
from reconciler.image.source.remote import get
from reconciler.image.source.stamp import Head
from reconciler.image.spec import MIB, Source

FIRST_RANGE, LARGEST_RANGE = MIB, 64 * MIB
"""Bytes of the first request; each one asks for twice as many as the one before, so that few are needed for a long layer, and a
refusal at the start of one has cost no more than the first."""


class Ranges(Origin):
    """What is left of a range when an answer breaks off is asked for again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._head: Head | None = None
        self._at = 0
        self._stop, self._length = 0, FIRST_RANGE
        self._body: Body | None = None
        self._fruitless = 0
        self._fresh = False
        """The answer has brought nothing yet."""

    def readinto(self, buffer: memoryview, check: Check) -> int:
        while self._head is None or self._at < self._head.size:
            if self._at == self._stop:
                self._stop, self._length = self._stop + self._length, min(2 * self._length, LARGEST_RANGE)
                self._fruitless = 0
            try:
                return self._receive(buffer, check)
            except Cut as error:
                self._let_go()
                check()
                if self._fresh or isinstance(error, Slow):
                    self._fruitless += 1
                else:
                    self._fruitless = 0
                if self._fruitless == FRUITLESS_TRIES:
                    raise
                sleep(BETWEEN_REQUESTS.seconds(self._fruitless), check)
        return 0

    def _receive(self, buffer: memoryview, check: Check) -> int:
        body = self._body or self._ask(check)
        got = body.readinto(buffer[: self._end - self._at])
        self._fresh = False
        self._at += got
        if self._at == self._end:
            self._let_go()
        return got

    @property
    def _end(self) -> int:
        return self._stop if self._head is None else min(self._stop, self._head.size)

    def _ask(self, check: Check) -> Body:
        """The server's answer for what is left of the range, where that is still the same object."""
        cutoff, self._fresh = Cutoff(GET_SECONDS, unless=lambda: ended(check)), True
        body = get(self._source, self._at, self._end, self.etag, cutoff=cutoff, pause=lambda seconds: sleep(seconds, check))
        self._body = body
        if self._head not in (None, body.head):
            message = f"{self._source.url} was {self._head}, and is {body.head} now"
            raise SourceChanged(message, hint="the next attempt fetches the new one")
        self._head, self.etag, self.size = body.head, body.head.etag, body.head.size
        return body

    def _let_go(self) -> None:
        if self._body is not None:
            self._body.close()
        self._body = None

    def close(self) -> None:
        self._let_go()
