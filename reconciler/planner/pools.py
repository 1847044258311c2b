"""Actions on a whole pool, and the limits on actions in a pool with trouble.

A pool that is not ready is assembled first. All other actions in it wait for that and are provisional: its content is observed
afterwards. In a halted pool nothing is created, replaced or removed; snapshots are still activated, because that changes nothing.
It is assembled, too, where its driver allows that: a full pool grows that way. A pool that no image of this host uses, and that
holds nothing, is not created: hosts share their manifests. A snapshot that is in the registry and not in the kernel is activated
whether it is declared or not, until it is pruned. Snapshots of an image with ``suspend`` are not, also after a reboot.

Called by ``plan``. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from reconciler.dataclass import replace
from reconciler.image.custom import has_seed
from reconciler.model import Action, Failure, ImageSpec, Kind, Verb
from reconciler.planner.inputs import Goal, Inputs
from reconciler.pool.driver import Condition


def assemblies(inputs: Inputs, chosen: Collection[str] | None) -> Iterator[Action]:
    """Pools that are in use and not ready. ``chosen`` as in ``activations``."""
    for name, pool in sorted(inputs.observed.pools.items()):
        if pool.state and pool.state.unready:
            images = users_of(name, inputs) if chosen is None else users_of(name, inputs) & set(chosen)
            if images or (chosen is None and in_use(name, inputs)):
                yield Action(Verb.ASSEMBLE, Kind.POOL, name, pool.state.unready, images=tuple(sorted(images)))


def in_use(pool: str, inputs: Inputs) -> bool:
    return bool(users_of(pool, inputs)) or any(row.pool == pool for row in inputs.observed.volumes.values())


def users_of(pool: str, inputs: Inputs) -> set[str]:
    """The images, declared or recorded, with data in the pool now or after the plan; without those that `suspend` stops."""
    images, host = inputs.desired.images, inputs.observed
    declared = {name for name, image in images.items() if image.pool == pool and not image.scheduled}
    recorded = {name for name, row in host.images.items() if row.pool == pool}
    recorded |= {row.image for row in host.snapshots.values() if row.pool == pool}
    return {name for name in declared | recorded if not _stopped(images.get(name))}


def _stopped(image: ImageSpec | None) -> bool:
    """Whether not even what the image has is activated. What is scheduled for later goes on as it is until then."""
    return image is not None and image.suspend and not image.scheduled


def after(assembled: Iterable[Action], actions: Iterable[Action]) -> Iterator[Action]:
    """The actions, with those in a pool that is not assembled yet after its assembly."""
    keys = {action.name: action.key for action in assembled}
    for action in actions:
        yield replace(action, after=(keys[action.pool], *action.after)) if action.pool in keys else action


def activations(inputs: Inputs, chosen: Collection[str] | None, going: Iterable[Action]) -> Iterator[Action]:
    """Activations of intact snapshots. ``chosen`` are the images of the plan (None: all of them).

    Snapshots in ``going`` are removed or replaced instead.
    """
    elsewhere = {action.key for action in going}
    for (pool, name), row in sorted(inputs.observed.snapshots.items()):
        owner = inputs.owners.get((pool, name), row.image)
        spec, found = inputs.desired.images.get(owner), inputs.snapshot_state((pool, name))
        if _stopped(spec) or (chosen is not None and owner not in chosen):
            continue
        state = inputs.state(pool)
        if found.condition is Condition.INTACT and not found.active and state and state.reachable:
            because, images = found.detail or "not active", (owner,)
            custom, size = (row.custom, row.filesystem or row.size) if has_seed(row.custom) else ("", 0)
            action = Action(
                Verb.ACTIVATE,
                Kind.SNAPSHOT,
                name,
                because,
                pool=pool,
                image=owner,
                chain=row.chain,
                images=images,
                identity=row.identity,
                custom=custom,
                size=size,
            )
            if action.key not in elsewhere:
                yield action


def removable(actions: Iterable[Action], inputs: Inputs) -> tuple[Action, ...]:
    """The removals in pools that permit them now, of what is there or provably gone."""
    found = []
    for action in actions:
        state = inputs.state(action.pool)
        condition = inputs.snapshot_state((action.pool, action.name)).condition
        if state and not (state.halted and not state.halted.removes) and condition in (Condition.INTACT, Condition.MISSING):
            found.append(action)
    return tuple(found)


def stranded(inputs: Inputs) -> Iterator[str]:
    """Images with an intact snapshot that can't be activated, because its pool is down and can't be assembled."""
    for (pool, name), row in inputs.observed.snapshots.items():
        state = inputs.state(pool)
        if state and state.halted and not state.reachable:
            found = inputs.snapshot_state((pool, name))
            if found.condition is Condition.INTACT and not found.active:
                yield inputs.owners.get((pool, name), row.image)


def halted(goals: Iterable[Goal], made: Iterable[Action], assembled: Iterable[Action], inputs: Inputs) -> tuple[Failure, ...]:
    """Images that need an action in a halted pool, which assembling does not change."""
    wanting = {image for action in made if action.pool and action.verb is not Verb.RECORD for image in action.images}
    wanting.update(stranded(inputs))
    changing = {action.name for action in assembled}
    found = []
    for goal in goals:
        state = inputs.state(goal.image.pool)
        if state and state.halted and goal.image.name in wanting and goal.image.pool not in changing:
            found.append(Failure(Kind.IMAGE, goal.image.name, state.halted.reason, state.halted.message))
    return tuple(found)
