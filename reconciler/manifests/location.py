"""The syntax of a layer's source: ``s3://bucket/key``, ``file:///path``, or a path.

Read by ``documents`` (checked), ``desired`` (made absolute) and the command line. Asks neither network nor file system.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?P<bare>s3|file):", re.IGNORECASE)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_KEY = 1024
_INSTEAD = {
    "http": "put the file into a bucket and name it s3://bucket/key with spec.s3.endpointUrl, or download it and give its path",
    "oci": "a reference names a whole image: give it as spec.source, without layers",
    "docker": "an image of a registry is given as spec.source: oci://host/repository:tag",
}
_INSTEAD |= {"https": _INSTEAD["http"]}


def parse_source(text: str) -> str:
    """``s3://bucket/key``, or a path (relative ones stay so). ValueError, with a hint, for everything else."""
    if _CONTROL.search(text):
        raise ValueError("contains control characters")
    match = _SCHEME.match(text)
    if match is None:
        return _path(text)
    if match["bare"] and not match["scheme"]:
        raise ValueError(f"has no // after {text[: match.end()]} (write s3://bucket/key, file:///absolute/path, or a path)")
    return _url(match["scheme"], text[match.end() :])


def resolve(source: str, directory: str) -> str:
    """A parsed source for a ``Source``: paths become absolute, from ``directory``; ``..`` is resolved in the text."""
    return source if source.startswith("s3://") else os.path.abspath(os.path.join(directory, source))  # noqa: PTH100, PTH118


def _url(scheme: str, rest: str) -> str:
    if scheme == "s3":
        return _s3(rest)
    if scheme == "file":
        return _file(rest)
    if scheme.lower() in ("s3", "file"):
        raise ValueError(f"has its scheme in capitals (write {scheme.lower()}://)")
    hint = _INSTEAD.get(scheme.lower(), "use s3://bucket/key, file:///absolute/path, or a path")
    raise ValueError(f"has the scheme {scheme[:20]}://, which is not read ({hint})")


def _s3(rest: str) -> str:
    """Bucket names as Amazon S3's rules for general purpose buckets have them."""
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _ADDRESS.fullmatch(bucket):
        raise ValueError("has no valid bucket name (s3://bucket/key; 3 to 63 of a-z, 0-9, '-' and '.', and not an IP address)")
    if not key:
        raise ValueError("names a bucket but no key (s3://bucket/key)")
    if key.endswith("/"):
        raise ValueError("names a folder: the key ends in '/' (name one object)")
    if len(key.encode(errors="surrogatepass")) > _LONGEST_KEY:
        raise ValueError(f"has a key of more than {_LONGEST_KEY} bytes")
    return f"s3://{bucket}/{key}"


def _file(rest: str) -> str:
    """RFC 8089: no host, an absolute path, percent-encoding."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ValueError("is not file:///absolute/path (for a path relative to the manifest, leave file:// out)")
    try:
        decoded = unquote("/" + path, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 where its %xx are decoded (give the path without file://)") from error
    if _CONTROL.search(decoded):
        raise ValueError("contains control characters")
    return _path(decoded)


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty (write s3://bucket/key, or a path)")
    if text.startswith("~"):
        raise ValueError("begins with '~', which is not expanded (write the path in full)")
    if text.endswith(("/", "/.", "/..")) or text in (".", ".."):
        raise ValueError("names a directory (a layer is one tar file)")
    return text


def parse_endpoint(text: str) -> str:
    """An S3 endpoint's URL. ValueError, which never shows the text: it may hold a password."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("is not a URL (write http://host:port or https://host)") from error
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", text) or _CONTROL.search(text):
        raise ValueError("is not an http or https URL (write http://host:port or https://host)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("contains credentials (leave them to the AWS environment; manifests are no place for secrets)")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment, which an endpoint has not")
    return text
