"""Actions that create: layers to resolve, volumes from the bottom up, then each image's row and its snapshots.

Called by ``plan``. Pure. An image whose layers are not all resolved gets actions without a chain: they show what will happen, and
the next plan, made once the layers are resolved, replaces them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from reconciler.dataclass import fields, replace
from reconciler.image.spec import POLICIES, ImageReference, Layer, Limits, Source
from reconciler.model import Action, ImageSpec, Key, Kind, Verb
from reconciler.planner import growth
from reconciler.planner.claims import Place
from reconciler.planner.goals import image_difference, volume_name
from reconciler.planner.growth import own_size
from reconciler.planner.inputs import Difference, Goal, Inputs, Wanted
from reconciler.planner.replacement import replacements
from reconciler.planner.unpinned import fetches
from reconciler.pool.driver import chain_and_custom


def creations(goals: Sequence[Goal], inputs: Inputs) -> tuple[Action, ...]:
    """The actions that create, in dependency order; ``goals`` in the order of the images."""
    sources = fetches(_unresolved(goals), inputs.observed.resolutions)
    archives = _archives(goals, inputs)
    volumes = _volumes(goals, inputs)
    actions = {action.key: action for action in (*sources.values(), *archives.values(), *volumes.values())}
    for goal in goals:
        archive = archives.get(goal.image.reference) if goal.image.reference else None
        top = volumes.get(goal.top) if goal.chain else _provisional(goal, inputs, sources, volumes, archive)
        record = _record(goal, inputs, top)
        after = _keys(top, record)
        actions |= zip(after, (action for action in (top, record) if action), strict=True)
        copies = {action.key: action for action in (*_snapshots(goal, inputs, after), *replacements(goal, inputs, after))}
        for action in growth.actions(goal, inputs):
            copies.setdefault(action.key, action)
        actions |= copies
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


def _archives(goals: Sequence[Goal], inputs: Inputs) -> dict[ImageReference, Action]:
    """For each reference whose archive is compressed, the action that decompresses it; the bytes of an archive count once."""
    users: dict[ImageReference, list[Goal]] = defaultdict(list)
    for goal in goals:
        if goal.image.reference:
            users[goal.image.reference].append(goal)
    actions: dict[ImageReference, Action] = {}
    names: dict[str, int] = defaultdict(int)
    counted: set[str] = set()
    for reference, wanted in users.items():
        resolution = inputs.observed.references.get(reference)
        if resolution is None or (packed := resolution.packed) is None:
            continue
        url, remote = reference.source.url, packed.archive.is_remote
        names[url] += 1
        actions[reference] = Action(
            Verb.RESOLVE,
            Kind.LAYER,
            url if names[url] == 1 else f"{url}#{names[url]}",
            f"compressed as a whole ({packed.form}): unresolved until {'fetched' if remote else 'decompressed'}",
            layers=(Layer(packed.archive),),
            unpack=reference,
            limits=_most_generous([goal.image.limits for goal in wanted]),
            images=tuple(goal.image.name for goal in wanted),
            fetch=packed.size if remote and packed.key not in counted else 0,
        )
        counted.add(packed.key)
    return actions


def _volumes(goals: Sequence[Goal], inputs: Inputs) -> dict[Place, Action]:
    """Volumes whose chain is resolved; a shared one once, for all images that need it."""
    users: dict[Place, list[tuple[Goal, Wanted]]] = defaultdict(list)
    for goal in goals:
        for wanted in goal.volumes:
            users[wanted.key].append((goal, wanted))
    actions: dict[Place, Action] = {}
    there = set(inputs.observed.spooled)
    for key, needs in users.items():
        if difference := inputs.volume(key):
            below = actions.get((key[0], needs[0][1].parent or ""))
            first = needs[0][1]
            if len(needs) > 1:
                first = replace(first, layers=_with_others([wanted.layers for _, wanted in needs]))
            fetch = _to_fetch(first.layers[-1 if first.parent else 0 :], there)
            actions[key] = _volume(first, [goal for goal, _ in needs], difference, below, inputs, fetch)
    return actions


def _to_fetch(layers: Sequence[Layer], there: set[str]) -> int:
    """Bytes of the layers that are neither in the spool nor fetched for an action before."""
    new = {layer.sha256: layer.size for layer in layers if _is_fetched(layer, there) and layer.sha256 not in there}
    there.update(filter(None, new))
    return sum(new.values())


def _is_fetched(layer: Layer, there: Collection[str]) -> bool:
    """Whether the layer's bytes are transferred; of an archive that is decompressed they are not, nor of one of this host."""
    if layer.source.packed is None:
        return layer.source.is_remote
    return layer.source.packed[1].is_remote and not layer.source.is_in(there)


def _volume(
    wanted: Wanted, goals: Sequence[Goal], difference: Difference, below: Action | None, inputs: Inputs, fetch: int
) -> Action:
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
        bytes_per_inode=goals[0].image.bytes_per_inode,
        after=_keys(below),
        images=tuple(goal.image.name for goal in goals),
        fetch=fetch,
    )


def _with_others(declared: Sequence[tuple[Layer, ...]]) -> tuple[Layer, ...]:
    """The layers of a volume as the first image declares them, each with the sources at which the others declare it."""
    found = []
    for same in zip(*declared, strict=True):
        elsewhere = (layer.source for layer in same if layer.source.is_remote and layer.source.packed is None)
        others = dict.fromkeys(source for source in elsewhere if source != same[0].source)
        found.append(replace(same[0], others=tuple(others)) if others else same[0])
    return tuple(found)


def _most_generous(limits: Sequence[Limits]) -> Limits:
    """The limits for a volume that several images share: a layer that one of them accepts is built for all."""
    if all(one == limits[0] for one in limits[1:]):
        return limits[0]
    generous = {
        field.name: max(getattr(one, field.name) for one in limits) for field in fields(Limits) if field.name not in POLICIES
    }
    return replace(limits[0], **generous)


def _provisional(
    goal: Goal,
    inputs: Inputs,
    sources: Mapping[Source, Action],
    volumes: Mapping[Place, Action],
    archive: Action | None,
) -> Action:
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
        bytes_per_inode=image.bytes_per_inode,
        after=_keys(
            *(sources[layer.source] for layer in goal.layers if layer.sha256 is None),
            archive,
            volumes.get((image.pool, parent or "")),
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
    if difference or row is None or row.image == image.name:
        return difference
    if not inputs.snapshot_state(key).active or inputs.unrecognised(key):
        return difference
    return Difference(Verb.RECORD, f"moved from image {row.image}")


def _snapshots(goal: Goal, inputs: Inputs, after: tuple[Key, ...]) -> Iterator[Action]:
    """Snapshots, after the image's row: it has the policy for their removal."""
    image = goal.image
    for name in dict.fromkeys(inputs.kept(image).names):
        difference = _difference(image, name, inputs)
        place = image.pool, name
        if difference and inputs.owners[place] == image.name:
            chain, custom = chain_and_custom(inputs.snapshot_state(place).made)
            yield Action(
                difference.verb,
                Kind.SNAPSHOT,
                name,
                difference.because,
                pool=image.pool,
                image=image.name,
                chain=chain or goal.chain,
                custom=custom if chain else inputs.custom(image, name),
                size=own_size(image, name),
                after=after,
                images=(image.name,),
                identity=inputs.observed.asides.get(place, "") if inputs.unrecognised(place) else "",
            )
