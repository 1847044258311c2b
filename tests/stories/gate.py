"""A door in front of the S3 server that a story can watch, hold half open and shut.

Bytes pass through it unchanged. Each story has a door of its own, so that it sees its own requests only.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 64 << 10


@dataclass
class Request:
    """One request for an object; ``first`` is the first byte asked for, ``sent`` the bytes of the body that went out."""

    method: str
    key: str
    first: int
    status: int = 0
    sent: int = 0


class Gate:
    """A context manager. ``endpoint`` is what the manifests name."""

    def __init__(self, upstream: str) -> None:
        self.requests: list[Request] = []
        self.held = threading.Event()
        self._upstream = urlsplit(upstream).netloc
        self._limits: dict[str, int] = {}
        self._lock = threading.Lock()
        self._open = threading.Condition(self._lock)
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._up = False

    def __enter__(self) -> Gate:
        self._thread.start()
        self._up = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shut()

    def shut(self) -> None:
        """Nobody answers at the endpoint any more."""
        self.release()
        if self._up:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        self._up = False

    def hold(self, key: str, after: int) -> None:
        """Let ``after`` bytes of the object through, all its requests together, and then no more; ``held`` tells when."""
        with self._lock:
            self._limits[key] = after
        self.held.clear()

    def release(self) -> None:
        with self._lock:
            self._limits.clear()
            self._open.notify_all()

    def forget(self) -> None:
        """Begin a new list of requests."""
        self.requests = []

    @property
    def downloads(self) -> Counter[str]:
        """How often each object was asked for from its first byte."""
        return Counter(r.key for r in self.requests if r.method == "GET" and r.first == 0)

    def sent(self, key: str) -> int:
        """Bytes of the object that went out."""
        return sum(r.sent for r in self.requests if r.key == key)

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request as the server behind the door does."""
        key = unquote(urlsplit(handler.path).path).strip("/").partition("/")[2]
        request = Request(handler.command, key, _first(handler.headers.get("Range", "")))
        self.requests.append(request)
        upstream = http.client.HTTPConnection(self._upstream)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("connection", "expect")}
            upstream.request(handler.command, handler.path, headers=headers)
            answer = upstream.getresponse()
            request.status = answer.status
            handler.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    handler.send_header(name, value)
            body = answer.read()
            if answer.getheader("Content-Length") is None:
                handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            self._send(handler, request, memoryview(body))
        finally:
            upstream.close()

    def _send(self, handler: BaseHTTPRequestHandler, request: Request, body: memoryview) -> None:
        while body:
            piece = body[: self._allowance(request.key, min(PIECE, len(body)))]
            handler.wfile.write(piece)
            request.sent += len(piece)
            body = body[len(piece) :]

    def _allowance(self, key: str, wanted: int) -> int:
        with self._open:
            while self._limits.get(key) == 0:
                self.held.set()
                self._open.wait()
            allowed = min(wanted, self._limits.get(key, wanted))
            if key in self._limits:
                self._limits[key] -= allowed
            return allowed


def _first(told: str) -> int:
    return int(told.removeprefix("bytes=").partition("-")[0] or 0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, gate: Gate) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = gate

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these stories are killed and hang up; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.gate.forward(self)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """The list of requests is the log."""
