"""What exchanges with S3 and with registries have in common: deadlines, repeated requests, a body that is read as it comes.

Used by ``s3``, ``oci.registry`` and what reads bodies. No state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPException

from reconciler.backoff import Backoff
from reconciler.errors import SourceUnavailable
from reconciler.image.source.answers import Passing
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.stamp import Head
from reconciler.image.source.transport import Answer

HEAD_SECONDS = 10.0
"""The deadline of a look-up, in all: connections, redirects, repeated requests."""

GET_SECONDS = 30.0
"""The deadline of a GET's status and headers."""

REQUEST_ATTEMPTS = 3
BETWEEN_REQUESTS = Backoff(0.2, 5.0)

FILL_SECONDS = 1.0
"""How long ``Body.readinto`` collects bytes before it returns with fewer than it was asked for."""

RATE_SECONDS, MINIMUM_RATE = 30.0, 1024
"""Over so many seconds of waiting a body has to bring so many bytes a second."""

Pause = Callable[[float], None]


def repeated(once: Callable[[], Answer], cutoff: Cutoff, pause: Pause) -> Answer:
    """What ``once`` returns, called again where it raises Passing, as long as that may help and there is time."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return once()
        except Passing as error:
            if attempt >= REQUEST_ATTEMPTS:
                raise
            wait = BETWEEN_REQUESTS.seconds(attempt + 1) if error.after is None else error.after
            if wait >= cutoff.left:
                raise
        pause(wait)


class Cut(SourceUnavailable):
    """The body ended early or stalled; asking for the rest is worth a try."""


class Slow(Cut):
    """The body came below the minimum rate: what it brought does not count as progress."""


class Body:
    """The bytes of one answer, read by one thread. ``head`` describes the whole object; ``cutoff`` ends the reading.

    ``what`` and ``endpoint`` are for its errors.
    """

    def __init__(
        self, what: str, endpoint: Callable[[], str], head: Head, answer: Answer, cutoff: Cutoff, *, whole: bool = False
    ) -> None:
        self.head = head
        self.whole = whole
        """The server sends all of it, whatever was asked for."""
        self.cutoff = cutoff
        self._what, self._endpoint = what, endpoint
        self._answer = answer
        self._error: Cut | None = None
        self._waited, self._got = 0.0, 0

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` from the start as far as bytes come within a second or so; return how many, at least one.

        Raises Cut where the answer ends before, stalls, or the connection breaks; whatever came before that is returned first.
        """
        length, until = 0, time.monotonic() + FILL_SECONDS
        while length < len(view) and self._error is None and (not length or time.monotonic() < until):
            try:
                length += self._receive(view[length:])
            except Cut as error:
                self._error = error
        if not length and self._error is not None:
            raise self._error
        return length

    def _receive(self, view: memoryview) -> int:
        began = time.monotonic()
        if self._answer.chunked:
            self.cutoff.renew(RATE_SECONDS)  # a chunk's size, its extensions and trailers can drip, and bring not a single byte
        try:
            got = self._answer.readinto(view)
        except (OSError, HTTPException, ValueError) as error:
            got, why = 0, str(error) or type(error).__name__
        else:
            why = "the answer ended early"
        if not got:
            slow = self._answer.chunked and time.monotonic() - began >= RATE_SECONDS
            raise self._cut(Slow if slow else Cut, f"no bytes in {time.monotonic() - began:.0f} s" if slow else why)
        self._waited, self._got = self._waited + time.monotonic() - began, self._got + got
        if self._waited >= RATE_SECONDS:
            if self._got < MINIMUM_RATE * self._waited:
                raise self._cut(Slow, f"only {self._got} bytes in {self._waited:.0f} s")
            self._waited, self._got = 0.0, 0
        return got

    def close(self) -> None:
        """Release the connection; it is used again only where the answer was read to its end."""
        self.cutoff.close()
        self._answer.close()

    def _cut(self, kind: type[Cut], why: str) -> Cut:
        return kind(f"{self._endpoint()} broke off while it sent {self._what}: {why}")
