"""What a failed HEAD request, of a layer or a tag (``host.head_requests``), means for its image.

It also decides where an image is blocked for its manifest or its pool. The image keeps the chain that was applied last where
that is intact, and is blocked with the failure otherwise; also where the source was read, and what is in it is refused: then
the image has failed, whether its archive is plain or compressed. Called by ``plan`` and ``replacement``. Pure.
"""

from __future__ import annotations

from reconciler.dataclass import replace
from reconciler.errors import DigestMismatch, ImageRefused, LayerCorrupt, LayerRefused, PolicyRefused
from reconciler.image.spec import ImageReference
from reconciler.model import Failure, ImageSpec, Kind, Severity
from reconciler.planner.goals import goal_of
from reconciler.planner.inputs import Goal, Inputs

REFUSED = frozenset(error.reason for error in (PolicyRefused, ImageRefused, DigestMismatch, LayerCorrupt, LayerRefused))
"""Reasons of references that were read, or may not be: waiting does not help."""


def goal_or_blocked(image: ImageSpec, inputs: Inputs) -> Goal | Failure:
    """The goal of an image, or why nothing can be planned for it."""
    refused, pool = inputs.observed.refused.get(image.key), inputs.observed.pools.get(image.pool)
    if refused is not None and refused.severity is Severity.ERROR:
        return _blocked(image, refused.reason, refused.text)
    if pool is None:
        return _blocked(image, "PoolUnknown", f"pool {image.pool} is not declared, or this host has no driver for it")
    if pool.state is None:
        return _blocked(image, pool.reason, pool.problem or f"pool {image.pool} can't be read")
    if image.reference is not None:
        return _referred(image, image.reference, inputs)
    if not image.layers:
        return _blocked(image, "NoLayers", "no layers are declared")
    goal = goal_of(image, inputs)
    if unexamined := inputs.unexamined(goal):
        return _blocked(image, "PoolUnavailable", f"{unexamined.path} can't be examined: {unexamined.detail}")
    unknown = [inputs.observed.resolutions.get(layer.source) for layer in goal.layers if layer.sha256 is None]
    if failed := next((found for found in unknown if found and found.error), None):
        why = failed.error if failed.error.startswith(failed.source.url) else f"{failed.source.url}: {failed.error}"
        if failed.reason == PolicyRefused.reason:
            return _blocked(image, failed.reason, why)
        return _last_known(image, inputs, why) or _blocked(image, failed.reason or "SourceUnavailable", why)
    return goal


def _referred(image: ImageSpec, reference: ImageReference, inputs: Inputs) -> Goal | Failure:
    """The goal of an image that is made of a reference; without layers, and provisional, before that is resolved."""
    goal, resolution = goal_of(image, inputs), inputs.observed.references.get(reference)
    if unexamined := inputs.unexamined(goal):
        return _blocked(image, "PoolUnavailable", f"{unexamined.path} can't be examined: {unexamined.detail}")
    if resolution is None or not resolution.error:
        return goal
    url, row = reference.source.url, inputs.observed.images.get(image.name)
    why = resolution.error if url in resolution.error else f"{url}: {resolution.error}"
    applied = row is not None and goal.chain is not None and (row.pool, row.chain) == goal.top
    if applied and resolution.reason not in REFUSED and not any(inputs.volume(one.key) for one in goal.volumes):
        return replace(goal, stale=why)
    return _blocked(image, resolution.reason or "SourceUnavailable", why)


def _blocked(image: ImageSpec, reason: str, message: str) -> Failure:
    return Failure(Kind.IMAGE, image.name, reason, message)


def _last_known(image: ImageSpec, inputs: Inputs, why: str) -> Goal | None:
    """The chain that the image's row names, where it still fits what is declared and all its volumes are intact."""
    row = inputs.observed.images.get(image.name)
    top = inputs.observed.volumes.get((image.pool, row.chain)) if row and row.chain else None
    if row is None or top is None or (row.pool, row.size, len(top.digests)) != (image.pool, image.size, len(image.layers)):
        return None
    layers = tuple(
        replace(layer, sha256=digest, learnt=layer.sha256 is None)
        for layer, digest in zip(image.layers, top.digests, strict=True)
    )
    if any(pinned.sha256 not in (None, layer.sha256) for pinned, layer in zip(image.layers, layers, strict=True)):
        return None
    goal = replace(goal_of(replace(image, layers=layers), inputs), image=image, stale=why)
    return goal if goal.chain == row.chain and not any(inputs.volume(wanted.key) for wanted in goal.volumes) else None
