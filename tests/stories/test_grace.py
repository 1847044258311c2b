"""A checkout that shows another branch for some minutes loses nothing: ``--prune`` waits for 15 minutes by default."""

from __future__ import annotations

import calendar
import re
import signal
import sqlite3
import time

import pytest

from .layers import root
from .workshop import Workshop


@pytest.fixture
def host(workshop: Workshop) -> Workshop:
    """Two images, as the branch ``main`` declares them. Nothing sets the grace period."""
    workshop.env["RECONCILER_PRUNE_GRACE"] = ""
    on_main(workshop)
    workshop.converge()
    return workshop


def on_main(host: Workshop) -> None:
    host.image("web", [root("base")], snapshots=["web-a", "web-b"])
    host.image("db", [root("base")])


def on_another_branch(host: Workshop) -> None:
    """It has no image db, and one snapshot of web less."""
    host.withdraw("db")
    host.image("web", [root("base")], snapshots=["web-a"])


def later(host: Workshop, seconds: float) -> None:
    """Time passes for what is undeclared."""
    with sqlite3.connect(host.state / "registry.sqlite3") as registry:
        registry.execute("UPDATE mark SET since = since - ? WHERE what = 'undeclared'", (seconds,))


def test_a_branch_switch_removes_nothing(host: Workshop) -> None:
    before = host.holdings()
    on_another_branch(host)

    host.once("--prune").expect(0).words("grace period", "snapshot/db-a", "2 more")
    later(host, 600)
    host.once("--prune").expect(0)
    assert host.holdings() == before

    on_main(host)
    done = host.once("--prune", "-o", "json").expect(0).json
    assert (done["changed"], host.holdings()) == (0, before)
    later(host, 3600)
    on_another_branch(host)
    host.once("--prune").expect(0)
    assert host.holdings() == before, "the time counts anew"


def test_what_stays_undeclared_is_pruned_once_the_period_is_over(host: Workshop) -> None:
    on_another_branch(host)
    host.once("--prune").expect(0)
    assert host.snapshot("web-b").exists() and host.snapshot("db-a").exists()

    later(host, 901)
    host.once("--prune").expect(0)

    assert host.snapshot_names() == {"web-a"}


def test_a_snapshot_that_is_withdrawn_later_has_a_period_of_its_own(host: Workshop) -> None:
    host.image("web", [root("base")], snapshots=["web-a"])
    host.once("--prune").expect(0)
    later(host, 800)
    host.image("web", [root("base")], snapshots=[])
    host.once("--prune").expect(0)
    later(host, 200)

    host.once("--prune").expect(0)

    assert host.snapshot_names() == {"web-a", "web-b", "db-a"}
    later(host, 700)
    host.once("--prune").expect(0)
    assert host.snapshot_names() == {"db-a"}


def test_plan_shows_when_it_would_be_pruned(host: Workshop) -> None:
    on_another_branch(host)

    held = host.run("plan").expect(0).stdout
    planned = host.plan("--prune")

    assert held.count("(held: only --prune carries it out)") == 3
    due = re.search(r"snapshot/db-a +no longer declared; not pruned before (....-..-.. ..:..:.. UTC)", held)
    assert due and 800 < _seconds(due[1]) - time.time() <= 901, held
    assert planned["actions"] == []
    [found] = [one for one in planned["findings"] if one["name"] == "web-b"]
    assert found["reason"] == "GracePeriod" and " UTC" in found["message"]
    assert "remove" in host.run("plan", "--prune", "--prune-grace", "0s").expect(0).stdout


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S UTC"))


def test_no_grace_prunes_at_once(host: Workshop) -> None:
    on_another_branch(host)

    host.once("--prune", "--prune-grace", "0s").expect(0)

    assert host.snapshot_names() == {"web-a"}


def test_a_service_keeps_what_another_branch_does_not_declare(host: Workshop) -> None:
    """It reports the period, and prunes what is still undeclared after it."""
    before = host.holdings()
    service = host.start("--prune", "--interval", "1")
    service.until(lambda: "READY" in service.said() or host.run("list").code == 0, "its first pass", 30)
    on_another_branch(host)
    service.until(lambda: "grace period" in service.said(), "the period", 60)
    on_main(host)
    time.sleep(2)
    assert host.holdings() == before
    service.signal(signal.SIGTERM).wait(30).expect(143)

    on_another_branch(host)
    host.once("--prune").expect(0)
    service = host.start("--prune", "--prune-grace", "2s")
    service.until(lambda: host.snapshot_names() == {"web-a"}, "the end of a short period", 60)
    service.signal(signal.SIGTERM).wait(30).expect(143)
