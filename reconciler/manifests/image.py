"""The fields of an Image manifest. Read by ``documents``; ``desired`` makes the model's ImageSpec of them. Pure.

A new field: declare it here and in ``model.ImageSpec``, carry it over in ``desired``, show it in
``status.inventory.declaration``. With ``repr=False`` in ImageSpec it is no part of the image's digest, and no image becomes
another one by it. The schema (``reconcile schema > manifests/schema.json``) and ``explain`` follow from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field

from reconciler.claim import Recycle, SnapshotSet
from reconciler.image.spec import GIB, Limits
from reconciler.manifests.fields import (
    Bytes,
    BytesPerInode,
    Content,
    Count,
    Duration,
    Endpoint,
    Fields,
    FileMode,
    HostFile,
    ImagePath,
    ImageSize,
    ImageSource,
    Instant,
    LabelKey,
    LabelValue,
    Metadata,
    MetadataBytes,
    Name,
    NameBytes,
    Number,
    Owner,
    PathBytes,
    PlatformName,
    Region,
    Seconds,
    Sha256,
    Share,
    SnapshotName,
    SourceText,
    Switch,
    XattrBytes,
)

DEFAULT_SIZE = 8 * GIB
MOST_FILES = 64
"""Of one snapshot."""
_LIMITS = Limits()


class LayerBody(Fields):
    source: SourceText = Field(
        description="s3://bucket/key, file:///path, or a path relative to the manifest: a tar, plain, gzip, zstd, xz or bzip2."
    )
    sha256: Sha256 | None = Field(
        None, description="Digest of the bytes as stored: the layer's identity. Without it the layer is unpinned."
    )


class S3Body(Fields):
    endpoint_url: Endpoint | None = Field(
        default=None, description="http(s)://host:port of an S3 service. Left out: the AWS environment decides."
    )
    region: Region | None = Field(default=None, description="Left out: the AWS environment decides.")
    anonymous: Switch = Field(default=False, description="Requests are not signed: public buckets.")


class FileBody(Fields):
    """A file that is written into each snapshot when it is created."""

    path: ImagePath = Field(
        description="Absolute path in the image. Missing directories are made; symlinks are resolved inside the image."
    )
    content: Content | None = Field(
        None, description="Its text. {snapshot}, {index}, {image} and {host} become the names; other braces stay."
    )
    from_: HostFile | None = Field(
        None, alias="from", description="A file of the host, at most 1 MiB: a path relative to the manifest, or an absolute one."
    )
    mode: FileMode = Field("0644", description="Octal permissions.")
    uid: Owner = Field(0, description="Number of the owner in the image.")
    gid: Owner = Field(0, description="Number of the group in the image.")

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        given = ("content" in raw) + ("from" in raw)
        return "" if given == 1 else "has both content and from; give one of them" if given else "needs content or from"


class NoCloudBody(Fields):
    """Files of the host, each at most 1 MiB; {snapshot}, {index}, {image} and {host} in them become the names."""

    user_data: HostFile = Field(description="For example `#cloud-config`: a path relative to the manifest, or an absolute one.")
    meta_data: HostFile | None = Field(
        default=None, description="Left out: an instance-id of this snapshot and seed, and its name as local-hostname."
    )
    network_config: HostFile | None = Field(default=None, description="Left out: cloud-init asks every interface by DHCP.")

    @property
    def files(self) -> dict[str, str]:
        """By the name that cloud-init gives them."""
        given = {"meta-data": self.meta_data, "network-config": self.network_config, "user-data": self.user_data}
        return {name: path for name, path in given.items() if path is not None}


class SeedBody(Fields):
    nocloud: NoCloudBody = Field(description="A small ISO 9660 disk with the label cidata, which cloud-init looks for.")


class SnapshotBody(Fields):
    name: SnapshotName
    count: Count | None = Field(default=None, description="So many unclaimed snapshots are kept ready: name-0, name-1, …")
    max: Count | None = Field(
        default=None, description="Most snapshots in all, with claimed ones: these names are reserved. The count by default."
    )
    ttl: Duration | None = Field(
        default=None,
        description="Of a claim that asks for no other, and the longest that one may ask for: 90s, 2h. 24h by default.",
    )
    recycle: Literal["Never", "OnRelease"] | None = Field(
        default=None,
        description="A snapshot whose claim has ended stays as it is (Never), or is made from the base again (OnRelease). "
        "OnRelease by default where ttl or max is given.",
    )

    size: ImageSize | None = Field(
        default=None, description="At least the image's; the file system is grown to it when the snapshot is created."
    )
    files: tuple[FileBody, ...] = Field(
        default=(),
        max_length=MOST_FILES,
        description="Files written into each snapshot when it is created. Another content outdates the snapshot.",
    )
    unique_ids: Switch = Field(
        default=False,
        description="True: an empty /etc/machine-id, a file-system UUID of its own, no SSH host keys, no random seeds.",
    )
    read_only: Switch = Field(
        default=False,
        description="True: its users can only read it, as a root below an overlay. `files` and `uniqueIds` are written before.",
    )
    seed: SeedBody | None = Field(default=None, description="A disk beside each snapshot, from which cloud-init configures it.")

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        if "max" not in raw:
            return ""
        if "count" not in raw:
            return "has a max, which belongs to a count"
        most, count = raw["max"], raw["count"]
        numbers = all(isinstance(one, str) and one.isdigit() for one in (most, count))
        return f"has a max of {most}, which is below its count of {count}" if numbers and int(str(most)) < int(str(count)) else ""

    @property
    def customized(self) -> bool:
        """Whether the snapshots have something besides the image."""
        return bool(self.size or self.files or self.unique_ids or self.read_only or self.seed)

    @property
    def set(self) -> SnapshotSet:
        """What the model has of it."""
        recycle = self.recycle or ("OnRelease" if self.ttl or self.max else "Never")
        return SnapshotSet(self.name, self.count, self.max or self.count or 1, self.ttl or 0.0, Recycle(recycle))


class LimitsBody(Fields):
    max_unpacked_bytes: Bytes = Field(default=_LIMITS.max_unpacked_bytes, description="Of a layer, decompressed.")
    max_file_bytes: Bytes = Field(default=_LIMITS.max_file_bytes, description="Of one file, holes included.")
    max_entries: Number = Field(default=_LIMITS.max_entries, description="Members of a layer, implied directories included.")
    max_ratio: Number = Field(default=_LIMITS.max_ratio, description="Decompressed bytes by stored bytes.")
    max_depth: Number = Field(default=_LIMITS.max_depth, description="Directories in a member's name.")
    ratio_floor_bytes: Bytes = Field(default=_LIMITS.ratio_floor_bytes, description="Decompressed bytes before maxRatio counts.")
    max_name_bytes: NameBytes = Field(default=_LIMITS.max_name_bytes, description="Of one component of a path.")
    max_path_bytes: PathBytes = Field(default=_LIMITS.max_path_bytes, description="Of a member's name.")
    max_xattr_bytes: XattrBytes = Field(
        default=_LIMITS.max_xattr_bytes, description="Names and values of a member's extended attributes."
    )
    max_metadata_bytes: MetadataBytes = Field(
        default=_LIMITS.max_metadata_bytes, description="Long names and extended headers in front of one member."
    )
    max_seconds: Seconds = Field(default=_LIMITS.max_seconds, description="Of CPU, for reading one layer.")
    climbing_links: Literal["refuse", "resolve"] = Field(
        default="refuse",
        description="Relative symlinks that climb above the root: refuse, or keep (they resolve inside the image).",
    )
    devices: Literal["keep", "refuse"] = Field(default="keep", description="Character and block devices.")
    setuid: Literal["keep", "strip", "refuse"] = Field(
        default="keep", description="Files with setuid or setgid, or with capabilities."
    )
    trailing_data: Literal["refuse", "ignore"] = Field(default="refuse", description="Data after the tar's end marker.")
    missing_end_marker: Literal["refuse", "accept"] = Field(
        default="refuse", description="A tar that ends between two members, without an end marker."
    )
    foreign_attributes: Literal["drop", "refuse"] = Field(
        default="drop", description="Extended attributes of other systems, which no image can keep."
    )
    times: Literal["clamp", "refuse"] = Field(default="clamp", description="Modification times out of ext4's range.")


class Expression(Fields):
    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[LabelValue, ...] = ()

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        match raw:
            case {"operator": ("In" | "NotIn") as operator} if not raw.get("values"):
                return f"operator {operator} needs values"
            case {"operator": ("Exists" | "DoesNotExist") as operator} if raw.get("values"):
                return f"operator {operator} takes no values"
        return ""


class Hosts(Fields):
    match_labels: dict[LabelKey, LabelValue] = Field(default={})
    match_expressions: tuple[Expression, ...] = ()
    percent: Share | None = Field(
        default=None,
        description="Percentage of the selected hosts that get the image (stable hash of host id and image name).",
    )
    not_before: Instant | None = Field(
        default=None,
        description="Time with its offset (2026-03-01T06:00:00Z). Hosts don't build, change or remove the image before.",
    )

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        return "" if any(raw.values()) else "selects by nothing (leave hosts out for every host)"


class ImageBody(Fields):
    pool: Name | None = Field(
        default=None,
        description="Pool of the image. Optional with one declared pool, or none (then the file pool `default` is used).",
    )
    size: ImageSize = Field(
        DEFAULT_SIZE, description="Size of the file system, a multiple of 4096 bytes. Only images of the same size share volumes."
    )
    bytes_per_inode: BytesPerInode | None = Field(
        default=None,
        description="One inode for so many bytes of the size, 4KiB to 64KiB. As mke2fs by default: 4KiB below 512MiB, 16KiB "
        "below 4TiB, 32KiB below 16TiB, 64KiB above. Only images of the same value share volumes.",
    )
    source: ImageSource | None = Field(
        default=None,
        description="An OCI image instead of layers: oci://host/repository:tag@sha256:digest (unpinned without the digest), "
        "oci-layout:PATH, oci-archive:PATH or docker-archive:PATH.",
    )
    layers: tuple[LayerBody, ...] | None = Field(
        default=None, min_length=1, max_length=256, description="Layers, from the bottom to the top."
    )
    platform: PlatformName | None = Field(
        default=None, description="Which image of a multi-platform source: os/architecture. The host's by default."
    )
    s3: S3Body = Field(default_factory=cache(lambda: S3Body()))
    snapshots: tuple[SnapshotBody, ...] = Field(default=(), description="Writable copies of the image.")
    limits: LimitsBody = Field(default_factory=cache(lambda: LimitsBody()))
    hosts: Hosts | None = Field(default=None, description="Hosts that get the image; all hosts by default.")
    deletion_policy: Literal["Delete", "Retain"] = Field(
        "Delete", description="What pruning does with the data of an image that is no longer declared: Delete or Retain."
    )
    replace_policy: Literal["Keep", "OnRelease", "Recreate"] = Field(
        "Keep",
        description="Snapshots of an image whose layers have changed: Keep them, replace them OnRelease (once they are not in "
        "use), or Recreate them now (an error while they are in use).",
    )
    suspend: Switch = Field(default=False, description="True: the image is not built, repaired or removed.")

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        match ("source" in raw, "layers" in raw, "platform" in raw):
            case (False, False, _):
                return "needs layers, or the source of an OCI image"
            case (True, True, _):
                return "has a source and layers: an image is made of one of them"
            case (False, True, True):
                return "has a platform, which belongs to a source"
        return ""


class ImageDocument(Fields):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Image"]
    metadata: Metadata
    spec: ImageBody
    status: Any = Field(default=None, description="Ignored.")
