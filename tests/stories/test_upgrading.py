"""A host whose state directory an older version has made: layout 1, registry schema 4."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import previous

from .layers import change, root
from .workshop import Completed, Workshop, cat, fsck, write

BASE, TOP = root("base"), change("top", {"etc/app": b"app\n"})
OTHER = root("other")

Older = Callable[..., Completed]


@pytest.fixture(scope="session")
def older_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return previous.install(tmp_path_factory.mktemp("previous"))


def older_environment(workshop: Workshop) -> dict[str, str]:
    """Without the host's policy, which it does not support."""
    return {name: value for name, value in workshop.environment.items() if name != "RECONCILER_HOST_FILE"}


@pytest.fixture
def older(workshop: Workshop, older_command: Path) -> Older:
    """Runs the older version in the workshop."""

    def run(*words: str) -> Completed:
        done = subprocess.run(
            [older_command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=older_environment(workshop),
            cwd=workshop.root,
            check=False,
        )
        return Completed(words, done.returncode, done.stdout, done.stderr)

    return run


def finding(plan: Any, reason: str) -> dict[str, str]:
    (found,) = [one for one in plan["findings"] if one["reason"] == reason]
    return {"name": found["name"], "message": found["message"]}


# ------------------------------------------------------------------------------------------------------------- layout 1


def test_what_an_older_version_made_stays_as_it_is(workshop: Workshop, older: Older) -> None:
    workshop.image("web", [BASE, TOP], snapshots=["web-a", "web-b"])
    older("--once").expect(0)
    write(workshop.snapshot("web-a"), "/etc/mine", b"mine", workshop.root / "scratch")
    made = workshop.holdings()

    plan = workshop.plan()
    assert plan["actions"] == plan["held"] == plan["blocked"] == []
    assert finding(plan, "LayoutOutdated")["name"] == "web"
    assert ("note", "image", "web") in {
        (one["level"], one["name"], one["subject"])
        for one in workshop.run("health", "-o", "json").json["checks"]
        if one["reason"] == "LayoutOutdated"
    }
    assert workshop.converge().json["changed"] == 0
    workshop.run("verify").expect(0)
    assert workshop.holdings() == made
    workshop.settled()


def test_a_snapshot_is_made_from_a_volume_of_an_older_layout(workshop: Workshop, older: Older) -> None:
    workshop.image("web", [BASE, TOP])
    older("--once").expect(0)
    (volume,) = workshop.volumes
    workshop.image("web", [BASE, TOP], snapshots=["web-a", "web-b"])

    assert [(o["kind"], o["name"]) for o in workshop.converge().json["objects"] if o["action"] == "create"] == [
        ("Snapshot", "web-b")
    ]
    assert workshop.volumes == [volume]
    fsck(workshop.snapshot("web-b"))
    assert cat(workshop.snapshot("web-b"), "/etc/app") == b"app\n"
    workshop.settled()


def test_an_older_layout_is_upgraded_on_request_for_the_selected_images(workshop: Workshop, older: Older) -> None:
    workshop.image("web", [BASE, TOP], labels={"tier": "front"}, replacePolicy="Recreate")
    workshop.image("db", [OTHER])
    older("--once").expect(0)
    db = workshop.snapshot("db-a").read_bytes()

    plan = workshop.plan("--upgrade-layout", "-l", "tier=front")
    assert [(one["verb"], one["kind"]) for one in plan["actions"]] == [
        ("build", "Volume"),
        ("record", "Image"),
        ("replace", "Snapshot"),
    ]
    size = f"{(len(BASE.data) + len(TOP.data)) / 1024:.1f} KiB"
    assert finding(plan, "LayoutUpgraded") == {
        "name": "web",
        "message": f"gets layout 2: 2 layers are fetched again ({size})",
    }
    assert workshop.converge("--upgrade-layout", "-l", "tier=front").json["failed"] == 0
    fsck(workshop.snapshot("web-a"))
    assert cat(workshop.snapshot("web-a"), "/etc/app") == b"app\n"
    plan = workshop.plan()
    assert plan["actions"] == []
    assert finding(plan, "LayoutOutdated")["name"] == "db"
    assert workshop.snapshot("db-a").read_bytes() == db


def test_an_image_that_changes_gets_the_newest_layout_and_the_plan_has_the_cost(workshop: Workshop, older: Older) -> None:
    workshop.image("web", [BASE])
    older("--once").expect(0)
    workshop.image("web", [BASE, TOP])

    again = f"1 layer is fetched again ({len(BASE.data) / 1024:.1f} KiB)"
    assert finding(workshop.plan(), "LayoutUpgraded")["message"] == f"gets layout 2: {again}"
    assert workshop.converge().json["failed"] == 0
    assert not [one for one in workshop.plan()["findings"] if one["reason"].startswith("Layout")]


def test_a_service_does_not_upgrade_layouts(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    workshop.run("--upgrade-layout").expect(64).words("--once")


# ---------------------------------------------------------------------------------------- the registry, beside a service


BACKUP = "registry.sqlite3.schema-4"


@pytest.fixture
def older_service(workshop: Workshop, older_command: Path, older: Older) -> Iterator[subprocess.Popen[str]]:
    """A service of the older version, which has converged."""
    workshop.image("web", [BASE, TOP])
    older("--once").expect(0)
    log = (workshop.root / "older.log").open("w")
    process = subprocess.Popen([older_command], env=older_environment(workshop), cwd=workshop.root, stderr=log, stdout=log)
    try:
        until(lambda: (workshop.state / "lock").read_text(), "the lock of the older service")
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)


def schema(registry: Path) -> str:
    with closing(sqlite3.connect(f"{registry.as_uri()}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0])


def test_a_whole_host_is_upgraded_beside_its_older_service(
    workshop: Workshop, older: Older, older_service: subprocess.Popen[str]
) -> None:
    """Reading verbs of the newer version work at once. Nothing is migrated until the older service has ended."""
    registry, made = workshop.state / "registry.sqlite3", workshop.holdings()

    assert workshop.plan()["actions"] == []
    assert workshop.run("list", "-o", "json").expect(0).json["images"][0]["phase"] == "Ready"
    workshop.run("describe", "image/web").expect(0).words("Ready")
    workshop.run("events").expect(0)
    workshop.once().expect(75)
    workshop.run("suspend", "image/web").expect(75).words("restart it")
    assert schema(registry) == "4"
    older("list").expect(0)

    older_service.terminate()
    older_service.wait(30)
    service = workshop.start("--interval", "1")
    try:
        service.until(lambda: (workshop.state / BACKUP).exists() and schema(registry) == "5", "the migration")
        workshop.run("suspend", "image/web").expect(0)
        workshop.run("resume", "image/web").expect(0)
    finally:
        service.signal(signal.SIGTERM)
    service.wait().expect(143)

    assert workshop.holdings() == made
    assert schema(workshop.state / BACKUP) == "4"
    assert stat.S_IMODE((workshop.state / BACKUP).stat().st_mode) == 0o600
    assert workshop.converge().json["changed"] == 0
    older("list").expect(69).words("schema 5", "newer version")
    older("--once").expect(69)
    workshop.settled()


def test_a_mark_alone_migrates_an_older_registry_where_no_service_runs(workshop: Workshop, older: Older) -> None:
    workshop.image("web", [BASE])
    older("--once").expect(0)
    workshop.run("suspend", "image/web").expect(0)
    assert (schema(workshop.state / "registry.sqlite3"), schema(workshop.state / BACKUP)) == ("5", "4")


def test_a_newer_registry_is_refused_and_the_refusal_names_the_backup(workshop: Workshop) -> None:
    """The backup is what the migration to the newer schema has left."""
    workshop.image("web", [BASE])
    workshop.converge()
    with closing(sqlite3.connect(workshop.state / "registry.sqlite3")) as db:
        db.execute("UPDATE meta SET value = '6' WHERE key = 'schema'")
        db.commit()
    (workshop.state / "registry.sqlite3.schema-5").touch()
    for words in (["list"], ["plan"], ["--once"], ["suspend", "image/web"]):
        workshop.run(*words).expect(69).words("has schema 6", "registry.sqlite3.schema-5")


def test_a_service_ends_for_a_restart_once_a_newer_version_has_migrated_its_registry(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    service = workshop.start("--interval", "1")
    service.until(lambda: workshop.snapshot("web-a").exists(), "the snapshot")
    with closing(sqlite3.connect(workshop.state / "registry.sqlite3", timeout=30)) as db:
        db.execute("UPDATE meta SET value = '6' WHERE key = 'schema'")
        db.commit()
    service.wait().expect(0).words("has schema 6", "the service ends")
