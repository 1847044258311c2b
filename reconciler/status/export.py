"""``get``: an image as the document that declares it, in one spelling, with its status. The output is a manifest again.

Called by ``cli`` with a Host that is open for reading. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.errors import UsageError
from reconciler.host.context import Host
from reconciler.manifests import loader
from reconciler.manifests.desired import Declared
from reconciler.manifests.documents import API_VERSION
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.location import resolve
from reconciler.manifests.pool import PoolDocument
from reconciler.model import Kind, Observed, SnapshotRow
from reconciler.planner.status import ImageStatus
from reconciler.sizes import format_duration, format_size
from reconciler.status import image as status
from reconciler.status import inventory
from reconciler.status.image import Images

SIZES = ("size", "blockSize")


def documents(host: Host, kind: Kind, name: str | None) -> list[dict[str, Any]]:
    """All of a kind that this host is to have, or the one. Raises UsageError where there is none of that name."""
    images = status.read(host)
    found = list(_images(images, name) if kind is Kind.IMAGE else _pools(images, name))
    if name is not None and not found:
        message = f"no manifest declares {kind.lower()} {name!r} for this host"
        raise UsageError(message, hint=f"list them with: reconcile get {kind.lower()}s")
    return found


def _images(images: Images, name: str | None) -> Iterator[dict[str, Any]]:
    declared = {one.name: one for parsed in loader.in_force(images.host.cached).values() for one in parsed.images}
    for one in images.statuses.values():
        if one.declared and name in (None, one.name):
            yield _image(declared[one.name], images, one)


def _image(declared: Declared[ImageDocument], images: Images, one: ImageStatus) -> dict[str, Any]:
    document = _plain(declared.document)
    if declared.reference is not None:
        document["spec"]["source"] = declared.reference.source.url
    for layer, resolved in zip(document["spec"].get("layers", ()), declared.layers, strict=True):
        layer["source"] = resolved.source.url  # a relative path starts from where the manifest is, and this text is elsewhere
    for snapshot in document["spec"].get("snapshots", ()):
        for file in snapshot.get("files", ()):
            if "from" in file:
                file["from"] = resolve(file["from"], declared.directory)
    document["metadata"]["generation"] = one.generation
    document["status"] = {
        "phase": one.phase.value,
        "observedGeneration": one.observed_generation,
        "revision": images.host.revision,
        "chain": one.chain,
        **status.resolution_json(images, one),
        **({"claims": claims} if (claims := status.claims_json(images, one)) else {}),
        "snapshots": [_snapshot(row, images.observed) for row in one.snapshots],
        "conditions": [{key: value for key, value in each.items() if value} for each in status.conditions_json(images, one)],
    }
    return document


def _snapshot(row: SnapshotRow, observed: Observed) -> dict[str, Any]:
    found = observed.snapshot_state(row.pool, row.name)
    claim = inventory.claim(row, observed)
    whose = {"claim": {"id": claim["id"], "state": claim["state"]}} if claim else {}
    return {"name": row.name, "path": found.path if found else None, "active": found.active if found else False} | whose


def _pools(images: Images, name: str | None) -> Iterator[dict[str, Any]]:
    host = images.host
    declared = {one.name: one for parsed in loader.in_force(host.cached).values() for one in parsed.pools}
    for pool in sorted(host.desired.pools):
        if name not in (None, pool):
            continue
        implied: dict[str, Any] = {"apiVersion": API_VERSION, "kind": "Pool", "metadata": {"name": pool}, "spec": {"file": {}}}
        document = _plain(declared[pool].document) if pool in declared else implied
        found = inventory.pool(pool, host, images.observed)
        yield document | {"status": {key: found[key] for key in ("state", "message", "data", "metadata") if found[key]}}


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
