"""The planner: what is declared and what is there in, the exact plan out (``cases/plan``), and what holds of every plan."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.image.spec import GIB, Layer, S3Options, Source, chain_ids
from reconciler.model import (
    Action,
    Desired,
    ImageRow,
    ImageSpec,
    Kind,
    Observed,
    Plan,
    PoolObserved,
    PoolSpec,
    ReplacePolicy,
    Resolution,
    SnapshotRow,
    Verb,
    VolumeRow,
)
from reconciler.output.print_plan import action_line
from reconciler.planner.plan import plan
from reconciler.pool.driver import Condition, PoolState, SnapshotState, Trouble, VolumeState
from tests.support import planning
from tests.support.planning import LETTERS, SPACE, chain_id, plan_text

CASES = sorted((Path(__file__).parents[1] / "cases" / "plan").glob("*.yaml"))
CHAINS = ["+".join(letters) for n in (1, 2, 3) for letters in product(LETTERS, repeat=n)]
OLDER = [f"{chain}@1" for chain in ("a", "a+b", "c")]
PARTS = ("actions", "held", "blocked", "findings", "unchanged")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_plan_of_a_story(path: Path) -> None:
    """What a case does not mention is empty; nothing is left out."""
    case = yaml.safe_load(path.read_text())
    selection = case.get("selection")
    wanted = planning.desired(case.get("images", {}), case.get("declared_pools", case.get("pools", {"default": {}})))
    found = plan(
        replace(wanted, upgraded=case.get("upgraded", ())),
        planning.observed(case),
        prune=case.get("prune", False),
        selection=selection,
    )

    assert plan_text(found, planning.names([*CHAINS, *OLDER])) == {part: case["plan"].get(part, []) for part in PARTS}


def test_every_case_has_a_story() -> None:
    assert all(yaml.safe_load(path.read_text())["story"] for path in CASES)
    assert len(CASES) > 15


# ------------------------------------------------------------------------------------- worlds, and a host in them


POOLS = ("fast", "slow")
IMAGES = ("go", "node", "python")
SNAPSHOTS = ("s1", "s2", "s3", "s4")
SOURCES = tuple(
    Source(f"s3://bucket/{letter}", S3Options(endpoint)) for letter in LETTERS[:4] for endpoint in (None, "http://mirror")
)
SHORT_CHAINS = [chain for chain in CHAINS if set(chain) <= set("ab+")]


def contents(source: Source, etag: str | None) -> str:
    """The digest of what a source holds: the same ETag means the same bytes."""
    return (etag or source.bucket_key[1])[0] * 64


@dataclass(frozen=True)
class World:
    """What is declared and what is there, made from one number: drawing every field apart would take most of the tests' time."""

    seed: int
    wanted: Desired
    host: Observed
    prune: bool
    selection: frozenset[str] | None

    def __repr__(self) -> str:
        return f"world({self.seed})"


def world(seed: int) -> World:
    """Anything that can be observed, contradictions included: rows without files, files without rows, rows of lost pools."""
    draw = random.Random(seed)
    shares = {pool: draw.random() < 0.5 for pool in POOLS}
    images = {name: _image(name, draw) for name in some(IMAGES, draw)}
    wanted = Desired({pool: PoolSpec(pool) for pool in POOLS}, images)
    volumes = [planning.volume_row(chain, _pool_name(draw), shares=draw.random() < 0.6) for chain in some(SHORT_CHAINS, draw)]
    snapshots = [_snapshot_row(name, draw) for name in some((*SNAPSHOTS, "old"), draw)]
    host = Observed(
        pools={name: _pool(name, shares[name], volumes, snapshots, draw) for name in POOLS if draw.random() < 0.95},
        images={name: _image_row(name, draw) for name in some((*IMAGES, "gone"), draw)},
        volumes={(row.pool, row.chain): row for row in volumes},
        snapshots={(row.pool, row.name): row for row in snapshots},
        resolutions={source: _resolution(source, draw) for source in some(SOURCES, draw)},
        holders={(row.pool, row.name): "process 1 (vm)" for row in snapshots if draw.random() < 0.3},
    )
    return World(seed, wanted, host, draw.random() < 0.5, frozenset(some(IMAGES, draw)) if draw.random() < 0.3 else None)


worlds = st.integers(0, 2**32).map(world)


def some(choices: Sequence[Any], draw: random.Random) -> list[Any]:
    return draw.sample(choices, draw.randint(0, len(choices)))


