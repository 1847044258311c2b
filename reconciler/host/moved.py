"""Records what a reference stands for, with an event for the images of one that stands for something else now.

Called by ``references`` (registries, and what is read where it is) and ``pipelines`` (archives that are decompressed). No state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engine.facts import ReferenceResolved
from reconciler.image.oci.reference import Reference
from reconciler.image.spec import ImageReference, Resolved
from reconciler.model import Desired, Key, Kind

if TYPE_CHECKING:
    from reconciler.registry.writer import Registry


def record(registry: Registry, desired: Desired, reference: ImageReference, before: Resolved | None, found: Resolved) -> None:
    """``before`` is what was recorded last."""
    registry.apply([ReferenceResolved(reference, found)])
    if before is not None and before.digest != found.digest:
        message = f"{_named(reference)} moved from {before.digest} to {found.digest}"
        for image in sorted(image.name for image in desired.images.values() if image.reference == reference):
            registry.event(Key(Kind.IMAGE, "", image), "TagMoved", message)


def _named(reference: ImageReference) -> str:
    parsed = Reference.parse(reference.source.url)
    return f"tag {parsed.wanted} of {parsed.host}/{parsed.repository}" if parsed.is_registry else reference.source.url
