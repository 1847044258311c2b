"""What is due after an assessment besides its plan: end runs that nothing needs, sweep spool and seeds, date what is undeclared.

Called by ``once`` and ``service`` in a thread of theirs; callers hold the writer's lock. No state.

Images out of scope (not selected, suspended, blocked) may still need their runs and their downloads: these stay.
While a manifest can't be read nothing is ended or swept, because what it declares is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from reconciler.controller.assess import Assessment, Wish
from reconciler.engine.definitions import Run, Status
from reconciler.errors import DigestMismatch, ImageRefused, LayerCorrupt, LayerRefused
from reconciler.host import references
from reconciler.host.context import Host
from reconciler.host.label_change import note_labels
from reconciler.image.oci.reference import Reference
from reconciler.image.source.spool import UNPACKED
from reconciler.model import Failure, ImageSpec, Kind, Plan, Verb
from reconciler.registry.marks import Mark, undeclared

HISTORY = 10_000
"""How many of the newest events, of the newest runs, and of the digests that unpinned layers were seen to have are kept."""

GONE_SECONDS = 7 * 86_400.0
"""How long the marks of an image that is neither declared nor recorded are kept: it may come back."""


def after_assessment(host: Host, now: Assessment, retried: Collection[Mark], wish: Wish, *, idle: bool = True) -> None:
    """All of it. ``retried`` are the marks that the plan has honoured.

    Spool and seeds are swept only while nothing runs (``idle``).
    """
    if wish.selector is None and not host.faults:
        outside = [image for name, image in now.desired.images.items() if image.suspend or name in _blocked(now)]
        cancel_unwanted(host, now, outside)
        if idle:
            sweep(host, now, outside)
    if idle and host.settings.seeds.exists():
        states = {name: pool.state for name, pool in now.observed.pools.items()}
        host.seeds.sweep(host.records.snapshots().values(), states, now.at)
    note_undeclared(host, retried)
    note_labels(host, wish.grace)


def prune(host: Host) -> None:
    """Drop what the registry remembers of the past beyond its bounds, and of images that are gone."""
    host.registry.prune_history(HISTORY)
    if not host.faults:
        references.forget_undeclared(host)
        host.registry.forget_gone(host.desired.images, time.time() - GONE_SECONDS)


def _blocked(now: Assessment) -> set[str]:
    return {failure.name for failure in now.plan.blocked}


def cancel_unwanted(host: Host, now: Assessment, outside: Collection[ImageSpec]) -> None:
    """End the runs that no action of the plan needs any more."""
    wanted = {action.key for action in now.plan.actions}
    for run in host.records.open_runs():
        if run.opened <= now.at and run.subject not in wanted and not _may_need(run, outside):
            host.engine.cancel(run.id, "no longer wanted")


def _may_need(run: Run, images: Collection[ImageSpec]) -> bool:
    urls = {layer.source.url for image in images for layer in image.layers}
    urls |= {Reference.parse(image.reference.source.url).path for image in images if image.reference}
    return run.input.get("image") in {image.name for image in images} or not urls.isdisjoint(_urls(run.input))


def _urls(value: Mapping[str, Any]) -> Iterator[str]:
    yield from (layer["url"] for layer in (*value.get("layers", ()), *([value["layer"]] if "layer" in value else ())))


def release_runs(host: Host, plan: Plan, retried: Mapping[str, float]) -> None:
    """Runs in state needs-operator go on where they are for these images, if they have been in it when a retry was requested."""
    asked = {one.key: max(retried.get(image, 0.0) for image in {*one.images, one.image}) for one in plan.actions if retried}
    for run in host.records.open_runs() if any(asked.values()) else ():
        if run.status is Status.NEEDS_OPERATOR and run.updated < asked.get(run.subject, 0.0):
            host.engine.release(run.id)


def sweep(host: Host, now: Assessment, outside: Collection[ImageSpec]) -> None:
    """Keep layers in the spool only where something is to be built from them.

    Layers that were refused are not kept: another try would come to the same.
    """
    refused = {key for key, failure in host.records.failures().items() if _is_refusal(failure)}
    hopeful = [action for action in now.plan.actions if action.key not in refused]
    if any(action.verb is Verb.RESOLVE for action in hopeful) or not host.settings.spool.exists():
        return
    unresolved = any(image.reference and not image.layers for image in outside)
    if unresolved or any(layer.sha256 is None for image in outside for layer in image.layers):
        return  # which downloads are theirs is not known
    kept = [*(layer for action in hopeful for layer in action.layers), *(layer for image in outside for layer in image.layers)]
    archives = {f"{UNPACKED}{layer.source.packed[0]}" for layer in kept if layer.source.packed}
    host.spool.sweep(archives | {layer.sha256 for layer in kept if layer.sha256})


def _is_refusal(failure: Failure) -> bool:
    of_archive = failure.kind is Kind.LAYER and failure.reason in (ImageRefused.reason, DigestMismatch.reason)
    return of_archive or failure.reason in (LayerRefused.reason, LayerCorrupt.reason)


def note_undeclared(host: Host, retried: Collection[Mark]) -> None:
    """Record since when an image is undeclared; drop that once it is declared again or gone, and requests that were honoured."""
    for mark in retried:
        if host.records.marks().get((mark.image, mark.what)) == mark:
            host.registry.unmark(mark.image, mark.what)
    if host.faults:
        return
    records = host.records
    marks, now = records.marks(), host.threads.time()
    wanted = undeclared(host.desired, records.images(), records.snapshots().values(), marks, now)
    for name, what in marks.keys() - wanted.keys():
        host.registry.unmark(name, what)
    for key, mark in wanted.items():
        if marks.get(key) != mark:
            host.registry.mark(mark)
