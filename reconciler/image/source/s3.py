"""S3 objects and files, as ETags, lengths and ranges of bytes.

``s3_client`` finds credentials and endpoints and signs; ``transport`` sends every request, so that each has one deadline.
``head_one`` is called by ``host.head_requests``, ``get`` by ``download`` and ``stream``. State: the regions that buckets were in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException

from reconciler.backoff import Backoff
from reconciler.errors import PolicyRefused, ReconcilerError, SourceForbidden, SourceUnavailable
from reconciler.image.source import answers, s3_client
from reconciler.image.source.answers import Asked, Passing
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.source.transport import Answer, Request, send
from reconciler.image.spec import S3Options, Source
from reconciler.policy import force

HEAD_SECONDS = 10.0
"""The deadline of a look-up, in all: connections, redirects, repeated requests."""

GET_SECONDS = 30.0
"""The deadline of a GET's status and headers."""

REQUEST_ATTEMPTS = 3
BETWEEN_REQUESTS = Backoff(0.2, 5.0)
HEADS_AT_ONCE = 16

FILL_SECONDS = 1.0
"""How long ``Body.readinto`` collects bytes before it returns with fewer than it was asked for."""

RATE_SECONDS, MINIMUM_RATE = 30.0, 1024
"""Over so many seconds of waiting a body has to bring so many bytes a second."""

_regions: dict[tuple[S3Options, str], str] = {}

Pause = Callable[[float], None]


class Cut(SourceUnavailable):
    """The body ended early or stalled; asking for the rest is worth a try."""


class Slow(Cut):
    """The body came below the minimum rate: what it brought does not count as progress."""


# ------------------------------------------------------------------------------------------------------- head


def head(sources: Collection[Source]) -> Mapping[Source, Head | ReconcilerError]:
    """Request the ETag and length of many sources at once; a failure is returned as its error."""
    distinct = tuple(dict.fromkeys(sources))
    if not distinct:
        return {}
    with ThreadPoolExecutor(min(len(distinct), HEADS_AT_ONCE), "head") as pool:
        return dict(zip(distinct, pool.map(_head_or_error, distinct), strict=True))


def head_one(source: Source, unless: Callable[[], bool] | None = None) -> Head:
    """The same for one source. Raises SourceNotFound, SourceForbidden and SourceUnavailable; at once where ``unless`` is true."""
    if not source.is_s3:
        force.require_file(source.url)
        return stamp(source.url).head
    with Cutoff(HEAD_SECONDS, unless) as cutoff:
        return _Exchange(source, cutoff, time.sleep).head()


def _head_or_error(source: Source) -> Head | ReconcilerError:
    try:
        return head_one(source)
    except ReconcilerError as error:
        return error


# ------------------------------------------------------------------------------------------------------ ranges


class Body:
    """The bytes of one answer, read by one thread. ``head`` describes the whole object; ``cutoff`` ends the reading."""

    def __init__(self, source: Source, head: Head, answer: Answer, cutoff: Cutoff) -> None:
        self.head = head
        self.cutoff = cutoff
        self._source = source
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
        try:
            got = self._answer.readinto(view)
        except (OSError, HTTPException, ValueError) as error:
            raise self._cut(Cut, str(error) or type(error).__name__) from error
        if not got:
            raise self._cut(Cut, "the answer ended early")
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
        return kind(f"{s3_client.endpoint(self._source.s3)} broke off while it sent {self._source.url}: {why}")


def get(
    source: Source, start: int, stop: int, etag: str = "", *, cutoff: Cutoff | None = None, pause: Pause = time.sleep
) -> Body:
    """Ask S3 for the bytes from ``start`` up to ``stop``, of the object with this ETag where one is given.

    Raises SourceChanged where the object has another ETag by now (RFC 9110, If-Match; a weak ETag is never sent, and callers
    compare), and what ``head_one`` raises. ``cutoff`` is closed with the body, or where there is none; ``pause`` waits.
    """
    cutoff = cutoff or Cutoff(GET_SECONDS)
    try:
        return _Exchange(source, cutoff, pause).get(start, stop, etag)
    except BaseException:
        cutoff.close()
        raise


# ---------------------------------------------------------------------------------------------------- exchanges


