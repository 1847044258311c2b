"""Several pools on one host: an object is identified by its kind, its pool and its name."""

from __future__ import annotations

import pytest

from .layers import root
from .workshop import Workshop


def declare_pool(workshop: Workshop, name: str) -> None:
    spec = {"file": {}, "reserve": {"dataPercent": 0}}
    workshop.declare(
        f"pool-{name}", {"apiVersion": "reconciler/v1alpha1", "kind": "Pool", "metadata": {"name": name}, "spec": spec}
    )


@pytest.fixture
def twins(workshop: Workshop) -> Workshop:
    """One image in each of two pools: the same layers, and a snapshot of the same name."""
    workshop.pool()
    declare_pool(workshop, "second")
    for name, pool in (("blue", "default"), ("green", "second")):
        workshop.image(name, [root("base")], snapshots=["web"], pool=pool)
    return workshop


def test_equal_names_in_two_pools_are_two_objects_in_json(twins: Workshop) -> None:
    planned = twins.run("plan", "-o", "json").json["actions"]
    made = [("Snapshot", "default", "web"), ("Snapshot", "second", "web")]
    assert [(a["kind"], a["pool"], a["name"]) for a in planned if a["kind"] == "Snapshot"] == made

    objects = twins.converge().json["objects"]
    assert [(o["kind"], o["pool"], o["name"]) for o in objects if o["kind"] == "Snapshot"] == made
    assert len({o["name"] for o in objects if o["kind"] == "Volume"}) == 1, "the same chain, in both pools"
    assert {(o["pool"], o["action"]) for o in objects if o["kind"] == "Volume"} == {("default", "build"), ("second", "build")}
    assert {o["pool"] for o in objects if o["kind"] == "Image"} == {None}


def test_what_happens_to_one_leaves_the_other_in_the_result(twins: Workshop) -> None:
    twins.converge()
    (twins.state / "pools/second/snapshots/web.ext4").unlink()

    objects = twins.run("--once", "-o", "json").json["objects"]

    assert {o["pool"]: o["action"] for o in objects if o["kind"] == "Snapshot"} == {"default": "none", "second": "repair"}
    unchanged = twins.run("plan", "-o", "json").json["unchanged"]
    assert [one["pool"] for one in unchanged if one["kind"] == "Snapshot"] == ["default", "second"]


def test_describe_asks_which_one_is_meant(twins: Workshop) -> None:
    twins.converge()

    refused = twins.run("describe", "snapshot/web").expect(64)
    assert "snapshot/default/web, snapshot/second/web" in refused.stderr
    for pool, image in (("default", "blue"), ("second", "green")):
        told = twins.run("describe", f"snapshot/{pool}/web", "-o", "json").json
        assert (told["pool"], told["image"]) == (pool, image)
        assert {run["pool"] for run in told["runs"]} == {event["pool"] for event in told["events"]} == {pool}
    assert {run["pool"] for run in twins.run("describe", "image/green", "-o", "json").json["runs"]} == {"second"}


def test_people_see_the_pool_where_the_name_is_ambiguous(twins: Workshop) -> None:
    shown = twins.run("plan").stdout
    assert "snapshot/default/web  " in shown and "snapshot/second/web  " in shown
    assert "image/blue  " in shown, "an image has no other of its name"
    drawn = twins.converge() and twins.run("graph").stdout
    assert drawn.count("snapshot web") == 2


def test_an_error_of_one_pool_costs_that_pool_only(twins: Workshop) -> None:
    """A file is in place of its directory. The other pool's image is built, and nothing of the broken one counts as missing."""
    (twins.state / "pools").mkdir(parents=True)
    (twins.state / "pools/second").write_text("not a directory")

    done = twins.once("-o", "json").expect(1)
    phases = {one["name"]: (one["phase"], one["reason"]) for one in done.json["objects"] if one["kind"] == "Image"}
    assert phases["blue"][0] == "Ready"
    assert phases["green"] == ("Failed", "PoolUnavailable")

    (twins.state / "pools/second").unlink()
    twins.converge()


def test_a_pool_that_becomes_unreadable_is_neither_rebuilt_nor_pruned(twins: Workshop) -> None:
    twins.converge()
    pools, kept = twins.state / "pools", twins.state / "kept"
    (pools / "second").rename(kept)
    (pools / "second").write_text("not a directory")

    planned = twins.run("plan", "--prune", "-o", "json")
    assert planned.json["actions"] == []
    assert twins.once("-o", "json", "--prune").expect(1).object("Image", "blue")["phase"] == "Ready"
    listed = twins.run("list", "-o", "json").json
    snapshots = [one for image in listed["images"] for one in image["snapshots"]]
    assert {one["pool"]: one["state"] for one in listed["volumes"]} == {"default": "intact", "second": "unknown"}
    assert {one["pool"]: one["state"] for one in snapshots} == {"default": "intact", "second": "unknown"}

    (pools / "second").unlink()
    kept.rename(pools / "second")
    assert twins.converge().json["changed"] == 0
