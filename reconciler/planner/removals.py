"""Removals of what is no longer declared: snapshots first, then volumes (children before parents), then images.

Called by ``plan``. Pure. What is not proved to be ours, or has to be kept, becomes a finding instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from reconciler.claim import ClaimState
from reconciler.model import Action, Finding, Key, Kind, Severity, SnapshotRow, Verb, VolumeRow
from reconciler.planner.claims import Place
from reconciler.planner.goals import goal_of, volume_name
from reconciler.planner.inputs import Goal, Inputs
from reconciler.pool.driver import Condition

UNDECLARED = "no longer declared"
EXCESS = "more are ready than its count"
KEPT = "{}; kept, because the deletionPolicy of image {} is Retain (declare it with Delete to prune it)"


def removals(inputs: Inputs) -> tuple[tuple[Action, ...], tuple[Finding, ...]]:
    """What ``--prune`` removes, in dependency order, and what it keeps although no manifest declares it."""
    snapshots = {key: _snapshot(inputs, row, UNDECLARED) for key, row in _undeclared(inputs)}
    snapshots |= {(row.pool, row.name): _snapshot(inputs, row, EXCESS) for row in _excess(inputs)}
    going = {key: action for key, action in snapshots.items() if isinstance(action, Action)}
    volumes = _volumes(inputs, going)
    gone = {key: action for key, action in volumes.items() if isinstance(action, Action)}
    images = list(_images(inputs, going, gone))
    every = (*snapshots.values(), *volumes.values(), *images)
    return tuple(a for a in every if isinstance(a, Action)), tuple(f for f in every if isinstance(f, Finding))


def _undeclared(inputs: Inputs) -> Iterator[tuple[Place, SnapshotRow]]:
    for key, row in sorted(inputs.observed.snapshots.items(), key=lambda item: item[0]):
        spec = inputs.desired.images.get(row.image)
        if key not in inputs.owners and not (spec and spec.suspend):
            yield key, row


def _excess(inputs: Inputs) -> Iterator[SnapshotRow]:
    for _, image in sorted(inputs.desired.images.items()):
        if not image.suspend:
            yield from inputs.kept(image).excess


def _retained(inputs: Inputs, image: str) -> bool:
    """Whether the deletionPolicy is Retain: the declared one, else the last declared one."""
    owner = inputs.desired.images.get(image) or inputs.observed.images.get(image)
    return owner is not None and owner.retain


def _snapshot(inputs: Inputs, row: SnapshotRow, why: str) -> Action | Finding:
    if _retained(inputs, row.image):
        return Finding(Severity.NOTE, row.key, "Retained", KEPT.format(why, row.image))
    if row.image in inputs.observed.spared:
        return Finding(Severity.NOTE, row.key, *inputs.observed.spared[row.image])
    claim = inputs.observed.claims.get((row.pool, row.name))
    if claim and claim.state is ClaimState.CLAIMED:
        return Finding(Severity.WARNING, row.key, "SnapshotClaimed", f"{why}; kept until {claim} has ended")
    if obstacle := _obstacle(inputs, row, why):
        return Finding(Severity.WARNING, row.key, *obstacle)
    return Action(
        Verb.REMOVE,
        Kind.SNAPSHOT,
        row.name,
        _why(inputs, row.image, why),
        pool=row.pool,
        image=row.image,
        chain=row.chain,
        images=(row.image,),
    )


def _why(inputs: Inputs, image: str, why: str = UNDECLARED) -> str:
    return why + (f"; not pruned before {due}" if (due := inputs.observed.due.get(image)) else "")


def _obstacle(inputs: Inputs, row: VolumeRow | SnapshotRow, why: str = UNDECLARED) -> tuple[str, str] | None:
    """Why what a row names can't be removed: (reason, message)."""
    pool = inputs.observed.pools.get(row.pool)
    if pool is None:
        return (
            "PoolUnknown",
            f"{why}, and pool {row.pool} is not declared either: declare the pool again to remove it",
        )
    if pool.state is None:
        return "PoolUnavailable", f"{why}, but pool {row.pool} can't be read: {pool.problem}"
    if pool.state.halted and not pool.state.halted.removes:
        return pool.state.halted.reason, f"{why}, but its pool allows no removal now: {pool.state.halted.message}"
    found = (
        inputs.volume_state((row.pool, row.chain)) if isinstance(row, VolumeRow) else inputs.snapshot_state((row.pool, row.name))
    )
    if found.condition is Condition.UNKNOWN:
        return "PoolUnavailable", f"{why}, but {found.path} can't be examined: {found.detail}"
    if found.condition is Condition.REPLACED:
        return (
            "Replaced",
            f"{why}, but {found.path} was not created by reconcile ({found.detail}): move or delete it",
        )
    return None


