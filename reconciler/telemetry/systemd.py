"""Notifications to the service manager: ready, status, watchdog, stopping.

``controller.scheduler`` feeds the watchdog at each turn, through ``Heart.tick``: a job that hangs is the scheduler's affair
and costs no restart. The protocol of sd_notify(3): one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET``
names; without one nothing is sent. State: the time of the last watchdog ping, and bytes downloaded.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping

from reconciler.output.progress import Progress

PING_SECONDS = 5.0


def notify(fields: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> bool:
    """Send the fields; False where there is no receiver, or one that does not read: the main loop never waits for it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    message = "\n".join(f"{name}={value.splitlines()[0] if value else ''}" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
        try:
            out.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return False
    return True


class Heart:
    """A ``Progress`` that also feeds the watchdog, as long as the main loop turns."""

    def __init__(self, progress: Progress, stop: threading.Event | None = None) -> None:
        self._progress = progress
        self._stop = stop or threading.Event()
        self._pinged = 0.0
        self._arrived: dict[str, int] = {}
        self.downloaded = 0
        """Bytes of all downloads."""

    def __enter__(self) -> Heart:
        self._progress.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.__exit__(*exc)

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        if state == "downloading":
            self.downloaded += max(0, done - self._arrived.get(key, 0))
            self._arrived[key] = done
        self._progress.update(key, state, done, total, detail)

    def finish(self, key: str, text: str) -> None:
        self._arrived.pop(key, None)
        self._progress.finish(key, text)

    def tick(self) -> None:
        """Called by the main loop at each turn. Work that is finished before the service stops may take its time."""
        now = time.monotonic()
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            extend = {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": str(4_000_000 * int(PING_SECONDS))} if self._stop.is_set() else {}
            notify({"WATCHDOG": "1"} | extend)
