"""A host reports what it is and what happened on it, and waits for nobody."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.cli import reporting
from reconciler.controller import assess, once
from reconciler.controller.assess import Wish
from reconciler.errors import CommandError, Guarded, NotConverged
from reconciler.fleet import address
from reconciler.fleet.reporter import Reporter
from reconciler.host import context as hosts
from reconciler.output.progress import Silent
from reconciler.settings import Settings
from tests.fleet.agents import Agent, manifests, until
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def agent(postgres: Postgres, database: str, tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state", manifests(tmp_path / "tree", "one"), postgres.url(database), "ring=1,site=a")


def reported(postgres: Postgres, database: str) -> list[tuple[int, str]]:
    """Number and object of each event at the sink."""
    found = (line.split("|") for line in postgres.query(database, "SELECT seq, name FROM reconcile.event ORDER BY seq"))
    return [(int(seq), name) for seq, name in found]


def test_a_run_reports_what_the_host_has(postgres: Postgres, database: str, agent: Agent) -> None:
    done = agent.once()
    assert (done.returncode, "not reported" in done.stderr) == (0, False), done.stderr

    host = "SELECT revision, converged, images, ready, failed, labels->>'ring', every FROM reconcile.host"
    assert postgres.query(database, host) == ["link:one|t|1|1|0|1|0"]
    assert postgres.query(database, "SELECT name, phase, ready, wanted FROM reconcile.image") == ["web|Ready|2|2"]
    assert postgres.query(database, "SELECT name, state, active FROM reconcile.snapshot ORDER BY name") == [
        "web-0|intact|t",
        "web-1|intact|t",
    ]
    assert postgres.query(database, "SELECT name, state, total > 0 FROM reconcile.pool") == ["p|ready|t"]
    assert postgres.query(database, "SELECT reason, severity FROM reconcile.condition") == ["Unpinned|note"]
    assert reported(postgres, database) == agent.events()


def test_a_claim_and_its_end_are_reported(postgres: Postgres, database: str, agent: Agent) -> None:
    agent.once()
    claim = agent.words("claim", "image/web", "--holder", "job-1")
    found = json.loads(subprocess.run([*claim, "-o", "json"], capture_output=True, text=True, env=agent.environment()).stdout)
    agent.once()
    assert postgres.query(database, "SELECT id, holder, state FROM reconcile.claim") == [f"{found['claim']}|job-1|claimed"]
    subprocess.run(agent.words("release", found["claim"]), check=True, env=agent.environment(), capture_output=True)
    agent.once()
    assert postgres.query(database, "SELECT * FROM reconcile.claim") == []


def test_a_failure_is_reported_with_its_reason(postgres: Postgres, database: str, agent: Agent, tmp_path: Path) -> None:
    manifests(tmp_path / "tree", "two", source="missing.tar")
    assert agent.once().returncode == 1
    found = postgres.query(database, "SELECT revision, converged, failed > 0, reason FROM reconcile.host")
    assert found == ["link:two|f|t|SourceNotFound"]


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_a_run_that_refuses_its_manifests_reports_that(
    postgres: Postgres, database: str, agent: Agent, tmp_path: Path, known: bool
) -> None:
    if known:
        assert agent.once().returncode == 0
    manifests(tmp_path / "tree", "two")
    (tmp_path / "tree" / "two" / "web.yaml").write_text("kind: [")
    done = agent.once()
    assert (done.returncode, "not reported" in done.stderr) == (4, False), done.stderr

    found = postgres.query(database, "SELECT revision, converged, faults, reason, images FROM reconcile.host")
    assert found == [f"link:two|f|1|ManifestsInvalid|{int(known)}"]


def test_a_plan_that_is_applied_is_reported(postgres: Postgres, database: str, agent: Agent, tmp_path: Path) -> None:
    for words in (("plan", "--out", "saved", "--fetch"), ("apply", "saved")):
        done = subprocess.run(agent.words(*words), capture_output=True, text=True, env=agent.environment(), cwd=tmp_path)
        assert (done.returncode, "not reported" in done.stderr) == (0, False), done.stderr
    assert postgres.query(database, "SELECT revision, converged FROM reconcile.host") == ["link:one|t"]


@pytest.mark.parametrize(("error", "failed"), [(NotConverged("time is up"), 0), (Guarded("too many to prune"), 1)])
def test_a_run_that_ends_before_it_is_done_reports_why(
    postgres: Postgres, database: str, tmp_path: Path, error: CommandError, failed: int
) -> None:
    settings = Settings(manifests(tmp_path / "tree", "one"), tmp_path / "state")
    with (
        hosts.writing(settings, stop=threading.Event()) as host,
        Reporter(address.parse(postgres.url(database)), service=False) as reporter,
    ):
        reporting.unfinished(host, reporter, error)
        reporter.report()
    found = postgres.query(database, "SELECT converged, failed, reason, message FROM reconcile.host")
    assert found == [f"f|{failed}|{error.reason}|{error}"]


def test_a_run_that_ends_beside_a_pool_that_hangs_does_not_wait_for_it(tmp_path: Path) -> None:
    tree, hangs = tmp_path / "manifests", threading.Event()
    tree.mkdir()
    spec = f"{{size: 16MiB, layers: [{{source: {tmp_path}/layer.tar, sha256: {'a' * 64}}}]}}"
    (tree / "web.yaml").write_text(f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: web}}\nspec: {spec}\n")
    settings = Settings(tree, tmp_path / "state")
    with hosts.writing(settings, stop=threading.Event()) as host:
        host.calls.begin(("pool", "default"), hangs.wait)
        found = assess.assess_offline(host, calls=host.calls, patience=60)
        hangs.set()
    assert "has not answered" in (found.observed.pools["default"].problem or "")


def frozen(postgres: Postgres, database: str) -> Iterator[None]:
    postgres.suspend()
    yield
    postgres.resume()


def down(postgres: Postgres, database: str) -> Iterator[None]:
    postgres.kill()
    yield
    postgres.start()


def read_only(postgres: Postgres, database: str) -> Iterator[None]:
    """A standby that has not been promoted, or a disk that is full."""
    postgres.query("postgres", f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    yield
    postgres.query("postgres", f"ALTER DATABASE {database} RESET ALL")


def locked(postgres: Postgres, database: str) -> Iterator[None]:
    """Another transaction holds the table."""
    import psycopg

    with psycopg.connect(postgres.url(database).replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE reconcile.host")
        yield


def other_schema(postgres: Postgres, database: str) -> Iterator[None]:
    postgres.query(database, "UPDATE reconcile.alembic_version SET version_num = '9999'")
    yield
    postgres.query(database, "UPDATE reconcile.alembic_version SET version_num = '0001'")


@pytest.mark.parametrize("trouble", [frozen, down, read_only, locked, other_schema], ids=lambda one: one.__name__)
def test_a_sink_in_trouble_holds_no_run_up_and_gets_all_of_it_later(
    postgres: Postgres, database: str, agent: Agent, trouble: Callable[[Postgres, str], Iterator[None]]
) -> None:
    with contextmanager(trouble)(postgres, database):
        done = agent.once()
        assert done.returncode == 0, done.stderr
        assert "warning: not reported" in done.stderr
        assert "changed=5" in done.stdout

    assert "not reported" not in agent.once().stderr
    assert reported(postgres, database) == agent.events()
    assert postgres.query(database, "SELECT lost FROM reconcile.host") == ["0"]


def test_a_database_that_is_killed_while_hosts_change_loses_nothing(
    postgres: Postgres, database: str, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    try:
        until(lambda: postgres.query(database, "SELECT 1 FROM reconcile.host WHERE converged"), "the first report")
        postgres.kill()
        manifests(tmp_path / "tree", "two")
        until(lambda: "not reported" in agent.log, "the failed report")
        postgres.start()
        revision = "SELECT 1 FROM reconcile.host WHERE revision = 'link:two' AND converged"
        until(lambda: postgres.query(database, revision), "the report of the new revision")
    finally:
        assert agent.stop() == 143, agent.log
    assert reported(postgres, database) == agent.events()
    assert postgres.query(database, "SELECT lost FROM reconcile.host") == ["0"]


def test_events_that_the_registry_no_longer_has_are_counted_as_lost(postgres: Postgres, database: str, agent: Agent) -> None:
    agent.once()
    with sqlite3.connect(agent.state / "registry.sqlite3") as registry:
        (last,) = registry.execute("SELECT max(seq) FROM event").fetchone()
        registry.execute("UPDATE sqlite_sequence SET seq = seq + 50 WHERE name = 'event'")
    shutil.rmtree(agent.state / "pools")
    agent.once()
    assert postgres.query(database, "SELECT lost, converged FROM reconcile.host") == ["50|t"]
    assert max(reported(postgres, database))[0] > last + 50


def test_an_older_copy_of_a_registry_reports_as_it_is_now(
    postgres: Postgres, database: str, agent: Agent, tmp_path: Path
) -> None:
    agent.once()
    shutil.copytree(agent.state, tmp_path / "copy")
    manifests(tmp_path / "tree", "two")
    agent.once()
    agent.once()
    shutil.rmtree(agent.state)
    (tmp_path / "copy").rename(agent.state)
    manifests(tmp_path / "tree", "three")
    assert "not reported" not in agent.once().stderr
    assert postgres.query(database, "SELECT revision, converged FROM reconcile.host") == ["link:three|t"]
    assert reported(postgres, database) == agent.events()


def test_a_service_that_can_no_longer_assess_its_host_has_not_converged(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    settings = Settings(manifests(tmp_path / "tree", "one"), tmp_path / "state", resync=0.0)
    with (
        hosts.writing(settings, stop=threading.Event()) as host,
        Reporter(address.parse(postgres.url(database)), service=True) as reporter,
    ):
        once.converge(host, Wish(), Silent(), stop=threading.Event(), reports=reporter)
        reporter.report()
    assert postgres.query(database, "SELECT converged, reason FROM reconcile.host") == ["f|NotAssessed"]
