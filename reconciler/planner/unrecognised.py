"""Snapshots whose name belongs to a file or device that is not recognised as theirs: restored, swapped, cut short, or never ours.

A plan never moves, replaces or activates such an object: it may hold what can't be made again. The operator decides: `import`
keeps it, `retry --recreate` sets it aside. Called by ``plan``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reconciler.model import Failure, Finding, Key, Kind, Severity
from reconciler.planner.claims import Place
from reconciler.planner.inputs import Goal, Inputs
from reconciler.pool.driver import SnapshotState

REASON = "SnapshotUnrecognised"


def findings(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Finding]:
    for goal in goals:
        for place, found in _of_goal(goal, inputs):
            yield Finding(Severity.ERROR, Key(Kind.SNAPSHOT, *place), REASON, _message(found), _hint(goal, place, inputs))


def blocked(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Failure]:
    """A failure of each image that has one: its other snapshots are created as always."""
    for goal in goals:
        if names := [name for (_, name), _ in _of_goal(goal, inputs)]:
            what = "is not the one that was created" if len(names) == 1 else "are not those that were created"
            message = f"{', '.join(names)} {what}: see the finding{'s' if len(names) > 1 else ''}"
            yield Failure(Kind.IMAGE, goal.image.name, REASON, message)


def _of_goal(goal: Goal, inputs: Inputs) -> Iterator[tuple[Place, SnapshotState]]:
    for name in dict.fromkeys(goal.image.snapshots):
        place = goal.image.pool, name
        found = inputs.unrecognised(place)
        if found and place not in inputs.observed.asides and inputs.owners[place] == goal.image.name:
            yield place, found


def _message(found: SnapshotState) -> str:
    return f"{found.path} is not the snapshot that was created{f' ({found.detail})' if found.detail else ''}; it is left alone"


def _hint(goal: Goal, place: Place, inputs: Inputs) -> str:
    pool, name = place
    spec = inputs.desired.pools.get(pool)
    word = f"snapshot/{pool}/{name}"
    keep = f"reconcile adopt {pool}" if spec and spec.thin else f"reconcile import {word} --image {goal.image.name}"
    return f"`{keep}` keeps it, `reconcile retry --recreate {word}` sets it aside and creates the snapshot again"
