"""Snapshots whose image has moved on to another chain, and what the image's ``replacePolicy`` makes of them.

A snapshot that is not active is brought back first where its new base is still to be made: that can fail. One that was taken
down in the middle of its replacement is not brought back, but replaced.

Called by ``planner`` and ``plan``. Pure: who holds a snapshot is among the facts, asked beforehand of those in ``candidates``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from reconciler.model import Action, Desired, Finding, Key, Kind, Observed, ReplacePolicy, SnapshotRow, Verb
from reconciler.planner.facts import Facts, Goal
from reconciler.planner.goals import outlook, volume_name


def candidates(desired: Desired, observed: Observed, selection: Collection[str] | None = None) -> Iterator[SnapshotRow]:
    """The snapshots of which it matters who holds them now."""
    images = [
        image
        for name, image in sorted(desired.images.items())
        if image.replace is not ReplacePolicy.KEEP and not image.suspend and (selection is None or name in selection)
    ]
    if not images:
        return
    facts = Facts.of(desired, observed)
    for image in images:
        goal = outlook(image, facts)
        if isinstance(goal, Goal):
            yield from outdated(goal, facts)


def outdated(goal: Goal, facts: Facts) -> Iterator[SnapshotRow]:
    """Snapshots of the image that are whole, and made from another chain than the one that is declared."""
    image = goal.image
    for name in dict.fromkeys(image.snapshots):
        key = image.pool, name
        row = facts.observed.snapshots.get(key)
        is_older = row is not None and goal.chain is not None and row.chain != goal.chain
        if row and is_older and facts.claims[key] == image.name and not facts.snapshot(key):
            yield row


def replacing(goal: Goal, facts: Facts, after: tuple[Key, ...]) -> Iterator[Action]:
    image = goal.image
    for row in outdated(goal, facts):
        if _is_due(goal, row, facts):
            yield Action(
                Verb.REPLACE,
                Kind.SNAPSHOT,
                row.name,
                _because(goal, row, facts),
                pool=row.pool,
                image=image.name,
                chain=goal.chain,
                size=image.size,
                after=after,
                images=(image.name,),
                identity=row.identity,
            )


def _is_due(goal: Goal, row: SnapshotRow, facts: Facts) -> bool:
    if goal.image.replace is ReplacePolicy.KEEP or goal.stale:
        return False
    if goal.image.replace is ReplacePolicy.ON_RELEASE and (row.pool, row.name) in facts.observed.holders:
        return False
    return facts.snapshot_state((row.pool, row.name)).active or not facts.volume(goal.top)


def _because(goal: Goal, row: SnapshotRow, facts: Facts) -> str:
    holder = facts.observed.holders.get((row.pool, row.name))
    used = f"; fails while it is in use by {holder}" if holder else ""
    return f"{_chains(goal, row)}; data written to it is discarded{used}"


def of_goal(goal: Goal, facts: Facts) -> Iterator[Finding]:
    """Outdated snapshots that stay as they are for now, and why."""
    for row in outdated(goal, facts):
        holder = facts.observed.holders.get((row.pool, row.name))
        if goal.image.replace is ReplacePolicy.KEEP or goal.stale:
            hint = "" if goal.stale else " (replacePolicy Keep; OnRelease and Recreate replace it)"
            yield Finding(Kind.SNAPSHOT, row.name, "SnapshotOutdated", f"{_chains(goal, row)}; it is kept{hint}", row.pool)
        elif goal.image.replace is ReplacePolicy.ON_RELEASE and holder:
            message = f"{_chains(goal, row)}; it is in use by {holder}, and is replaced once it is released"
            yield Finding(Kind.SNAPSHOT, row.name, "SnapshotInUse", message, row.pool)


def _chains(goal: Goal, row: SnapshotRow) -> str:
    return f"based on chain {volume_name(row.chain)}; image {goal.image.name} is now at {volume_name(goal.chain or '')}"
