"""Findings: what users should see and no action changes. The reasons, for tools:

    PoolUnavailable  Foreign  Orphan  Leftover  Unregistered  PoolUnused             of pools and what they hold
    PoolLost  PoolSwapped  PoolOutdated  PoolForeign  RegistryOutdated  NameTaken    of thin pools that contradict the registry
    PoolFull  PoolReadOnly  PoolCheckRequired  PoolFailed  BlockSizeFixed  ShrinkUnsupported
    Suspended  LastKnownChain  DeclaredTwice  Unpinned  LayoutOutdated               of what is declared
    SnapshotOutdated  SnapshotInUse  PossibleRename                                  of what has changed
    Retained  Protected  GracePeriod  Replaced  PoolUnknown                          of what is no longer declared

Called by ``plan``. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from reconciler.image.spec import LAYOUT
from reconciler.model import Finding, ImageSpec, Key, Kind
from reconciler.planner import replacement
from reconciler.planner.goals import goal_of, volume_name
from reconciler.planner.inputs import Goal, Inputs, Place
from reconciler.planner.pools import in_use
from reconciler.pool.driver import Condition, PoolState


def of_pools(inputs: Inputs) -> Iterator[Finding]:
    wanted = {wanted.key for image in inputs.desired.images.values() for wanted in goal_of(image, inputs).volumes()}
    volumes, snapshots = wanted | inputs.observed.volumes.keys(), inputs.owners.keys() | inputs.observed.snapshots.keys()
    for name, pool in sorted(inputs.observed.pools.items()):
        if pool.state is None:
            yield Finding(Kind.POOL, name, "PoolUnavailable", pool.problem)
            continue
        yield from (Finding(Kind.POOL, name, trouble.reason, trouble.message) for trouble in pool.state.troubles)
        if pool.state.unready and not in_use(name, inputs):
            unused = "not assembled: no image of this host uses it, or only suspended ones"
            yield Finding(Kind.POOL, name, "PoolUnused", f"{unused}: {pool.state.unready}")
        yield from (Finding(Kind.POOL, name, "Foreign", text) for text in pool.state.foreign)
        for text in pool.state.orphans:
            yield Finding(Kind.POOL, name, "Orphan", f"{text}: orphaned, no longer in the registry; see `reconcile gc {name}`")
        for path in pool.state.leftovers:
            yield Finding(Kind.POOL, name, "Leftover", f"{path}: partial result of an interrupted run; the next run discards it")
        yield from _strays(name, pool.state, volumes, snapshots)


def _strays(pool: str, state: PoolState, volumes: AbstractSet[Place], snapshots: AbstractSet[Place]) -> Iterator[Finding]:
    """What the pool holds under names of ours, neither declared nor in the registry."""
    for chain, volume in sorted(state.volumes.items()):
        if volume.condition is not Condition.MISSING and (pool, chain) not in volumes:
            yield _stray(Key(Kind.VOLUME, pool, volume_name(chain)), volume.path)
    for name, snapshot in sorted(state.snapshots.items()):
        if snapshot.condition is not Condition.MISSING and (pool, name) not in snapshots:
            yield _stray(Key(Kind.SNAPSHOT, pool, name), snapshot.path)


def _stray(key: Key, path: str) -> Finding:
    message = f"{path}: neither declared nor in the registry; not touched"
    return Finding(key.kind, key.name, "Unregistered", message, key.pool)


def of_image(image: ImageSpec, inputs: Inputs) -> Iterator[Finding]:
    if image.suspend:
        yield Finding(Kind.IMAGE, image.name, "Suspended", "suspended: not built, repaired or removed")
        return
    for layer in image.layers:
        if layer.sha256 is None:
            found = inputs.observed.resolutions.get(layer.source)
            tracked = f"tracked by ETag {found.etag}" if found and found.etag else "ETag unknown"
            yield Finding(Kind.LAYER, layer.source.url, "Unpinned", f"unpinned: {tracked}; image {image.name} declares no sha256")


def of_renames(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Finding]:
    """A new image with the chain of one that is no longer declared: one finding for each pair, in order of name."""
    gone: dict[Place, list[str]] = defaultdict(list)
    for name, row in sorted(inputs.observed.images.items(), reverse=True):
        if name not in inputs.desired.images and row.chain:
            gone[row.pool, row.chain].append(name)
    for goal in goals if gone else ():
        image = goal.image.name
        if image not in inputs.observed.images and (same := gone.get(goal.top)):
            before = same.pop()
            how = f"reconcile state mv image/{before} image/{image}"
            message = f"has the layers of image {before}, which is no longer declared; if you renamed it, run `{how}`"
            yield Finding(Kind.IMAGE, image, "PossibleRename", message)


def of_goal(goal: Goal, inputs: Inputs) -> Iterator[Finding]:
    image = goal.image
    if goal.stale:
        last = f"it stays at its last known chain {volume_name(goal.chain or '')}"
        yield Finding(Kind.IMAGE, image.name, "LastKnownChain", f"{goal.stale}; {last}")
    if goal.layout != LAYOUT:
        message = f"its volumes have layout {goal.layout}; it gets layout {LAYOUT} with its next change of layers or size"
        yield Finding(Kind.IMAGE, image.name, "LayoutOutdated", message)
    for name in dict.fromkeys(image.snapshots):
        owner = inputs.owners[image.pool, name]
        if owner != image.name:
            message = f"declared by images {owner} and {image.name}; it belongs to {owner}"
            yield Finding(Kind.SNAPSHOT, name, "DeclaredTwice", message, image.pool)
    yield from replacement.of_goal(goal, inputs)
