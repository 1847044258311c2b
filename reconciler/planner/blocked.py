"""Whether anything can be planned for an image: its goal, or the failure that blocks it.

An image whose source failed (``host.head_requests``) keeps the chain that was applied last where that is intact, and is blocked
otherwise. Called by ``plan`` and ``replacement``. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.errors import PolicyRefused
from reconciler.model import Failure, ImageSpec, Kind, Severity
from reconciler.planner.goals import goal_of
from reconciler.planner.inputs import Goal, Inputs


def goal_or_blocked(image: ImageSpec, inputs: Inputs) -> Goal | Failure:
    """The goal of an image, or why nothing can be planned for it."""
    refused, pool = inputs.observed.refused.get(image.key), inputs.observed.pools.get(image.pool)
    if refused is not None and refused.severity is Severity.ERROR:
        return _blocked(image, refused.reason, refused.text)
    if pool is None:
        return _blocked(image, "PoolUnknown", f"pool {image.pool} is not declared, or this host has no driver for it")
    if pool.state is None:
        return _blocked(image, pool.reason, pool.problem or f"pool {image.pool} can't be read")
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
    return goal if goal.chain == row.chain and not any(inputs.volume(wanted.key) for wanted in goal.volumes()) else None
