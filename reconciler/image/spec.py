"""The values that define what goes into a file system: sources, layers, limits, chain ids.

Frozen and free of side effects; imported by every package, imports nothing of ours. No state.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from reconciler.dataclass import dataclass, field

LAYOUT = 2
"""Version of what is made of a layer's bytes: the rules of ``archive`` and ``tree``, and the ext4 writer's layout. A change of
the bytes that are written from the same input raises it."""

OLDER_LAYOUTS = (1,)
"""Versions that are not written any more. Volumes of theirs stay in use until something else changes (``planner.goals``)."""

_PART = re.compile(r"part:(\d+)\+(\d+):")
_UNPACKED = re.compile(r"unpacked:([0-9a-f]{64}):")

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

INODE_RATIOS = ((512 * MIB, 4 * KIB), (4 * TIB, 16 * KIB), (16 * TIB, 32 * KIB))
LARGEST_RATIO = 64 * KIB
"""mke2fs's bytes per inode for file systems below each size, and for larger ones."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach a bucket. None leaves the value to the AWS environment."""

    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's bytes are: ``s3://bucket/key``, the blob ``oci://host/repository@sha256:…``, or a path of this host.

    ``part:START+LENGTH:`` before it is a part of a file or object, ``unpacked:KEY:`` an archive that is compressed as a whole.
    """

    url: str
    s3: S3Options = field(default_factory=S3Options)

    @property
    def is_s3(self) -> bool:
        return self.whole.startswith("s3://")

    @property
    def part(self) -> tuple[int, int] | None:
        """The first byte and the length of what is meant of a file or object; None where that is all of it."""
        match = _PART.match(self.url)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def whole(self) -> str:
        """The URL of the file or object, without a part."""
        return self.url[match.end() :] if (match := _PART.match(self.url)) else self.url

    @property
    def is_registry(self) -> bool:
        return self.url.startswith("oci://")

    @property
    def packed(self) -> tuple[str, Source] | None:
        """The key of the decompressed copy that has its bytes, and the archive; None where the bytes are read as they are."""
        match = _UNPACKED.match(self.whole)
        return (match[1], Source(self.whole[match.end() :], self.s3)) if match else None

    @property
    def is_remote(self) -> bool:
        """Whether its bytes are transferred into the spool."""
        return self.is_s3 or self.is_registry or self.packed is not None

    def is_in(self, spooled: Collection[str]) -> bool:
        """Whether the spool has the decompressed copy (``Spool.whole_layers``)."""
        return self.packed is not None and self.packed[0] in spooled

    @property
    def endpoint(self) -> str:
        """The server of its bytes, as ``host:port``; empty for a path, and for S3 where the AWS environment has the endpoint."""
        if self.packed is not None:
            return self.packed[1].endpoint
        url = (self.s3.endpoint_url or "") if self.is_s3 else self.url if self.is_registry else ""
        return urlsplit(url).netloc.rpartition("@")[2].lower()

    @property
    def bucket_key(self) -> tuple[str, str]:
        """The bucket and the key of an S3 source."""
        bucket, _, key = self.whole.removeprefix("s3://").partition("/")
        return bucket, key


@dataclass(frozen=True, slots=True)
class Layer:
    """One tar as stored. ``sha256`` (64 hex digits, of the stored bytes) is its identity; None where it is unpinned.

    ``learnt``: no manifest names the digest; an earlier fetch of the same ETag had it. ``size`` (bytes as stored) and ``diff_id``
    (sha256 of the decompressed tar) are those of an image's manifest and configuration; 0 and empty where there are none.
    ``compression`` is what the layer's media type states (``none``, ``gzip`` …); its bytes decide.
    ``others`` are further sources at which images declare the same digest: one of them is used where ``source`` fails.
    """

    source: Source
    sha256: str | None = None
    learnt: bool = field(default=False, compare=False)
    size: int = field(default=0, compare=False)
    diff_id: str = field(default="", compare=False)
    others: tuple[Source, ...] = field(default=(), compare=False)
    compression: str = field(default="", compare=False)

    @property
    def declared(self) -> bool:
        """Whether a manifest names its digest."""
        return self.sha256 is not None and not self.learnt


@dataclass(frozen=True, slots=True)
class ImageReference:
    """What an image is made of where its manifest lists no layers.

    The source's URL is the text of an ``oci.reference.Reference``; ``platform`` is what is chosen of an index.
    """

    source: Source
    platform: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for.

    ``digest`` is what it points to, ``manifest`` the image's for the platform (both ``sha256:`` and hex digits). ``config`` is
    the configuration's whole text. ``layers`` are from the bottom up, each with its digest, size and diff_id.
    """

    digest: str
    manifest: str
    config: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """What a reference stands for where its archive is compressed as a whole, and no decompressed copy is in the spool.

    ``key`` identifies the archive as it is now, ``size`` has its bytes as stored, ``form`` is how it is compressed.
    """

    archive: Source
    key: str
    size: int
    form: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a layer may cost, and what is done with members that some images need and others should not have.

    Bytes count the decompressed stream (unpacked) and apparent sizes (file). ``max_ratio`` is decompressed bytes by stored bytes,
    applied once ``ratio_floor_bytes`` have been decompressed. ``max_name_bytes`` bounds a component of a path;
    ``max_metadata_bytes`` the long names and extended headers, ``max_xattr_bytes`` the names and values of the attributes, of one
    member. ``max_seconds`` are the builder's seconds of CPU for one layer. The values of a policy are in ``POLICIES``.
    """

    max_unpacked_bytes: int = 32 * GIB
    max_file_bytes: int = 16 * GIB
    max_entries: int = 1_000_000
    max_ratio: int = 200
    max_depth: int = 256
    ratio_floor_bytes: int = 64 * MIB
    max_name_bytes: int = 255
    max_path_bytes: int = 4096
    max_xattr_bytes: int = 64 * KIB
    max_metadata_bytes: int = MIB
    max_seconds: int = 3600
    climbing_links: str = "refuse"
    devices: str = "keep"
    setuid: str = "keep"
    trailing_data: str = "refuse"
    missing_end_marker: str = "refuse"
    foreign_attributes: str = "drop"
    times: str = "clamp"

    @property
    def policy(self) -> str:
        """What differs from the default and is part of a chain's identity: no image gets what its own policies refuse."""
        chosen = ((name, str(getattr(self, name))) for name in POLICIES)
        return "".join(f" {name}={value}" for name, value in chosen if value != POLICIES[name][0])


