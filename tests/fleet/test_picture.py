"""What a host reports of an assessment."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from reconciler.controller import once, summary
from reconciler.controller.assess import Wish, assess
from reconciler.controller.executor import Ledger
from reconciler.fleet import picture
from reconciler.host import context as hosts
from reconciler.output.progress import Silent
from reconciler.settings import Settings
from tests.fleet.agents import manifests


def test_a_source_that_may_still_answer_is_no_failure(tmp_path: Path) -> None:
    settings = Settings(manifests(tmp_path / "tree", "one"), tmp_path / "state")
    with hosts.writing(settings, stop=threading.Event()) as host:
        once.converge(host, Wish(), Silent(), stop=threading.Event())
    manifests(tmp_path / "tree", "two", source="missing.tar")
    with hosts.writing(settings, stop=threading.Event()) as host:
        now = assess(host, Wish())
        result = summary.outcome(host.name, now.desired, now.observed, now.plan, Ledger(), 0.0)
        answered = picture.picture(host, now, result, 0.0).host
        pending = picture.picture(host, replace(now, pending=1.0), result, 0.0).host

    assert (answered.converged, answered.failed, answered.reason) == (False, 1, "LastKnownChain")
    assert (pending.converged, pending.failed, pending.reason) == (False, 0, "Progressing")
