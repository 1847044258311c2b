"""``get``: an image as the document that declares it, in one spelling, with its status. The output is a manifest again.

Called by ``cli`` with a Host that is open for reading. No state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.errors import UsageError
from reconciler.host.context import Host
from reconciler.manifests import last_good
from reconciler.model import Kind, Observed, SnapshotRow
from reconciler.planner.status import ImageStatus
from reconciler.status import image as status
from reconciler.status import inventory
from reconciler.status.image import Images


def documents(host: Host, kind: Kind, name: str | None) -> list[dict[str, Any]]:
    """All of a kind that this host is to have, or the one. Raises UsageError where there is none of that name."""
    images = status.read(host)
    found = list(_images(images, name) if kind is Kind.IMAGE else _pools(images, name))
    if name is not None and not found:
        message = f"no manifest declares {kind.lower()} {name!r} for this host"
        raise UsageError(message, hint=f"list them with: reconcile get {kind.lower()}s")
    return found


def _images(images: Images, name: str | None) -> Iterator[dict[str, Any]]:
    declared = last_good.documents(images.host.cached).images
    for one in images.statuses.values():
        if one.declared and name in (None, one.name):
            yield _image(declared[one.name], images, one)


def _image(document: dict[str, Any], images: Images, one: ImageStatus) -> dict[str, Any]:
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
    declared = last_good.documents(host.cached).pools
    for pool in sorted(host.desired.pools):
        if name not in (None, pool):
            continue
        document = declared[pool] if pool in declared else _implied(pool)
        found = inventory.pool(pool, host, images.observed)
        yield document | {"status": {key: found[key] for key in ("state", "message", "data", "metadata") if found[key]}}


def _implied(pool: str) -> dict[str, Any]:
    """The file pool that exists where no Pool is declared."""
    from reconciler.manifests.documents import API_VERSION  # and pydantic, which nothing else here needs

    return {"apiVersion": API_VERSION, "kind": "Pool", "metadata": {"name": pool}, "spec": {"file": {}}}
