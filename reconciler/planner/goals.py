"""The goal of each image: its chain as far as it is resolved, its volumes, and how they differ from what was applied last.

Called by ``plan`` and the rest of ``planner``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile

from reconciler.dataclass import replace
from reconciler.image.spec import GIB, LAYOUT, OLDER_LAYOUTS, Layer, Source, chain_ids
from reconciler.model import ImageSpec, VolumeRow
from reconciler.planner.inputs import Goal, Inputs


def volume_name(chain: str) -> str:
    """The short name of a volume, for output."""
    return chain[:12]


def goal_of(image: ImageSpec, inputs: Inputs) -> Goal:
    """The goal with the layers that are resolved, whether or not it is reachable."""
    goal = inputs.goals.get(image.name)
    if goal is None or goal.image is not image:
        goal = inputs.goals[image.name] = _goal(image, inputs)
    return goal


def _goal(image: ImageSpec, inputs: Inputs) -> Goal:
    layers = resolved_layers(image, inputs.digests)
    pool = inputs.observed.pools.get(image.pool)
    goal = Goal(image, layers, chains(image, layers), shares=pool is not None and pool.shares_blocks)
    older = None if image.name in inputs.desired.upgraded else _of_older_layout(goal, inputs)
    return older or goal


def _of_older_layout(goal: Goal, inputs: Inputs) -> Goal | None:
    """The goal under an older layout, where the image's row names that chain and all its volumes are intact.

    A new layout alone rebuilds nothing: the image gets it with its next change, or where ``--upgrade-layout`` asks for it.
    """
    row = inputs.observed.images.get(goal.image.name)
    if row is None or row.chain is None or goal.chain is None or row.chain == goal.chain:
        return None
    for layout in OLDER_LAYOUTS:
        older = replace(goal, chains=chains(goal.image, goal.layers, layout), layout=layout)
        if older.chain == row.chain and not any(inputs.volume(wanted.key) for wanted in older.volumes):
            return older
    return None


def resolved_layers(image: ImageSpec, digests: Mapping[Source, str]) -> tuple[Layer, ...]:
    """The layers of an image, unpinned ones with the digest of their source where it is resolved."""
    return tuple(
        layer if layer.sha256 else replace(layer, sha256=digests.get(layer.source), learnt=True) for layer in image.layers
    )


def chains(image: ImageSpec, layers: Iterable[Layer], layout: int = LAYOUT) -> tuple[str, ...]:
    """The ids of an image's volumes from the bottom, as far as its layers are resolved."""
    digests = takewhile(bool, (layer.sha256 or "" for layer in layers))
    return chain_ids(image.size, digests, image.limits.policy, layout, image.bytes_per_inode)


def applied_layout(image: ImageSpec, inputs: Inputs) -> int:
    """The layout of the chain that the image's row names; the newest where there is none, or it can't be determined."""
    row = inputs.observed.images.get(image.name)
    volume = inputs.observed.volumes.get((row.pool, row.chain)) if row and row.chain else None
    for layout in OLDER_LAYOUTS if volume else ():
        if volume is None:
            continue
        ids = chain_ids(volume.size, volume.digests, image.limits.policy, layout, image.bytes_per_inode)
        if ids[-1:] == (volume.chain,):
            return layout
    return LAYOUT


def refetched(image: ImageSpec, inputs: Inputs) -> tuple[Layer, ...]:
    """The layers that an image has now and that are fetched again for a newer layout, each once."""
    row = inputs.observed.images.get(image.name)
    if row is None:
        return ()
    goal = goal_of(image, inputs)
    if goal.layout != LAYOUT or applied_layout(image, inputs) == LAYOUT:
        return ()
    had = inputs.observed.volumes[row.pool, row.chain or ""].digests
    missing = [wanted for wanted in goal.volumes if inputs.volume(wanted.key)]
    fetched = [layer for wanted in missing for layer in (wanted.layers[-1:] if goal.shares else wanted.layers)]
    return tuple({layer.sha256: layer for layer in fetched if layer.sha256 in had}.values())


# ------------------------------------------------------------------------------------------------ differences


def image_difference(goal: Goal, inputs: Inputs) -> str:
    """How the image's row differs from its declaration; empty where it doesn't."""
    image, row = goal.image, inputs.observed.images.get(goal.image.name)
    if row is None:
        return "declared for the first time"
    if row.pool != image.pool:
        return f"moved from pool {row.pool} to {image.pool}"
    if row.size != image.size:
        return f"its size changed from {_gib(row.size)} to {_gib(image.size)}"
    if row.chain != goal.chain:
        return _layers_difference(goal, inputs.observed.volumes.get((row.pool, row.chain or "")))
    return f"its deletionPolicy is now {'Retain' if image.retain else 'Delete'}" if row.retain != image.retain else ""


def _layers_difference(goal: Goal, old: VolumeRow | None) -> str:
    new = [layer.sha256 for layer in goal.layers]
    if None in new or not new:
        return "a layer may have changed"
    if old is None:
        return "its layers changed"
    if list(old.digests) == new:
        return f"its layers are rebuilt with layout {LAYOUT}"
    both = min(len(old.digests), len(new))
    same = next((n for n in range(both) if old.digests[n] != new[n]), both)
    if same == len(new):
        return f"its layers above number {same} were removed"
    return f"layer {same + 1} of {len(new)} {'was added' if same == len(old.digests) else 'changed'}"


def _gib(size: int) -> str:
    return f"{size / GIB:.6g} GiB"
