"""The references of images, resolved: from the registry where it has what they stand for, from their own registries where not.

A reference with a digest is asked for once, others (layouts and archives are read, not asked) whenever their last answer is too
old (``head_requests``). What is new is recorded, so that it is never fetched twice. Called by ``controller.assess`` and
``status``. No state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.dataclass import replace
from reconciler.engine.facts import ReferenceGone
from reconciler.errors import ReconcilerError
from reconciler.host.context import Host
from reconciler.host.moved import record
from reconciler.image.oci.reference import Reference
from reconciler.image.spec import ImageReference, Packed, Resolved
from reconciler.model import Desired, ImageResolution
from reconciler.planner.references import wanted

PENDING = "SourcePending"
"""The reason of a source that was asked and may still answer in time."""

Resolutions = Mapping[ImageReference, ImageResolution]


def resolved(host: Host, references: Collection[ImageReference], patience: float) -> Resolutions:
    """What each reference stands for now; its error, and what it stood for last, where that can't be found out."""
    if not references:
        return {}
    last = host.records.recorded(references)
    fixed = {one for one in references if one in last and one.source.is_registry and "@sha256:" in one.source.url}
    found = {one: ImageResolution(one, last[one]) for one in fixed}
    for one, answer in host.sources.resolved([one for one in references if one not in fixed], patience).items():
        before = last.get(one)
        if answer is None:
            found[one] = ImageResolution(one, before, "has not answered yet", PENDING)
        elif isinstance(answer, ReconcilerError):
            found[one] = ImageResolution(one, before, str(answer), answer.reason)
        elif isinstance(answer, Packed):
            found[one] = ImageResolution(one, before) if _is_of(before, answer) else ImageResolution(one, packed=answer)
        else:
            found[one] = ImageResolution(one, answer)
            if before is None or replace(answer, config="") != before:
                _record(host, one, before, answer)
    return found


def look_again(host: Host, desired: Desired, since: Mapping[str, float], now: float) -> None:
    """Ask the sources of images again whose retry was requested after their last answers; times in seconds since the epoch."""
    for name, at in since.items():
        if (image := desired.images.get(name)) is not None:
            unpinned = [layer.source for layer in image.layers if layer.sha256 is None]
            host.sources.forget_older([*unpinned, *([image.reference] if image.reference else [])], now - at)


def offline(host: Host, desired: Desired) -> Resolutions:
    """What the references of all images stood for last; those that were never resolved are left out.

    A digest stands for the same whichever reference led to it: a tag that `pin` has replaced by its digest is resolved.
    """
    references = wanted(desired)
    found = host.records.recorded(references)
    pinned = [one for one in references if one not in found and "@sha256:" in one.source.url]
    found |= {one: what for one in pinned if (what := host.records.resolved(one, Reference.parse(one.source.url).digest))}
    return {one: ImageResolution(one, what) for one, what in found.items()}


def forget_undeclared(host: Host) -> None:
    """Drop what the registry has of references that no image declares any more."""
    declared = {(one.reference.source.url, one.reference.platform) for one in host.desired.images.values() if one.reference}
    if gone := host.records.references().keys() - declared:
        host.registry.apply([ReferenceGone(*key) for key in sorted(gone)])


def _is_of(found: Resolved | None, packed: Packed) -> bool:
    """Whether an archive was recorded since its source has answered that it has to be decompressed."""
    copy = found.layers[0].source.packed if found else None
    return copy is not None and copy[0] == packed.key


def _record(host: Host, reference: ImageReference, before: Resolved | None, found: Resolved) -> None:
    if not host.records.read_only:
        record(host.registry, host.desired, reference, before, found)