def _pool_name(draw: random.Random) -> str:
    return draw.choices((*POOLS, "lost"), (6, 6, 1))[0]


def _image(name: str, draw: random.Random) -> ImageSpec:
    sources = draw.choices(SOURCES, k=draw.choice((0, 1, 2, 2, 3)))
    layers = tuple(Layer(source, source.bucket_key[1] * 64 if draw.random() < 0.7 else None) for source in sources)
    size = draw.choice((GIB, GIB, 2 * GIB))
    retain, suspend = draw.random() < 0.2, draw.random() < 0.1
    snapshots, policy = tuple(some(SNAPSHOTS, draw)), draw.choice(list(ReplacePolicy))
    return ImageSpec(name, draw.choice(POOLS), size, layers, snapshots, retain=retain, suspend=suspend, replace=policy)


def _image_row(name: str, draw: random.Random) -> ImageRow:
    chain = chain_id(draw.choice(SHORT_CHAINS)) if draw.random() < 0.8 else None
    return ImageRow(name, _pool_name(draw), chain, GIB, draw.random() < 0.3)


def _snapshot_row(name: str, draw: random.Random) -> SnapshotRow:
    return SnapshotRow(_pool_name(draw), name, draw.choice((*IMAGES, "gone")), chain_id(draw.choice(SHORT_CHAINS)), "-")


def _resolution(source: Source, draw: random.Random) -> Resolution:
    if draw.random() < 0.15:
        return Resolution(source, error="no answer", reason="SourceUnavailable")
    etag = draw.choice(("c", "d", None))
    return Resolution(source, etag, 10 if etag else None, contents(source, etag) if draw.random() < 0.5 else None)


def _pool(
    name: str, shares: bool, volumes: Sequence[VolumeRow], snapshots: Sequence[SnapshotRow], draw: random.Random
) -> PoolObserved:
    if draw.random() < 0.1:
        return PoolObserved(name, shares, None, "it can't be read")
    known = [row.chain for row in volumes if row.pool == name] + [chain_id(chain) for chain in some(SHORT_CHAINS, draw)[:2]]
    copies = [row.name for row in snapshots if row.pool == name] + some((*SNAPSHOTS, "old", "stray"), draw)[:2]
    bad = [c for c in Condition if c is not Condition.INTACT]
    state = PoolState(
        SPACE,
        {chain: VolumeState(chain, draw.choice((Condition.INTACT, *bad)), f"/{chain}") for chain in known if draw.random() < 0.9},
        {
            one: SnapshotState(one, draw.choice((Condition.INTACT, *bad)), f"/{one}", draw.random() < 0.7)
            for one in copies
            if draw.random() < 0.9
        },
        foreign=("/somebody's",),
        orphans=("thin id 7",) if draw.random() < 0.1 else (),
        troubles=(_trouble(draw),) if draw.random() < 0.15 else (),
        unready="not assembled" if draw.random() < 0.2 else "",
        metadata=SPACE if draw.random() < 0.5 else None,
    )
    return PoolObserved(name, shares, state)


def _trouble(draw: random.Random) -> Trouble:
    return Trouble("PoolReadOnly", "it is read-only", halts=draw.random() < 0.8, removes=draw.random() < 0.5)


def carry_out(action: Action, wanted: Desired, host: Observed) -> Observed:
    """What becomes of a host when an action succeeds. Actions without a chain can't be carried out yet."""
    if action.verb is Verb.RESOLVE:
        return _resolve(action.layers[0].source, host)
    if action.verb is Verb.FORGET:
        return replace(host, images=_without(host.images, action.name))
    if action.verb is Verb.ASSEMBLE:
        state = host.pools[action.name].state
        assert state and state.unready
        return _with_state(host, action.name, replace(state, unready="", troubles=()))
    if action.chain is None:
        return host
    if action.verb is Verb.RECORD and action.kind is Kind.SNAPSHOT:
        key = action.pool, action.name
        return replace(host, snapshots={**host.snapshots, key: replace(host.snapshots[key], image=action.image)})
    if action.verb is Verb.RECORD:
        spec = wanted.images[action.name]
        row = ImageRow(spec.name, spec.pool, action.chain, spec.size, spec.retain)
        return replace(host, images={**host.images, spec.name: row})
    if action.kind is Kind.VOLUME:
        return _volume(action, host)
    return _snapshot(action, wanted, host)


