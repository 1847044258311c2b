"""S3 objects and files, as ETags, lengths and ranges of bytes: the only module that imports boto3.

``head`` is called by ``observe``, ``get`` by ``download``. State: one S3 client for each distinct
S3Options, for the life of the process; a client that was refused is forgotten, so that new credentials are picked up.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from reconciler import __version__
from reconciler.errors import ReconcilerError, SourceChanged, SourceForbidden, SourceNotFound, SourceUnavailable
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.spec import S3Options, Source

CONNECT_SECONDS, READ_SECONDS = 10, 30
REQUEST_ATTEMPTS = 3
HEADS_AT_ONCE = 16
POOLED_CONNECTIONS = 32

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"})
_UNAUTHORIZED = frozenset({"AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})

_clients: dict[S3Options, Any] = {}
_connecting = threading.Lock()


class Cut(SourceUnavailable):
    """The body ended early or stalled; asking for the rest is worth a try."""


# ------------------------------------------------------------------------------------------------------- head


def head(sources: Collection[Source]) -> Mapping[Source, Head | ReconcilerError]:
    """Request the ETag and length of many sources at once; a failure is returned as its error."""
    distinct = tuple(dict.fromkeys(sources))
    if not distinct:
        return {}
    with ThreadPoolExecutor(min(len(distinct), HEADS_AT_ONCE), "head") as pool:
        return dict(zip(distinct, pool.map(_head_or_error, distinct), strict=True))


def head_one(source: Source) -> Head:
    """The same for one source. Raises SourceNotFound, SourceForbidden and SourceUnavailable."""
    if not source.is_s3:
        return stamp(source.url).head
    return _unsigned_head(source) or _head(source)


def _head(source: Source) -> Head:
    bucket, key = source.bucket_key
    with _talking_to(source):
        answer = _client(source.s3).head_object(Bucket=bucket, Key=key)
    return Head(answer.get("ETag", ""), answer["ContentLength"])


def _unsigned_head(source: Source) -> Head | None:
    """The plain HTTP request that an unsigned HEAD is; None where that is not enough, and boto3 has to ask.

    Loading boto3 and making a client costs half of the CPU of a run that finds nothing to do.
    """
    options = source.s3
    if not (options.anonymous and options.endpoint_url) or any(os.environ.get(name) for name in _PROXIES):
        return None
    endpoint = urlsplit(options.endpoint_url)
    kind = HTTPSConnection if endpoint.scheme == "https" else HTTPConnection
    with suppress(OSError, HTTPException, ValueError), closing(kind(endpoint.netloc, timeout=CONNECT_SECONDS)) as connection:
        path = f"{endpoint.path.rstrip('/')}/{quote('/'.join(source.bucket_key))}"
        connection.request("HEAD", path, headers={"User-Agent": f"reconciler/{__version__}"})
        answer = connection.getresponse()
        if answer.status == 200 and (etag := answer.headers.get("ETag")):
            return Head(etag, int(answer.headers["Content-Length"] or ""))
    return None


def _head_or_error(source: Source) -> Head | ReconcilerError:
    try:
        return head_one(source)
    except ReconcilerError as error:
        return error


# ------------------------------------------------------------------------------------------------------ ranges


class Body:
    """The bytes of one answer, read by one thread; ``abort`` may be called by another. ``head`` describes the whole object."""

    def __init__(self, source: Source, head: Head, stream: Any) -> None:
        self.head = head
        self._source = source
        self._stream = stream

    def readinto(self, view: memoryview) -> None:
        """Fill ``view``. Raises Cut where the answer ends before, stalls, or the connection breaks."""
        try:
            while view and (got := self._stream.readinto(view)):
                view = view[got:]
        except Exception as error:  # of botocore, urllib3, http.client, ssl or socket: each means that reading the answer failed
            raise self._cut(str(error) or type(error).__name__) from error
        if view:
            raise self._cut("the answer ended early")

    def abort(self) -> None:
        """Wake the reader, which then raises Cut; where the HTTP library can't, its time-out does."""
        with suppress(AttributeError, OSError, RuntimeError, ValueError):
            self._stream._raw_stream.shutdown()

    def close(self) -> None:
        """Let go of the connection; it is used again only where the answer was read to its end."""
        self._stream.close()

    def _cut(self, why: str) -> Cut:
        return Cut(f"{_endpoint(self._source.s3)} broke off while it sent {self._source.url}: {why}")


def get(source: Source, start: int, stop: int, etag: str = "") -> Body:
    """Ask S3 for the bytes from ``start`` up to ``stop``, of the object with this ETag where one is given.

    Raises SourceChanged where the object has another ETag by now (RFC 9110, If-Match), and what ``head_one`` raises.
    """
    bucket, key = source.bucket_key
    wanted = {"Bucket": bucket, "Key": key} | ({"IfMatch": etag} if etag else {})
    with _talking_to(source):
        answer = _get_object(_client(source.s3), wanted, start, stop)
    try:
        return Body(source, _described(source, answer, start), answer["Body"])
    except ReconcilerError:
        answer["Body"].close()
        raise


def _get_object(client: Any, wanted: dict[str, str], start: int, stop: int) -> Any:
    from botocore.exceptions import ClientError

    try:
        return client.get_object(**wanted, Range=f"bytes={start}-{stop - 1}")
    except ClientError as error:
        # No range of an empty object can be satisfied (RFC 9110 section 14.1.2).
        if start or error.response["ResponseMetadata"].get("HTTPStatusCode") != 416:
            raise
        return client.get_object(**wanted)


