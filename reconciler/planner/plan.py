"""Desired x Observed -> Plan: every difference between what is declared and what is there, as actions in dependency order.

Pure: the same two values give the same plan, in whatever order their mappings were filled, and no combination of them raises.
Called by the controller (for apply, ``plan`` and ``--check`` alike). Keeps no state.

Rules for doubtful cases:

- What a claim keeps is in use. One that has ended needs no complete plan to be recycled, and its removal is no pruning. Unclaimed
  ones above ``count`` are removed by pruning alone: users may have booted them without a claim.
- Volumes are desired state too: a base that is missing is rebuilt even where all its snapshots are intact.
- A snapshot that is intact is replaced only by its image's ``replacePolicy``: otherwise an old chain is a finding.
- Where a source does not answer, an image that still matches its last chain keeps it, and is blocked where part of it is missing.
- What is not proved to be ours becomes a finding, never a removal: a file that replaced one of ours, a row in a pool that can't
  be read, a file without a row.
- The row of an image with deletionPolicy Retain stays when the image is no longer declared: the row has the policy,
  and without it the next ``--prune`` would remove the data. Declared again, the image has everything as it was.
- The chain that an image's row names is kept until the row has moved on: an update that fails leaves the old base in place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from reconciler.model import Action, Desired, Failure, Key, Kind, Observed, Plan, Verb
from reconciler.planner import claims, findings, growth, pools, unrecognised
from reconciler.planner.creation import creations
from reconciler.planner.failed_requests import goal_or_blocked
from reconciler.planner.goals import volume_name
from reconciler.planner.inputs import Goal, Inputs
from reconciler.planner.removals import removals


def plan(desired: Desired, observed: Observed, *, prune: bool = False, selection: Collection[str] | None = None) -> Plan:
    """The plan. With a ``selection`` (names of images) other images are not touched, and nothing is removed."""
    inputs = Inputs.of(desired, observed)
    chosen = [image for name, image in sorted(desired.images.items()) if selection is None or name in selection]
    found = [goal_or_blocked(image, inputs) for image in chosen if not image.suspend]
    every = [one for one in found if isinstance(one, Goal)]
    assembled = tuple(pools.assemblies(inputs, selection))
    wanted = creations(every, inputs)
    stopped = pools.halted(every, wanted, assembled, inputs)
    halted = {failure.name for failure in stopped}
    goals = [goal for goal in every if goal.image.name not in halted] if halted else every
    going, kept = removals(inputs) if selection is None else ((), ())
    due = creations(goals, inputs) if halted else wanted
    replaced = [action for action in due if action.verb is Verb.REPLACE]
    surplus = tuple(removal for goal in goals for removal in claims.removals(goal.image, inputs.kept(goal.image), observed))
    activated = tuple(pools.activations(inputs, selection, (*replaced, *surplus, *(going if prune else ()))))
    stuck = tuple(_blocked(goals, inputs))
    made = assembled + tuple(pools.after(assembled, activated + due + pools.removable(surplus, inputs)))
    going = tuple(pools.after(assembled, going))
    return Plan(
        actions=made + going if prune else made,
        held=() if prune else going,
        blocked=(*(one for one in found if isinstance(one, Failure)), *stopped, *stuck),
        findings=(
            *findings.of_pools(inputs),
            *(finding for image in chosen for finding in findings.of_image(image, inputs)),
            *(finding for goal in goals for finding in findings.of_goal(goal, inputs)),
            *unrecognised.findings(goals, inputs),
            *growth.findings(goals, inputs),
            *(one for goal in goals for one in claims.findings(goal.image, inputs.kept(goal.image), observed)),
            *findings.of_renames(goals, inputs),
            *kept,
        ),
        unchanged=tuple(sorted(_unchanged(goals, inputs, made, stuck))),
    )


def _blocked(goals: Sequence[Goal], inputs: Inputs) -> Iterator[Failure]:
    """Images with snapshots about which nothing can be done; the rest of them is planned as always."""
    yield from unrecognised.blocked(goals, inputs)
    yield from growth.blocked(goals, inputs)


def _unchanged(goals: Sequence[Goal], inputs: Inputs, made: Sequence[Action], stuck: Sequence[Failure]) -> Iterator[Key]:
    touched = {name for action in made for name in action.images}
    acted = {action.key for action in made}
    volumes = [key for key in {wanted.key for goal in goals for wanted in goal.volumes} if not inputs.volume(key)]
    snapshots = {(goal.image.pool, name) for goal in goals for name in inputs.kept(goal.image).names}
    touched |= {failure.name for failure in stuck}
    yield from (Key(Kind.IMAGE, "", goal.image.name) for goal in goals if goal.image.name not in touched)
    yield from (Key(Kind.VOLUME, pool, volume_name(chain)) for pool, chain in volumes)
    done = (Key(Kind.SNAPSHOT, *place) for place in snapshots if not inputs.snapshot(place) and not inputs.unrecognised(place))
    yield from (one for one in done if one not in acted)
    for name in {goal.image.pool for goal in goals}:
        state = inputs.state(name)
        if state and state.metadata and not state.unready and not state.halted:  # a pool that is more than a directory
            yield Key(Kind.POOL, "", name)
