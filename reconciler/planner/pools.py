"""What has to be done for a pool as a whole, and what may not be done in one that is in trouble.

A pool that is not ready is assembled first, and everything else in it waits for that: what it holds is only known afterwards, so
those actions are provisional. In a pool that is halted nothing is made, replaced or removed; its snapshots are still activated,
because that changes nothing. It is assembled, too, where its driver says that it can be: a full one grows that way. A pool that
no image of this host uses, and that holds nothing, is not made: hosts share their manifests. A snapshot that the registry has and
the kernel has not is activated whether it is declared or not: what was made stays as it was until it is pruned. Only those of an
image with ``suspend`` are left alone, also after a reboot.

Called by ``plan``. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from reconciler.model import Action, Failure, Kind, Verb
from reconciler.planner.facts import Facts, Goal
from reconciler.pool.driver import Condition


def assembling(facts: Facts, chosen: Collection[str] | None) -> Iterator[Action]:
    """Pools that are in use and not ready. ``chosen`` as in ``activating``."""
    for name, pool in sorted(facts.observed.pools.items()):
        if pool.state and pool.state.unready:
            images = users_of(name, facts) if chosen is None else users_of(name, facts) & set(chosen)
            if images or (chosen is None and in_use(name, facts)):
                yield Action(Verb.ASSEMBLE, Kind.POOL, name, pool.state.unready, images=tuple(sorted(images)))


def in_use(pool: str, facts: Facts) -> bool:
    return bool(users_of(pool, facts)) or any(row.pool == pool for row in facts.observed.volumes.values())


def users_of(pool: str, facts: Facts) -> set[str]:
    """The images, declared or recorded, that the pool has or will have something of; without those that are suspended."""
    images, host = facts.desired.images, facts.observed
    declared = {name for name, image in images.items() if image.pool == pool}
    recorded = {name for name, row in host.images.items() if row.pool == pool}
    recorded |= {row.image for row in host.snapshots.values() if row.pool == pool}
    return {name for name in declared | recorded if name not in images or not images[name].suspend}


def after(assembled: Iterable[Action], actions: Iterable[Action]) -> Iterator[Action]:
    """The actions, those in a pool that is yet to be assembled behind that."""
    keys = {action.name: action.key for action in assembled}
    for action in actions:
        yield replace(action, after=(keys[action.pool], *action.after)) if action.pool in keys else action


def activating(facts: Facts, chosen: Collection[str] | None, going: Iterable[Action]) -> Iterator[Action]:
    """Snapshots that are whole and not active. ``chosen`` are the images that the plan is about (None: all of them).

    Those that are ``going``, or to be replaced, need not come back.
    """
    elsewhere = {action.key for action in going}
    for (pool, name), row in sorted(facts.observed.snapshots.items()):
        owner = facts.claims.get((pool, name), row.image)
        spec, found = facts.desired.images.get(owner), facts.snapshot_state((pool, name))
        if (spec and spec.suspend) or (chosen is not None and owner not in chosen):
            continue
        state = facts.state(pool)
        if found.condition is Condition.INTACT and not found.active and state and state.reachable:
            because, images = found.detail or "not active", (owner,)
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
            )
            if action.key not in elsewhere:
                yield action


def stranded(facts: Facts) -> Iterator[str]:
    """Images with a snapshot that is whole, and that can't be activated: its pool is not up, and does not come up."""
    for (pool, name), row in facts.observed.snapshots.items():
        state = facts.state(pool)
        if state and state.halted and not state.reachable:
            found = facts.snapshot_state((pool, name))
            if found.condition is Condition.INTACT and not found.active:
                yield facts.claims.get((pool, name), row.image)


def halted(goals: Iterable[Goal], made: Iterable[Action], assembled: Iterable[Action], facts: Facts) -> tuple[Failure, ...]:
    """Images for which something would have to be made or activated in a pool where it can't be, now or once it is assembled."""
    wanting = {image for action in made if action.pool and action.verb is not Verb.RECORD for image in action.images}
    wanting.update(stranded(facts))
    changing = {action.name for action in assembled}
    found = []
    for goal in goals:
        state = facts.state(goal.image.pool)
        if state and state.halted and goal.image.name in wanting and goal.image.pool not in changing:
            found.append(Failure(Kind.IMAGE, goal.image.name, state.halted.reason, state.halted.message))
    return tuple(found)