class _Exchange:
    """What is asked about one object until there is an answer: within one deadline, a few attempts, one redirect."""

    def __init__(self, source: Source, cutoff: Cutoff, pause: Pause) -> None:
        self._source, self._cutoff, self._pause = source, cutoff, pause

    @property
    def _asked(self) -> Asked:
        return Asked(self._source, s3_client.endpoint(self._source.s3))

    def head(self) -> Head:
        answer = self._send("HEAD", {})
        answer.close()
        if answer.status in answers.NO_HEAD:
            return self._head_by_get()
        if answer.status >= 300:
            raise self._refused(answer, "")
        return answers.described_by_head(self._asked, answer.status, answer.headers)

    def _head_by_get(self) -> Head:
        body = self.get(0, 1, "")
        body.close()
        return answers.require_identity(self._asked, body.head)

    def get(self, start: int, stop: int, etag: str) -> Body:
        match = {"If-Match": etag} if etag and not etag.startswith("W/") else {}
        answer = self._send("GET", {"Range": f"bytes={start}-{stop - 1}"} | match)
        if answer.status == 416 and not start:  # no range of an empty object can be satisfied (RFC 9110 section 14.1.2)
            answer.close()
            answer = self._send("GET", match)
        try:
            if answer.status >= 300:
                raise self._refused(answer, _text(answer))
            described = answers.described_by_get(self._asked, answer.status, answer.headers, start)
        except BaseException:
            answer.close()
            raise
        self._cutoff.lift()
        return Body(self._source, described, answer, self._cutoff)

    def _send(self, method: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a request, repeated where that may help and there is time."""
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._once(method, headers)
                if (answer.status not in (400, 429) and answer.status < 500) or (
                    method == "HEAD" and answer.status in answers.NO_HEAD
                ):
                    return answer
                with _closing(answer):
                    error = self._refused(answer, _text(answer) if method == "GET" else "")
            except Passing as passing:
                error = passing
            if not isinstance(error, Passing) or attempt >= REQUEST_ATTEMPTS:
                raise error
            wait = BETWEEN_REQUESTS.seconds(attempt + 1) if error.after is None else error.after
            if wait >= self._cutoff.left:
                raise error
            self._pause(wait)

    def _once(self, method: str, headers: Mapping[str, str]) -> Answer:
        """Send a request, and follow one redirect."""
        source = self._source
        options = replace(source.s3, region=_regions.get((source.s3, source.bucket_key[0]), source.s3.region))
        request = s3_client.request(source, options, method, headers)
        answer = self._sent(request)
        region = answer.headers.get("x-amz-bucket-region") if source.s3.endpoint_url is None else None
        if (
            region
            and answer.status in (301, 307, 400, 403)
            and region != s3_client.region(options)
            and s3_client.is_amazon(request.url)
        ):
            answer.close()
            _regions[source.s3, source.bucket_key[0]] = region
            return self._sent(s3_client.request(source, replace(options, region=region), method, headers))
        if answer.status not in answers.REDIRECTS:
            return answer
        answer.close()
        target = answers.redirected(self._asked, request.url, answer.status, answer.headers)
        answer = self._sent(s3_client.moved(options, request, target))
        if answer.status in answers.REDIRECTS:
            answer.close()
            raise SourceUnavailable(
                f"{self._asked.endpoint} redirects {source.url} more than once", hint="set s3.endpointUrl to the right place"
            )
        return answer

    def _sent(self, request: Request) -> Answer:
        try:
            return send(request, self._cutoff)
        except PolicyRefused as error:
            raise PolicyRefused(f"{self._source.url}: {error.message}", hint=error.hint) from None
        except (OSError, HTTPException, ValueError) as error:
            raise answers.unreachable(self._asked, error) from error

    def _refused(self, answer: Answer, text: str) -> ReconcilerError:
        error = answers.refusal(self._asked, answer.status, answer.headers, text)
        if isinstance(error, SourceForbidden):
            s3_client.forget(self._source.s3)
        return error


def _text(answer: Answer) -> str:
    with suppress(OSError, HTTPException, ValueError):
        return answer.text()
    return ""


@contextmanager
def _closing(answer: Answer) -> Iterator[None]:
    try:
        yield
    finally:
        answer.close()
