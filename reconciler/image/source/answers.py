"""What a server's answer means: the object's ETag and length, where a redirect may lead, or the typed error with its hint.

Called by ``s3``. Pure: status, headers and text in, values out (codes: S3 API reference, Error responses).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any
from urllib.parse import urljoin, urlsplit

from reconciler.dataclass import dataclass
from reconciler.errors import ReconcilerError, SourceChanged, SourceForbidden, SourceNotFound, SourceUnavailable
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Source
from reconciler.policy.addresses import AMAZON_S3

MOST_BYTES = (1 << 63) - 1
MOST_RETRY_AFTER = 60.0
"""Seconds that a server may ask to wait before the next request."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
NO_HEAD = frozenset({400, 403, 405, 501})
"""Answers to a HEAD after which a GET of one byte is tried: some servers refuse HEAD, and only a GET's answer explains itself."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"})
_TOKEN = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_UNAUTHORIZED = frozenset({"AccessDenied", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}) | _TOKEN
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})


class Unranged(SourceUnavailable):
    """The server sends the whole object where a part of it is asked for."""


class Passing(SourceUnavailable):
    """Another request may succeed at once, or ``after`` so many seconds where the server names them."""

    def __init__(self, message: str, *, hint: str = "", after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.after = after


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its answer's words need it: the source, the endpoint as people write it, what to check where it is odd."""

    source: Source
    endpoint: str
    check: str = "check s3.endpointUrl"


# -------------------------------------------------------------------------------------------------- descriptions


def described_by_head(asked: Asked, status: int, headers: Mapping[str, str]) -> Head:
    """The object that the answer to a HEAD describes. Raises SourceUnavailable where it describes none."""
    _require_object(asked, "HEAD", 200, status, headers)
    return _identified(asked, headers, _length(asked, headers.get("content-length"), "HEAD"))


def described_by_get(asked: Asked, status: int, headers: Mapping[str, str], start: int) -> Head:
    """The whole object that the answer to a GET from byte ``start`` on describes; its ETag is empty where it has none."""
    _require_object(asked, "GET", 206 if start or status != 200 else 200, status, headers)
    if status == 200:
        return Head(headers.get("etag", ""), _length(asked, headers.get("content-length"), "GET"), md5_of(headers))
    told = headers.get("content-range")
    match = _CONTENT_RANGE.fullmatch(told or "")
    if match is None or int(match[1]) != start or int(match[3]) > MOST_BYTES:
        what = f"Content-Range {_short(told)}" if told else "status 206 without a Content-Range"
        raise _odd(asked, f"answers a request for byte {start} of {asked.source.url} with {what}", _RANGES)
    return Head(headers.get("etag", ""), int(match[3]), md5_of(headers))


def require_identity(asked: Asked, head: Head) -> Head:
    """The head of an object that has an ETag. Raises SourceUnavailable."""
    if not head.etag.removeprefix("W/").strip('"'):
        raise _odd(asked, f"sends no ETag for {asked.source.url}", "pin the layer with its sha256")
    return head


def _identified(asked: Asked, headers: Mapping[str, str], size: int) -> Head:
    return require_identity(asked, Head(headers.get("etag", ""), size, md5_of(headers)))


_RANGES = "the endpoint has to support ranged GETs"


