"""The documents that a manifest may hold: Pool and Image of reconciler/v1alpha1, and their JSON Schema for editors.

Checked for ``manifests``, read by ``desired``. Every scalar arrives as the text that the user wrote and gets its type here, from
the field that it is given for (``scalars``). Knows neither YAML nor what several documents mean together. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from reconciler.image.spec import GIB, KIB, Limits
from reconciler.manifests import scalars
from reconciler.manifests.faults import Loc, listed, quoted
from reconciler.manifests.problems import Absent, DocumentInvalid, Problem, from_details, not_one_of
from reconciler.manifests.scalars import Scalar

API_VERSION = "reconciler/v1alpha1"
DEFAULT_SIZE = 8 * GIB
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Text:
    """A scalar's reader and schema in the form that pydantic asks an annotation for."""

    scalar: Scalar

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return PlainValidator(self.scalar).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.scalar.schema)


Name = Annotated[str, _Text(scalars.NAME)]
SnapshotName = Annotated[str, _Text(scalars.SNAPSHOT_NAME)]
LabelKey = Annotated[str, _Text(scalars.LABEL_KEY)]
LabelValue = Annotated[str, _Text(scalars.LABEL_VALUE)]
Region = Annotated[str, _Text(scalars.REGION)]
Percent = Annotated[int, _Text(scalars.PERCENT)]
Share = Annotated[int, _Text(scalars.SHARE)]
Count = Annotated[int, _Text(scalars.COUNT)]
Number = Annotated[int, _Text(scalars.NUMBER)]
Bytes = Annotated[int, _Text(scalars.BYTES)]
NameBytes = Annotated[int, _Text(scalars.NAME_BYTES)]
PathBytes = Annotated[int, _Text(scalars.PATH_BYTES)]
XattrBytes = Annotated[int, _Text(scalars.XATTR_BYTES)]
MetadataBytes = Annotated[int, _Text(scalars.METADATA_BYTES)]
Seconds = Annotated[int, _Text(scalars.SECONDS)]
ImageSize = Annotated[int, _Text(scalars.IMAGE_SIZE)]
BackingSize = Annotated[int, _Text(scalars.BACKING_SIZE)]
BlockSize = Annotated[int, _Text(scalars.BLOCK_SIZE)]
Switch = Annotated[bool, _Text(scalars.SWITCH)]
Sha256 = Annotated[str, _Text(scalars.SHA256)]
SourceText = Annotated[str, _Text(scalars.SOURCE)]
Endpoint = Annotated[str, _Text(scalars.ENDPOINT)]
AbsolutePath = Annotated[str, _Text(scalars.ABSOLUTE_PATH)]

# ------------------------------------------------------------------------------------------------------ documents


class _Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True, defer_build=True)

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        """What fields say against each other. Read from the raw mapping, so that a fault of one field hides none of these."""
        return ""


class Metadata(_Mapping):
    name: Name
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="For selecting images with -l.")
    annotations: Any = Field(default=None, description="Ignored.")
    uid: Any = Field(default=None, description="Ignored.")
    generation: Any = Field(default=None, description="Ignored.")
    resource_version: Any = Field(default=None, description="Ignored.")
    creation_timestamp: Any = Field(default=None, description="Ignored.")
    managed_fields: Any = Field(default=None, description="Ignored.")


class FileDriver(_Mapping):
    """Image files under the state directory; no root, any system."""


class Backing(_Mapping):
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
        default=None, description="Size of the file. Left out: 48 bytes for each block of data, 2MiB at least, 16GiB at most."
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


class ThinDriver(_Mapping):
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


class Reserve(_Mapping):
    data_percent: Percent = Field(default=10, description="Of the pool's data space, kept free of new work.")
    metadata_percent: Percent = Field(default=20, description="Of the pool's metadata space, kept free of new work.")


class PoolBody(_Mapping):
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


class LayerBody(_Mapping):
    source: SourceText = Field(
        description="s3://bucket/key, file:///path, or a path relative to the manifest: a tar, plain, gzip or zstd."
    )
    sha256: Sha256 | None = Field(
        None, description="Of the bytes as stored: the layer's identity. Unpinned where it is left out."
    )


class S3Body(_Mapping):
    endpoint_url: Endpoint | None = Field(
        default=None, description="http(s)://host:port of an S3 service. Left out: the AWS environment decides."
    )
    region: Region | None = Field(default=None, description="Left out: the AWS environment decides.")
    anonymous: Switch = Field(default=False, description="Requests are not signed: public buckets.")


class SnapshotBody(_Mapping):
    name: SnapshotName
    count: Count | None = Field(default=None, description="As many snapshots, name-0, name-1, …")

    @property
    def names(self) -> Iterator[str]:
        return iter([self.name]) if self.count is None else (f"{self.name}-{i}" for i in range(self.count))


class LimitsBody(_Mapping):
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
    trailing_data: Literal["refuse", "ignore"] = Field(default="refuse", description="What follows the tar's end marker.")
    missing_end_marker: Literal["refuse", "accept"] = Field(
        default="refuse", description="A tar that just ends, between two members."
    )


class Expression(_Mapping):
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


class Hosts(_Mapping):
    match_labels: dict[LabelKey, LabelValue] = {}
    match_expressions: tuple[Expression, ...] = ()
    percent: Share | None = Field(
        default=None, description="Of the hosts that the rest selects: each host and image by the same lot."
    )

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        return "" if any(raw.values()) else "selects by nothing (leave hosts out for every host)"


