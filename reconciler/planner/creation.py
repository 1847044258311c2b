"""Actions that create: layers to resolve, volumes from the bottom up, then each image's row and its snapshots.

Called by ``plan``. Pure. An image whose layers are not all resolved gets actions without a chain: they show what will happen, and
the next plan, made once the layers are resolved, replaces them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from reconciler.image.spec import POLICIES, Limits, Source
from reconciler.model import Action, ImageSpec, Key, Kind, Verb
from reconciler.planner.goals import image_difference, volume_name
from reconciler.planner.inputs import Difference, Goal, Inputs, Place, Wanted
from reconciler.planner.replacement import replacements
from reconciler.planner.unpinned import fetches


def creations(goals: Sequence[Goal], inputs: Inputs) -> tuple[Action, ...]:
    """The actions that create, in dependency order; ``goals`` in the order of the images."""
    sources = fetches(_unresolved(goals), inputs.observed.resolutions)
    volumes = _volumes(goals, inputs)
    actions = {action.key: action for action in (*sources.values(), *volumes.values())}
    for goal in goals:
        top = volumes.get(goal.top) if goal.chain else _provisional(goal, inputs, sources, volumes)
        record = _record(goal, inputs, top)
        before = tuple(action for action in (top, record) if action)
        copies = (*_snapshots(goal, inputs, before), *replacements(goal, inputs, _keys(*before)))
        actions |= {action.key: action for action in (*before, *copies)}
    return tuple(actions.values())


def _keys(*actions: Action | None) -> tuple[Key, ...]:
    return tuple(dict.fromkeys(action.key for action in actions if action))


def _unresolved(goals: Sequence[Goal]) -> dict[Source, set[str]]:
    wanted: dict[Source, set[str]] = defaultdict(set)
    for goal in goals:
        for layer in goal.layers:
            if layer.sha256 is None:
                wanted[layer.source].add(goal.image.name)
    return wanted


def _volumes(goals: Sequence[Goal], inputs: Inputs) -> dict[Place, Action]:
    """Volumes whose chain is resolved; a shared one once, for all images that need it."""
    users: dict[Place, list[tuple[Goal, Wanted]]] = defaultdict(list)
    for goal in goals:
        for wanted in goal.volumes():
            users[wanted.key].append((goal, wanted))
    actions: dict[Place, Action] = {}
    for key, needs in users.items():
        if difference := inputs.volume(key):
            below = actions.get((key[0], needs[0][1].parent or ""))
            actions[key] = _volume(needs[0][1], [goal for goal, _ in needs], difference, below, inputs)
    return actions


def _volume(wanted: Wanted, goals: Sequence[Goal], difference: Difference, below: Action | None, inputs: Inputs) -> Action:
    pool, chain = wanted.key
    return Action(
        difference.verb,
        Kind.VOLUME,
        volume_name(chain),
        difference.because or image_difference(goals[0], inputs) or "not built yet",
        pool=pool,
        image=goals[0].image.name,
        chain=chain,
        parent=wanted.parent,
        size=goals[0].image.size,
        layers=wanted.layers,
        limits=_most_generous([goal.image.limits for goal in goals]),
        after=_keys(below),
        images=tuple(goal.image.name for goal in goals),
    )


def _most_generous(limits: Sequence[Limits]) -> Limits:
    """The limits for a volume that several images share: a layer that one of them accepts is built for all."""
    generous = {
        field.name: max(getattr(one, field.name) for one in limits) for field in fields(Limits) if field.name not in POLICIES
    }
    return replace(limits[0], **generous)


def _provisional(goal: Goal, inputs: Inputs, sources: Mapping[Source, Action], volumes: Mapping[Place, Action]) -> Action:
    """The top volume of an image whose chain is not resolved yet, named after the image."""
    image = goal.image
    parent = goal.chains[-1] if goal.shares and goal.chains else None
    return Action(
        Verb.BUILD,
        Kind.VOLUME,
        image.name,
        f"{image_difference(goal, inputs)}; its chain id follows from its layers' digests",
        pool=image.pool,
        image=image.name,
        parent=parent,
        size=image.size,
        layers=goal.layers,
        limits=image.limits,
        after=_keys(
            *(sources[layer.source] for layer in goal.layers if layer.sha256 is None), volumes.get((image.pool, parent or ""))
        ),
        images=(image.name,),
    )


def _record(goal: Goal, inputs: Inputs, top: Action | None) -> Action | None:
    """The image's row, once its top volume is there."""
    because = image_difference(goal, inputs)
    if not because or goal.chain is None:
        return None
    image = goal.image.name
    return Action(
        Verb.RECORD,
        Kind.IMAGE,
        image,
        because,
        image=image,
        chain=goal.chain,
        size=goal.image.size,
        after=_keys(top),
        images=(image,),
    )


def _difference(image: ImageSpec, name: str, inputs: Inputs) -> Difference | None:
    """How a snapshot differs. Last check: its row names another image, whose removal would remove the snapshot."""
    key = image.pool, name
    row, difference = inputs.observed.snapshots.get(key), inputs.snapshot(key)
    found = inputs.snapshot_state(key)
    if difference or row is None or row.image == image.name or not found.active or inputs.unrecognised(key):
        return difference
    return Difference(Verb.RECORD, f"moved from image {row.image}")


def _snapshots(goal: Goal, inputs: Inputs, before: Sequence[Action]) -> Iterator[Action]:
    """Snapshots, after the image's row: it has the policy for their removal."""
    image = goal.image
    for name in dict.fromkeys(image.snapshots):
        difference = _difference(image, name, inputs)
        place = image.pool, name
        if difference and inputs.owners[place] == image.name:
            yield Action(
                difference.verb,
                Kind.SNAPSHOT,
                name,
                difference.because,
                pool=image.pool,
                image=image.name,
                chain=inputs.snapshot_state(place).made or goal.chain,
                size=image.size,
                after=_keys(*before),
                images=(image.name,),
                identity=inputs.observed.asides.get(place, "") if inputs.unrecognised(place) else "",
            )
