"""What a service tells its manager and Prometheus, and the units that run it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reconciler import notify
from reconciler.errors import HostCannot
from reconciler.marks import Mark, What
from reconciler.metrics import Metrics
from reconciler.model import Finding, Kind, ObjectResult, Result
from reconciler.notify import Heart
from reconciler.pool.driver import PoolState, Space
from reconciler.report import Silent

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield ours


def test_the_manager_is_told_one_line_for_each_field(manager: socket.socket) -> None:
    assert notify.notify({"READY": "1", "STATUS": "two\nlines"})
    assert manager.recv(4096) == b"READY=1\nSTATUS=two"


def test_without_a_manager_nothing_is_told() -> None:
    assert not notify.notify({"READY": "1"}, {})
    assert not notify.notify({"READY": "1"}, {"NOTIFY_SOCKET": "/nonexistent/socket"})


def test_the_watchdog_is_content_while_work_moves_and_not_when_it_hangs(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PING_SECONDS", 0.0)
    heart = Heart(Silent())
    heart.update("volume/x", "downloading", 1, 2)
    heart.tick()
    assert manager.recv(100) == b"WATCHDOG=1"

    monkeypatch.setattr(notify, "STUCK_SECONDS", 0.0)
    heart.tick()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def result(*objects: ObjectResult, findings: tuple[Finding, ...] = ()) -> Result:
    return Result("host", objects, findings, (), 1.5)


def samples(path: Path) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(path.read_text())
    return {(s.name, tuple(sorted(s.labels.values()))): s.value for family in families for s in family.samples}


def test_metrics_tell_what_a_pass_came_to(tmp_path: Path) -> None:
    metrics = Metrics()
    good = ObjectResult(Kind.IMAGE, "web", "none", "Ready")
    bad = ObjectResult(Kind.IMAGE, "db", "none", "Failed", "DigestMismatch", "words", ok=False)
    mended = ObjectResult(Kind.SNAPSHOT, "web-a", "repair", "Ready", changed=True)
    pool = PoolState(Space(100, 60, 10), {}, {}, (), metadata=Space(8, 4, 1))
    marks = {("web", What.SUSPENDED): Mark("web", What.SUSPENDED, since=1.0)}

    metrics.learn(result(good, bad, mended, findings=(Finding("Pool", "p", "Foreign", "x"),)), 2, {"p": pool, "q": None}, marks)
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
    assert (tmp_path / "reconcile.prom").stat().st_mode & 0o777 == 0o644

    metrics.learn(result(good), 0, {"p": pool}, {})
    metrics.write(tmp_path / "reconcile.prom")
    found = samples(tmp_path / "reconcile.prom")
    assert found["reconcile_converged", ()] == 1
    assert ("reconcile_image_ready", ("db",)) not in found
    assert ("reconcile_suspended_seconds", ("web",)) not in found


def test_metrics_that_can_not_be_told_say_which_option_it_was(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="nowhere"):
        Metrics().write(tmp_path / "nowhere" / "m.prom")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostCannot, match=r"metrics-port|served"):
        Metrics().serve(taken.getsockname()[1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_units_are_what_systemd_understands(unit: Path, tmp_path: Path) -> None:
    """With the command where it will be: whatever this machine has in its place."""
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/local/bin/reconcile", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False)

    ours = [line for line in done.stderr.splitlines() if "reconcile" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_every_alert_is_about_a_metric_that_there_is(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.learn(result(ObjectResult(Kind.IMAGE, "web", "none", "Ready")), 0, {"p": PoolState(Space(1, 1, 0), {}, {}, ())}, {})
    metrics.write(tmp_path / "m.prom")
    known = {name for name, _ in samples(tmp_path / "m.prom")} | {"reconcile_suspended_seconds"}
    rules: Any = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]

    for rule in rules:
        used = {
            word for word in rule["expr"].replace("{", " ").replace("(", " ").replace("[", " ").split() if "reconcile_" in word
        }
        assert used and used <= known, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
