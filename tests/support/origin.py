"""A loopback server that speaks as much S3 as a GET and a HEAD need, and breaks in the ways that a test asks for."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from reconciler.image.spec import Layer, S3Options, Source


@dataclass(frozen=True)
class Asked:
    """One request. ``number`` counts the GETs from 1; ``stop`` is the first byte that is not wanted any more."""

    number: int
    method: str
    path: str
    start: int | None
    stop: int | None
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """``cut`` closes the connection after so many bytes of the body; ``hold`` waits there instead, until it is set."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    cut: int | None = None
    hold: threading.Event | None = None


def failure(status: int, code: str, message: str = "as the test asks") -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Answer(status, {"Content-Type": "application/xml"}, body)


class Background:
    """A context manager: the server runs in a thread for as long as it lasts."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Origin(Background):
    """A context manager. ``script`` sees each request first, and may answer it instead."""

    def __init__(self) -> None:
        self.reset()
        self._lock = threading.Lock()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                send(self, origin.answer(self), origin.count)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                """Tests read ``asked``."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                """Clients that hang up are what some tests are about."""

        super().__init__(Server(("127.0.0.1", 0), Handler))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def reset(self) -> None:
        """Forget everything but the address: a client for it is costly to make, so that tests share one."""
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.asked: list[Asked] = []
        self.sent = 0
        """Bytes of bodies that went out, read or not."""
        self.script: Callable[[Asked], Answer | None] = lambda asked: None

    def source(self, key: str = "layers/one.tar", **options: object) -> Source:
        s3 = S3Options(self.endpoint, "us-east-1", anonymous=True)
        return Source(f"s3://{key}", replace(s3, **options))

    def put(self, data: bytes, key: str = "layers/one.tar", *, etag: str = "") -> Source:
        self.objects["/" + key] = data
        self.etags["/" + key] = f'"{etag or hashlib.md5(data).hexdigest()}"'
        return self.source(key)

    def layer(self, data: bytes, key: str = "layers/one.tar") -> Layer:
        """A pinned layer that lies here."""
        return Layer(self.put(data, key), hashlib.sha256(data).hexdigest())

    def gets(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET"]

    def ranges(self) -> list[tuple[int | None, int | None]]:
        """What was asked for, sorted: workers ask side by side."""
        return sorted((asked.start, asked.stop) for asked in self.gets())

    def count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent

    def answer(self, handler: BaseHTTPRequestHandler) -> Answer:
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        start, stop = (int(span[1]), int(span[2]) + 1) if span else (None, None)
        with self._lock:
            number = len(self.gets()) + (handler.command == "GET")
            asked = Asked(number, handler.command, handler.path.partition("?")[0], start, stop, dict(handler.headers))
            self.asked.append(asked)
        return self.script(asked) or self.serve(asked)

    def serve(self, asked: Asked) -> Answer:
        """The answer of a correct server."""
        if asked.path not in self.objects:
            return failure(404, "NoSuchKey")
        data, etag = self.objects[asked.path], self.etags[asked.path]
        if asked.headers.get("If-Match", etag) != etag:
            return failure(412, "PreconditionFailed")
        if asked.start is None:
            return Answer(200, {"ETag": etag}, data)
        if asked.start >= len(data):
            return failure(416, "InvalidRange")
        part = data[asked.start : asked.stop]
        return Answer(
            206, {"ETag": etag, "Content-Range": f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(data)}"}, part
        )


PIECE = 64 << 10


def send(handler: BaseHTTPRequestHandler, answer: Answer, count: Callable[[int], None]) -> None:
    handler.send_response(answer.status)
    for name, value in ({"Content-Length": str(len(answer.body))} | dict(answer.headers)).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    try:
        write(handler, answer.body[: answer.cut], count)
        if answer.hold is not None:
            answer.hold.wait(20)
            write(handler, answer.body[answer.cut :], count)
    except OSError:
        handler.close_connection = True
    if answer.cut is not None and answer.hold is None:
        handler.close_connection = True


def eventually(what: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something has become true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)


def write(handler: BaseHTTPRequestHandler, body: bytes, count: Callable[[int], None]) -> None:
    for at in range(0, len(body), PIECE):
        count(handler.wfile.write(body[at : at + PIECE]))
    handler.wfile.flush()
