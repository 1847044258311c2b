"""S3 objects, as ETags, lengths and ranges of bytes.

``s3_client`` finds credentials and endpoints and signs; ``transport`` sends every request, so that each has one deadline.
Called by ``remote``. State: the regions that buckets were in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException

from reconciler.dataclass import replace
from reconciler.errors import PolicyRefused, ReconcilerError, SourceForbidden, SourceUnavailable
from reconciler.image.source import answers, exchange, s3_client
from reconciler.image.source.answers import Asked
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import Body, Pause, repeated
from reconciler.image.source.stamp import Head
from reconciler.image.source.transport import Answer, Request, send
from reconciler.image.spec import S3Options, Source

LOADING_SECONDS = 0.1
"""From here on the time that this host takes to load boto3 is not counted as the server's."""

_regions: dict[tuple[S3Options, str], str] = {}


def head(source: Source, unless: Callable[[], bool] | None) -> Head:
    """See ``remote.head_one``."""
    with Cutoff(exchange.HEAD_SECONDS, unless) as cutoff:
        return _Exchange(source, cutoff, time.sleep).head()


def get(source: Source, start: int, stop: int, etag: str, cutoff: Cutoff, pause: Pause) -> Body:
    """See ``remote.get``."""
    return _Exchange(source, cutoff, pause).get(start, stop, etag)


class _Exchange:
    """What is asked about one object until there is an answer: within one deadline, a few attempts, one redirect."""

    def __init__(self, source: Source, cutoff: Cutoff, pause: Pause) -> None:
        self._source, self._cutoff, self._pause = source, cutoff, pause
        if s3_client.load(source.s3) > LOADING_SECONDS:
            cutoff.renew(cutoff.seconds)

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
        return Body(self._source.url, lambda: self._asked.endpoint, described, answer, self._cutoff)

    def _send(self, method: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a request, repeated where that may help and there is time."""
        return repeated(lambda: self._final(method, headers), self._cutoff, self._pause)

    def _final(self, method: str, headers: Mapping[str, str]) -> Answer:
        """An answer that the same request would get again. Raises Passing for others."""
        answer = self._once(method, headers)
        if (answer.status not in (400, 429) and answer.status < 500) or (method == "HEAD" and answer.status in answers.NO_HEAD):
            return answer
        with _closing(answer):
            raise self._refused(answer, _text(answer) if method == "GET" else "")

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
