"""Notifications to the service manager, metrics of passes, and the systemd units."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.engine.definitions import Attempt
from reconciler.errors import HostCannot
from reconciler.model import Finding, Key, Kind, Severity
from reconciler.output.progress import Silent
from reconciler.output.result import ObjectResult, Result
from reconciler.pool.driver import PoolState, Space
from reconciler.registry.marks import Mark, What
from reconciler.telemetry import systemd
from reconciler.telemetry.metrics import Metrics, Pass
from reconciler.telemetry.systemd import Heart

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield ours


def test_the_manager_receives_one_line_per_field(manager: socket.socket) -> None:
    assert systemd.notify({"READY": "1", "STATUS": "two\nlines"})
    assert manager.recv(4096) == b"READY=1\nSTATUS=two"


def test_without_a_manager_nothing_is_sent() -> None:
    assert not systemd.notify({"READY": "1"}, {})
    assert not systemd.notify({"READY": "1"}, {"NOTIFY_SOCKET": "/nonexistent/socket"})


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    assert any(not systemd.notify({"WATCHDOG": "1"}) for _ in range(10_000))
    assert manager.recv(100) == b"WATCHDOG=1"


def test_the_watchdog_is_fed_at_each_turn_and_not_more_often_than_needed(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heart(Silent())
    heart.tick()
    assert manager.recv(100) == b"WATCHDOG=1"
    manager.setblocking(False)
    heart.tick()
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    monkeypatch.setattr(systemd, "PING_SECONDS", 0.0)
    heart.tick()
    assert manager.recv(100) == b"WATCHDOG=1"


def result(*objects: ObjectResult, findings: tuple[Finding, ...] = (), **pools: PoolState | None) -> Result:
    return Result("host", objects, findings, (), 1.5, pools=pools)


def samples(path: Path) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(path.read_text())
    return {(s.name, tuple(sorted(s.labels.values()))): s.value for family in families for s in family.samples}


def test_metrics_have_the_outcome_of_a_pass(tmp_path: Path) -> None:
    metrics = Metrics()
    good = ObjectResult(Kind.IMAGE, "web", "none", "Ready")
    bad = ObjectResult(Kind.IMAGE, "db", "none", "Failed", "DigestMismatch", "words", ok=False)
    mended = ObjectResult(Kind.SNAPSHOT, "web-a", "repair", "Ready", changed=True)
    pool = PoolState(Space(100, 60, 10), {}, {}, (), metadata=Space(8, 4, 1))
    marks = {("web", What.SUSPENDED): Mark("web", What.SUSPENDED, since=1.0)}

    attempts = (
        Attempt("volume", "downloading", "advanced", "", 3.0, 100.0),
        Attempt("volume", "validating", "failed", "DigestMismatch", 0.2, 101.0),
    )

    findings = (Finding(Severity.WARNING, Key(Kind.POOL, "", "p"), "Foreign", "x"),)
    passed = Pass(result(good, bad, mended, findings=findings, p=pool, q=None), 2, marks, attempts, 500, prune_refused=True)
    metrics.record(passed)
    metrics.write(tmp_path / "reconcile.prom")
    found = samples(tmp_path / "reconcile.prom")

    assert found["reconcile_converged", ()] == 0
    assert found["reconcile_manifest_faults", ()] == 2
    assert found["reconcile_image_ready", ("web",)] == 1
    assert found["reconcile_image_ready", ("db",)] == 0
    assert found["reconcile_objects", ("Failed", "Image")] == 1
    assert found["reconcile_drift_total", ()] == 1
    assert found["reconcile_findings", ("Foreign",)] == 1
    assert found["reconcile_pool_bytes", ("data", "free", "p")] == 60
    assert found["reconcile_pool_bytes", ("metadata", "p", "reserve")] == 1
    assert found["reconcile_suspended_seconds", ("web",)] > 1e9
    assert found["reconcile_prune_refused", ()] == 1
    assert found["reconcile_errors_total", ("DigestMismatch", "volume")] == 1
    assert found["reconcile_state_seconds_sum", ("downloading", "volume")] == 3.0
    assert found["reconcile_download_bytes_total", ()] == 500
    assert (tmp_path / "reconcile.prom").stat().st_mode & 0o777 == 0o644

    metrics.record(Pass(result(good, p=pool), 0, {}, downloaded=800))
    metrics.write(tmp_path / "reconcile.prom")
    found = samples(tmp_path / "reconcile.prom")
    assert found["reconcile_converged", ()] == 1
    assert ("reconcile_image_ready", ("db",)) not in found
    assert ("reconcile_suspended_seconds", ("web",)) not in found
    assert found["reconcile_download_bytes_total", ()] == 800


def test_actions_are_counted_from_zero_including_those_ahead_of_a_pass(tmp_path: Path) -> None:
    """Prometheus sees no increase in a counter whose first value is not zero."""
    metrics = Metrics()
    metrics.record(Pass(result(), 0, {}))
    metrics.write(tmp_path / "m.prom")
    assert samples(tmp_path / "m.prom")["reconcile_actions_total", ("Snapshot", "create")] == 0

    made = ObjectResult(Kind.SNAPSHOT, "web-a", "create", "Ready", changed=True)
    there = ObjectResult(Kind.SNAPSHOT, "web-a", "none", "Ready")
    metrics.record(Pass(result(there), 0, {}, ahead=(result(made),)))
    metrics.write(tmp_path / "m.prom")
    assert samples(tmp_path / "m.prom")["reconcile_actions_total", ("Snapshot", "create")] == 1


def test_an_error_in_exporting_metrics_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="nowhere"):
        Metrics().write(tmp_path / "nowhere" / "m.prom")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostCannot, match=r"metrics-port|served"):
        Metrics().serve(taken.getsockname()[1])


def test_metrics_are_served_on_the_address_that_was_asked_for_alone() -> None:
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    Metrics().serve(port, "127.0.0.2")

    with urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=10) as answer:
        assert b"reconcile_" in answer.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    """With the command where it will be: whatever this machine has in its place."""
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/local/bin/reconcile", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False)

    ours = [line for line in done.stderr.splitlines() if "reconcile" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda path: path.name)
def test_the_services_have_few_privileges(unit: Path) -> None:
    """What is left exposed is explained in the unit; 10 would be everything, and a service without any hardening has 9.6."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=52", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-200:]
