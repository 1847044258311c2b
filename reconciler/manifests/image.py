"""The fields of an Image manifest. Read by ``documents``; ``desired`` makes the model's ImageSpec of them. Pure.

A new field: declare it here and in ``model.ImageSpec``, carry it over in ``desired``, export it in ``status.inventory``. The
schema (``reconcile schema > manifests/schema.json``) and ``explain`` follow from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field

from reconciler.image.spec import GIB, Limits
from reconciler.manifests.fields import (
    Bytes,
    Count,
    Endpoint,
    Fields,
    ImageSize,
    LabelKey,
    LabelValue,
    Metadata,
    MetadataBytes,
    Name,
    NameBytes,
    Number,
    PathBytes,
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
_LIMITS = Limits()


class LayerBody(Fields):
    source: SourceText = Field(
        description="s3://bucket/key, file:///path, or a path relative to the manifest: a tar, plain, gzip or zstd."
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


class SnapshotBody(Fields):
    name: SnapshotName
    count: Count | None = Field(default=None, description="As many snapshots, name-0, name-1, …")

    @property
    def names(self) -> Iterator[str]:
        return iter([self.name]) if self.count is None else (f"{self.name}-{i}" for i in range(self.count))


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
    layers: tuple[LayerBody, ...] = Field(min_length=1, max_length=256, description="Layers, from the bottom to the top.")
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


class ImageDocument(Fields):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Image"]
    metadata: Metadata
    spec: ImageBody
    status: Any = Field(default=None, description="Ignored.")
