"""The OpenAPI document against the server: schemathesis generates requests from it and checks the answers."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.conftest import Service

INSTALLED = importlib.util.find_spec("schemathesis") is not None


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    """The API on a port of loopback: schemathesis speaks no unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_relay, args=(listener, str(service.socket)), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _relay(listener: socket.socket, path: str) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(path)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED and "CI" not in os.environ, reason="needs schemathesis: pip install schemathesis")
def test_every_answer_is_as_the_document_describes(address: str, tmp_path: Path) -> None:
    """Without the events: a request that follows them has no end."""
    options = ("--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--exclude-path", "/v1/events", "--seed", "1")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/v1/openapi.json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
