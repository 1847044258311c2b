"""A server that never answers costs the image that needs it, and nothing else: not the others, not the watchdog, not a stop."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from .layers import root
from .workshop import Workshop

BASE = root("base")


def silent(connection: socket.socket) -> None:
    """Accepts, and never says a word."""


def dripping(connection: socket.socket) -> None:
    """One byte of a header a second."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(600):
        connection.sendall(b"X")
        time.sleep(1)


def interim(connection: socket.socket) -> None:
    """``100 Continue`` for ever."""
    for _ in range(600):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(1)


Behaviour = Callable[[socket.socket], None]


@contextmanager
def server(behaviour: Behaviour) -> Iterator[str]:
    """Its endpoint's URL. Connections stay open until the end."""
    kept: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            behaviour(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.fixture(params=[silent, dripping, interim], ids=lambda behaviour: behaviour.__name__)
def hanging(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Workshop]:
    """Two images whose layers are here, and one whose only layer lies behind a server that hangs."""
    with server(request.param) as endpoint:
        for name in ("web", "db"):
            workshop.image(name, [BASE])
        s3 = {"endpointUrl": endpoint, "region": "us-east-1", "anonymous": True}
        spec = {"size": "16MiB", "layers": [{"source": "s3://layers/never.tar"}], "s3": s3}
        document = {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": "stuck"}, "spec": spec}
        workshop.declare("stuck", document)
        yield workshop


def others_exist(host: Workshop) -> bool:
    return all(host.snapshot(name).exists() for name in ("web-a", "db-a"))


def test_one_run_makes_everything_else_and_reports_the_image(hanging: Workshop) -> None:
    began = time.monotonic()
    running = hanging.start("--once", "-o", "json")
    running.until(lambda: others_exist(hanging), "the other images", 8)
    done = running.wait(60)

    assert done.code == 1
    assert done.object("Image", "stuck")["reason"] == "SourceUnavailable"
    assert done.object("Image", "web")["phase"] == done.object("Image", "db")["phase"] == "Ready"
    assert time.monotonic() - began < 40, "one deadline, not one after another"


def test_a_stop_is_obeyed_at_once(hanging: Workshop) -> None:
    running = hanging.start("--once").until(lambda: others_exist(hanging), "the other images", 8)
    began = time.monotonic()

    assert running.signal(signal.SIGTERM).wait(20).code == 143
    assert time.monotonic() - began < 10


def test_a_service_feeds_its_watchdog_and_makes_what_is_committed(hanging: Workshop, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        service = hanging.start("--interval", "3600", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        service.until(lambda: others_exist(hanging), "the first images", 10)
        hanging.image("late", [BASE])
        service.until(hanging.snapshot("late-a").exists, "the committed image", 10)
        fed = []
        while len(fed) < 3:
            if b"WATCHDOG=1" in manager.recv(4096):
                fed.append(time.monotonic())
        assert service.signal(signal.SIGTERM).wait(20).code == 143
    assert max(after - before for before, after in pairwise(fed)) < 10


def test_a_plan_names_the_source(hanging: Workshop) -> None:
    done = hanging.run("plan", "-o", "json")

    assert done.code == 1
    [blocked] = done.json["blocked"]
    assert (blocked["name"], blocked["reason"]) == ("stuck", "SourceUnavailable")
    assert "has not answered" in blocked["message"] or "does not answer" in blocked["message"]
