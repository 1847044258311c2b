"""Observing: rows joined with what the pools hold, nothing unreadable taken for absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.engine.facts import SnapshotMade, VolumeSealed
from reconciler.errors import HostCannot, SourceUnavailable
from reconciler.host.observe import observe
from reconciler.image.spec import MIB, Source, chain_ids
from reconciler.model import Failure, ImageRow, Kind, Observed, Resolution, SnapshotRow, VolumeRow
from reconciler.pool.driver import Condition, PoolState
from reconciler.pool.file.pool import FilePool
from reconciler.registry.writer import Registry
from tests.support import planning
from tests.support.intents import KeptIntents
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
    pool = FilePool("default", tmp_path / "pool", 0, KeptIntents())
    digests = ("a" * 64,)
    chain = chain_ids(MIB, digests)[-1]
    with pool.create_volume(chain, MIB, None) as volume:
        sealed = VolumeRow("default", chain, None, MIB, digests, volume.seal())
    rows = [SnapshotRow("default", name, "go", chain, pool.create_snapshot(name, chain)) for name in ("one", "two")]
    pool.create_snapshot("stray", chain)
    pool.remove_snapshot("two")
    pool.intents.write({}, ["one", "two", "stray"])  # their rows replace them; that of the stray one was lost
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
    drivers = {name: FilePool(name, tmp_path / name, 0, KeptIntents()) for name in ("default", "other")}

    found = observe(planning.desired({}, drivers), Rows(host), drivers, Asked())

    states = {name: pool.state for name, pool in found.pools.items()}
    assert states["default"] and states["other"]
    assert (set(states["default"].volumes), set(states["default"].snapshots)) == ({chain_id("a")}, set())
    assert (set(states["other"].volumes), set(states["other"].snapshots)) == ({chain_id("b")}, {"s"})


def test_a_pool_that_cannot_be_read_has_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    drivers = {
        "broken": BrokenPool("broken", tmp_path / "broken", 0, KeptIntents()),
        "default": FilePool("default", tmp_path / "default", 0, KeptIntents()),
    }

    found = observe(planning.desired({}, ["broken", "default", "undriven"]), Rows(), drivers, Asked())

    assert found.pools["broken"].state is None
    assert found.pools["broken"].problem == "pool broken: can't read the pool: Permission denied (check owner)"
    assert found.pools["default"].state is not None
    assert found.pools["undriven"].state is None
    assert found.pools["undriven"].problem == "this host has no driver for pool undriven"


def test_a_pool_that_only_the_registry_remembers_is_read_where_it_has_a_driver(tmp_path: Path) -> None:
    old = {"old": FilePool("old", tmp_path / "old", 0, KeptIntents())}
    found = observe(planning.desired({}, []), Rows(), old, Asked())

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