def _resolve(source: Source, host: Observed) -> Observed:
    before = host.resolutions.get(source, Resolution(source))
    return replace(host, resolutions={**host.resolutions, source: replace(before, digest=contents(source, before.etag))})


def _volume(action: Action, host: Observed) -> Observed:
    assert action.chain
    state, key = host.pools[action.pool].state, (action.pool, action.chain)
    assert state, "what can't be read is in no action"
    assert not state.unready, "the pool was assembled before"
    assert_permitted(action, state)
    if action.verb is Verb.REMOVE:
        state = replace(state, volumes=_without(state.volumes, action.chain))
        return _with_state(replace(host, volumes=_without(host.volumes, key)), action.pool, state)
    if action.parent is not None:
        assert state.volumes[action.parent].condition is Condition.INTACT, "a child is built on a sound parent"
    digests = tuple(layer.sha256 or "" for layer in action.layers)
    assert chain_ids(action.size, digests)[-1] == action.chain, "the layers make the chain that the action names"
    row = VolumeRow(action.pool, action.chain, action.parent, action.size, digests, "-")
    made = VolumeState(action.chain, Condition.INTACT, "")
    state = replace(state, volumes={**state.volumes, action.chain: made})
    return _with_state(replace(host, volumes={**host.volumes, key: row}), action.pool, state)


def assert_permitted(action: Action, state: PoolState) -> None:
    halted = state.halted
    assert halted is None or (halted.removes and action.verb is Verb.REMOVE), "nothing is changed in a pool that is halted"


def _snapshot(action: Action, wanted: Desired, host: Observed) -> Observed:
    assert action.chain
    state, key = host.pools[action.pool].state, (action.pool, action.name)
    assert state
    if action.verb is Verb.ACTIVATE:
        active = replace(state.snapshots[action.name], active=True)
        return _with_state(host, action.pool, replace(state, snapshots={**state.snapshots, action.name: active}))
    assert not state.unready, "the pool was assembled before"
    assert_permitted(action, state)
    if action.verb is Verb.REMOVE:
        state = replace(state, snapshots=_without(state.snapshots, action.name))
        return _with_state(replace(host, snapshots=_without(host.snapshots, key)), action.pool, state)
    assert state.volumes[action.chain].condition is Condition.INTACT, "a snapshot is made from a sound volume"
    assert action.image in host.images, "a snapshot's image has a row"
    if action.verb is Verb.REPLACE:
        assert_replaceable(action, wanted, host)
    row = SnapshotRow(action.pool, action.name, action.image, action.chain, "-")
    made = SnapshotState(action.name, Condition.INTACT, "", active=True)
    state = replace(state, snapshots={**state.snapshots, action.name: made})
    return _with_state(replace(host, snapshots={**host.snapshots, key: row}), action.pool, state)


def assert_replaceable(action: Action, wanted: Desired, host: Observed) -> None:
    row, policy = host.snapshots[action.pool, action.name], wanted.images[action.image].replace
    assert row.chain != action.chain
    assert row.identity == action.identity
    assert policy is not ReplacePolicy.KEEP
    assert policy is ReplacePolicy.RECREATE or (action.pool, action.name) not in host.holders, "it is in use"


def _with_state(host: Observed, pool: str, state: PoolState) -> Observed:
    return replace(host, pools={**host.pools, pool: replace(host.pools[pool], state=state)})


