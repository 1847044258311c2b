"""People steer: suspend, protect, retry, wait; and pruning has guards that stand when a mistake is committed."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing

from tests.support import policy

from .layers import change, root
from .workshop import Workshop

BASE = root("base")


def test_a_broken_manifest_freezes_its_own_images_and_stops_all_pruning(workshop: Workshop) -> None:
    """The rest goes on; what the broken file declared is still repaired."""
    for name in ("kept", "gone", "broken"):
        workshop.image(name, [BASE])
    workshop.converge()

    workshop.declare("broken", {"kind": "Imagine"})
    workshop.withdraw("gone")
    workshop.image("new", [BASE, change("more", {"srv/more": b"more"})])
    workshop.snapshot("broken-a").unlink()
    workshop.once("--on-invalid", "freeze", "--prune").expect(0)

    assert workshop.snapshot("new-a").exists()
    assert workshop.snapshot("broken-a").exists(), "repaired from what it declared last"
    assert workshop.snapshot("gone-a").exists(), "nothing is pruned while anything is invalid"
    workshop.once("--prune").expect(4)
    workshop.withdraw("broken")
    workshop.once("--prune").expect(0)
    assert not workshop.snapshot("gone-a").exists()


def test_a_suspended_image_is_left_alone_until_it_is_resumed(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    workshop.converge()

    workshop.run("suspend", "image/web", "--reason", "Ann looks at it").expect(0)
    workshop.snapshot("web-a").unlink()
    workshop.once().expect(0)
    assert not workshop.snapshot("web-a").exists()
    workshop.run("retry", "image/web").expect(5).words("suspended")
    workshop.withdraw("web")
    workshop.image("other", [BASE])
    workshop.once("--prune").expect(0).words("Ann looks at it")

    workshop.image("web", [BASE])
    workshop.run("resume", "image/web").expect(0)
    workshop.run("resume", "image/web").expect(1)
    workshop.once().expect(0)
    assert workshop.snapshot("web-a").exists()
    workshop.settled()


def test_a_protected_image_outlives_its_manifest(workshop: Workshop) -> None:
    workshop.image("dear", [BASE])
    workshop.image("other", [BASE])
    workshop.converge()
    workshop.run("protect", "image/dear", "--reason", "the golden one").expect(0)
    workshop.withdraw("dear")

    workshop.once("--prune").expect(0).words("the golden one")
    assert workshop.snapshot("dear-a").exists()

    workshop.run("unprotect", "image/dear").expect(0)
    workshop.once("--prune").expect(0)
    assert not workshop.snapshot("dear-a").exists()


def test_more_than_half_is_not_pruned_by_one_commit(workshop: Workshop) -> None:
    names = [f"i{number}" for number in range(8)]
    for name in names:
        workshop.image(name, [BASE], snapshots=[])
    workshop.converge()
    for name in names[:6]:
        workshop.withdraw(name)

    workshop.once("--prune").expect(5).words("--prune-max 6")
    assert len(workshop.run("list", "-o", "json").json["images"]) == 8
    workshop.run("plan", "--prune", "--prune-max", "6").expect(0)
    workshop.once("--prune", "--prune-max", "75%").expect(0)
    assert len(workshop.run("list", "-o", "json").json["images"]) == 2


def test_snapshots_count_for_the_guard_as_images_do(workshop: Workshop) -> None:
    """What was written to a snapshot can't be made again."""
    workshop.image("many", [BASE], snapshots=[{"name": "many", "count": 8}])
    workshop.image("few", [BASE], snapshots=[{"name": "few", "count": 2}])
    workshop.converge()
    workshop.image("many", [BASE], snapshots=[{"name": "many", "count": 1}])

    workshop.once("--prune").expect(5).words("would remove 7 of 10 snapshots", "--prune-max 7")
    assert all(workshop.snapshot(f"many-{number}").exists() for number in range(8))
    workshop.once("--prune", "--prune-max", "7").expect(0)
    assert not workshop.snapshot("many-7").exists()


