"""Snapshots belong to their users: whole, writable, apart from each other, and never touched again."""

from __future__ import annotations

from .layers import change, file, root, tar
from .workshop import Workshop, cat, contents, digest, fsck, names, write


def test_what_is_written_to_one_snapshot_stays_there(workshop: Workshop) -> None:
    """Base and siblings keep every byte, and later runs leave the user's changes alone."""
    workshop.image("web", [root("base")], snapshots=["mine", "yours"])
    workshop.converge()
    others = {path: digest(path) for path in (*workshop.volumes, workshop.snapshot("yours"))}

    write(workshop.snapshot("mine"), "/notes", b"mine alone", workshop.root / "notes")
    mine = digest(workshop.snapshot("mine"))
    workshop.settled()

    assert cat(workshop.snapshot("mine"), "/notes") == b"mine alone"
    assert digest(workshop.snapshot("mine")) == mine
    assert {path: digest(path) for path in others} == others


def test_snapshots_are_their_owners_to_write_and_bases_are_nobodys(workshop: Workshop) -> None:
    """A snapshot's file is writable by its owner, a base's by no one."""
    workshop.image("web", [root("base")])
    workshop.converge()

    assert workshop.snapshot("web-a").stat().st_mode & 0o200
    assert all(path.stat().st_mode & 0o222 == 0 for path in workshop.volumes)


def test_later_layers_replace_and_hide_what_earlier_ones_brought(workshop: Workshop) -> None:
    """Upper files win, and a whiteout hides a lower file, compressed or not."""
    base = root("base", {"etc/motd": b"old", "etc/gone": b"here"})
    top = tar("top", file("etc/motd", b"new"), file("etc/.wh.gone", b""))
    workshop.image("web", [base, top.gzipped()])
    workshop.converge()
    snapshot = workshop.snapshot("web-a")

    fsck(snapshot)
    assert cat(snapshot, "/etc/motd") == b"new"
    assert cat(snapshot, "/bin/ash") == cat(snapshot, "/bin/sh"), "a hard link"
    assert names(snapshot, "/etc") == {"hostname", "motd"}


def test_a_new_snapshot_is_made_beside_the_old_ones(workshop: Workshop) -> None:
    """Declaring one more builds no volume again and leaves the written ones as they are."""
    workshop.image("web", [root("base")], snapshots=["a"])
    workshop.converge()
    write(workshop.snapshot("a"), "/notes", b"a", workshop.root / "notes")
    before = contents([workshop.snapshot("a"), *workshop.volumes])

    workshop.image("web", [root("base")], snapshots=["a", "b"])
    done = workshop.converge()

    assert {o["name"]: o["action"] for o in done.json["objects"] if o["action"] != "none"} == {"b": "create"}
    assert contents([workshop.snapshot("a"), *workshop.volumes]) == before
    fsck(workshop.snapshot("b"))


def test_a_changed_image_is_built_beside_the_snapshots_of_the_old_one(workshop: Workshop) -> None:
    """A new chain means a new volume; the old snapshot stays under its user's feet, and `plan` says that it is outdated."""
    workshop.image("web", [root("base"), change("v1", {"srv/app": b"v1"})])
    workshop.converge()
    old = digest(workshop.snapshot("web-a"))

    workshop.image("web", [root("base"), change("v2", {"srv/app": b"v2"})], snapshots=["web-a", "web-b"])
    workshop.converge()

    assert digest(workshop.snapshot("web-a")) == old
    assert cat(workshop.snapshot("web-b"), "/srv/app") == b"v2"
    plan = workshop.plan()
    assert plan["actions"] == []
    assert [(f["name"], f["reason"]) for f in plan["findings"] if "utdated" in f["reason"]] == [("web-a", "SnapshotOutdated")]
    workshop.run("plan").words("web-a", "outdated")
