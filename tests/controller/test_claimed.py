"""Snapshots that are claimed after a plan was made and before it is carried out; and what claims wake a service for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.claim import ClaimState
from reconciler.controller import once, service
from reconciler.controller.assess import Assessment, Wish
from reconciler.controller.service import Pace, Service, Telling
from reconciler.controller.summary import exit_code
from reconciler.errors import Exit
from reconciler.host import context
from reconciler.host.claims import Claiming, Request
from reconciler.host.context import Host
from reconciler.model import Action, Verb
from reconciler.output import console
from reconciler.output.progress import Silent
from reconciler.output.result import Result
from reconciler.registry.claims import Caller, Claims, Wanted
from reconciler.settings import Settings
from tests.api.conftest import MANIFEST, write_layer
from tests.support.origin import eventually

ROOT = Caller(0, is_admin=True)


def converge(settings: Settings, claimed: str = "") -> Result:
    """One invocation; a user claims the snapshot once the plan is made."""

    def approved(now: Assessment) -> Iterable[Action]:
        assert [one.verb for one in now.plan.actions if one.name == claimed] == [Verb.REPLACE]
        with Claims.open(settings.registry) as claims:
            claims.take(Wanted("web", "default", {claimed: 60.0}, 1000, claimed), lambda rows: rows)
        return now.plan.actions

    with context.writing(settings, stop=threading.Event()) as host:
        seen = approved if claimed else None
        return once.converge(host, Wish(), console.progress("none"), stop=threading.Event(), approved=seen)


def declared(directory: Path, manifest: str) -> Settings:
    manifests = directory / "manifests"
    manifests.mkdir()
    write_layer(manifests / "layer.tar")
    (manifests / "web.yaml").write_text(manifest)
    return Settings(manifests, directory / "state", host_file=directory / "none.yaml")


def test_a_claim_after_the_plan_is_no_failure(tmp_path: Path) -> None:
    settings = declared(tmp_path, MANIFEST)
    manifests = settings.manifests
    converge(settings)
    (manifests / "web.yaml").write_text(MANIFEST.replace("ttl: 2h", "ttl: 2h, files: [{path: /etc/job, content: new}]"))

    result = converge(settings, "job-1")

    assert exit_code(result, detailed=False) is Exit.OK
    found = {one.name: (one.action, one.phase, one.reason) for one in result.objects}
    assert found["job-1"] == ("none", "Ready", "SnapshotInUse")
    assert found["job-0"] == ("replace", "Ready", "")
    assert not result.failed


def unchanging(host: Host, stop: threading.Event) -> Iterator[frozenset[str] | None]:
    """Manifests that never change."""
    stop.wait()
    yield from ()


@contextmanager
def serving(settings: Settings, metrics: Path) -> Iterator[tuple[Service, Claiming]]:
    """A service that has converged, and a user who claims beside it."""
    stop = threading.Event()
    with context.writing(settings, stop=stop) as host, Claims.open(settings.registry) as claims:
        served = Service(host, Wish(), Silent(), Telling(metrics), stop=stop, watch=unchanging, pace=Pace(turn=0.02, pulse=0.02))
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            eventually(lambda: counted(metrics, "ready") == 3 and served._scheduler.idle, 30)
            yield served, Claiming(lambda: served.host, claims)
        finally:
            stop.set()
            thread.join(10)


def counted(metrics: Path, state: str) -> int | None:
    """How many snapshots are in that state, as the metrics show it."""
    head = f'reconcile_snapshots{{image="web",state="{state}"}} '
    lines = metrics.read_text().splitlines() if metrics.exists() else ()
    return next((int(float(line.removeprefix(head))) for line in lines if line.startswith(head)), None)


def test_a_claim_that_nothing_is_made_for_is_counted_and_wakes_no_assessment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "COUNT_SECONDS", 0.0)
    settings, metrics = declared(tmp_path, MANIFEST.replace(", max: 8", "")), tmp_path / "metrics"
    with serving(settings, metrics) as (served, user):
        before = served.last
        claim = user.take(Request("web"), ROOT)
        eventually(lambda: counted(metrics, "claimed") == 1)
        assert served.last is before, "the service has noticed the claim, and has not assessed its host"

        user.release(claim.id, ROOT)
        eventually(lambda: user.claims.find(claim.id).state is ClaimState.ENDED)
        eventually(lambda: (counted(metrics, "ready"), counted(metrics, "claimed")) == (3, 0))


def test_a_claim_that_no_assessment_has_seen_expires_in_time(tmp_path: Path) -> None:
    settings = declared(tmp_path, MANIFEST.replace(", max: 8", ""))
    with serving(settings, tmp_path / "metrics") as (_, user):
        claim = user.take(Request("web", ttl=0.3), ROOT)
        eventually(lambda: user.claims.find(claim.id).state is ClaimState.ENDED)


def test_a_claim_of_a_set_with_a_maximum_leads_to_another_snapshot(tmp_path: Path) -> None:
    settings, metrics = declared(tmp_path, MANIFEST), tmp_path / "metrics"
    with serving(settings, metrics) as (_, user):
        user.take(Request("web"), ROOT)
        eventually(lambda: (counted(metrics, "ready"), counted(metrics, "claimed")) == (3, 1))
