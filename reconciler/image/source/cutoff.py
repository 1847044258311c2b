"""The end of an exchange with a server: after so many seconds, or when another thread asks for it.

The socket is shut down, so that whatever waits for it returns at once: a connect, a TLS handshake, headers that drip, endless
interim answers. Used by ``transport``, ``s3`` and ``workers``. State: one thread and one descriptor for as long as it is open.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

TURN_SECONDS = 0.2
"""How often ``unless`` is asked."""


class Cutoff:
    """A context manager; thread-safe. ``unless`` returns True where nothing waits for the exchange any more."""

    def __init__(self, seconds: float, unless: Callable[[], bool] | None = None) -> None:
        self.seconds = seconds
        self.over = False
        """The exchange was ended; its error says nothing about the server."""
        self._until: float | None = time.monotonic() + seconds
        self._unless = unless
        self._handle: socket.socket | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return 0.0 if self.over else max(0.0, (self._until or time.monotonic() + self.seconds) - time.monotonic())

    def watch(self, sock: socket.socket) -> None:
        """Shut this socket down at the end, instead of the one before."""
        handle = socket.socket(fileno=os.dup(sock.fileno()))  # TLS takes the descriptor over; a copy stays the same connection
        with self._lock:
            self._replace(handle)
            if self.over:
                _shut(handle)
            if self._watcher is None and not self._closed.is_set():
                self._watch_on()

    def wait(self, event: threading.Event) -> bool:
        """Wait for an event until the end; whether it was set before that."""
        while not event.wait(min(TURN_SECONDS, self.left)):
            if self._unless is not None and self._unless():
                self.cut()
            if self.left <= 0:
                return False
        return True

    def lift(self) -> None:
        """Time does not count any more; ``cut`` still ends the exchange."""
        self._until = None
        if self._unless is None:
            self._closed.set()

    def renew(self, seconds: float) -> None:
        """Time counts (again), from now on."""
        with self._lock:
            self._until = time.monotonic() + seconds
            if self._handle is not None and (self._watcher is None or self._closed.is_set()):
                self._closed = threading.Event()
                self._watch_on()

    def cut(self) -> None:
        """End the exchange."""
        with self._lock:
            self.over = True
            if self._handle is not None:
                _shut(self._handle)

    def close(self) -> None:
        """Leave the connection alone from now on."""
        self._closed.set()
        with self._lock:
            self._replace(None)

    def __enter__(self) -> Cutoff:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _replace(self, handle: socket.socket | None) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = handle

    def _watch_on(self) -> None:
        self._watcher = threading.Thread(target=self._wait, args=(self._closed,), name="cutoff", daemon=True)
        self._watcher.start()

    def _wait(self, closed: threading.Event) -> None:
        while not closed.wait(self.left if self._unless is None else min(TURN_SECONDS, self.left)):
            if self.left <= 0 or (self._unless is not None and self._unless()):
                self.cut()
                return


def _shut(handle: socket.socket) -> None:
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)
