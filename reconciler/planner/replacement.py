"""Outdated snapshots, whose image has another chain now, and their replacement by the image's ``replacePolicy``.

An inactive snapshot is activated first while its new base does not exist yet: building the base can fail. A snapshot that was
deactivated by an interrupted replacement is replaced without that.

While a layer is unresolved, so is the chain: the snapshots that another chain would replace get provisional actions, so that
nothing is destroyed that no plan has shown. They are never carried out: the plan that follows the resolved layer replaces them.

Called by ``plan`` and the controller. Pure: the holders of ``candidates`` are observed before the plan is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from reconciler.model import Action, Desired, Finding, Key, Kind, Observed, ReplacePolicy, Severity, SnapshotRow, Verb
from reconciler.planner.blocked import goal_or_blocked
from reconciler.planner.goals import volume_name
from reconciler.planner.inputs import Goal, Inputs


def candidates(desired: Desired, observed: Observed, selection: Collection[str] | None = None) -> Iterator[SnapshotRow]:
    """The snapshots whose holders have to be observed before a plan is made."""
    images = [
        image
        for name, image in sorted(desired.images.items())
        if image.replace is not ReplacePolicy.KEEP and not image.suspend and (selection is None or name in selection)
    ]
    if not images:
        return
    inputs = Inputs.of(desired, observed)
    for image in images:
        goal = goal_or_blocked(image, inputs)
        if isinstance(goal, Goal):
            yield from outdated(goal, inputs)


def outdated(goal: Goal, inputs: Inputs) -> Iterator[SnapshotRow]:
    """Intact snapshots of the image that are based on another chain than the declared one, or may be once that is resolved."""
    image = goal.image
    for name in dict.fromkeys(image.snapshots):
        key = image.pool, name
        row = inputs.observed.snapshots.get(key)
        if row is None or row.chain == goal.chain or inputs.owners[key] != image.name:
            continue
        if not inputs.snapshot(key) and not inputs.unrecognised(key):
            yield row


def replacements(goal: Goal, inputs: Inputs, after: tuple[Key, ...]) -> Iterator[Action]:
    image = goal.image
    for row in outdated(goal, inputs):
        if _is_due(goal, row, inputs):
            yield Action(
                Verb.REPLACE,
                Kind.SNAPSHOT,
                row.name,
                _because(goal, row, inputs),
                pool=row.pool,
                image=image.name,
                chain=goal.chain,
                size=image.size,
                after=after,
                images=(image.name,),
                identity=row.identity,
            )


def _is_due(goal: Goal, row: SnapshotRow, inputs: Inputs) -> bool:
    if goal.image.replace is ReplacePolicy.KEEP or goal.stale:
        return False
    if goal.image.replace is ReplacePolicy.ON_RELEASE and (row.pool, row.name) in inputs.observed.holders:
        return False
    return inputs.snapshot_state((row.pool, row.name)).active or not inputs.volume(goal.top)


def _because(goal: Goal, row: SnapshotRow, inputs: Inputs) -> str:
    holder = inputs.observed.holders.get((row.pool, row.name))
    used = f"; fails while it is in use by {holder}" if holder else ""
    discarded = "data written to it is discarded" if goal.chain else "data written to it is then discarded"
    return f"{_chains(goal, row)}; {discarded}{used}"


def of_goal(goal: Goal, inputs: Inputs) -> Iterator[Finding]:
    """Findings of outdated snapshots that are kept for now, and why."""
    keeps = goal.image.replace is ReplacePolicy.KEEP
    for row in outdated(goal, inputs) if goal.chain or not keeps else ():
        holder = inputs.observed.holders.get((row.pool, row.name))
        if keeps or goal.stale:
            hint = "" if goal.stale else "its replacePolicy is Keep; OnRelease and Recreate replace it"
            yield Finding(Severity.NOTE, row.key, "SnapshotOutdated", f"{_chains(goal, row)}; it is kept", hint)
        elif goal.image.replace is ReplacePolicy.ON_RELEASE and holder:
            message = f"{_chains(goal, row)}; it is in use by {holder}, and is replaced once it is released"
            yield Finding(Severity.NOTE, row.key, "SnapshotInUse", message)
        elif not _is_due(goal, row, inputs):
            message = f"{_because(goal, row, inputs)}; it is activated first"
            yield Finding(Severity.NOTE, row.key, "SnapshotOutdated", message)


def _chains(goal: Goal, row: SnapshotRow) -> str:
    based, image = f"based on chain {volume_name(row.chain)}", goal.image.name
    if goal.chain is None:
        return f"{based}; replaced if image {image} has another chain once its layers are resolved"
    return f"{based}; image {image} is now at {volume_name(goal.chain)}"
