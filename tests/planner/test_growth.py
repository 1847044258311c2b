"""Sizes of snapshots that are declared anew: what grows, what is replaced, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from reconciler.image.custom import CustomSpec, FileSpec, Names
from reconciler.image.spec import GIB
from reconciler.model import Observed, Plan
from reconciler.planner.plan import plan
from tests.support import planning

FILES = (FileSpec("/etc/hostname", "{snapshot}"),)
NAMES = Names("s", 0, "go", "")


def planned(
    declared: CustomSpec | None, created: CustomSpec | None, row: Mapping[str, int], image: Mapping[str, Any], **pool: Any
) -> Plan:
    """The plan for a snapshot ``s`` that was created with one thing and is declared with another."""
    case: dict[str, Any] = {
        "images": {"go": {"layers": ["a"], "snapshots": ["s"], **image}},
        "registry": {"images": {"go": "a"}, "volumes": ["a"], "snapshots": {"s": "go at a"}, "claims": pool.pop("claims", {})},
        "pools": {"default": pool},
    }
    wanted = planning.desired(case["images"])
    spec = replace(wanted.images["go"], custom={"s": declared} if declared else {})
    host: Observed = planning.observed(case)
    ((place, before),) = host.snapshots.items()
    custom = created.digest(NAMES, {}) if created else ""
    host = replace(host, snapshots={place: replace(before, custom=custom, **row)})
    return plan(replace(wanted, images={"go": spec}), host)


def outcome(found: Plan) -> list[str]:
    actions = [f"{one.verb} {one.size // GIB}" for one in found.actions]
    return actions + [one.reason for one in (*found.blocked, *found.findings)]


SET = {"sets": [{"name": "s", "recycle": "OnRelease"}], "snapshots": ["s"]}


@pytest.mark.parametrize(
    ("declared", "created", "row", "image", "expected"),
    [
        (CustomSpec(3 * GIB), None, {}, {}, ["grow 3"]),
        (CustomSpec(3 * GIB), CustomSpec(2 * GIB), {"size": 2 * GIB}, {}, ["grow 3"]),
        (CustomSpec(3 * GIB), CustomSpec(2 * GIB), {"size": 2 * GIB}, {"replace": "Recreate"}, ["grow 3"]),
        (CustomSpec(3 * GIB, files=FILES), CustomSpec(files=FILES), {"size": GIB}, {}, ["grow 3"]),
        (
            CustomSpec(3 * GIB),
            CustomSpec(2 * GIB),
            {"size": 3 * GIB, "filesystem": 2 * GIB},
            {},
            ["FilesystemSmallerThanDevice"],
        ),
        (CustomSpec(3 * GIB), None, {"size": 3 * GIB, "filesystem": GIB}, {}, ["FilesystemSmallerThanDevice"]),
        (CustomSpec(GIB), None, {}, {}, []),
        (CustomSpec(3 * GIB, files=FILES), CustomSpec(2 * GIB), {"size": 2 * GIB}, {}, ["grow 3", "SnapshotOutdated"]),
        (CustomSpec(3 * GIB, files=FILES), None, {}, {"replace": "Recreate"}, ["replace 3"]),
        (CustomSpec(2 * GIB), CustomSpec(3 * GIB), {"size": 3 * GIB}, {}, ["ShrinkUnsupported"]),
        (None, CustomSpec(3 * GIB), {"size": 3 * GIB}, {}, ["ShrinkUnsupported"]),
        (None, CustomSpec(3 * GIB), {"size": 3 * GIB}, {"replace": "Recreate"}, ["replace 1"]),
        (
            CustomSpec(2 * GIB),
            CustomSpec(2 * GIB),
            {"size": 3 * GIB, "filesystem": 2 * GIB},
            {"replace": "OnRelease"},
            ["replace 2", "FilesystemSmallerThanDevice"],
        ),
        (CustomSpec(3 * GIB), CustomSpec(2 * GIB), {"size": 2 * GIB}, SET, ["replace 3"]),
        (CustomSpec(2 * GIB), CustomSpec(3 * GIB), {"size": 3 * GIB}, SET, ["replace 2"]),
    ],
)
def test_a_size_that_is_declared_anew(
    declared: CustomSpec | None, created: CustomSpec | None, row: Mapping[str, int], image: Mapping[str, Any], expected: list[str]
) -> None:
    assert outcome(planned(declared, created, row, image)) == expected


def test_a_claimed_snapshot_grows_and_is_recycled_later() -> None:
    found = planned(CustomSpec(3 * GIB), CustomSpec(2 * GIB), {"size": 2 * GIB}, SET, claims={"s": "claimed"})

    assert outcome(found) == ["grow 3"]


def test_an_inactive_snapshot_is_activated_first() -> None:
    found = planned(CustomSpec(3 * GIB), None, {}, {}, idle={"s": "not active"})

    assert [one.verb.value for one in found.actions] == ["activate"]


def test_an_image_of_another_size_is_another_chain_and_no_growth() -> None:
    assert outcome(planned(None, None, {}, {"gib": 2}))[-1] == "SnapshotOutdated"
    assert "ShrinkUnsupported" not in outcome(
        planned(CustomSpec(files=FILES), CustomSpec(files=FILES), {"size": 2 * GIB}, {"gib": 3})
    )