class ImageBody(_Mapping):
    pool: Name | None = Field(
        default=None, description="Optional where one pool is declared, or none (then it is a file pool, default)."
    )
    size: ImageSize = Field(
        DEFAULT_SIZE, description="Of the file system, a multiple of 4096 bytes. Images of one size share volumes."
    )
    layers: tuple[LayerBody, ...] = Field(min_length=1, max_length=256, description="From the bottom to the top.")
    s3: S3Body = Field(default_factory=cache(lambda: S3Body()))
    snapshots: tuple[SnapshotBody, ...] = Field(default=(), description="Writable copies of the image.")
    limits: LimitsBody = Field(default_factory=cache(lambda: LimitsBody()))
    hosts: Hosts | None = Field(default=None, description="Every host where it is left out.")
    deletion_policy: Literal["Delete", "Retain"] = Field(
        "Delete", description="What pruning does once the image is no longer declared."
    )
    replace_policy: Literal["Keep", "OnRelease", "Recreate"] = Field(
        "Keep",
        description="What becomes of snapshots once the image has other layers: they stay, are replaced when nobody uses them, "
        "or at once (an error while they are used).",
    )
    suspend: Switch = Field(default=False, description="Nothing is done for this image while it is true.")


class PoolDocument(_Mapping):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Pool"]
    metadata: Metadata
    spec: PoolBody
    status: Any = Field(default=None, description="Ignored.")


class ImageDocument(_Mapping):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Image"]
    metadata: Metadata
    spec: ImageBody
    status: Any = Field(default=None, description="Ignored.")


class HostBody(_Mapping):
    """``/etc/reconciler/host.yaml``: what this host is, said on the host and nowhere else."""

    name: LabelValue | None = Field(default=None, description="Shown in results; the system's host name where it is left out.")
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="What the hosts of an image select by.")


Document = PoolDocument | ImageDocument
KINDS: dict[str, type[PoolDocument] | type[ImageDocument]] = {"Pool": PoolDocument, "Image": ImageDocument}

# ------------------------------------------------------------------------------------------------------- problems


def parse(root: Mapping[str, object]) -> Document:
    """A document from nested dicts and lists of text and ``Absent.VALUE``. DocumentInvalid with all its problems."""
    kind = root.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise DocumentInvalid(_unknown_kind(root))
    broken = list(_broken_rules(model, root, ()))
    try:
        document = model.model_validate(root)
    except ValidationError as error:
        raise DocumentInvalid(chain(broken, from_details(error.errors(include_url=False), partial(_fields, model)))) from None
    if broken:
        raise DocumentInvalid(iter(broken))
    return document


def parse_host(root: Mapping[str, object]) -> HostBody:
    """The host's own file. DocumentInvalid with all its problems."""
    try:
        return HostBody.model_validate(root)
    except ValidationError as error:
        raise DocumentInvalid(from_details(error.errors(include_url=False), partial(_fields, HostBody))) from None


def _broken_rules(model: type[_Mapping], raw: object, loc: Loc) -> Iterator[Problem]:
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            yield from _broken_rules(model, item, (*loc, index))
    elif isinstance(raw, dict):
        if message := model.broken_rule(raw):
            yield Problem(loc, message)
        for name, child in _ruled(model):
            yield from _broken_rules(child, raw.get(name), (*loc, name))


@cache
def _ruled(model: type[_Mapping]) -> tuple[tuple[str, type[_Mapping]], ...]:
    """The fields of ``model`` in or under which there are rules."""
    children = ((field.alias or name, _model_in(field.annotation)) for name, field in model.model_fields.items())
    return tuple(
        (name, child) for name, child in children if child and (child.broken_rule is not _Mapping.broken_rule or _ruled(child))
    )


def _unknown_kind(root: Mapping[str, object]) -> Iterator[Problem]:
    for name, known in (("apiVersion", (API_VERSION,)), ("kind", tuple(KINDS))):
        value = root.get(name)
        if name not in root:
            yield Problem((name,), f"is required: {listed(known)}")
        elif value not in known and value is not Absent.REFUSED:
            yield Problem((name,), not_one_of(value, known))


def _fields(model: type[_Mapping], loc: Loc) -> list[str]:
    """The fields that are known at ``loc``."""
    for part in loc:
        field = next((f for f in model.model_fields.values() if f.alias == part), None)
        model = (_model_in(field.annotation) if field else None) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[_Mapping] | None:
    if isinstance(annotation, type) and issubclass(annotation, _Mapping):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


# --------------------------------------------------------------------------------------------------------- schema


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one document.

    It branches with if/then on ``kind``: with oneOf, editors report the errors of every other branch too.
    """
    models, definitions = models_json_schema([(model, "validation") for model in KINDS.values()])
    references = {model.__name__: reference for (model, _), reference in models.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "reconcile manifest",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"enum": list(KINDS)}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": references[model.__name__]}
            for kind, model in KINDS.items()
        ],
        "$defs": _tidy(definitions["$defs"]),
    }


def _tidy(node: Any) -> Any:
    """Without the titles that pydantic makes of field names, and without null, which no manifest may hold."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("default", ...) is None:
        del kept["default"]
    some = [choice for choice in kept.get("anyOf", ()) if choice != {"type": "null"}]
    return {**{k: v for k, v in kept.items() if k != "anyOf"}, **some[0]} if len(some) == 1 else kept