def _volumes(inputs: Inputs, going: Mapping[Place, Action]) -> dict[Place, Action | Finding]:
    needed = _needed(inputs, going)
    unneeded = [row for key, row in inputs.observed.volumes.items() if key not in needed]
    removed: dict[Place, Action | Finding] = {}
    # Ordered by length, not by following parents: rows that name each other as parents must not stop the planner.
    for row in sorted(unneeded, key=lambda row: (-len(row.digests), row.pool, row.chain)):
        obstacle = _obstacle(inputs, row)
        removed[row.pool, row.chain] = (
            Finding(Severity.WARNING, Key(Kind.VOLUME, row.pool, volume_name(row.chain)), *obstacle)
            if obstacle
            else _volume(row, [*going.values(), *(a for a in removed.values() if isinstance(a, Action))])
        )
    return removed


def _volume(row: VolumeRow, earlier: Iterable[Action]) -> Action:
    made_of_it = (
        a.key for a in earlier if a.pool == row.pool and row.chain == (a.chain if a.kind is Kind.SNAPSHOT else a.parent)
    )
    return Action(
        Verb.REMOVE,
        Kind.VOLUME,
        volume_name(row.chain),
        "unused: no image declares it, and no snapshot is based on it",
        pool=row.pool,
        chain=row.chain,
        parent=row.parent,
        size=row.size,
        after=tuple(made_of_it),
    )


def _needed(inputs: Inputs, going: Collection[Place]) -> set[Place]:
    """Volumes of what is declared and of what is kept, with their parents."""
    goals: Sequence[Goal] = [goal_of(image, inputs) for image in inputs.desired.images.values()]
    kept = inputs.desired.images.keys() | inputs.observed.spared.keys()
    staying = [row for name, row in inputs.observed.images.items() if name in kept or row.retain]
    roots = {wanted.key for goal in goals for wanted in goal.volumes}
    roots |= {(row.pool, row.chain) for row in staying if row.chain}
    roots |= {(row.pool, row.chain) for key, row in inputs.observed.snapshots.items() if key not in going}
    needed: set[Place] = set()
    while roots:
        key = roots.pop()
        needed.add(key)
        row = inputs.observed.volumes.get(key)
        if row and row.parent and (row.pool, row.parent) not in needed:
            roots.add((row.pool, row.parent))
    return needed


def _images(inputs: Inputs, snapshots: Mapping[Place, Action], volumes: Mapping[Place, Action]) -> Iterator[Action | Finding]:
    for name, row in sorted(inputs.observed.images.items()):
        if name in inputs.desired.images:
            continue
        mine = {key for key, snapshot in inputs.observed.snapshots.items() if snapshot.image == name and key not in inputs.owners}
        data = [snapshots.get(key) for key in sorted(mine)]
        if row.retain:
            yield Finding(Severity.NOTE, Key(Kind.IMAGE, "", name), "Retained", KEPT.format(UNDECLARED, name))
        elif name in inputs.observed.spared:
            yield Finding(Severity.NOTE, Key(Kind.IMAGE, "", name), *inputs.observed.spared[name])
        elif None not in data:
            after = tuple(a.key for a in (*data, volumes.get((row.pool, row.chain or ""))) if a)
            yield Action(Verb.FORGET, Kind.IMAGE, name, _why(inputs, name), image=name, after=after, images=(name,))
