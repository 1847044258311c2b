"""Manifests and indexes: bytes to checked values.

An image's manifest names its configuration and its layers, an index names manifests, each by digest and size. Everything that is
no image which a root file system can be built from is refused here, with its reason. Called by the resolvers. No state.
"""

from __future__ import annotations

import re
from hashlib import sha256

from reconciler.dataclass import dataclass
from reconciler.errors import ImageRefused
from reconciler.image.oci import strict_json
from reconciler.image.oci.platform import Platform, choose
from reconciler.image.oci.strict_json import Object

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

INDEXES = frozenset((OCI_INDEX, DOCKER_LIST))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
_OBSOLETE = frozenset(f"application/vnd.docker.distribution.manifest.v1+{form}" for form in ("json", "prettyjws"))
ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""What a registry is asked for."""

CONFIGS = frozenset(("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"))

MOST_BYTES = strict_json.MOST_BYTES
MOST_LAYERS = 256
MOST_ENTRIES = 1024
MOST_NESTING = 2
"""Indexes between a reference and its manifest."""

MOST_LAYER_BYTES = 1 << 46

_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.v1\.tar|docker\.image\.rootfs\.diff\.tar)(?:[+.](gzip|zstd|xz|bzip2))?"
)
_FOREIGN = re.compile(r"application/vnd\.(?:oci\.image\.layer\.nondistributable|docker\.image\.rootfs\.foreign)\..*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ALGORITHM = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:.+")
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_NO_IMAGE = "name an image of a container; other artifacts hold no root file system"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob. ``digest`` is ``sha256:`` and 64 hex digits; ``names`` are those of an image in a layout."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    names: tuple[str, ...] = ()

    @property
    def compression(self) -> str:
        """What the media type of a layer states: ``none`` or a name; empty where it is no layer's."""
        match = _LAYER.fullmatch(self.media_type)
        return (match[1] or "none") if match else ""

    @property
    def sha256(self) -> str:
        """The digest's hex digits."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image for one platform. ``digest`` is that of the manifest's own bytes."""

    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Images for several platforms, or of several names."""

    digest: str
    media_type: str
    entries: tuple[Descriptor, ...]

    def choose(self, wanted: Platform) -> Descriptor:
        """The entry for a platform. Raises ImageRefused, which lists those that there are."""
        return self.entries[choose([one.platform for one in self.entries], wanted)]


def digest_of(data: bytes) -> str:
    """``sha256:`` and the hex digits of the sum of some bytes."""
    return f"sha256:{sha256(data).hexdigest()}"


def parse(data: bytes, media_type: str = "") -> ImageManifest | Index:
    """Read a manifest or an index. ``media_type`` is what the sender calls it, where it does.

    The bytes are not compared with a digest: callers have done so. Raises ImageRefused.
    """
    media_type = media_type.partition(";")[0].strip().lower()
    try:
        document = strict_json.parse(data)
        kind = _kind(document, media_type)
        if kind in INDEXES:
            return Index(digest_of(data), kind, _entries(document))
        return _image(document, digest_of(data), kind)
    except ValueError as error:
        raise ImageRefused(f"the manifest is refused: {error}", hint=_NO_IMAGE) from error


def platforms(of: ImageManifest | Index) -> tuple[Platform, ...]:
    """The platforms of an index's entries, attestations left out."""
    entries = of.entries if isinstance(of, Index) else ()
    return tuple(one.platform for one in entries if one.platform is not None and not one.platform.unknown)


def check_nesting(depth: int) -> None:
    """Refuse the ``depth``-th index on the way to a manifest, counted from 1, where that is one too many. Raises ImageRefused."""
    if depth > MOST_NESTING:
        raise ImageRefused(
            f"indexes are nested deeper than {MOST_NESTING}", hint="name the manifest of one platform by its digest"
        )


