"""Images that are made of a reference: their layers are those of its resolution.

``controller.assess`` resolves references before it plans; everything else of ``planner`` reads layers. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.dataclass import replace
from reconciler.image.spec import ImageReference
from reconciler.model import Desired, ImageResolution, ImageSpec

Resolutions = Mapping[ImageReference, ImageResolution]


def wanted(desired: Desired, selection: Collection[str] | None = None) -> tuple[ImageReference, ...]:
    """The references of the images that are not suspended; of the selected ones where there is a selection."""
    images = (image for name, image in sorted(desired.images.items()) if selection is None or name in selection)
    return tuple(dict.fromkeys(image.reference for image in images if image.reference and not image.suspend))


def with_layers(desired: Desired, resolutions: Resolutions) -> Desired:
    """The same, each image with the layers that its reference stands for, or stood for last."""
    if not any(image.reference for image in desired.images.values()):
        return desired
    return replace(desired, images={name: with_layer(image, resolutions) for name, image in desired.images.items()})


def with_layer(image: ImageSpec, resolutions: Resolutions) -> ImageSpec:
    """One image with its layers."""
    found = resolutions.get(image.reference) if image.reference else None
    return replace(image, layers=found.found.layers) if found and found.found else image
