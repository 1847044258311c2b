"""``get``: an image as the document that declares it, in one spelling, with its status. What it prints is a manifest again.

Called by ``verbs`` with a Host opened for reading. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.controller import converge
from reconciler.controller.context import Host
from reconciler.errors import UsageError
from reconciler.manifests.desired import Declared
from reconciler.manifests.documents import API_VERSION, ImageDocument, PoolDocument
from reconciler.model import Kind
from reconciler.sizes import format_size
from reconciler.status import inventory

SIZES = ("size", "blockSize")


def documents(host: Host, kind: Kind, name: str | None) -> list[dict[str, Any]]:
    """All of a kind that this host is to have, or the one. Raises UsageError where there is none of that name."""
    now = converge.look_offline(host)
    found = list(_images(host, now, name) if kind is Kind.IMAGE else _pools(host, now, name))
    if name is not None and not found:
        told = f"no manifest declares {kind.lower()} {name!r} for this host"
        raise UsageError(told, hint=f"see: reconcile get {kind.lower()}s")
    return found


def _images(host: Host, now: converge.Look, name: str | None) -> Iterator[dict[str, Any]]:
    declared = {one.name: one for parsed in host.cached.parsed.values() for one in parsed.images}
    for one in sorted(host.desired.images.values(), key=lambda image: image.name):
        if name in (None, one.name):
            yield _image(declared[one.name], host, now)


def _image(one: Declared[ImageDocument], host: Host, now: converge.Look) -> dict[str, Any]:
    told = inventory.about_image(host, now, one.name)
    document = _plain(one.document)
    for layer, resolved in zip(document["spec"]["layers"], one.layers, strict=True):
        layer["source"] = resolved.source.url  # what a relative one starts from is not where this text will be
    document["metadata"]["generation"] = told["generation"]
    document["status"] = {
        "phase": told["phase"],
        "observedGeneration": told["observedGeneration"],
        "revision": told["revision"],
        "chain": told["chain"],
        "snapshots": [{"name": each["name"], "path": each["path"], "active": each["active"]} for each in told["snapshots"]],
        "conditions": [{name: value for name, value in each.items() if value} for each in told["conditions"]],
    }
    return document


def _pools(host: Host, now: converge.Look, name: str | None) -> Iterator[dict[str, Any]]:
    declared = {one.name: one for parsed in host.cached.parsed.values() for one in parsed.pools}
    for pool in sorted(host.desired.pools):
        if name not in (None, pool):
            continue
        implied: dict[str, Any] = {"apiVersion": API_VERSION, "kind": "Pool", "metadata": {"name": pool}, "spec": {"file": {}}}
        document = _plain(declared[pool].document) if pool in declared else implied
        told = inventory.pool(pool, host, now.observed)
        yield document | {"status": {key: told[key] for key in ("state", "message", "data", "metadata") if told[key]}}


def _plain(document: ImageDocument | PoolDocument) -> dict[str, Any]:
    """What was written, with the types that fields have; nothing that was left out, or that is ignored."""
    whole = document.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    metadata = {key: value for key, value in whole["metadata"].items() if key in ("name", "labels", "annotations")}
    return {key: _sized(value) for key, value in whole.items() if key != "status"} | {"metadata": metadata}


def _sized(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _sized(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_sized(one) for one in value]
    is_size = isinstance(value, int) and not isinstance(value, bool) and (key in SIZES or key.endswith("Bytes"))
    return format_size(value) if is_size else value
