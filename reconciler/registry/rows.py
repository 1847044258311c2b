"""Converts the registry's rows to the values of ``model`` and ``engine``, and back.

Called by ``reader`` and ``writer``. A row is a mapping of column names to what SQLite stores. Columns and fields have equal
names, which a test compares with ``tables``; only what SQLite stores otherwise (keys, JSON, enumerations) is converted. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reconciler.dataclass import fields
from reconciler.engine.definitions import Entry, Json, Result, Run, Status, Transition
from reconciler.engine.facts import (
    LayerSeen,
    ReferenceGone,
    ReferenceResolved,
    RowFact,
    SnapshotGone,
    SnapshotMade,
    VolumeGone,
    VolumeSealed,
)
from reconciler.image.spec import ImageReference, Resolved, Source
from reconciler.model import Failure, ImageRow, Key, Kind, VolumeRow
from reconciler.pool.thin.journal import DeviceRow, Role, State
from reconciler.registry.marks import Mark, What

Row = Mapping[str, Any]


dump = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""JSON in one spelling, so that equal values are equal text. Raises TypeError or ValueError where it isn't JSON."""


def columns(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are: ``asdict`` copies, and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def storable(text: str) -> str:
    """Text that SQLite takes: a file name or member that isn't UTF-8 is kept escaped, not refused."""
    return text.encode("utf-8", "backslashreplace").decode()


# ------------------------------------------------------------------------------------------------------- runs

_PLAIN = tuple(f.name for f in fields(Run) if f.name not in ("subject", "input", "data", "status"))

COMMITTED = ("state", "digest", "updated", "data", "status", "attempt", "spent", "crashes", "not_before", "reason", "message")
"""What a commit writes. Not ``cancel``: another thread may have set it since the run was read."""

COMPARED = ("id", "state", "attempt", "status")
"""What must be unchanged for a commit to be accepted."""


def run_of(row: Row) -> Run:
    return Run(
        subject=Key(Kind(row["kind"]), row["pool"], row["name"]),
        input=json.loads(row["input"]),
        data=json.loads(row["data"]),
        status=Status(row["status"]),
        **{name: row[name] for name in _PLAIN},
    )


def key_row(key: Key) -> dict[str, Any]:
    return {"kind": key.kind.value, "pool": key.pool, "name": storable(key.name)}


def run_row(run: Run) -> dict[str, Any]:
    plain = {name: getattr(run, name) for name in _PLAIN} | {"message": storable(run.message)}
    return plain | key_row(run.subject) | {"input": dump(run.input), "data": dump(run.data), "status": run.status.value}


def committed(before: Run, after: Run) -> dict[str, Any]:
    """What a commit binds: the new values, and the compared ones with ``was_`` before their names."""
    changed = {name: getattr(after, name) for name in COMMITTED}
    changed |= {"data": dump(after.data), "status": after.status.value, "message": storable(after.message)}
    return changed | {f"was_{name}": getattr(before, name) for name in COMPARED} | {"was_status": before.status.value}


def transition_of(row: Row) -> Transition:
    return Transition(**{**row, "result": Result(row["result"]), "data": json.loads(row["data"])})


def beginning(run: Run, seq: int, attempt: int, at: float, data: Json) -> dict[str, Any]:
    """The history's row of an attempt that begins."""
    where = {"run": run.id, "seq": seq, "from_state": run.state, "to_state": run.state, "attempt": attempt, "started": at}
    return where | {"ended": None, "result": Result.RUNNING.value, "reason": "", "message": "", "data": dump(data)}


def ending(state: str, at: float, entry: Entry) -> dict[str, Any]:
    """The columns of such a row that the end of the attempt sets."""
    told = {"reason": entry.reason, "message": storable(entry.message), "data": dump(entry.data)}
    return {"to_state": state, "ended": at, "result": entry.result.value, **told}


def failure_of(row: Row) -> Failure:
    waits = row["status"] == Status.NEEDS_OPERATOR
    return Failure(Kind(row["kind"]), row["name"], row["reason"], row["message"], waits, row["pool"])


# ---------------------------------------------------------------------------------------------- what there should be


def image_of(row: Row) -> ImageRow:
    return ImageRow(**{**row, "retain": bool(row["retain"])})


def volume_of(row: Row) -> VolumeRow:
    return VolumeRow(**{**row, "digests": tuple(json.loads(row["digests"]))})


DEVICE = ", ".join(f'"{one.name}"' for one in fields(DeviceRow))
"""The columns of a thin device in the order of its fields: a pass reads all devices several times."""
_ROLES = {one.value: one for one in Role}
_STATES = {one.value: one for one in State}


def device_of(row: tuple[Any, ...]) -> DeviceRow:
    """From the columns ``DEVICE``."""
    thin_id, role, name, chain, size, transaction, state, mapped = row
    return DeviceRow(thin_id, _ROLES[role], name, chain, size, transaction, _STATES[state], mapped)


def device_row(pool: str, one: DeviceRow) -> dict[str, Any]:
    return columns(one) | {"pool": pool, "role": one.role.value, "state": one.state.value}


def origin(source: Source) -> str:
    """Where an ETag means something: an S3 endpoint, bucket and key, or one file."""
    return storable(f"{bucket_of(source)}/{source.bucket_key[1]}" if source.is_s3 else source.url)


def bucket_of(source: Source) -> str:
    """What was recorded as the origin of an S3 layer before the key was a part of it."""
    return storable(f"{source.s3.endpoint_url or 'aws'}/{source.bucket_key[0]}")


_BLOB_FIELDS = 5
"""Digest, size, diff_id, URL and compression of a layer. Older rows leave the last two out."""


def resolved_of(row: Row, wanted: ImageReference) -> Resolved:
    """What a row has, for a reference that points to the same digest: its own repository serves the layers."""
    from reconciler.image.oci.resolve import layers_of

    found = [(*blob, "", "")[:_BLOB_FIELDS] for blob in json.loads(row["blobs"])]
    blobs = [(sha256, size, diff_id, url, compression) for sha256, size, diff_id, url, compression in found]
    return Resolved(row["digest"], row["manifest"], row["config"], layers_of(wanted, blobs))


def reference_row(reference: ImageReference, found: Resolved) -> dict[str, Any]:
    urls = ("" if one.source.is_registry else one.source.url for one in found.layers)
    blobs = [[one.sha256, one.size, one.diff_id, url, one.compression] for one, url in zip(found.layers, urls, strict=True)]
    where = {"url": reference.source.url, "platform": reference.platform}
    return where | {"digest": found.digest, "manifest": found.manifest, "config": found.config, "blobs": dump(blobs)}


def effect(fact: RowFact) -> tuple[str, dict[str, Any], bool]:
    """What a fact does: a table, a row to be there (True), or the key of one to be gone (False)."""
    match fact:
        case VolumeSealed(row):
            return "volume", columns(row) | {"digests": dump(row.digests)}, True
        case VolumeGone():
            return "volume", columns(fact), False
        case SnapshotMade(row):
            return "snapshot", columns(row), True
        case SnapshotGone():
            return "snapshot", columns(fact), False
        case LayerSeen():
            seen: Json = {"etag": fact.etag, "size": fact.size, "digest": fact.digest}
            return "seen", {"origin": origin(fact.source), **seen}, True
        case ReferenceResolved(reference, found):
            return "reference", reference_row(reference, found), True
        case ReferenceGone():
            return "reference", columns(fact), False


def mark_of(row: Mapping[str, Any]) -> Mark:
    return Mark(row["image"], What(row["what"]), row["reason"], row["since"], row["until"])
