"""An image gets another name: nothing is built anew and nothing is lost, with `state mv` or without; and the rest of `state`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt, cat, write

LAYERS = [root("base"), change("app", {"srv/app": b"v1"})]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> Workshop:
    """Image ``web`` with two snapshots, and another one."""
    workshop = workshop_at(tmp_path_factory.mktemp("named") / "workshop")
    workshop.image("web", LAYERS, snapshots=["a", "b"])
    workshop.image("other", [root("base")], snapshots=["o"])
    workshop.converge()
    return workshop


@pytest.fixture
def node(named: Workshop, tmp_path: Path) -> Workshop:
    return named.copy(tmp_path / "host")


def rename(node: Workshop) -> None:
    node.withdraw("web")
    node.image("site", LAYERS, snapshots=["a", "b"])


def owners(node: Workshop) -> dict[str, list[str]]:
    return {i["name"]: [s["name"] for s in i["snapshots"]] for i in node.run("list", "-o", "json").json["images"]}


def test_a_renamed_image_keeps_everything(node: Workshop) -> None:
    """`plan` gives the command; after it there is nothing to do, and what was noted of the image holds under its new name."""
    node.run("protect", "image/web", "--reason", "golden").expect(0)
    before = node.holdings()
    rename(node)

    (told,) = [f for f in node.plan()["findings"] if f["reason"] == "PossibleRename"]
    command = told["hint"].split("`")[1].split()
    assert command == ["reconcile", "state", "mv", "image/web", "image/site"]
    node.run(*command[1:]).expect(0).words("image web is image site now, with 2 snapshots")

    plan = node.plan("--prune")
    assert (plan["actions"], plan["held"], plan["findings"]) == ([], [], [])
    assert owners(node) == {"other": ["o"], "site": ["a", "b"]}
    node.once("--prune", "--detailed-exitcode").expect(0)
    assert node.holdings() == before
    node.run("events", "image/web").words("Renamed")
    node.run("events", "image/site").words("Renamed")
    node.run("unprotect", "image/site").expect(0)


def test_without_being_told_the_snapshots_change_hands_all_the_same(node: Workshop) -> None:
    """The image of the new name takes them over; what is left of the old one is a name, and goes with the next prune."""
    before = node.holdings()
    rename(node)

    done = node.converge()
    assert {o["name"]: o["action"] for o in done.json["objects"] if o["kind"] == "Snapshot"} == {
        "a": "record",
        "b": "record",
        "o": "none",
    }
    assert owners(node) == {"other": ["o"], "site": ["a", "b"], "web": []}
    assert [(a["verb"], a["name"]) for a in node.plan()["held"]] == [("forget", "web")]
    node.once("--prune").expect(0)

    assert node.holdings() == before
    assert owners(node) == {"other": ["o"], "site": ["a", "b"]}
    node.settled()


def test_a_name_that_is_taken_or_unknown_is_refused(node: Workshop) -> None:
    node.run("state", "mv", "image/web", "image/other").expect(5).words("image 'other' is in the registry already")
    node.run("state", "mv", "image/nobody", "image/site").expect(64).words("no image 'nobody'", "state ls")
    node.run("state", "mv", "image/web", "image/site").expect(5).words("still declared")
    node.withdraw("web")
    node.run("state", "mv", "image/web", "image/site").expect(5).words("'site' is not declared")
    node.run("state", "mv", "snapshot/a", "snapshot/b").expect(64).words("is not an image")
    node.run("state", "rm", "image/other").expect(5).words("is declared")


def test_an_image_that_is_forgotten_leaves_its_snapshots_where_they_are(node: Workshop) -> None:
    node.withdraw("web")
    shown = {name: node.snapshot(name).stat().st_ino for name in ("a", "b")}

    node.run("state", "rm", "image/web").expect(0).words(
        "image web is no longer in the registry; 2 snapshots of it stay on disk, unmanaged"
    )
    node.once("--prune").expect(0)

    assert {name: node.snapshot(name).stat().st_ino for name in ("a", "b")} == shown
    assert owners(node) == {"other": ["o"]}
    assert {f["reason"] for f in node.plan()["findings"]} <= {"Unregistered", "Orphan"}


def test_a_snapshot_that_nothing_knows_any_more_is_taken_over(node: Workshop) -> None:
    """The registry was lost, and the image has moved on: what was written to a snapshot of the old layers is not."""
    write(node.snapshot("a"), "/notes", b"mine", node.root / "notes")
    node.withdraw("web")
    node.run("state", "rm", "image/web").expect(0)
    node.image("web", [*LAYERS, change("more", {"srv/more": b"1"})], snapshots=["a", "b"])

    chain = (
        node.run("import", "snapshot/a", "--image", "web").expect(0).words("is registered").stdout.split("--chain ")[1].split()[0]
    )
    node.run("import", "snapshot/a", "--image", "web").expect(5).words("already")
    node.once().expect(1).words("SnapshotUnrecognised")
    node.run("retry", "--recreate", "snapshot/b").expect(0)
    node.converge()

    assert cat(node.snapshot("a"), "/notes") == b"mine"
    assert "based on an unknown chain" in next(f["message"] for f in node.plan()["findings"] if f["reason"] == "SnapshotOutdated")
    node.run("import", "snapshot/a", "--image", "web", "--chain", chain.rstrip(";")).expect(0).words(f"from chain {chain[:12]}")
    node.run("import", "snapshot/a", "--image", "web", "--chain", chain.rstrip(";")).expect(5).words("already")
    assert f"based on chain {chain[:12]}" in str(node.plan()["findings"])
    node.settled()


def test_a_snapshot_whose_guest_has_changed_its_uuid_is_registered_with_its_chain(node: Workshop) -> None:
    row = next(row for row in node.run("state", "ls", "-o", "json").json["rows"] if row["name"] == "a")
    node.withdraw("web")
    node.run("state", "rm", "image/web").expect(0)
    node.image("web", LAYERS, snapshots=["a", "b"])
    with node.snapshot("a").open("r+b") as file:
        file.write(bytes(8192))

    node.run("import", "snapshot/a", "--image", "web").expect(5).words("--chain", "retry --recreate snapshot/default/a")
    node.run("import", "snapshot/a", "--image", "web", "--chain", "0123456789").expect(5)
    node.run("import", "snapshot/a", "--image", "web", "--chain", row["chain"]).expect(0)
    node.run("import", "snapshot/b", "--image", "web").expect(0)

    node.converge()
    node.settled()


def test_what_is_not_surely_a_whole_snapshot_is_not_taken_over(node: Workshop) -> None:
    node.image("web", LAYERS, snapshots=["a", "b", "c", "d"])
    node.snapshot("c").write_bytes(bytes(1 << 20))
    node.snapshot("d").write_bytes(node.snapshot("a").read_bytes()[: 8 << 20])

    node.run("import", "snapshot/c", "--image", "web").expect(5).words("no ext4 file system in it")
    node.run("import", "snapshot/d", "--image", "web").expect(5).words("is not whole")
    node.run("import", "snapshot/e", "--image", "web").expect(64).words("declares no snapshot 'e'")
    node.run("import", "image/web", "--image", "web").expect(64).words("is not a snapshot")


def test_the_rows_of_the_registry_can_be_listed(node: Workshop) -> None:
    rows = node.run("state", "ls", "-o", "json").expect(0).json["rows"]

    assert {(row["kind"], row["name"]) for row in rows} >= {("Image", "web"), ("Image", "other"), ("Snapshot", "a")}
    assert all(row["identity"] for row in rows if row["kind"] != "Image")
    node.run("state", "ls").expect(0).words("KIND", "image", "web", "snapshot")
