"""What a reference to an image stands for now: the manifest for one platform, its configuration and its layers.

Only manifests and the configuration are fetched: kilobytes. Called by ``host.head_requests`` and the command line. No state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from reconciler.image.oci import config, manifest, stored
from reconciler.image.oci.archive import Unpacked, nothing_unpacked, refusal
from reconciler.image.oci.manifest import ImageManifest
from reconciler.image.oci.platform import Platform
from reconciler.image.oci.reference import Reference
from reconciler.image.oci.registry import Registry
from reconciler.image.oci.stored import Known
from reconciler.image.source import exchange
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.spec import ImageReference, Layer, Packed, Resolved, Source


def resolve(wanted: ImageReference, known: Known = lambda _, __: None, unless: Callable[[], bool] | None = None) -> Resolved:
    """As ``look_up``. Raises ImageRefused of an archive that is compressed as a whole."""
    found = look_up(wanted, known, unless)
    if isinstance(found, Packed):
        raise refusal(found)
    return found


def look_up(
    wanted: ImageReference,
    known: Known = lambda _, __: None,
    unless: Callable[[], bool] | None = None,
    unpacked: Unpacked = nothing_unpacked,
) -> Resolved | Packed:
    """Ask the registry, or read a layout or archive. Of one that is compressed as a whole its decompressed copy is read.

    Of a tag: one HEAD, and nothing else where ``known`` has the digest. Of a digest: nothing at all then. Of a compressed
    archive: one HEAD, where ``known`` has its key or there is a copy.

    Raises SourceNotFound, SourceForbidden, SourceUnavailable, SourceChanged, DigestMismatch, ImageRefused, PolicyRefused.
    """
    reference = Reference.parse(wanted.source.url)
    if not reference.is_registry:
        return stored.look_up(wanted, known, unless, unpacked)
    with Cutoff(exchange.HEAD_SECONDS, unless) as cutoff:
        registry = Registry(reference, cutoff, time.sleep)
        digest = reference.digest or registry.digest()
        return known(wanted, digest) or _fetched(wanted, digest, registry)


def platforms(wanted: ImageReference, unless: Callable[[], bool] | None = None) -> tuple[Platform, ...]:
    """The platforms that an image is offered for; none where it is no index. Raises what ``resolve`` raises."""
    reference = Reference.parse(wanted.source.url)
    if not reference.is_registry:
        return stored.platforms(wanted, unless)
    with Cutoff(exchange.HEAD_SECONDS, unless) as cutoff:
        _, data, media_type = Registry(reference, cutoff, time.sleep).manifest(reference.wanted)
    return manifest.platforms(manifest.parse(data, media_type))


def _fetched(wanted: ImageReference, digest: str, registry: Registry) -> Resolved:
    platform = Platform.parse(wanted.platform)
    image = _manifest(digest, platform, registry)
    text = registry.blob(image.config, "the configuration")
    found = config.parse(text, len(image.layers))
    config.require_platform(found, platform, wanted.source.url)
    blobs = [
        (one.sha256, one.size, diff_id, "", one.compression) for one, diff_id in zip(image.layers, found.diff_ids, strict=True)
    ]
    return Resolved(digest, image.digest, found.text, layers_of(wanted, blobs))


def _manifest(digest: str, platform: Platform, registry: Registry) -> ImageManifest:
    """The manifest for a platform, through indexes."""
    depth = 0
    while True:
        _, data, media_type = registry.manifest(digest)
        found = manifest.parse(data, media_type)
        if isinstance(found, ImageManifest):
            return found
        depth += 1
        manifest.check_nesting(depth)
        digest = found.choose(platform).digest


def layers_of(wanted: ImageReference, blobs: Sequence[tuple[str, int, str, str, str]]) -> tuple[Layer, ...]:
    """The layers of an image, each as digest (hex digits), size, diff_id, URL and compression.

    Without a URL they are blobs of its repository.
    """
    reference = Reference.parse(wanted.source.url)
    place = f"oci://{reference.host}/{reference.repository}"
    return tuple(
        Layer(Source(url or f"{place}@sha256:{sha256}", wanted.source.s3), sha256, size=size, diff_id=diff_id, compression=form)
        for sha256, size, diff_id, url, form in blobs
    )
