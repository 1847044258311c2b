"""Documents in one spelling: what was written, with the units that fields have, and sources where they really are.

Called by ``last_good``: a run keeps them beside what its manifests were parsed to (``stored``), for ``get``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.manifests.desired import Declared
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.loader import ParsedFile
from reconciler.manifests.location import resolve
from reconciler.manifests.pool import PoolDocument
from reconciler.manifests.stored import Normalized
from reconciler.sizes import format_duration, format_size

SIZES = ("size", "blockSize")


def normalize(files: Iterable[ParsedFile]) -> Normalized:
    """The documents of these files."""
    images: dict[str, Any] = {}
    pools: dict[str, Any] = {}
    for file in files:
        images |= {one.name: _image(one) for one in file.images}
        pools |= {one.name: _plain(one.document) for one in file.pools}
    return Normalized(images, pools)


def _image(declared: Declared[ImageDocument]) -> dict[str, Any]:
    document = _plain(declared.document)
    spec = document["spec"]
    if declared.reference is not None:
        spec["source"] = declared.reference.source.url
    for layer, resolved in zip(spec.get("layers", ()), declared.layers, strict=True):
        layer["source"] = resolved.source.url  # a relative path starts from where the manifest is, and this text is elsewhere
    for snapshot in spec.get("snapshots", ()):
        for file in snapshot.get("files", ()):
            if "from" in file:
                file["from"] = resolve(file["from"], declared.directory)
    return document


def _plain(document: ImageDocument | PoolDocument) -> dict[str, Any]:
    """What was written, with the types that fields have; nothing that was left out, or that is ignored."""
    whole = document.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    metadata = {key: value for key, value in whole["metadata"].items() if key in ("name", "labels", "annotations")}
    return {key: _with_units(value) for key, value in whole.items() if key != "status"} | {"metadata": metadata}


def _with_units(value: Any, key: str = "") -> Any:
    """Sizes and durations as a manifest has them. A duration is the only field with a fraction's type."""
    if isinstance(value, Mapping):
        return {name: _with_units(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_units(one) for one in value]
    if isinstance(value, float):
        return format_duration(value)
    is_size = isinstance(value, int) and not isinstance(value, bool) and (key in SIZES or key.endswith("Bytes"))
    return format_size(value) if is_size else value
