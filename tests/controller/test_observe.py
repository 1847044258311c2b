"""Observing: rows joined with what the pools hold, nothing unreadable taken for absent; and the phase that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.controller.observe import observe, phase
from reconciler.errors import HostCannot, SourceUnavailable
from reconciler.image.spec import MIB, Source, chain_ids
from reconciler.model import (
    Desired,
    Failure,
    ImageRow,
    Kind,
    Observed,
    Phase,
    Resolution,
    SnapshotMade,
    SnapshotRow,
    VolumeRow,
    VolumeSealed,
)
from reconciler.planner.plan import plan
from reconciler.pool.driver import Condition, PoolState
from reconciler.pool.file.pool import FilePool
from reconciler.registry.writer import Registry
from tests.support import planning
from tests.support.planning import chain_id


@dataclass
class Asked:
    """Answers for unpinned sources, and remembers what it was asked."""

    sources: list[Source] = field(default_factory=list)

    def __call__(self, sources: Sequence[Source]) -> Mapping[Source, Resolution]:
        self.sources += sources
        return {source: Resolution(source, '"etag"', 10) for source in sources}


@dataclass
class Rows:
    """What a registry remembers."""

    host: Observed = field(default_factory=lambda: Observed({}))

    def images(self) -> Mapping[str, ImageRow]:
        return self.host.images

    def volumes(self) -> Mapping[tuple[str, str], VolumeRow]:
        return self.host.volumes

    def snapshots(self) -> Mapping[tuple[str, str], SnapshotRow]:
        return self.host.snapshots

    def failures(self) -> Mapping[tuple[Kind, str], Failure]:
        return self.host.failures


class BrokenPool(FilePool):
    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        raise HostCannot("pool broken: can't read the pool: Permission denied", hint="check owner")


def test_rows_are_joined_with_what_the_pool_holds(tmp_path: Path) -> None:
    """On a real registry and a real pool: a sound volume, a snapshot whose file is gone, a file that no row knows."""
    pool = FilePool("default", tmp_path / "pool", 0)
    digests = ("a" * 64,)
    chain = chain_ids(MIB, digests)[-1]
    with pool.create_volume(chain, MIB, None) as volume:
        sealed = VolumeRow("default", chain, None, MIB, digests, volume.seal())
    rows = [SnapshotRow("default", name, "go", chain, pool.create_snapshot(name, chain)) for name in ("one", "two")]
    pool.create_snapshot("stray", chain)
    pool.remove_snapshot("two")
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        registry.record_image(ImageRow("go", "default", chain, MIB, False))
        registry.apply([VolumeSealed(sealed), *map(SnapshotMade, rows)])

        found = observe(planning.desired({}), registry, {"default": pool}, Asked())

    state = found.pools["default"].state
    assert state
    assert found.volumes == {("default", chain): sealed}
    assert found.snapshots == {("default", row.name): row for row in rows}
    assert state.volumes[chain].condition is Condition.INTACT
    assert {name: s.condition for name, s in state.snapshots.items()} == {
        "one": Condition.INTACT,
        "two": Condition.MISSING,
        "stray": Condition.REPLACED,
    }
    assert found.pools["default"].shares_blocks == pool.shares_blocks


def test_each_pool_is_asked_about_its_own_rows_only(tmp_path: Path) -> None:
    host = planning.observed({"registry": {"volumes": ["a", "b in other"], "snapshots": {"s": "go at b in other"}}})
    drivers = {name: FilePool(name, tmp_path / name, 0) for name in ("default", "other")}

    found = observe(planning.desired({}, drivers), Rows(host), drivers, Asked())

    states = {name: pool.state for name, pool in found.pools.items()}
    assert states["default"] and states["other"]
    assert (set(states["default"].volumes), set(states["default"].snapshots)) == ({chain_id("a")}, set())
    assert (set(states["other"].volumes), set(states["other"].snapshots)) == ({chain_id("b")}, {"s"})


def test_a_pool_that_cannot_be_read_has_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    drivers = {"broken": BrokenPool("broken", tmp_path / "broken", 0), "default": FilePool("default", tmp_path / "default", 0)}

    found = observe(planning.desired({}, ["broken", "default", "undriven"]), Rows(), drivers, Asked())

    assert found.pools["broken"].state is None
    assert found.pools["broken"].problem == "pool broken: can't read the pool: Permission denied (check owner)"
    assert found.pools["default"].state is not None
    assert found.pools["undriven"].state is None
    assert found.pools["undriven"].problem == "this host has no driver for pool undriven"


def test_a_pool_that_only_the_registry_remembers_is_read_where_it_has_a_driver(tmp_path: Path) -> None:
    found = observe(planning.desired({}, []), Rows(), {"old": FilePool("old", tmp_path / "old", 0)}, Asked())

    assert found.pools["old"].state is not None


def test_only_unpinned_layers_of_chosen_images_are_asked_for() -> None:
    wanted = planning.desired(
        {
            "go": {"layers": ["a", "~b", "~c"]},
            "node": {"layers": ["~c", "~d"]},
            "python": {"layers": ["~e"]},
            "resting": {"layers": ["~f"], "suspend": True},
        },
        [],
    )
    every, chosen = Asked(), Asked()

    found = observe(wanted, Rows(), {}, every)
    observe(wanted, Rows(), {}, chosen, selection={"node"})

    assert [source.url for source in every.sources] == [f"s3://images/{letter}.tar" for letter in "bcde"]
    assert [source.url for source in chosen.sources] == ["s3://images/c.tar", "s3://images/d.tar"]
    assert set(found.resolutions) == set(every.sources)


def test_pinned_layers_need_no_network() -> None:
    def unreachable(_: Sequence[Source]) -> Mapping[Source, Resolution]:
        raise AssertionError("asked for the network")

    assert observe(planning.desired({"go": {"layers": ["a", "b"]}}, []), Rows(), {}, unreachable).resolutions == {}


def test_sources_that_cannot_be_asked_say_why() -> None:
    def down(_: Sequence[Source]) -> Mapping[Source, Resolution]:
        raise SourceUnavailable("no route to host")

    found = observe(planning.desired({"go": {"layers": ["~b"]}}, []), Rows(), {}, down)

    [resolution] = found.resolutions.values()
    assert (resolution.error, resolution.reason) == ("no route to host", "SourceUnavailable")


# ------------------------------------------------------------------------------------------------------ phases

GO = {"go": {"layers": ["a"], "snapshots": ["s"]}}
READ_ONLY = {"reason": "PoolReadOnly", "message": "read-only"}
APPLIED = {"images": {"go": "a"}, "volumes": ["a"], "snapshots": {"s": "go at a"}}
A = chain_id("a")[:12]


def phase_of(
    case: Mapping[str, Any], *, running: Mapping[tuple[Kind, str], str] | None = None, failed: Sequence[Failure] = ()
) -> Phase:
    wanted: Desired = planning.desired(case.get("images", {}))
    host = replace(planning.observed(case), failures={(one.kind, one.name): one for one in failed})
    return phase("go", wanted, host, plan(wanted, host, prune=case.get("prune", False)), running)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"images": GO}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED}, Phase.READY),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"snapshots": {"s": "missing"}}}}, Phase.DEGRADED),
        (
            {"images": GO, "registry": APPLIED, "pools": {"default": {"volumes": {"a": "damaged"}}}},
            Phase.DEGRADED,
        ),
        ({"images": {"go": {"layers": ["b"], "snapshots": ["s"]}}, "registry": APPLIED}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"problem": "no permission"}}}, Phase.FAILED),
        ({"images": {"go": {"layers": ["~a"]}}, "sources": {"a": {"error": "no answer"}}}, Phase.FAILED),
        ({"images": {"go": {"layers": ["~a"]}}, "sources": {"a": {"error": "no answer"}}, "registry": APPLIED}, Phase.DEGRADED),
        ({"registry": APPLIED}, Phase.READY),
        ({"registry": APPLIED, "prune": True}, Phase.REMOVING),
        ({"images": {"go": {**GO["go"], "suspend": True}}, "registry": APPLIED}, Phase.READY),
        (
            {
                "images": {"go": {**GO["go"], "suspend": True}},
                "registry": APPLIED,
                "pools": {"default": {"snapshots": {"s": "missing"}}},
            },
            Phase.DEGRADED,
        ),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}}, Phase.DEGRADED),
        (
            {"images": {"go": {**GO["go"], "suspend": True}}, "registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}},
            Phase.DEGRADED,
        ),
        ({"registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}}, Phase.DEGRADED),
        ({"images": GO, "pools": {"default": {"unready": "never made"}}}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"unready": "rebooted"}}}, Phase.DEGRADED),
        ({"images": GO, "pools": {"default": {"troubles": [READ_ONLY]}}}, Phase.FAILED),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"troubles": [READ_ONLY]}}}, Phase.READY),
    ],
    ids=[
        "declared and not there yet",
        "all as declared",
        "a snapshot is missing",
        "its base is damaged",
        "a new layer is to be built",
        "its pool cannot be read",
        "its source is silent and it was never applied",
        "its source is silent and it lives on its last chain",
        "no longer declared, held without prune",
        "no longer declared, being pruned",
        "suspended and intact",
        "suspended and broken",
        "a snapshot is not active",
        "suspended, and its snapshot is not active",
        "no longer declared, and its snapshot is not active",
        "its pool is yet to be made",
        "its pool is not assembled since a reboot",
        "its pool is halted and it is not there yet",
        "its pool is halted and all is as declared",
    ],
)
def test_the_phase_of_an_image(case: Mapping[str, Any], expected: Phase) -> None:
    assert phase_of(case) is expected


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ({(Kind.VOLUME, A): "pending"}, Phase.PENDING),
        ({(Kind.VOLUME, A): "downloading"}, Phase.DOWNLOADING),
        ({(Kind.VOLUME, A): "validating"}, Phase.VALIDATING),
        ({(Kind.VOLUME, A): "provisioning"}, Phase.PROVISIONING),
        ({(Kind.SNAPSHOT, "s"): "snapshotting"}, Phase.SNAPSHOTTING),
        ({(Kind.SNAPSHOT, "s"): "snapshotting", (Kind.VOLUME, A): "validating"}, Phase.VALIDATING),
        ({(Kind.SNAPSHOT, "s"): "activating"}, Phase.SNAPSHOTTING),
        ({(Kind.POOL, "default"): "assembling"}, Phase.PENDING),
        ({(Kind.VOLUME, "somebody's"): "downloading"}, Phase.PENDING),
    ],
)
def test_the_run_that_is_least_far_decides(running: Mapping[tuple[Kind, str], str], expected: Phase) -> None:
    assert phase_of({"images": GO}, running=running) is expected


def test_an_image_whose_volume_failed_has_failed_until_it_is_tried_again() -> None:
    failed = [Failure(Kind.VOLUME, A, "DigestMismatch", "other bytes")]

    assert phase_of({"images": GO}, failed=failed) is Phase.FAILED
    assert phase_of({"images": GO}, failed=failed, running={(Kind.VOLUME, A): "downloading"}) is Phase.DOWNLOADING


def test_an_old_failure_of_what_is_there_now_does_not_count() -> None:
    assert phase_of({"images": GO, "registry": APPLIED}, failed=[Failure(Kind.VOLUME, A, "PoolFull", "")]) is Phase.READY