def _require_object(asked: Asked, method: str, wanted: int, status: int, headers: Mapping[str, str]) -> None:
    if status == 200 and wanted == 206:
        said = f"answers a request for a part of {asked.source.url} with the whole object"
        raise Unranged(f"{asked.endpoint} {said}", hint=_RANGES)
    if status != wanted:
        raise _odd(asked, f"answers {method} of {asked.source.url} with status {status}", asked.check)
    if headers.get("content-type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        hint = f"{asked.check}: a login page or a proxy may answer in its place"
        raise _odd(asked, f"answers {method} of {asked.source.url} with a web page", hint)


def _length(asked: Asked, told: str | None, method: str) -> int:
    if told is not None and re.fullmatch(r"\d{1,19}", told.strip()) and int(told) <= MOST_BYTES:
        return int(told)
    what = "without a Content-Length" if told is None else f"with Content-Length {_short(told)}"
    raise _odd(asked, f"answers {method} of {asked.source.url} {what}", "the endpoint has to send the object's length")


def md5_of(headers: Mapping[str, str]) -> str:
    """The MD5 that an ETag is, where it can be one: uploaded in one part, not encrypted with a key of KMS or of the customer."""
    encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    if encrypted or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return ""
    match = _MD5.fullmatch(headers.get("etag", ""))
    return match[1] if match else ""


def _odd(asked: Asked, said: str, hint: str) -> SourceUnavailable:
    return SourceUnavailable(f"{asked.endpoint} {said}", hint=hint)


def _short(told: str | None) -> str:
    return ascii(told if told is None or len(told) <= 40 else told[:40] + "…")


# ------------------------------------------------------------------------------------------------------ redirects


def redirected(asked: Asked, url: str, status: int, headers: Mapping[str, str]) -> str:
    """The URL that a redirect leads to. Raises SourceUnavailable where it may not be followed."""
    location = headers.get("location", "")
    if not location:
        region = headers.get("x-amz-bucket-region")
        where = f"to region {region}" if region else "without a Location"
        hint = f"set s3.region to {region}, and s3.endpointUrl to that region's endpoint" if region else "check s3.endpointUrl"
        raise _odd(asked, f"redirects {asked.source.url} {where} (status {status})", hint)
    target = urljoin(url, location)
    if why := _refused(url, target, asked.source.bucket_key[0]):
        raise _odd(
            asked, f"redirects {asked.source.url} to {_short(target)[1:-1]}, {why}", "set s3.endpointUrl to the right place"
        )
    return target


def _refused(url: str, target: str, bucket: str) -> str:
    """Why a redirect is not followed; empty where it is."""
    try:
        before, after = urlsplit(url), urlsplit(target)
        ports = before.port, after.port
    except ValueError:
        return "which is not a URL"
    if after.scheme not in ("http", "https") or after.username is not None:
        return "which is not a plain HTTP URL"
    if before.scheme == "https" and after.scheme == "http":
        return "which is not encrypted"
    if before.hostname == after.hostname:
        upgraded = before.scheme != after.scheme and after.port in (None, 443)
        return "" if ports[0] == ports[1] or upgraded else "which is another port"
    return "" if _same_bucket(before.hostname or "", after.hostname or "", after.path, bucket) else "which is another host"


def _same_bucket(before: str, after: str, path: str, bucket: str) -> bool:
    """Whether both hosts are Amazon's, and the second one serves this bucket."""
    old, new = AMAZON_S3.fullmatch(before), AMAZON_S3.fullmatch(after)
    if old is None or new is None:
        return False
    named = new["bucket"] or new["old"]
    return named == bucket if named else path.startswith(f"/{bucket}/")


# --------------------------------------------------------------------------------------------------------- errors


def refusal(asked: Asked, status: int, headers: Mapping[str, str], text: str) -> ReconcilerError:
    """The typed error of an answer that is not a success."""
    code, message = _element(text, "Code"), _element(text, "Message")
    said = f"{code}: {message}" if code else f"status {status}"
    url = asked.source.url
    if status == 412:
        return SourceChanged(f"{url} was replaced at {asked.endpoint}", hint="the next try reads the new object")
    if code == "RequestTimeTooSkewed":
        clock = f"; the endpoint's clock is at {headers['date']}" if "date" in headers else ""
        hint = "set the clock of this host (timedatectl set-ntp true)"
        return SourceUnavailable(f"{asked.endpoint} refuses {url}: the clock of this host is wrong{clock}", hint=hint)
    if status == 429 or status >= 500 or code in _THROTTLED:
        return Passing(f"{asked.endpoint} can't serve {url} now: {said}", after=retry_after(headers))
    if code in _ELSEWHERE or ("x-amz-bucket-region" in headers and status in (301, 400)):
        region = headers.get("x-amz-bucket-region") or _element(text, "Region") or "the bucket's region"
        return SourceNotFound(f"{url} is not in this region: {said}", hint=f"set s3.region to {region}")
    if status == 404:
        return _absence(code, asked)
    return _denial(said, status, code, asked)


def _absence(code: str, asked: Asked) -> SourceNotFound:
    (bucket, key), endpoint = asked.source.bucket_key, asked.endpoint
    if code == "NoSuchBucket":
        return SourceNotFound(f"there is no bucket {bucket} at {endpoint}", hint="check the bucket's name and s3.endpointUrl")
    if code == "NoSuchKey":
        return SourceNotFound(f"bucket {bucket} at {endpoint} has no key {key}", hint="check the key of the layer's source")
    # The answer to a HEAD has no body that could tell which of the two it is.
    hint = f"check bucket {bucket}, key {key} and s3.endpointUrl"
    return SourceNotFound(f"there is no {asked.source.url} at {endpoint}", hint=hint)


def _denial(said: str, status: int, code: str, asked: Asked) -> SourceForbidden:
    url, endpoint = asked.source.url, asked.endpoint
    if code == "InvalidObjectState":
        hint = "restore it (aws s3api restore-object), or copy it to a storage class that can be read"
        return SourceForbidden(f"{url} is in an archive tier at {endpoint} and can't be read: {said}", hint=hint)
    if code in _TOKEN:
        hint = "renew the credentials; the next attempt reads them again"
        return SourceForbidden(f"the session token for {endpoint} has expired, so {url} can't be read: {said}", hint=hint)
    if status not in (401, 403) and code not in _UNAUTHORIZED:
        return SourceForbidden(f"{endpoint} refuses to serve {url}: {said}")
    if asked.source.s3.anonymous:
        hint = "the bucket is not public, or the key does not exist: leave s3.anonymous out and give credentials"
    else:
        hint = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID …) and the bucket's policy; a missing key answers so, too"
    return SourceForbidden(f"{endpoint} does not allow {url} to be read: {said}", hint=hint)


def unreachable(asked: Asked, error: Exception) -> Passing:
    """The typed error of a request that got no answer."""
    url = asked.source.url
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "install the endpoint's CA certificate (AWS_CA_BUNDLE for signed requests), and check the clock of this host"
        return Passing(
            f"the TLS certificate of {asked.endpoint} is not accepted, so {url} can't be read: {error.verify_message}", hint=hint
        )
    if isinstance(error, ssl.SSLError):
        hint = "does the endpoint speak TLS? check the scheme of s3.endpointUrl"
        return Passing(f"TLS with {asked.endpoint} fails, so {url} can't be read: {error.reason or error}", hint=hint)
    hint = "is the endpoint up, and reachable from this host?"
    return Passing(f"{asked.endpoint} does not answer for {url}: {str(error) or type(error).__name__}", hint=hint)


def _element(text: str, name: str) -> str:
    match = re.search(rf"<{name}>([^<]{{0,1000}})</{name}>", text)
    return " ".join(unescape(match[1]).split()) if match else ""


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110 section 10.2.3), bounded."""
    told = str(headers.get("retry-after", "")).strip()
    if re.fullmatch(r"\d{1,9}", told):
        return min(float(told), MOST_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(told) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), MOST_RETRY_AFTER)
