"""A changed image, and what becomes of the snapshots of the old one: they stay, wait until they are free, or are replaced."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt, cat, digest, fsck, names, tool, write

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
def site(installed: Workshop, tmp_path: Path) -> Workshop:
    return installed.copy(tmp_path / "host")


def update(site: Workshop, policy: str, layers: Any = NEW) -> None:
    site.image("web", layers, snapshots=["a", "b"], replacePolicy=policy)


def done(answer: Any) -> dict[str, str]:
    return {o["name"]: o["action"] for o in answer.json["objects"] if o["kind"] == "Snapshot"}


def test_snapshots_are_replaced_where_the_manifest_says_so(site: Workshop) -> None:
    """`plan` tells what is lost; afterwards the same names show the new content, and the old base goes with the next prune."""
    write(site.snapshot("a"), "/notes", b"mine", site.root / "notes")
    update(site, "Recreate")

    told = site.run("plan").expect(0).words("-/+ replace", "data written to it is discarded")
    assert told.stdout.count("-/+ replace") == 2
    answer = site.converge("--prune")

    assert done(answer) == {"a": "replace", "b": "replace"}
    for name in ("a", "b"):
        fsck(site.snapshot(name))
        assert cat(site.snapshot(name), "/srv/app") == b"v2"
    assert "notes" not in names(site.snapshot("a"), "/")
    assert site.plan()["held"] == []
    site.run("events", "snapshot/a").words("now of chain")
    site.run("describe", "snapshot/a").expect(0)
    site.settled()


def test_a_snapshot_in_use_waits_until_it_is_free(site: Workshop) -> None:
    """With OnRelease the user keeps what is open, the run succeeds and says who that is; the next one after that replaces it."""
    old = digest(site.snapshot("a"))
    update(site, "OnRelease")

    with site.snapshot("a").open("r+b"):
        told = site.converge().object("Snapshot", "a")
        assert (told["action"], told["phase"], told["reason"]) == ("none", "Ready", "SnapshotInUse")
        assert "in use by process" in told["message"]
        assert digest(site.snapshot("a")) == old
        assert cat(site.snapshot("b"), "/srv/app") == b"v2"
        plan = site.plan()
        assert plan["actions"] == []
        assert [(f["name"], f["reason"]) for f in plan["findings"] if f["kind"] == "Snapshot"] == [("a", "SnapshotInUse")]
        site.once().expect(0).words("snapshot/a", "in use by process", "replaced once it is released")
        assert site.run("list", "-o", "json").json["images"][0]["phase"] == "Ready"
    assert done(site.converge()) == {"a": "replace", "b": "none"}

    assert cat(site.snapshot("a"), "/srv/app") == b"v2"
    site.settled()


def test_a_service_replaces_a_snapshot_once_it_is_free(site: Workshop) -> None:
    """Nobody has to tell it."""
    old = {name: site.snapshot(name).stat().st_ino for name in ("a", "b")}

    def replaced(name: str) -> bool:
        return site.snapshot(name).stat().st_ino != old[name]

    update(site, "OnRelease")
    with site.snapshot("a").open("r+b"):
        service = site.start("--interval", "1").until(lambda: replaced("b"), "the replacement of b")
        assert not replaced("a")
    service.until(lambda: replaced("a"), "the replacement of a")
    service.signal(signal.SIGTERM).wait().expect(143)

    assert cat(site.snapshot("a"), "/srv/app") == b"v2"
    site.settled()


def test_recreating_a_snapshot_in_use_fails_and_names_its_holder(site: Workshop) -> None:
    old = digest(site.snapshot("a"))
    update(site, "Recreate")

    with site.snapshot("a").open("r+b"):
        site.run("plan").words("fails while it is in use by process")
        failed = site.once("-o", "json").expect(1)
        assert digest(site.snapshot("a")) == old
    assert failed.object("Snapshot", "a")["reason"] == "DeviceBusy"
    assert "is held by process" in failed.object("Snapshot", "a")["message"]
    assert cat(site.snapshot("b"), "/srv/app") == b"v2", "the other one is not held up"
    site.once().expect(0)

    assert cat(site.snapshot("a"), "/srv/app") == b"v2"
    site.settled()


def test_back_to_the_old_version_before_anything_was_replaced(site: Workshop) -> None:
    """A revert leaves a snapshot that waited as it is, with what was written to it."""
    write(site.snapshot("a"), "/notes", b"mine", site.root / "notes")
    update(site, "OnRelease")
    with site.snapshot("a").open("r+b"):
        site.converge()

    update(site, "OnRelease", OLD)
    site.converge()

    assert cat(site.snapshot("a"), "/notes") == b"mine"
    assert cat(site.snapshot("b"), "/srv/app") == b"v1"
    site.settled()


def test_whoever_looks_under_the_name_sees_the_old_or_the_new_one(site: Workshop) -> None:
    """A reader that opens the name again and again while it is replaced never finds half a snapshot."""
    old, seen, over = digest(site.snapshot("a")), set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                seen.add(digest(site.snapshot("a")))
            except FileNotFoundError:
                assert str(site.snapshot("a")).startswith("/dev/"), "a file is renamed over the old one"
            over.wait(0.01)

    update(site, "Recreate")
    reader = threading.Thread(target=read)
    reader.start()
    try:
        site.once()
    finally:
        over.set()
        reader.join()
    site.once().expect(0)

    assert seen <= {old, digest(site.snapshot("a"))}
    assert digest(site.snapshot("a")) != old


def test_a_guest_can_neither_lose_its_snapshot_nor_fake_its_replacement(site: Workshop) -> None:
    """It may write what it likes: another UUID, no file system at all, the superblock of the image that is to come."""
    subprocess.run([tool("tune2fs"), "-U", "random", site.snapshot("a")], check=True, capture_output=True)
    with site.snapshot("b").open("r+b") as disk:
        disk.write(bytes(8192))
    site.settled()
    site.image("web", NEW, snapshots=["a", "b", "c"])
    site.once().expect(0).words("SnapshotOutdated")
    for name in ("a", "b"):
        with site.snapshot("c").open("rb") as coming, site.snapshot(name).open("r+b") as disk:
            disk.write(coming.read(4096))
            disk.seek(15 << 20)
            disk.write(b"the guest is still here")
    site.once().expect(0)

    site.image("web", NEW, snapshots=["a", "b", "c"], replacePolicy="Recreate")
    answer = site.once("-o", "json").expect(0)

    assert done(answer) == {"a": "replace", "b": "replace", "c": "none"}
    for name in ("a", "b"):
        assert cat(site.snapshot(name), "/srv/app") == b"v2"
        with site.snapshot(name).open("rb") as disk:
            disk.seek(15 << 20)
            assert disk.read(4) != b"the "
    site.settled()
