"""A loopback server that sends what a test writes, byte by byte where it wants: below the level of HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from reconciler.image.spec import S3Options, Source

Speak = Callable[[socket.socket, threading.Event], None]
"""Gets a connection, and an event that is set at the end of the test."""


class RawServer:
    """A context manager. ``speak`` has each connection in a thread of its own."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.open = 0
        """Connections that the client has not closed."""
        self._lock = threading.Lock()

    def source(self, key: str = "layers/one.tar", *, anonymous: bool = True) -> Source:
        return Source(f"s3://{key}", S3Options(self.endpoint, "us-east-1", anonymous=anonymous))

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted, self.open = self.accepted + 1, self.open + 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            try:
                self._speak(connection, self._over)
                while connection.recv(1 << 16):
                    pass
            finally:
                with self._lock:
                    self.open -= 1


def silent(connection: socket.socket, over: threading.Event) -> None:
    """Never answers."""


def dripping(connection: socket.socket, over: threading.Event) -> None:
    """A header that never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not over.wait(0.02):
        connection.sendall(b"a")


def interim(connection: socket.socket, over: threading.Event) -> None:
    """100 Continue, for ever."""
    while not over.wait(0.002):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def answering(data: bytes) -> Speak:
    """The same bytes to each request of a connection."""

    def speak(connection: socket.socket, over: threading.Event) -> None:
        while connection.recv(1 << 16):
            connection.sendall(data)

    return speak
