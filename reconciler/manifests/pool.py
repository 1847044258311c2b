"""The fields of a Pool manifest. Read by ``documents``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from reconciler.image.spec import KIB
from reconciler.manifests.faults import quoted
from reconciler.manifests.fields import (
    AbsolutePath,
    AccessMode,
    AccountName,
    BackingSize,
    BlockSize,
    Fields,
    Metadata,
    Percent,
)


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


class AccessBody(Fields):
    """Owner, group and mode of the snapshots' files or device nodes."""

    owner: AccountName = Field(default="", description="A user of the host, by name or number.")
    group: AccountName = Field(default="", description="A group of the host, by name or number.")
    mode: AccessMode = Field(default="0600", description="In octal digits; reading and writing only.")


class PoolBody(Fields):
    file: FileDriver | None = None
    thin: ThinDriver | None = None
    access: AccessBody | None = None
    reserve: Reserve = Field(default_factory=lambda: Reserve())

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        one = ("file" in raw) != ("thin" in raw)
        return "" if one else "needs exactly one of file and thin (`file: {}` keeps images as files)"

    model_config = ConfigDict(
        json_schema_extra={"if": {"required": ["thin"]}, "then": {"not": {"required": ["file"]}}, "else": {"required": ["file"]}}
    )


class PoolDocument(Fields):
    api_version: Literal["reconciler/v1alpha1"]
    kind: Literal["Pool"]
    metadata: Metadata
    spec: PoolBody

    @staticmethod
    def broken_rule(raw: Mapping[str, object]) -> str:
        match raw:
            case {"metadata": {"name": "control"}, "spec": {"thin": _}}:
                return "a thin pool can't have the name 'control': /dev/mapper/control is the device of device-mapper itself"
        return ""

    status: Any = Field(default=None, description="Ignored.")