def _described(source: Source, answer: Mapping[str, Any], start: int) -> Head:
    etag = answer.get("ETag", "")
    told = answer.get("ContentRange")
    if told is None and start == 0:
        return Head(etag, answer["ContentLength"])
    match = _CONTENT_RANGE.fullmatch(told or "")
    if match is None or int(match[1]) != start:
        said = f"answered a request for byte {start} of {source.url} with {told or 'the whole object'}"
        raise SourceUnavailable(f"{_endpoint(source.s3)} {said}", hint="the endpoint has to support ranged GETs")
    return Head(etag, int(match[3]))


# ----------------------------------------------------------------------------------------------------- clients


def _client(options: S3Options) -> Any:
    with _connecting:
        if options not in _clients:
            _clients[options] = _connect(options)
        return _clients[options]


def _connect(options: S3Options) -> Any:
    import boto3.session

    session = boto3.session.Session()
    client = _open_client(session, options, path_style=options.endpoint_url is not None)
    # The AWS environment can name an endpoint, too, and few endpoints but Amazon's own resolve a host name for each bucket.
    if options.endpoint_url is None and not _is_amazon(client.meta.endpoint_url):
        client = _open_client(session, options, path_style=True)
    return client


def _open_client(session: Any, options: S3Options, *, path_style: bool) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        signature_version=UNSIGNED if options.anonymous else None,
        s3={"addressing_style": "path"} if path_style else None,
        retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=POOLED_CONNECTIONS,
        user_agent_extra=f"reconciler/{__version__}",
    )
    return session.client("s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config)


def _is_amazon(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _endpoint(options: S3Options) -> str:
    client = _clients.get(options)
    return client.meta.endpoint_url if client else options.endpoint_url or "S3"


# ------------------------------------------------------------------------------------------------------ errors


@contextmanager
def _talking_to(source: Source) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refusal(error, source) from error
    except BotoCoreError as error:
        raise _failure(error, source) from error
    except ValueError as error:
        raise SourceNotFound(f"{source.url} can't be asked for: {error}", hint="check the source and s3.endpointUrl") from error


def _refusal(error: Any, source: Source) -> ReconcilerError:
    """The typed error of an answer that is not a success (codes: S3 API reference, Error responses)."""
    code = str(error.response["Error"].get("Code", ""))
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    said = f"{code}: {error.response['Error'].get('Message', '')}"
    endpoint = _endpoint(source.s3)
    if status == 412:
        return SourceChanged(f"{source.url} was replaced at {endpoint}", hint="the next try reads the new object")
    if status == 429 or status >= 500 or code in _THROTTLED:
        return SourceUnavailable(f"{endpoint} can't serve {source.url} now: {said}")
    if code in _ELSEWHERE:
        return SourceNotFound(f"{source.url} is not in this region: {said}", hint="set s3.region to the bucket's region")
    if status == 404:
        return _absence(code, source, endpoint)
    return _denial(said, status, code, source, endpoint)


def _absence(code: str, source: Source, endpoint: str) -> SourceNotFound:
    bucket, key = source.bucket_key
    if code == "NoSuchBucket":
        return SourceNotFound(f"there is no bucket {bucket} at {endpoint}", hint="check the bucket's name and s3.endpointUrl")
    if code == "NoSuchKey":
        return SourceNotFound(f"bucket {bucket} at {endpoint} has no key {key}", hint="check the key of the layer's source")
    # The answer to a HEAD has no body that could tell which of the two it is.
    return SourceNotFound(f"there is no {source.url} at {endpoint}", hint=f"check bucket {bucket}, key {key} and s3.endpointUrl")


def _denial(said: str, status: int, code: str, source: Source, endpoint: str) -> SourceForbidden:
    if status not in (401, 403) and code not in _UNAUTHORIZED:
        return SourceForbidden(f"{endpoint} refuses to serve {source.url}: {said}")
    _clients.pop(source.s3, None)
    if source.s3.anonymous:
        hint = "the bucket is not public, or the key does not exist: leave s3.anonymous out and give credentials"
    else:
        hint = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID …) and the bucket's policy; a missing key answers so, too"
    return SourceForbidden(f"{endpoint} does not allow {source.url} to be read: {said}", hint=hint)


def _failure(error: Exception, source: Source) -> ReconcilerError:
    """The typed error of a request that got no answer, or was never sent."""
    from botocore import exceptions as boto

    unsigned = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.UnauthorizedSSOTokenError)
    if isinstance(error, unsigned):
        _clients.pop(source.s3, None)
        hint = "give AWS credentials, or set s3.anonymous: true for a public bucket"
        return SourceForbidden(f"{source.url} can't be read: {error}", hint=hint)
    if isinstance(error, (boto.ParamValidationError, boto.NoRegionError, boto.EndpointProviderError, boto.InvalidConfigError)):
        return SourceNotFound(f"{source.url} can't be asked for: {error}", hint="check bucket, key, s3.region and s3.endpointUrl")
    hint = "is the endpoint up, and reachable from this host?"
    return SourceUnavailable(f"{_endpoint(source.s3)} does not answer for {source.url}: {error}", hint=hint)
