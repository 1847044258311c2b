"""The documents that a manifest may hold: Pool and Image of reconciler/v1alpha1.

Parsed for ``loader``, read by ``desired``. Validates one document; ``conflicts`` checks several together. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import ConfigDict, Field

from reconciler.image.spec import GIB, KIB, Limits
from reconciler.manifests.faults import Fault, Origin, did_you_mean, listed, quoted
from reconciler.manifests.fields import (
    AbsolutePath,
    BackingSize,
    BlockSize,
    Bytes,
    Count,
    Endpoint,
    Fields,
    ImageSize,
    LabelKey,
    LabelValue,
    MetadataBytes,
    Name,
    NameBytes,
    Number,
    PathBytes,
    Percent,
    Region,
    Seconds,
    Sha256,
    Share,
    SnapshotName,
    SourceText,
    Switch,
    XattrBytes,
    validate,
)
from reconciler.manifests.problems import Absent, DocumentInvalid, not_one_of

GROUP = "reconciler"
API_VERSION = f"{GROUP}/v1alpha1"
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml")
DEFAULT_SIZE = 8 * GIB
_LIMITS = Limits()


class Metadata(Fields):
    name: Name
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="For selecting images with -l.")
    annotations: Any = Field(default=None, description="Ignored.")
    uid: Any = Field(default=None, description="Ignored.")
    generation: Any = Field(default=None, description="Ignored.")
    resource_version: Any = Field(default=None, description="Ignored.")
    creation_timestamp: Any = Field(default=None, description="Ignored.")
    managed_fields: Any = Field(default=None, description="Ignored.")


class FileDriver(Fields):
    """Image files under the state directory; needs no root."""


class Backing(Fields):
    device: AbsolutePath | None = Field(default=None, description="A block device.")
    file: AbsolutePath | None = Field(default=None, description="A file, used through a loop device.")
    size: BackingSize | None = Field(default=None, description="Size of the file.")

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        return (
            ""
            if raw.keys() & {"device", "file", "size"} in ({"device"}, {"file", "size"})
            else "needs either device, or file and size"
        )

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["device"]},
            "then": {"not": {"anyOf": [{"required": ["file"]}, {"required": ["size"]}]}},
            "else": {"required": ["file", "size"]},
        }
    )


class MetadataBacking(Backing):
    size: BackingSize | None = Field(
        default=None, description="Size of the file. By default 48 bytes for each block of data, 2MiB at least, 16GiB at most."
    )

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        keys = raw.keys() & {"device", "file", "size"}
        return "" if keys in ({"device"}, {"file"}, {"file", "size"}) else "needs either device, or file (and its size, or not)"

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["device"]},
            "then": {"not": {"anyOf": [{"required": ["file"]}, {"required": ["size"]}]}},
            "else": {"required": ["file"]},
        }
    )


class ThinDriver(Fields):
    """A device-mapper thin pool; needs root."""

    data: Backing
    metadata: MetadataBacking
    block_size: BlockSize = Field(default=64 * KIB, description="Unit of allocation and sharing, a multiple of 64KiB.")

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        match raw:
            case {"data": {"device": str(a)}, "metadata": {"device": str(b)}} | {
                "data": {"file": str(a)},
                "metadata": {"file": str(b)},
            }:
                return f"data and metadata are both on {quoted(a)}" if a == b else ""
        return ""


class Reserve(Fields):
    data_percent: Percent = Field(default=10, description="Percentage of the pool's data space that new work leaves free.")
    metadata_percent: Percent = Field(
        default=20, description="Percentage of the pool's metadata space that new work leaves free."
    )


class PoolBody(Fields):
    file: FileDriver | None = None
    thin: ThinDriver | None = None
    reserve: Reserve = Field(default_factory=lambda: Reserve())

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        one = ("file" in raw) != ("thin" in raw)
        return "" if one else "needs exactly one of file and thin (`file: {}` keeps images as files)"

    model_config = ConfigDict(
        json_schema_extra={"if": {"required": ["thin"]}, "then": {"not": {"required": ["file"]}}, "else": {"required": ["file"]}}
    )


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


class PoolDocument(Fields):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Pool"]
    metadata: Metadata
    spec: PoolBody
    status: Any = Field(default=None, description="Ignored.")


class ImageDocument(Fields):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Image"]
    metadata: Metadata
    spec: ImageBody
    status: Any = Field(default=None, description="Ignored.")


Document = PoolDocument | ImageDocument
KINDS: dict[str, type[PoolDocument] | type[ImageDocument]] = {"Pool": PoolDocument, "Image": ImageDocument}


def parse(root: Mapping[str, object], origin: Origin) -> Document:
    """A document from nested dicts and lists of text and ``Absent.VALUE``. Raises DocumentInvalid with all its faults."""
    kind = root.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise DocumentInvalid(_unknown_kind(root, origin))
    return validate(model, root, origin)


def ignored(root: Mapping[str, object], file_name: str) -> str:
    """Why a document of another tool is ignored; empty where it is one of ours, or could be meant as one.

    A mistyped group is a fault: an image whose document is ignored would count as undeclared.
    """
    version, kind = root.get("apiVersion"), root.get("kind")
    if "apiVersion" not in root and file_name in KUSTOMIZATIONS and kind not in KINDS:
        return "ignored: a kustomization declares no objects"
    if not isinstance(version, str):
        return ""
    group, slash, _ = version.rpartition("/")
    if group == GROUP or did_you_mean(group, (GROUP,)) or (kind in KINDS and not slash):
        return ""
    return f"ignored: apiVersion {quoted(version)} is of another API group"


def _unknown_kind(root: Mapping[str, object], origin: Origin) -> Iterator[Fault]:
    for name, accepted in (("apiVersion", (API_VERSION,)), ("kind", tuple(KINDS))):
        value = root.get(name)
        if name not in root:
            yield origin.fault((name,), f"is required: {listed(accepted)}")
        elif value not in accepted and value is not Absent.REFUSED:
            yield origin.fault((name,), not_one_of(value, accepted))
