"""The service while nothing happens."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import atomic_file
from reconciler.controller import events
from reconciler.controller.service import Service, Telling
from reconciler.output.progress import Silent
from reconciler.pool.file.pool import FilePool
from reconciler.telemetry import systemd
from tests.support.bench import WISH, Bench, Running
from tests.support.origin import eventually

API = "reconciler/v1alpha1"


@pytest.mark.slow
def test_an_idle_service_feeds_its_watchdog_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.slow
def test_a_job_that_hangs_costs_its_pool_and_neither_the_watchdog_nor_other_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an hour without progress is shortened; the driver's call hangs until the test lets it go."""
    monkeypatch.setattr(events, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(systemd, "PING_SECONDS", 0.1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    released, create = threading.Event(), FilePool.create_snapshot

    def hang(pool: FilePool, name: str, *rest: Any) -> str:
        if name == "hangs":
            released.wait(60)
        return create(pool, name, *rest)

    monkeypatch.setattr(FilePool, "create_snapshot", hang)
    bench = Bench(tmp_path)
    bench.declare("web", [0], ["hangs"], pool="slow")
    bench.declare("db", [1], ["db-a"], pool="fast")
    bench.write()
    LOG.clear()
    pools = [{"apiVersion": API, "kind": "Pool", "metadata": {"name": name}, "spec": {"file": {}}} for name in ("slow", "fast")]
    (tmp_path / "manifests/pools.yaml").write_text(yaml.safe_dump_all(pools))
    metrics = tmp_path / "reconcile.prom"
    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        running = Running(bench, stack, "state")
        service = Service(running.host, WISH, Silent(), Telling(metrics), stop=running.stop)
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            eventually(lambda: "has made no progress" in log(capsys), 30)
            declared = (tmp_path / "manifests/db.yaml").read_text()
            atomic_file.write(tmp_path / "manifests/db.yaml", declared.replace("db-a", "db-b"))
            eventually((tmp_path / "state/pools/fast/snapshots/db-b.ext4").exists, 30)
            eventually(lambda: metrics.exists() and 'stuck_jobs{pool="slow"} 1.0' in metrics.read_text(), 30)
            assert "reconcile_pass_seconds_sum 0.0\n" not in metrics.read_text()
            manager.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    manager.recv(4096)
            manager.settimeout(10)
            while b"WATCHDOG=1" not in manager.recv(4096):
                pass
            assert log(capsys).count("create snapshot/hangs has made no progress") == 1
            assert "other actions on pool slow wait for it" in log(capsys)
            released.set()
            eventually((tmp_path / "state/pools/slow/snapshots/hangs.ext4").exists, 30)
        finally:
            released.set()
            running.stop.set()
            thread.join(10)
    assert not thread.is_alive()


LOG: list[str] = []


def log(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that the service has written to standard error."""
    LOG.append(capsys.readouterr().err)
    return "".join(LOG)
