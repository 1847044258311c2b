"""A server that never answers costs the image that needs it, and nothing else: not the others, not the watchdog, not a stop."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.raw import RawServer, silent

from .layers import root
from .workshop import Workshop

BASE = root("base")
LARGE = 32 << 20


def dripping(connection: socket.socket, over: threading.Event) -> None:
    """One byte of a header a second."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(1):
        connection.sendall(b"X")


def interim(connection: socket.socket, over: threading.Event) -> None:
    """``100 Continue`` for ever."""
    while not over.wait(1):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def trickling(connection: socket.socket, over: threading.Event) -> None:
    """A large object at a rate above the minimum: 8 KiB a second."""
    asked = b""
    while not asked.endswith(b"\r\n\r\n"):
        asked += connection.recv(1 << 16)
    found = re.search(rb"bytes=(\d+)-(\d+)", asked)
    first, last, size = int(found[1]) if found else 0, int(found[2]) if found else LARGE - 1, LARGE
    last = min(last, size - 1)
    head = f'HTTP/1.1 206 Partial Content\r\nETag: "large"\r\nContent-Length: {last + 1 - first}\r\n'
    connection.sendall(f"{head}Content-Range: bytes {first}-{last}/{size}\r\n\r\n".encode())
    while not over.wait(0.5):
        connection.sendall(bytes(4096))


@pytest.fixture(params=[silent, dripping, interim], ids=lambda behaviour: behaviour.__name__)
def hanging(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Workshop]:
    """Two images whose layers are here, and one whose only layer lies behind a server that hangs."""
    with RawServer(request.param) as server:
        for name in ("web", "db"):
            workshop.image(name, [BASE])
        s3 = {"endpointUrl": server.endpoint, "region": "us-east-1", "anonymous": True}
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


def test_four_slow_layers_of_one_server_leave_a_download_for_another(workshop: Workshop) -> None:
    """The server sends enough to be no failure, and would take an hour: every other source starts at once all the same."""
    origin = Origin()
    with RawServer(trickling) as slow, origin:
        origin.put(BASE.data, "layers/good.tar")
        for number in range(5):
            layer = {"source": f"s3://layers/slow-{number}.tar", "sha256": str(number) * 64}
            workshop.declare(f"a-slow-{number}", remote(f"a-slow-{number}", slow.endpoint, layer))
        running = workshop.start("--interval", "3600", "--downloads", "4")
        running.until(lambda: slow.open >= 3, "transfers from the slow server")
        for number in range(2):
            layer = {"source": "s3://layers/good.tar", "sha256": BASE.sha256}
            workshop.declare(f"good-{number}", remote(f"good-{number}", origin.endpoint, layer, size=f"{16 + number}MiB"))
        running.until(lambda: all(workshop.snapshot(f"good-{number}-a").exists() for number in range(2)), "the others", 20)

        assert running.process.poll() is None
        running.signal(signal.SIGTERM).wait(20).expect(143)


def remote(name: str, endpoint: str, layer: dict[str, str], size: str = "64MiB") -> dict[str, object]:
    """A manifest of an image with one layer at an endpoint."""
    s3 = {"endpointUrl": endpoint, "region": "us-east-1", "anonymous": True}
    spec = {"size": size, "layers": [layer], "s3": s3, "snapshots": [{"name": f"{name}-a"}]}
    return {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": spec}