def test_what_comes_back_within_its_grace_is_not_pruned(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    workshop.image("other", [BASE])
    workshop.converge()
    before = workshop.snapshot("web-a").stat().st_ino
    workshop.withdraw("web")
    workshop.once("--prune", "--prune-grace", "1h").expect(0).words("grace period")
    workshop.image("web", [BASE])
    workshop.once("--prune", "--prune-grace", "1h").expect(0)
    assert workshop.snapshot("web-a").stat().st_ino == before

    workshop.withdraw("web")
    workshop.once("--prune").expect(0)
    assert not workshop.snapshot("web-a").exists()


def test_a_service_is_steered_while_it_runs(workshop: Workshop) -> None:
    """What others note in the registry wakes it; nobody has to stop it or to wait for its lock."""
    workshop.image("web", [BASE])
    service = workshop.start("--interval", "3600").until(workshop.snapshot("web-a").exists, "the snapshot")
    workshop.run("wait", "image/web", "--timeout", "30").expect(0)

    workshop.run("suspend", "image/web").expect(0)
    workshop.snapshot("web-a").unlink()
    workshop.image("second", [BASE])
    service.until(workshop.snapshot("second-a").exists, "the second image")
    assert not workshop.snapshot("web-a").exists()
    workshop.run("resume", "image/web").expect(0)
    service.until(workshop.snapshot("web-a").exists, "the snapshot again")

    assert service.signal(signal.SIGTERM).wait().code == 143
    workshop.run("wait", "image/nothing", "--timeout", "0.1").expect(64).words("there is no image")


def test_a_service_tries_what_has_failed_again_when_it_is_asked_to(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    layer = workshop.layers / "base.tar"
    whole = layer.read_bytes()
    layer.write_bytes(whole[:-2000])
    service = workshop.start("--interval", "3600")
    service.until(lambda: workshop.run("runs", "-o", "json").json["runs"][-1:] and not workshop.snapshot("web-a").exists(), "it")
    service.until(lambda: any(run["status"] == "failed" for run in workshop.run("runs", "-o", "json").json["runs"]), "a failure")
    layer.write_bytes(whole)

    workshop.run("retry", "image/web").expect(0)
    service.until(workshop.snapshot("web-a").exists, "the snapshot")
    assert service.signal(signal.SIGTERM).wait().code == 143


def changed_hours_ago(workshop: Workshop, hours: float) -> None:
    """Let the change of the labels have been seen that long ago."""
    with sqlite3.connect(workshop.state / "registry.sqlite3") as registry:
        (text,) = registry.execute("SELECT value FROM meta WHERE key = 'labels-changed'").fetchone()
        change = json.dumps(json.loads(text) | {"since": time.time() - hours * 3600})
        registry.execute("UPDATE meta SET value = ? WHERE key = 'labels-changed'", (change,))
    registry.close()


def test_a_host_whose_labels_have_changed_prunes_nothing_for_a_day(workshop: Workshop) -> None:
    """A typo in a label deselects everything."""
    workshop.image("web", [BASE], hosts={"matchLabels": {"role": "web"}})
    workshop.image("other", [BASE])
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=web"}).expect(0)

    mistyped = {"RECONCILER_HOST_LABELS": "rôle=web"}
    for _ in range(3):
        workshop.run("--once", "--prune", env=mistyped).expect(0).words("labels of this host have changed")
    workshop.run("plan", "--prune", env=mistyped).expect(0).words("LabelsChanged")
    changed_hours_ago(workshop, 23.9)
    workshop.run("--once", "--prune", env=mistyped).expect(0).words("LabelsChanged")
    changed_hours_ago(workshop, 24.1)
    workshop.run("--once", "--prune", "--prune-grace", "2d", env=mistyped).expect(0).words("LabelsChanged")
    assert workshop.snapshot("web-a").exists()

    workshop.run("--once", "--prune", env=mistyped).expect(0)
    assert not workshop.snapshot("web-a").exists()


def test_labels_that_change_again_are_a_new_change_and_the_old_ones_are_none(workshop: Workshop) -> None:
    workshop.image("web", [BASE], hosts={"matchLabels": {"role": "web"}})
    workshop.image("other", [BASE])
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=web"}).expect(0)
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=wbe"}).expect(0)
    changed_hours_ago(workshop, 30)

    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=wep"}).expect(0).words("LabelsChanged")
    assert workshop.snapshot("web-a").exists()
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=web"}).expect(0)
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=wbe"}).expect(0).words("LabelsChanged")
    assert workshop.snapshot("web-a").exists()


def test_changed_labels_are_confirmed_by_an_option(workshop: Workshop) -> None:
    workshop.image("web", [BASE], hosts={"matchLabels": {"role": "web"}})
    workshop.image("db", [BASE], hosts={"matchLabels": {"role": "db"}})
    workshop.image("other", [BASE])
    workshop.run("--once", "--prune", env={"RECONCILER_HOST_LABELS": "role=web"}).expect(0)

    renamed = {"RECONCILER_HOST_LABELS": "role=db"}
    plan = workshop.run("plan", "--prune", "--confirm-labels", "-o", "json", env=renamed).expect(0).json
    assert "snapshot/web-a" in [f"{one['kind'].lower()}/{one['name']}" for one in plan["actions"] if one["verb"] == "remove"]
    workshop.run("--once", "--prune", "--confirm-labels", env=renamed).expect(0)
    assert (workshop.snapshot("web-a").exists(), workshop.snapshot("db-a").exists()) == (False, True)

    file = workshop.root / "plan.json"
    back = {"RECONCILER_HOST_LABELS": "role=web"}
    workshop.run("plan", "--prune", "--confirm-labels", "--out", str(file), env=back).expect(0)
    workshop.run("apply", str(file), env=back).expect(0)
    assert (workshop.snapshot("web-a").exists(), workshop.snapshot("db-a").exists()) == (True, False)


def test_a_service_is_woken_by_its_hosts_labels_and_prunes_nothing_in_that_pass(workshop: Workshop) -> None:
    """Nor is what it wants then decided by what the labels were before."""
    own = workshop.root / "host.yaml"
    policy.write(own, "labels: {role: web}\n")
    workshop.env["RECONCILER_HOST_FILE"] = str(own)
    workshop.image("web", [BASE], hosts={"matchLabels": {"role": "web"}})
    workshop.image("db", [BASE], hosts={"matchLabels": {"role": "db"}})
    service = workshop.start("--prune", "--interval", "3600").until(workshop.snapshot("web-a").exists, "the snapshot")
    workshop.run("wait", "image/web", "--timeout", "30").expect(0)

    policy.write(own, "labels: {role: db}\n")
    service.until(workshop.snapshot("db-a").exists, "the other snapshot")
    service.until(lambda: "nothing is pruned before" in service.said(), "a word of it")
    assert workshop.snapshot("web-a").exists()
    assert service.signal(signal.SIGTERM).wait().code == 143


def test_retry_ends_a_crash_loop(workshop: Workshop) -> None:
    """The run waits in state needs-operator; `retry`, which every message of it names, lets it go on."""
    workshop.image("web", [BASE])
    layer = workshop.layers / f"{BASE.name}.tar"
    layer.write_bytes(b"other bytes")
    workshop.once().expect(1)
    with closing(sqlite3.connect(workshop.state / "registry.sqlite3")) as db:
        crashed = "status = 'active', reason = '', message = '', state = 'downloading', attempt = 0, crashes = 20"
        assert db.execute(f"UPDATE run SET {crashed} WHERE machine = 'volume'").rowcount == 1
        db.commit()
    layer.write_bytes(BASE.data)

    waits = workshop.once("-o", "json").expect(1).object("Image", "web")
    assert waits["reason"] == "CrashLoop"
    what_to_do = "crash loop: 20 crashes in step downloading; check the log; then: reconcile retry image/web"
    assert waits["message"] == what_to_do
    (planned,) = [one for one in workshop.run("plan", "-o", "json").json["findings"] if one["reason"] == "CrashLoop"]
    assert (planned["kind"], planned["message"]) == ("Volume", what_to_do)
    for verb in (["plan"], ["describe", "image/web"], ["health"]):
        done = workshop.run(*verb)
        told = done.stdout + done.stderr
        assert "reconcile retry image/web" in told and "image/NAME" not in told
    workshop.once().expect(1)
    workshop.run("retry", "image/web").expect(0)
    assert "CrashLoop" not in workshop.run("plan").stdout
    workshop.once().expect(0)
    assert workshop.snapshot("web-a").exists()
