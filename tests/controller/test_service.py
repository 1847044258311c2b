"""The service while nothing happens."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.controller.service import Service, Telling
from reconciler.output.progress import Silent
from reconciler.telemetry import systemd
from tests.support.bench import WISH, Bench, Running


def test_an_idle_service_feeds_its_watchdog_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that reports nothing for long is stuck; no work at all is not."""
    monkeypatch.setattr(systemd, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(systemd, "PING_SECONDS", 0.1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    bench = Bench(tmp_path)
    bench.write()
    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        running = Running(bench, stack, "state")
        service = Service(running.host, WISH, Silent(), Telling(), stop=running.stop)
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            idle_since = time.monotonic()
            while time.monotonic() < idle_since + 1.5:
                manager.recv(4096)
            manager.settimeout(2)
            while b"WATCHDOG=1" not in manager.recv(4096):
                pass
        finally:
            running.stop.set()
            thread.join(10)
    assert not thread.is_alive()
