"""Outdated snapshots, which are declared with another chain or other files now, and their replacement.

The image's ``replacePolicy`` decides about it. An inactive snapshot is activated first while its new base does not exist yet:
building the base can fail. A snapshot that was deactivated by an interrupted replacement is replaced without that.

While a layer is unresolved, so is the chain: the snapshots that another chain would replace get provisional actions, so that
nothing is destroyed that no plan has shown. They are never carried out: the plan that follows the resolved layer replaces them.

Called by ``plan`` and the controller. Pure: the holders of ``candidates`` are observed before the plan is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from reconciler.model import (
    Action,
    Desired,
    Finding,
    ImageSpec,
    Key,
    Kind,
    Observed,
    ReplacePolicy,
    Severity,
    SnapshotRow,
    Verb,
)
from reconciler.planner import claims
from reconciler.planner.failed_requests import goal_or_blocked
from reconciler.planner.goals import volume_name
from reconciler.planner.growth import differs, own_size, policy_of
from reconciler.planner.inputs import Goal, Inputs
from reconciler.pool.driver import UNKNOWN_CHAIN


def candidates(desired: Desired, observed: Observed, selection: Collection[str] | None = None) -> Iterator[SnapshotRow]:
    """The snapshots whose holders have to be observed before a plan is made."""
    images = [
        image
        for name, image in sorted(desired.images.items())
        if not image.suspend and (selection is None or name in selection) and _may_change(image, observed)
    ]
    if not images:
        return
    inputs = Inputs.of(desired, observed)
    for image in images:
        goal = goal_or_blocked(image, inputs)
        if isinstance(goal, Goal):
            yield from claims.candidates(image, observed)
            yield from (row for row in outdated(goal, inputs) if policy_of(image, row.name) is not ReplacePolicy.KEEP)


def _may_change(image: ImageSpec, observed: Observed) -> bool:
    """Whether a snapshot of the image can be a candidate: without claims, a single one that is kept can't."""
    return bool(image.replace is not ReplacePolicy.KEEP or observed.claims or any(one.changes for one in image.sets))


def may_be_kept(action: Action) -> bool:
    """Whether it is a replacement that may turn out not to be due: what the snapshot would be made of is not known yet."""
    return action.provisional and action.verb is Verb.REPLACE


def outdated(goal: Goal, inputs: Inputs) -> Iterator[SnapshotRow]:
    """Intact snapshots of the image with another chain or other files than declared, or maybe so once the chain is resolved."""
    image = goal.image
    kept = inputs.kept(image)
    recycled = {row.name for row in (*kept.anew, *kept.waiting)}
    for name in dict.fromkeys(kept.names):
        key = image.pool, name
        row = inputs.observed.snapshots.get(key)
        if row is None or name in recycled or inputs.owners[key] != image.name or not differs(goal, row, inputs):
            continue
        if not inputs.snapshot(key) and not inputs.unrecognised(key):
            yield row


def replacements(goal: Goal, inputs: Inputs, after: tuple[Key, ...]) -> Iterator[Action]:
    """Of outdated snapshots, and of those whose claims have ended."""
    for row in outdated(goal, inputs):
        if _is_due(goal, row, inputs):
            yield _replacement(goal, row, _because(goal, row, inputs), inputs, after)
    for row in inputs.kept(goal.image).anew:
        place = row.pool, row.name
        if not inputs.snapshot(place) and not inputs.unrecognised(place) and inputs.owners[place] == goal.image.name:
            because = f"{inputs.observed.claims[place]} has ended; it is made from the base again"
            yield _replacement(goal, row, because, inputs, after)


def _replacement(goal: Goal, row: SnapshotRow, because: str, inputs: Inputs, after: tuple[Key, ...]) -> Action:
    image = goal.image
    return Action(
        Verb.REPLACE,
        Kind.SNAPSHOT,
        row.name,
        because,
        pool=row.pool,
        image=image.name,
        chain=goal.chain,
        custom=inputs.custom(image, row.name),
        size=own_size(image, row.name),
        after=after,
        images=(image.name,),
        identity=row.identity,
    )


def _is_due(goal: Goal, row: SnapshotRow, inputs: Inputs) -> bool:
    policy = policy_of(goal.image, row.name)
    if policy is ReplacePolicy.KEEP or goal.stale:
        return False
    if _is_awaited(row, policy, inputs):
        return False
    return inputs.snapshot_state((row.pool, row.name)).active or not inputs.volume(goal.top)


def _is_awaited(row: SnapshotRow, policy: ReplacePolicy, inputs: Inputs) -> bool:
    """Whether the snapshot is replaced once it is released. A claim is awaited with every policy."""
    place = row.pool, row.name
    holder = claims.holder(place, inputs.observed) if policy is ReplacePolicy.ON_RELEASE else ""
    return bool(holder) or claims.is_claimed(place, inputs.observed)


def _because(goal: Goal, row: SnapshotRow, inputs: Inputs) -> str:
    holder = claims.holder((row.pool, row.name), inputs.observed)
    used = f"; fails while it is in use by {holder}" if holder else ""
    discarded = "data written to it is discarded" if goal.chain else "data written to it is then discarded"
    return f"{_chains(goal, row)}; {discarded}{used}"


def of_goal(goal: Goal, inputs: Inputs) -> Iterator[Finding]:
    """Findings of outdated snapshots that are kept for now, and why."""
    for row in outdated(goal, inputs):
        policy, holder = policy_of(goal.image, row.name), claims.holder((row.pool, row.name), inputs.observed)
        keeps = policy is ReplacePolicy.KEEP
        if keeps and not goal.chain:
            continue
        if keeps or goal.stale:
            hint = "" if goal.stale else "its replacePolicy is Keep; OnRelease and Recreate replace it"
            if row.chain == UNKNOWN_CHAIN:
                hint = "`reconcile adopt` (thin pools) and `reconcile import` (file pools) have --chain to name it"
            yield Finding(Severity.NOTE, row.key, "SnapshotOutdated", f"{_chains(goal, row)}; it is kept", hint)
        elif _is_awaited(row, policy, inputs):
            message = f"{_chains(goal, row)}; it is in use by {holder}, and is replaced once it is released"
            yield Finding(Severity.NOTE, row.key, "SnapshotInUse", message)
        elif not _is_due(goal, row, inputs):
            message = f"{_because(goal, row, inputs)}; it is activated first"
            yield Finding(Severity.NOTE, row.key, "SnapshotOutdated", message)


def _chains(goal: Goal, row: SnapshotRow) -> str:
    known, image = row.chain != UNKNOWN_CHAIN, goal.image.name
    based = f"based on chain {volume_name(row.chain)}" if known else "based on an unknown chain"
    if row.chain == goal.chain:
        return "made with another size, other files or another identity than it is declared with now"
    if goal.chain is None:
        return f"{based}; replaced if image {image} has another chain once its layers are resolved"
    return f"{based}; image {image} is now at {volume_name(goal.chain)}"