def _kind(document: Object, sent: str) -> str:
    """The media type, by the document's own word, the sender's, or its fields. A document that can be read as both is refused."""
    if repr(document.get("schemaVersion")) == "1" or "fsLayers" in document or sent in _OBSOLETE:
        hint = "push the image again with a current tool"
        raise ImageRefused("the manifest has schema version 1, which is obsolete", hint=hint)
    if strict_json.whole_number(document, "schemaVersion") != 2:
        raise ValueError("its schemaVersion is not 2")
    own = strict_json.text(document, "mediaType", "").lower()
    known = INDEXES | MANIFESTS
    if own and sent in known and own != sent:
        raise ValueError(f"it is sent as {sent} and calls itself {own[:100]}")
    has_manifests, has_layers = "manifests" in document, "layers" in document or "config" in document
    if has_manifests and has_layers:
        raise ValueError("it has layers and manifests, so that it can be read in two ways")
    by_fields = OCI_INDEX if has_manifests else OCI_MANIFEST
    kind = own or (sent if sent in known else by_fields)
    if kind not in known:
        raise ValueError(f"{kind[:100]} is not the media type of an image")
    if (kind in INDEXES) != has_manifests:
        raise ValueError(f"it is called {kind} and has none of its fields")
    return kind


def _entries(document: Object) -> tuple[Descriptor, ...]:
    entries = strict_json.objects(document, "manifests")
    if not entries:
        raise ValueError("it lists no manifests")
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"it lists {len(entries)} manifests, more than {MOST_ENTRIES}")
    return tuple(_descriptor(one, f"manifest {number}", MOST_BYTES) for number, one in enumerate(entries, 1))


def _image(document: Object, digest: str, kind: str) -> ImageManifest:
    artifact = strict_json.text(document, "artifactType", "")
    config = _descriptor(strict_json.member(document, "config"), "config", MOST_BYTES)
    if artifact or config.media_type not in CONFIGS:
        raise ValueError(f"it is an artifact of type {(artifact or config.media_type)[:100]}, not an image")
    layers = strict_json.objects(document, "layers")
    if not layers:
        raise ValueError("it has no layers")
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"it has {len(layers)} layers, more than {MOST_LAYERS}")
    return ImageManifest(digest, kind, config, tuple(_layer(one, f"layer {number}") for number, one in enumerate(layers, 1)))


def _layer(of: Object, name: str) -> Descriptor:
    found = _descriptor(of, name, MOST_LAYER_BYTES)
    if strict_json.texts(of, "urls") or _FOREIGN.fullmatch(found.media_type):
        raise ValueError(f"{name} is a foreign layer: its bytes are not in the image's repository")
    if "+encrypted" in found.media_type:
        raise ValueError(f"{name} is encrypted")
    if not _LAYER.fullmatch(found.media_type):
        raise ValueError(f"{name} has the media type {found.media_type[:100]!r}, which is not a layer of a root file system")
    return found


def _descriptor(of: Object, name: str, most: int) -> Descriptor:
    try:
        media_type = strict_json.text(of, "mediaType")
        digest, size = strict_json.text(of, "digest"), strict_json.whole_number(of, "size")
        annotations = strict_json.member(of, "annotations")
        names = tuple(filter(None, (strict_json.text(annotations, key, "") for key in _NAMES)))
        platform = _platform(strict_json.member(of, "platform"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    check_digest(digest, name)
    if not 0 <= size <= most:
        raise ValueError(f"{name} has a size of {size} bytes, not 0 to {most}")
    return Descriptor(media_type, digest, size, platform, names)


def check_digest(digest: str, name: str) -> None:
    """Raises ValueError unless it is a sha256 sum."""
    if _DIGEST.fullmatch(digest):
        return
    if _ALGORITHM.fullmatch(digest) and not digest.startswith("sha256:"):
        raise ValueError(f"{name} is named by {digest.partition(':')[0][:20]}; only sha256 digests are supported")
    raise ValueError(f"{name} has no valid digest (sha256: and 64 hex digits)")


def _platform(of: Object) -> Platform | None:
    if not of:
        return None
    return Platform.of(strict_json.text(of, "os"), strict_json.text(of, "architecture"), strict_json.text(of, "variant", ""))
