"""Registries (OCI distribution specification 1.1): manifests by tag or digest, small blobs whole, layers by range.

Every request has one deadline, repeats what may help, answers one challenge, and follows redirects without the authorization.
Manifests and small blobs are compared with their digest here, layers where they are hashed. Called by ``resolve`` and, for
layers, ``source.remote``. State: the digests of manifests by ETag, for registries that send no digest; a bounded number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from threading import Lock
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from reconciler import __version__
from reconciler.dataclass import replace
from reconciler.errors import (
    DigestMismatch,
    ImageRefused,
    PolicyRefused,
    ReconcilerError,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)
from reconciler.image.oci import auth, strict_json
from reconciler.image.oci.manifest import ACCEPT, Descriptor, digest_of
from reconciler.image.oci.reference import Reference
from reconciler.image.oci.server import Server, answered, servers
from reconciler.image.source import answers
from reconciler.image.source.answers import Asked, Passing
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import Body, Pause, repeated
from reconciler.image.source.stamp import Head
from reconciler.image.source.transport import Answer, Request, send
from reconciler.image.spec import Source
from reconciler.policy import force

MOST_REDIRECTS = 3
MOST_DRAINED = 64 << 10
"""Bytes of an answer that is of no use, read so that its connection can be used again."""

MOST_DIGESTS = 4096
MOST_ETAG_BYTES = 256

CHECK = "check the registry's host in the reference"
NOT_TLS = "if the registry has no TLS, list it in policy.registries.plainHttp of the host file"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_AGENT = {"User-Agent": f"reconciler/{__version__}"}
_MANIFESTS = {"Accept": ", ".join(ACCEPT)}
_digests: dict[tuple[str, str], str] = {}
_lock = Lock()
T = TypeVar("T")


class Registry:
    """What is asked about one repository, within the deadline of ``cutoff``."""

    def __init__(self, reference: Reference, cutoff: Cutoff, pause: Pause = time.sleep) -> None:
        self._reference, self._cutoff, self._pause = reference, cutoff, pause

    # -- manifests

    def digest(self) -> str:
        """The digest of the manifest that the tag points to now; one HEAD where the registry sends it.

        Raises SourceNotFound, SourceForbidden, SourceUnavailable, PolicyRefused.
        """
        path = f"manifests/{self._reference.wanted}"

        def told(server: Server) -> str:
            with self._answer(server, "HEAD", path, _MANIFESTS) as answer:
                if answer.status in answers.NO_HEAD and answer.status != 403:
                    return ""
                self._require_success(server, answer, path)
                told, etag = answer.headers.get("docker-content-digest", ""), _etag(answer)
                return told if _DIGEST.fullmatch(told) else _digests.get((server.url(path), etag), "") if etag else ""

        return self._from_servers(told) or self.manifest(self._reference.wanted)[0]

    def manifest(self, wanted: str) -> tuple[str, bytes, str]:
        """Digest, bytes and media type of a manifest, by tag or digest. Raises what ``digest`` raises, and DigestMismatch."""
        path = f"manifests/{wanted}"

        def received(server: Server) -> tuple[str, bytes, str]:
            with self._answer(server, "GET", path, _MANIFESTS) as answer:
                self._require_success(server, answer, path)
                data = self._whole(server, answer, strict_json.MOST_BYTES, "the manifest")
                told = answer.headers.get("docker-content-digest", "")
                digest = _compared(digest_of(data), wanted, told, f"the manifest {wanted} of {server.image}")
                if etag := _etag(answer):
                    _remember((server.url(path), etag), digest)
                return digest, data, answer.headers.get("content-type", "")

        return self._from_servers(received)

    def blob(self, wanted: Descriptor, what: str) -> bytes:
        """A small blob, whole. Raises what ``manifest`` raises."""
        path = f"blobs/{wanted.digest}"

        def received(server: Server) -> bytes:
            with self._answer(server, "GET", path, {}) as answer:
                self._require_success(server, answer, path)
                data = self._whole(server, answer, wanted.size, what)
            if len(data) != wanted.size:
                message = f"{what} {wanted.digest} of {server.image} has {len(data)} bytes; its manifest has {wanted.size}"
                raise DigestMismatch(message, hint="push the image again")
            _compared(digest_of(data), wanted.digest, "", f"{what} {wanted.digest} of {server.image}")
            return data

        return self._from_servers(received)

    def _whole(self, server: Server, answer: Answer, most: int, what: str) -> bytes:
        try:
            data = answer.data(most + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(server, error) from error
        if len(data) > most:
            raise ImageRefused(f"{what} of {server.image} has more than {most} bytes", hint="push the image again")
        return data

    # -- layers

    def range(self, source: Source, start: int, stop: int) -> Body:
        """The bytes of a blob from ``start`` up to ``stop``. Its ETag is its digest, on every server."""
        path, wanted = f"blobs/{self._reference.digest}", {"Range": f"bytes={start}-{stop - 1}"}

        def begun(server: Server) -> Body:
            asked = Asked(source, server.name, CHECK)
            answer = self._final(server, "GET", path, wanted)
            try:
                if answer.status == 416 and not start:  # no range of an empty blob can be satisfied
                    _finish(answer)
                    answer = self._final(server, "GET", path, {})
                self._require_success(server, answer, path)
                found = answers.described_by_get(asked, answer.status, answer.headers, start)
            except BaseException:
                _finish(answer)
                raise
            head = Head(f'"{self._reference.digest}"', found.size)
            return Body(source.url, lambda: server.name, head, answer, self._cutoff, whole=answer.status == 200)

        body = self._from_servers(begun)
        self._cutoff.lift()
        return body

    # -- servers

    def _from_servers(self, ask: Callable[[Server], T]) -> T:
        """The answer of the first server that has one; the registry's own error where none has."""
        *mirrors, own = servers(self._reference)
        for mirror in mirrors:
            try:
                return ask(mirror)
            except (SourceNotFound, SourceForbidden, DigestMismatch, ImageRefused):
                continue
            except SourceUnavailable:
                mirror.mark_unwell()
                if self._cutoff.left <= 0:
                    raise
        return ask(own)

    @contextmanager
    def _answer(self, server: Server, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        answer = self._final(server, method, path, headers)
        try:
            yield answer
        finally:
            _finish(answer)

    def _final(self, server: Server, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """An answer that the same request would get again: repeated where that may help and there is time."""

        def once() -> Answer:
            answer = self._authorized(server, method, path, headers)
            if answer.status == 429 or (answer.status >= 500 and answer.status != 501):
                error = self._passing(server, answer)
                _finish(answer)
                raise error
            return answer

        return repeated(once, self._cutoff, self._pause)

    def _authorized(self, server: Server, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """The answer, after one challenge at most. Raises SourceForbidden where the registry does not accept its answer."""
        header = auth.known(server)
        answer = self._followed(server, method, path, headers, header)
        if answer.status != 401:
            return answer
        challenge = answer.headers.get("www-authenticate", "")
        _finish(answer)
        auth.forget(server)
        answer = self._followed(server, method, path, headers, auth.answer(server, challenge, self._opened))
        if answer.status == 401:
            auth.forget(server)
            error = self._refusal(server, answer, path)
            _finish(answer)
            raise error
        return answer

    def _followed(self, server: Server, method: str, path: str, headers: Mapping[str, str], header: str) -> Answer:
        """The answer, a few redirects on. The authorization goes to the registry only."""
        own = server.url(path)
        request = Request(method, own, {**_AGENT, **headers}, server.cafile, server.checked)
        for _ in range(MOST_REDIRECTS + 1):
            same = urlsplit(request.url)[:2] == urlsplit(own)[:2]
            authorization = {"Authorization": header} if header and same else {}
            answer = self._sent(server, replace(request, headers={**request.headers, **authorization}))
            if answer.status not in answers.REDIRECTS:
                return answer
            location = answer.headers.get("location", "")
            _finish(answer)
            request = _redirected(server, request, location)
        raise SourceUnavailable(f"{server.name} redirects requests for {server.image} in a circle", hint=CHECK)

    @contextmanager
    def _opened(self, request: Request) -> Iterator[Answer]:
        """The answer of a token server."""
        host = urlsplit(request.url).netloc
        try:
            answer = send(request, self._cutoff)
            try:
                yield answer
            finally:
                _finish(answer)
        except PolicyRefused as error:
            raise PolicyRefused(f"{host}: {error.message}", hint=error.hint) from None
        except (OSError, HTTPException) as error:
            hint = "is it up, and reachable from this host?"
            message = f"{host}, which gives tokens for {self._reference.host}, does not answer: {_words(error)}"
            raise Passing(message, hint=hint) from error

    def _sent(self, server: Server, request: Request) -> Answer:
        try:
            answer = send(request, self._cutoff)
            answered[server.name, answer.status] += 1
            return answer
        except PolicyRefused as error:
            raise PolicyRefused(f"{server.image}: {error.message}", hint=error.hint) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(server, error) from error

    # -- errors

    def _unreachable(self, server: Server, error: Exception) -> Passing:
        found = answers.unreachable(Asked(Source(f"oci://{server.image}"), server.name, CHECK), error)
        if "TLS" in found.message and "certificate" in found.message:
            return Passing(found.message, hint="name its CA certificate in policy.registries.caFiles of the host file")
        return Passing(found.message, hint=NOT_TLS if "TLS" in found.message else found.hint)

    def _passing(self, server: Server, answer: Answer) -> Passing:
        what = "limits the rate of requests" if answer.status == 429 else f"fails with status {answer.status}"
        hint = "log in for a higher limit, or set policy.registries.mirrors" if answer.status == 429 else ""
        message = f"{server.name} {what} for {server.image}{_said(answer)}"
        return Passing(message, hint=hint, after=answers.retry_after(answer.headers))

    def _require_success(self, server: Server, answer: Answer, path: str) -> None:
        if answer.status not in (200, 206):
            raise self._refusal(server, answer, path)

    def _refusal(self, server: Server, answer: Answer, path: str) -> ReconcilerError:
        kind, _, wanted = path.partition("/")
        what = f"{kind.removesuffix('s')} {wanted} of {server.image}"
        said = _said(answer)
        if answer.status == 404:
            hint = "check repository and tag" if kind == "manifests" else "push the image again: one of its blobs is missing"
            return SourceNotFound(f"there is no {what}{said}", hint=hint)
        if answer.status in (401, 403):
            return SourceForbidden(f"{server.name} does not allow {what} to be read{said}", hint=auth.LOGIN)
        return SourceUnavailable(f"{server.name} answers a request for {what} with status {answer.status}{said}", hint=CHECK)


def _etag(answer: Answer) -> str:
    """The answer's ETag; empty where it is longer than any that a registry needs."""
    found = answer.headers.get("etag", "")
    return found if len(found) <= MOST_ETAG_BYTES else ""


def _remember(key: tuple[str, str], digest: str) -> None:
    """Keep the digest of a manifest by its URL and ETag; ``MOST_DIGESTS`` at most, the newest ones."""
    with _lock:
        _digests.pop(key, None)
        _digests[key] = digest
        while len(_digests) > MOST_DIGESTS:
            del _digests[next(iter(_digests))]


def _compared(own: str, wanted: str, told: str, what: str) -> str:
    """The digest of what was received, where it is the wanted one. Raises DigestMismatch."""
    expected = wanted if wanted.startswith("sha256:") else told if _DIGEST.fullmatch(told) else own
    if own != expected:
        hint = "the registry or something on the way damages it; the next attempt asks again"
        raise DigestMismatch(f"{what} has the digest {own}, not {expected}", hint=hint)
    return own


def _redirected(server: Server, request: Request, location: str) -> Request:
    """Where a redirect leads: the same request, without what belongs to the registry alone. Raises SourceUnavailable."""
    try:
        target = urljoin(request.url, location)
        parts = urlsplit(target)
        usable = location and parts.port != 0 and parts.hostname and parts.username is None and parts.scheme in ("http", "https")
    except ValueError:
        usable = False
    if not usable:
        raise SourceUnavailable(f"{server.name} redirects a request for {server.image} to no URL", hint=CHECK)
    if parts.scheme == "http" and urlsplit(request.url).scheme == "https":
        message = f"{server.name} redirects a request for {server.image} to {parts.netloc} without TLS"
        raise SourceUnavailable(message, hint="the registry's storage needs https")
    same = parts[:2] == urlsplit(request.url)[:2]
    cafile = request.cafile if same else force.current().registries.ca_files.get(parts.netloc, "")
    return replace(request, url=target, cafile=cafile, checked=request.checked if same else True)


def _said(answer: Answer) -> str:
    """The registry's own words in an error, as far as it sends some."""
    with suppress(OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
        first = strict_json.parse(answer.data(MOST_DRAINED))["errors"][0]
        words = " ".join(f"{first.get('code', '')}: {first.get('message', '')}".split())
        return f": {ascii(words[:200])[1:-1]}"
    return ""


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _finish(answer: Answer) -> None:
    """Read what is left of a short answer, so that its connection can be used again, and close it."""
    with suppress(OSError, HTTPException, ValueError):
        answer.data(MOST_DRAINED)
    answer.close()
