"""A changed image, and what becomes of the snapshots of the old one: they stay, wait until they are free, or are replaced."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt, cat, digest, fsck, names, write

BASE = root("base")
OLD = [BASE, change("v1", {"srv/app": b"v1"})]
NEW = [BASE, change("v2", {"srv/app": b"v2"})]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> Workshop:
    """An image at its first version, with two snapshots."""
    workshop = workshop_at(tmp_path_factory.mktemp("installed") / "workshop")
    workshop.image("web", OLD, snapshots=["a", "b"])
    workshop.converge()
    return workshop


@pytest.fixture
def host(installed: Workshop, tmp_path: Path) -> Workshop:
    return installed.copy(tmp_path / "host")


def update(host: Workshop, policy: str, layers: Any = NEW) -> None:
    host.image("web", layers, snapshots=["a", "b"], replacePolicy=policy)


def done(answer: Any) -> dict[str, str]:
    return {o["name"]: o["action"] for o in answer.json["objects"] if o["kind"] == "Snapshot"}


def test_snapshots_are_replaced_where_the_manifest_says_so(host: Workshop) -> None:
    """`plan` tells what is lost; afterwards the same names show the new content, and the old base goes with the next prune."""
    write(host.snapshot("a"), "/notes", b"mine", host.root / "notes")
    update(host, "Recreate")

    told = host.run("plan").expect(0).words("-/+ replace", "what was written to it is discarded")
    assert told.stdout.count("-/+ replace") == 2
    answer = host.converge("--prune")

    assert done(answer) == {"a": "replace", "b": "replace"}
    for name in ("a", "b"):
        fsck(host.snapshot(name))
        assert cat(host.snapshot(name), "/srv/app") == b"v2"
    assert "notes" not in names(host.snapshot("a"), "/")
    assert host.plan()["held"] == []
    host.run("events", "snapshot/a").words("now of chain")
    host.run("describe", "snapshot/a").expect(0)
    host.settled()


def test_a_snapshot_in_use_waits_until_it_is_free(host: Workshop) -> None:
    """With OnRelease the user keeps what is open, the run succeeds and says who that is; the next one after that replaces it."""
    old = digest(host.snapshot("a"))
    update(host, "OnRelease")

    with host.snapshot("a").open("r+b"):
        host.converge()
        assert digest(host.snapshot("a")) == old
        assert cat(host.snapshot("b"), "/srv/app") == b"v2"
        plan = host.plan()
        assert plan["actions"] == []
        assert [(f["name"], f["reason"]) for f in plan["findings"] if f["kind"] == "Snapshot"] == [("a", "SnapshotInUse")]
        host.once().expect(0).words("snapshot/a", "held by process", "replaced once it is free")
        assert host.run("list", "-o", "json").json["images"][0]["phase"] == "Ready"
    assert done(host.converge()) == {"a": "replace", "b": "none"}

    assert cat(host.snapshot("a"), "/srv/app") == b"v2"
    host.settled()


def test_recreating_a_snapshot_in_use_fails_and_names_its_holder(host: Workshop) -> None:
    old = digest(host.snapshot("a"))
    update(host, "Recreate")

    with host.snapshot("a").open("r+b"):
        host.run("plan").words("which fails while it is held by process")
        failed = host.once("-o", "json").expect(1)
        assert digest(host.snapshot("a")) == old
    assert failed.object("Snapshot", "a")["reason"] == "DeviceBusy"
    assert "is held by process" in failed.object("Snapshot", "a")["message"]
    assert cat(host.snapshot("b"), "/srv/app") == b"v2", "the other one is not held up"
    host.once().expect(0)

    assert cat(host.snapshot("a"), "/srv/app") == b"v2"
    host.settled()


def test_back_to_the_old_version_before_anything_was_replaced(host: Workshop) -> None:
    """A revert leaves a snapshot that waited as it is, with what was written to it."""
    write(host.snapshot("a"), "/notes", b"mine", host.root / "notes")
    update(host, "OnRelease")
    with host.snapshot("a").open("r+b"):
        host.converge()

    update(host, "OnRelease", OLD)
    host.converge()

    assert cat(host.snapshot("a"), "/notes") == b"mine"
    assert cat(host.snapshot("b"), "/srv/app") == b"v1"
    host.settled()


def test_whoever_looks_under_the_name_sees_the_old_or_the_new_one(host: Workshop) -> None:
    """A reader that opens the name again and again while it is replaced never finds half a snapshot."""
    old, seen, over = digest(host.snapshot("a")), set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                seen.add(digest(host.snapshot("a")))
            except FileNotFoundError:
                assert str(host.snapshot("a")).startswith("/dev/"), "a file is renamed over the old one"
            over.wait(0.01)

    update(host, "Recreate")
    reader = threading.Thread(target=read)
    reader.start()
    try:
        host.once()
    finally:
        over.set()
        reader.join()
    host.once().expect(0)

    assert seen <= {old, digest(host.snapshot("a"))}
    assert digest(host.snapshot("a")) != old
