"""Plans in files: carried out exactly, and only where nothing has moved since."""

from __future__ import annotations

from pathlib import Path

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt


@pytest.fixture
def host(tmp_path: Path, workshop_at: WorkshopAt) -> Workshop:
    workshop = workshop_at(tmp_path)
    workshop.image("web", [root("base"), change("app", {"srv/app": b"v1"})])
    return workshop


def saved(host: Workshop, *options: str) -> str:
    path = str(host.root / "plan.json")
    host.run("plan", "--out", path, *options).expect(0)
    return path


def test_a_saved_plan_is_shown_and_then_carried_out(host: Workshop) -> None:
    path = saved(host)
    assert (host.root / "plan.json").stat().st_mode & 0o777 == 0o600
    planned = {f"{one['kind']}/{one['name']}" for one in host.run("plan", "-o", "json").json["actions"]}

    shown = host.run("show", path).expect(0)
    done = host.run("apply", path, "-o", "json").expect(0)

    assert "image/web" in shown.stdout and "stale" not in shown.stderr
    assert {f"{one['kind']}/{one['name']}" for one in done.json["objects"] if one["action"] != "none"} == planned
    assert not host.run("plan", "-o", "json").json["actions"]


def test_what_was_declared_meanwhile_makes_it_stale_and_nothing_is_done(host: Workshop) -> None:
    path = saved(host)
    host.image("db", [root("base")])

    refused = host.run("apply", path).expect(5)

    assert "what the manifests declare for this host" in refused.stderr
    assert not host.volumes
    assert "stale" in host.run("show", path).expect(0).stderr


def test_a_run_or_a_hand_in_between_makes_it_stale(host: Workshop) -> None:
    first = saved(host)
    host.once().expect(0)
    assert "the registry" in host.run("apply", first).expect(5).stderr

    second = saved(host)
    host.snapshot("web-a").unlink()
    assert "what the pools hold" in host.run("apply", second).expect(5).stderr
    assert not host.snapshot("web-a").exists()


def test_comments_and_the_order_of_fields_do_not_make_it_stale(host: Workshop) -> None:
    path = saved(host)
    for manifest in host.manifests.iterdir():
        manifest.write_text("# looked at by somebody\n" + manifest.read_text())

    host.run("apply", path).expect(0)


def test_a_plan_that_prunes_prunes_what_it_said_and_no_more(host: Workshop) -> None:
    host.image("old", [root("old")])
    host.once().expect(0)
    host.withdraw("old")
    path = saved(host, "--prune")

    host.run("apply", path).expect(0)

    assert not host.snapshot("old-a").exists()
    assert host.snapshot("web-a").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{half", "is not a plan"),
        ("[]", "is not a plan"),
        ('{"format": "reconciler/plan-9"}', "plan-9"),
        ('{"format": "reconciler/plan-2"}', "plan-2"),
        ('{"format": "reconciler/plan-3"}', "damaged"),
    ],
)
def test_what_is_not_a_plan_is_refused_with_a_word(host: Workshop, text: str, word: str) -> None:
    (host.root / "plan.json").write_text(text)

    for verb in ("apply", "show"):
        assert word in host.run(verb, str(host.root / "plan.json")).expect(64).stderr
