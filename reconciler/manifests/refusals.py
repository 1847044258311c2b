"""What manifests declare that the host's policy refuses, as far as that can be decided without opening anything.

Called before each plan by ``controller.assess`` (images) and by ``validate``. What is opened later is checked once more there:
files by their descriptor, addresses when they are connected to, backing files and devices by their pool. Reads the file system
for links, resolves no names. No state.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from reconciler.errors import PolicyRefused
from reconciler.image.oci.reference import Reference
from reconciler.image.spec import ImageReference, Layer, S3Options, Source
from reconciler.model import BackingSpec, Desired, Finding, ImageSpec, Key, Kind, PoolSpec, Severity
from reconciler.policy.rules import PORTS, Policy, Refusal

REFUSED, TOLERATED = PolicyRefused.reason, "PolicyWouldRefuse"
"""Reasons; the second one is that of a host that has no policy yet, and whose registry is older than this version."""


def of_images(desired: Desired, policy: Policy) -> dict[Key, Finding]:
    """The images with a refused wish, each with its first one. Suspended images wish for nothing."""
    if policy == Policy():
        return {}
    checked: dict[Source, Refusal | None] = {}
    found = {}
    for image in desired.images.values():
        if not image.suspend and (refusal := next(_of_layers(image, policy, checked), None)):
            found[image.key] = finding(image.key, refusal, policy)
    return found


def of_pools(desired: Desired, policy: Policy) -> dict[Key, Finding]:
    """The pools whose backing has a place that is refused, by its name alone."""
    found = {}
    for pool in desired.pools.values():
        key = Key(Kind.POOL, "", pool.name)
        if refusal := next(_of_backing(pool, policy), None):
            found[key] = finding(key, refusal, policy)
    return found


def finding(key: Key, refusal: Refusal, policy: Policy) -> Finding:
    severity, reason = (Severity.ERROR, REFUSED) if policy.enforced else (Severity.WARNING, TOLERATED)
    verb = "refused" if policy.enforced else "would be refused"
    return Finding(severity, key, reason, f"{verb} by this host's policy: {refusal.message}", refusal.hint(policy.file))


def _of_layers(image: ImageSpec, policy: Policy, checked: dict[Source, Refusal | None]) -> Iterator[Refusal]:
    for path in dict.fromkeys(path for one in image.custom.values() for path in one.sources):
        if refusal := policy.file_refusal(path):
            yield refusal
    if image.reference is not None:
        yield from _of_reference(image.reference, policy)
        return
    for number, layer in enumerate(image.layers, start=1):
        if policy.requires_pins and layer.sha256 is None:
            yield Refusal("policy.pinned", f"layer {number}, {layer.source.url}, has no sha256 (`reconcile pin` writes it)")
        if layer.source not in checked:
            checked[layer.source] = _of_source(layer, policy)
        if refusal := checked[layer.source]:
            yield refusal


def _of_reference(wanted: ImageReference, policy: Policy) -> Iterator[Refusal]:
    reference = Reference.parse(wanted.source.url)
    if policy.requires_pins and not reference.pinned:
        yield Refusal("policy.pinned", f"its source {reference} has no digest (`reconcile pin` writes it)")
    if reference.is_registry:
        refusal = policy.registry_refusal(reference.host)
    elif reference.is_s3:
        refusal = _of_endpoint(wanted.source.s3, policy)
    else:
        refusal = policy.file_refusal(reference.path)
    if refusal:
        yield refusal


def _of_source(layer: Layer, policy: Policy) -> Refusal | None:
    source = layer.source
    if not source.is_s3:
        return policy.file_refusal(source.url)
    return _of_endpoint(source.s3, policy)


def _of_endpoint(options: S3Options, policy: Policy) -> Refusal | None:
    if options.endpoint_url is None:
        return None
    parts = urlsplit(options.endpoint_url)
    refusal = policy.host_refusal(parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0))
    return refusal or (None if options.anonymous else policy.credentials_refusal(options.endpoint_url))


def _of_backing(pool: PoolSpec, policy: Policy) -> Iterator[Refusal]:
    backings: tuple[BackingSpec, ...] = (pool.thin.data, pool.thin.metadata) if pool.thin else ()
    for one in backings:
        refusal = policy.pool_file_refusal(one.file, pool.name) if one.file else policy.device_refusal(one.device or "")
        if refusal:
            yield refusal
