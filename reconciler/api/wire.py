"""HTTP/1.1 on one connection: strict requests of bounded size, each with a deadline; answers in JSON or as a stream of lines.

Called by ``server``. Written for this API instead of ``http.server``, which has no deadline for a whole request, takes 6 MiB of
headers and guesses where a request is ambiguous. Ambiguous requests are refused here, and the connection is closed. State: the
bytes of the connection that were received and not yet read.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from reconciler.dataclass import dataclass, field

HEAD_BYTES = 16 << 10
BODY_BYTES = 64 << 10
REQUEST_SECONDS = 10.0
"""For a whole request, from its first byte on."""
IDLE_SECONDS = 60.0
"""Between two requests of a connection."""
SEND_SECONDS = 10.0
"""For an answer, or one line of a stream, to be received by the client."""

LONG = 32
"""Elements of a list that is encoded element by element."""

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]{0,2047}) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")


class Refused(Exception):
    """A request that is answered with a problem. ``close``: nothing that follows it can be understood."""

    def __init__(
        self, status: HTTPStatus, reason: str, message: str, *, hint: str = "", close: bool = False, allow: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.hint, self.close = status, reason, message, hint, close
        self.allow = allow


class Closed(Exception):
    """The client has closed the connection, or was too slow."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""
    keep: bool = True
    """Whether the connection stays open."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``lines`` is sent as NDJSON, each as it comes; ``value`` as one JSON document.

    ``unsent`` is called where the client is gone before it has all of the answer.
    """

    value: Any = None
    status: HTTPStatus = HTTPStatus.OK
    type: str = "application/json"
    lines: Iterable[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    unsent: Callable[[], None] = lambda: None


def problem(status: HTTPStatus, reason: str, message: str, hint: str = "", allow: str = "") -> Answer:
    """An error as RFC 9457 has it."""
    value = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": message, "reason": reason}
    return Answer(value | {"hint": hint}, status, "application/problem+json", headers={"Allow": allow} if allow else {})


class Connection:
    """One client. Every method raises Closed where the client is gone or too slow."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._received = b""
        peer.settimeout(None)  # the kernel's own timeout costs no turn of the interpreter: see ``_more``

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its end."""
        try:
            return self._peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    # ------------------------------------------------------------------------------------------------- receiving

    def receive(self) -> Request:
        """The next request. Raises Refused."""
        if not self._received:
            self._more(time.monotonic() + IDLE_SECONDS)
        until = time.monotonic() + REQUEST_SECONDS
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > HEAD_BYTES:
                break
            self._more(until)
        if end < 0 or end > HEAD_BYTES:
            raise _bad(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"its header has more than {HEAD_BYTES} bytes")
        head, self._received = self._received[:end], self._received[end + 4 :]
        first, *lines = head.split(b"\r\n")
        matched = _REQUEST.fullmatch(first)
        if matched is None:
            raise _bad(HTTPStatus.BAD_REQUEST, "its first line is not a request of HTTP/1.1")
        headers = _headers(lines)
        keep = matched[3] == b"1" and "close" not in headers.get("connection", "").lower()
        if matched[3] == b"1" and "host" not in headers:
            raise _bad(HTTPStatus.BAD_REQUEST, "it has no Host")
        body = self._body(headers, until)
        path, query = _target(matched[2].decode("ascii"))
        return Request(matched[1].decode(), path, query, headers, body, keep)

    def _body(self, headers: Mapping[str, str], until: float) -> bytes:
        if "transfer-encoding" in headers:
            raise _bad(HTTPStatus.LENGTH_REQUIRED, "its body needs a Content-Length; Transfer-Encoding is not supported")
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,10}", length):
            raise _bad(HTTPStatus.BAD_REQUEST, "its Content-Length is not a number")
        if int(length) > BODY_BYTES:
            raise _bad(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"its body has more than {BODY_BYTES} bytes")
        if headers.get("expect", "").lower() == "100-continue" and len(self._received) < int(length):
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._received) < int(length):
            self._more(until)
        body, self._received = self._received[: int(length)], self._received[int(length) :]
        return body

    def _more(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise Closed
        try:
            self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(left))
            piece = self._peer.recv(HEAD_BYTES)
        except OSError as error:
            raise Closed from error
        if not piece:
            raise Closed
        self._received += piece

    # --------------------------------------------------------------------------------------------------- sending

    def send(self, answer: Answer, *, keep: bool, head_only: bool = False) -> None:
        headers = {"Content-Type": answer.type, **answer.headers, "Connection": "keep-alive" if keep else "close"}
        if answer.lines is not None:
            self._stream(answer, headers | {"Connection": "close"}, head_only=head_only)
            return
        body = "".join(_json(answer.value)).encode() + b"\n"
        head = _head(answer.status, headers | {"Content-Length": str(len(body))})
        self._send(head if head_only else head + body)

    def _stream(self, answer: Answer, headers: Mapping[str, str], *, head_only: bool) -> None:
        """Lines until the end of the connection."""
        self._send(_head(answer.status, headers))
        for line in answer.lines or () if not head_only else ():
            self._send(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _send(self, data: bytes) -> None:
        try:
            sent = self._send_now(data)
            if sent < len(data):
                self._peer.settimeout(SEND_SECONDS)
                self._peer.sendall(memoryview(data)[sent:])
                self._peer.settimeout(None)
        except OSError as error:
            raise Closed from error

    def _send_now(self, data: bytes) -> int:
        """Send what the socket has room for; how many bytes these were."""
        try:
            return self._peer.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0


def _timeval(seconds: float) -> bytes:
    """At least a microsecond: 0 would be for ever."""
    micros = max(1, int(seconds * 1_000_000))
    return struct.pack("@ll", *divmod(micros, 1_000_000))


def _json(value: Any) -> Iterator[str]:
    """JSON in pieces: the encoder gives no other thread a turn before it is done, and a claim would wait for a long list."""
    if isinstance(value, dict) and any(_is_long(one) for one in value.values()):
        for number, (key, one) in enumerate(value.items()):
            yield f"{',' if number else '{'}{json.dumps(key)}:"
            yield from _json(one)
        yield "}"
    elif _is_long(value):
        for number, one in enumerate(value):
            yield "," if number else "["
            yield from _json(one)
        yield "]"
    else:
        yield json.dumps(value, separators=(",", ":"))


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and (len(value) > LONG or any(isinstance(one, dict) and _has_long(one) for one in value))


def _has_long(value: dict[str, Any]) -> bool:
    return any(isinstance(one, list) and len(one) > LONG for one in value.values())


def _head(status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {int(status)} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _headers(lines: Iterable[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        matched = _FIELD.fullmatch(line)
        if matched is None:
            raise _bad(HTTPStatus.BAD_REQUEST, "a line of its header is not a field")
        name = matched[1].decode().lower()
        if name in found and name in ("content-length", "host", "transfer-encoding", "idempotency-key"):
            raise _bad(HTTPStatus.BAD_REQUEST, f"it has several fields {name}")
        found[name] = matched[2].decode("latin-1")
    return found


def _target(target: str) -> tuple[tuple[str, ...], dict[str, str]]:
    path, _, query = target.partition("?")
    try:
        parts = tuple(unquote_to_bytes(part).decode() for part in path.strip("/").split("/"))
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "BadRequest", "its target is not UTF-8, or has too many parameters") from None
    if len(dict(pairs)) != len(pairs):
        raise Refused(HTTPStatus.BAD_REQUEST, "BadRequest", "a parameter is given several times")
    return parts, dict(pairs)


def _bad(status: HTTPStatus, message: str) -> Refused:
    return Refused(status, "BadRequest", f"the request is refused: {message}", close=True)