POLICIES = {
    "climbing_links": ("refuse", "resolve"),
    "devices": ("keep", "refuse"),
    "setuid": ("keep", "strip", "refuse"),
    "trailing_data": ("refuse", "ignore"),
    "missing_end_marker": ("refuse", "accept"),
    "foreign_attributes": ("drop", "refuse"),
    "times": ("clamp", "refuse"),
}
"""What each policy can be, the default first."""

CUT = "the layer was not stored whole; store it again"
UNMARKED = "it was not stored whole: store it again; if its writer leaves the marker out, set limits.missingEndMarker: accept"
AS_WRITTEN = {
    CUT: "its digest is the declared one, so its writer left it incomplete: create the layer with another tool",
    UNMARKED: "its digest is the declared one, so its writer left the marker out: set limits: {missingEndMarker: accept}",
}
"""The hints for a tar that ends early, and what replaces them where the layer's digest shows that nothing was cut."""


def default_bytes_per_inode(size: int) -> int:
    """mke2fs's choice for a file system of ``size`` bytes."""
    return next((ratio for limit, ratio in INODE_RATIOS if size < limit), LARGEST_RATIO)


def base_id(size: int, policy: str = "", layout: int = LAYOUT, bytes_per_inode: int = 0) -> str:
    """Id that every chain of file systems of one geometry and one ``Limits.policy`` starts from (64 hex digits).

    ``bytes_per_inode`` is 0 where nothing is declared: then the default's id.
    """
    declared = bytes_per_inode not in (0, default_bytes_per_inode(size))
    inodes = f" bytes_per_inode={bytes_per_inode}" if declared else ""
    return hashlib.sha256(f"reconciler/ext4 layout={layout} size={size}{policy}{inodes}".encode()).hexdigest()


def chain_ids(
    size: int, digests: Iterable[str], policy: str = "", layout: int = LAYOUT, bytes_per_inode: int = 0
) -> tuple[str, ...]:
    """Ids of the chain's prefixes, the whole chain last, in the manner of OCI's ChainID. The other arguments as ``base_id``.

    >>> len(chain_ids(8 * GIB, ["a" * 64, "b" * 64]))
    2
    """
    ids: list[str] = []
    parent = base_id(size, policy, layout, bytes_per_inode)
    for digest in digests:
        parent = hashlib.sha256(f"{parent} {digest}".encode()).hexdigest()
        ids.append(parent)
    return tuple(ids)


def filesystem_uuid(chain: str) -> uuid.UUID:
    """UUID of the file system of a chain: the same layers and size give the same one, anywhere."""
    return uuid.uuid5(uuid.UUID("6d0c7f0e-5a3b-5c1e-9d57-0b7a3a1f4e52"), chain)
