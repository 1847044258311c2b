"""Notifications to the service manager: ready, status, watchdog, stopping.

The watchdog is fed by ``Heart``: ``service`` beats, the scheduler reports progress. The protocol of sd_notify(3): one datagram
of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names; without one nothing is sent. State: the times of the last
watchdog ping and of the last progress.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping

from reconciler.output.progress import Progress

PING_SECONDS = 5.0
STUCK_SECONDS = 1800.0
"""How long running work may report no progress before the service counts as stuck: a check of a large volume takes minutes."""


def notify(fields: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> bool:
    """Send the fields; False where there is no receiver."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    message = "\n".join(f"{name}={value.splitlines()[0] if value else ''}" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return False
    return True


class Heart:
    """A ``Progress`` that also feeds the watchdog, as long as the main loop turns and running work reports progress."""

    def __init__(self, progress: Progress, stop: threading.Event | None = None) -> None:
        self._progress = progress
        self._stop = stop or threading.Event()
        self._moved = time.monotonic()
        self._pinged = 0.0
        self._arrived: dict[str, int] = {}
        self.downloaded = 0
        """Bytes of all downloads."""

    def __enter__(self) -> Heart:
        self._progress.__enter__()
        self._moved = time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.__exit__(*exc)

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        self._moved = time.monotonic()
        if state == "downloading":
            self.downloaded += max(0, done - self._arrived.get(key, 0))
            self._arrived[key] = done
        self._progress.update(key, state, done, total, detail)

    def finish(self, key: str, text: str) -> None:
        self._moved = time.monotonic()
        self._arrived.pop(key, None)
        self._progress.finish(key, text)

    def tick(self) -> None:
        """Called by the main loop while work is running. Work that is finished before the service stops may take its time."""
        if time.monotonic() - self._moved < STUCK_SECONDS:
            self.beat()

    def beat(self) -> None:
        """Called by the main loop while it waits for something to do."""
        now = time.monotonic()
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            extend = {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": str(4_000_000 * int(PING_SECONDS))} if self._stop.is_set() else {}
            notify({"WATCHDOG": "1"} | extend)