def _without(mapping: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    return {k: v for k, v in mapping.items() if k != key}


# ------------------------------------------------------------------------------------- what holds of every plan


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_carrying_out_plans_ends_with_an_empty_one(world: World) -> None:
    """Resolve, build, then remove what the new rows have set free: a few rounds, and then nothing is left to do."""
    host = world.host
    for _ in range(4):
        for action in plan(world.wanted, host, prune=world.prune).actions:
            host = carry_out(action, world.wanted, host)

    assert plan(world.wanted, host, prune=world.prune).actions == ()
    if world.prune:
        assert plan(world.wanted, host).held == ()


def needs(action: Action, actions: Sequence[Action]) -> set[str]:
    """The volume that a child or a snapshot is made from, where that is made too; what was made from a volume that goes.

    And the pool, where that has to be assembled.
    """
    return _made_of(action, actions) | {a.key for a in actions if a.verb is Verb.ASSEMBLE and a.name == action.pool}


def _made_of(action: Action, actions: Sequence[Action]) -> set[str]:
    volumes = {(a.pool, a.chain): a.key for a in actions if a.kind is Kind.VOLUME and a.chain}
    if action.verb is Verb.REMOVE and action.kind is Kind.VOLUME:
        copies = {a.key for a in actions if a.kind is Kind.SNAPSHOT and (a.pool, a.chain) == (action.pool, action.chain)}
        return copies & {a.key for a in actions if a.verb is Verb.REMOVE}
    if action.verb in (Verb.REMOVE, Verb.ACTIVATE):
        return set()
    origin = action.parent if action.kind is Kind.VOLUME else action.chain if action.kind is Kind.SNAPSHOT else None
    return {volumes[action.pool, origin]} if origin and (action.pool, origin) in volumes else set()


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_actions_come_after_what_they_need(world: World) -> None:
    found = plan(world.wanted, world.host, prune=world.prune, selection=world.selection)
    for actions in (found.actions, found.held):
        assert len({action.key for action in actions}) == len(actions)
    for actions in (found.actions, (*found.actions, *found.held)):
        keys = [action.key for action in actions]
        for at, action in enumerate(actions):
            assert needs(action, actions) <= set(action.after) <= set(keys[:at]), action


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_without_prune_nothing_is_removed_and_the_rest_is_the_same(world: World) -> None:
    without, pruning = (plan(world.wanted, world.host, prune=prune) for prune in (False, True))

    assert not {action.verb for action in without.actions} & {Verb.REMOVE, Verb.FORGET}
    going = {action.key for action in without.held}
    staying = tuple(a for a in without.actions if not (a.verb is Verb.ACTIVATE and a.key in going))
    assert pruning.actions == staying + without.held


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_a_selection_removes_nothing_and_leaves_other_images_alone(world: World) -> None:
    selection = world.selection or frozenset()
    found = plan(world.wanted, world.host, prune=True, selection=selection)

    assert not found.held
    assert not {action.verb for action in found.actions} & {Verb.REMOVE, Verb.FORGET}
    assert all(set(action.images) <= selection for action in found.actions)
    assert {failure.name for failure in found.blocked} <= selection


def is_ours(action: Action, world: World) -> bool:
    """Declared, or registered and not replaced by something else."""
    host, pool = world.host, world.host.pools[action.pool]
    assert pool.state, "what can't be read is in no action"
    if action.verb is Verb.ACTIVATE:
        return (action.pool, action.name) in host.snapshots and pool.state.snapshots[action.name].condition is Condition.INTACT
    if action.verb is not Verb.REMOVE:
        return world.wanted.images[action.image].pool == action.pool and not world.wanted.images[action.image].suspend
    if action.kind is Kind.SNAPSHOT:
        state = pool.state.snapshots.get(action.name)
        return (action.pool, action.name) in host.snapshots and (not state or state.condition is not Condition.REPLACED)
    volume = pool.state.volumes.get(action.chain or "")
    return (action.pool, action.chain) in host.volumes and (not volume or volume.condition is not Condition.REPLACED)


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_nothing_foreign_is_named_by_an_action(world: World) -> None:
    for action in plan(world.wanted, world.host, prune=True).actions:
        if action.kind in (Kind.VOLUME, Kind.SNAPSHOT):
            assert is_ours(action, world), action


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_what_somebody_still_needs_is_not_removed(world: World) -> None:
    wanted, host = world.wanted, world.host
    going = [action for action in plan(wanted, host, prune=True).actions if action.verb is Verb.REMOVE]
    snapshots = {(a.pool, a.name) for a in going if a.kind is Kind.SNAPSHOT}
    volumes = {(a.pool, a.chain) for a in going if a.kind is Kind.VOLUME}
    keep = {row.image for row in host.snapshots.values() if row.image not in wanted.images}
    forgotten = {action.name for action in plan(wanted, host, prune=True).actions if action.verb is Verb.FORGET}
    declared = {(spec.pool, name) for spec in wanted.images.values() for name in spec.snapshots}
    retained = {name for name in keep if name in host.images and host.images[name].retain}

    assert not snapshots & declared
    assert not snapshots & {key for key, row in host.snapshots.items() if row.image in retained}
    assert not forgotten & {row.image for key, row in host.snapshots.items() if key not in snapshots | declared}
    assert not volumes & {(row.pool, row.chain) for key, row in host.snapshots.items() if key not in snapshots}
    assert not volumes & {(row.pool, row.chain) for name, row in host.images.items() if row.retain or name in wanted.images}


def back(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(reversed(list(mapping.items())))


def turned(host: Observed) -> Observed:
    def state(found: PoolState | None) -> PoolState | None:
        return found and replace(found, volumes=back(found.volumes), snapshots=back(found.snapshots))

    return replace(
        host,
        pools=back({name: replace(pool, state=state(pool.state)) for name, pool in host.pools.items()}),
        images=back(host.images),
        volumes=back(host.volumes),
        snapshots=back(host.snapshots),
        resolutions=back(host.resolutions),
    )


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_the_plan_does_not_depend_on_the_order_of_what_was_read(world: World) -> None:
    wanted, host = world.wanted, world.host
    other = replace(wanted, images=back(wanted.images), pools=back(wanted.pools))

    assert plan(other, turned(host), prune=world.prune) == plan(wanted, host, prune=world.prune)


@pytest.mark.parametrize("verb", Verb)
def test_every_verb_can_be_shown(verb: Verb) -> None:
    action = Action(verb, Kind.SNAPSHOT, "golang-0", "it differs")

    assert f"{verb} " in action_line(action)
    assert "snapshot/golang-0  it differs" in action_line(action)


def test_an_empty_host_with_nothing_declared_is_converged() -> None:
    assert plan(Desired({}, {}), Observed({})) == Plan()


def test_shared_layers_are_built_once_with_the_most_generous_limits() -> None:
    """The one that wants more is not refused because another, stricter image comes first in the alphabet."""
    wanted = planning.desired({"strict": {"layers": ["a", "b"]}, "wide": {"layers": ["a", "c"]}})
    strict, wide = wanted.images.values()
    strict = replace(strict, limits=replace(strict.limits, max_entries=10, max_depth=500))
    host = planning.observed({})

    found = plan(replace(wanted, images={"strict": strict, "wide": wide}), host)

    shared = next(action for action in found.actions if action.chain == chain_id("a"))
    assert shared.images == ("strict", "wide")
    assert (shared.limits.max_entries, shared.limits.max_depth) == (wide.limits.max_entries, 500)
    own = next(action for action in found.actions if action.chain == chain_id("a+b"))
    assert own.limits == strict.limits
    assert own.parent == shared.chain


def test_a_shared_volume_has_every_source_at_which_its_layers_are_declared() -> None:
    wanted = planning.desired({"one": {"layers": ["a", "b"]}, "three": {"layers": ["a", "b"]}, "two": {"layers": ["a"]}})
    mirror, file = Source("s3://images/b.tar", S3Options("http://mirror")), Source("/srv/a.tar")
    one, three, two = wanted.images.values()
    three = replace(three, layers=(three.layers[0], replace(three.layers[1], source=mirror)))
    two = replace(two, layers=(replace(two.layers[0], source=file),))

    found = plan(replace(wanted, images={"one": one, "two": two, "three": three}), planning.observed({}))

    (top,) = (action for action in found.actions if action.verb is Verb.BUILD and action.chain == chain_id("a+b"))
    assert top.layers == one.layers
    assert [layer.others for layer in top.layers] == [(), (mirror,)], "a file is no transfer"


def test_the_same_url_at_two_endpoints_is_two_layers() -> None:
    here, there = Source("s3://b/x.tar"), Source("s3://b/x.tar", S3Options("http://mirror"))
    spec = ImageSpec("go", "default", GIB, (Layer(here), Layer(there)))
    found = plan(Desired({"default": PoolSpec("default")}, {"go": spec}), planning.observed({}))

    resolves = [action for action in found.actions if action.verb is Verb.RESOLVE]
    assert {action.layers[0].source for action in resolves} == {here, there}
    assert len({action.key for action in resolves}) == 2


def test_five_hundred_snapshots_that_are_as_declared_need_nothing() -> None:
    names = [f"s{n}" for n in range(500)]
    wanted = planning.desired({"go": {"layers": ["a", "b", "c"], "snapshots": names}})
    host = planning.observed(
        {
            "registry": {
                "images": {"go": "a+b+c"},
                "volumes": ["a", "a+b", "a+b+c"],
                "snapshots": dict.fromkeys(names, "go at a+b+c"),
            }
        }
    )
    found = plan(wanted, host)

    assert not found.actions
    assert len(found.unchanged) == 504
