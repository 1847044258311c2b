"""Converts the registry's rows to the values of ``model`` and ``engine``, and back.

Called by ``reader`` and ``writer``. A row is a mapping of column names to what SQLite stores. Columns and fields have equal
names, which a test compares with ``tables``; only what SQLite stores otherwise (keys, JSON, enumerations) is converted. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from reconciler.engine.definitions import Entry, Json, Result, Run, Status, Transition
from reconciler.image.spec import Source
from reconciler.model import (
    Fact,
    Failure,
    ImageRow,
    Key,
    Kind,
    LayerSeen,
    SnapshotGone,
    SnapshotMade,
    VolumeGone,
    VolumeRow,
    VolumeSealed,
)
from reconciler.pool.thin.journal import DeviceRow, Role, State
from reconciler.registry.marks import Mark, What

Row = Mapping[str, Any]


def dump(value: object) -> str:
    """JSON in one spelling, so that equal values are equal text. Raises TypeError or ValueError where it isn't JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


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


def transition_of(row: Row) -> Transition:
    return Transition(**{**row, "result": Result(row["result"]), "data": json.loads(row["data"])})


def beginning(run: Run, seq: int, attempt: int, at: float, data: Json) -> dict[str, Any]:
    """The history's row of an attempt that begins."""
    where = {"run": run.id, "seq": seq, "from_state": run.state, "to_state": run.state, "attempt": attempt, "started": at}
    return where | {"ended": None, "result": Result.RUNNING, "reason": "", "message": "", "data": dump(data)}


def ending(state: str, at: float, entry: Entry) -> dict[str, Any]:
    """The columns of such a row that the end of the attempt sets."""
    return {"to_state": state, "ended": at, **asdict(entry), "message": storable(entry.message), "data": dump(entry.data)}


def failure_of(row: Row) -> Failure:
    waits = row["status"] == Status.NEEDS_OPERATOR
    return Failure(Kind(row["kind"]), row["name"], row["reason"], row["message"], waits, row["pool"])


# ---------------------------------------------------------------------------------------------- what there should be


def image_of(row: Row) -> ImageRow:
    return ImageRow(**{**row, "retain": bool(row["retain"])})


def volume_of(row: Row) -> VolumeRow:
    return VolumeRow(**{**row, "digests": tuple(json.loads(row["digests"]))})


def device_of(row: Row) -> DeviceRow:
    plain = {name: value for name, value in row.items() if name != "pool"}
    return DeviceRow(**{**plain, "role": Role(row["role"]), "state": State(row["state"])})


_DEVICE = tuple(field.name for field in fields(DeviceRow))


def device_row(pool: str, one: DeviceRow) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(one, name) for name in _DEVICE}  # ``asdict`` copies, and takes ten times as long
    row["pool"], row["role"], row["state"] = pool, one.role.value, one.state.value
    return row


def origin(source: Source) -> str:
    """Where an ETag means something: an S3 endpoint, bucket and key, or one file."""
    return storable(f"{bucket_of(source)}/{source.bucket_key[1]}" if source.is_s3 else source.url)


def bucket_of(source: Source) -> str:
    """What was recorded as the origin of an S3 layer before the key was a part of it."""
    return storable(f"{source.s3.endpoint_url or 'aws'}/{source.bucket_key[0]}")


def effect(fact: Fact) -> tuple[str, dict[str, Any], bool]:
    """What a fact does: a table, a row to be there (True), or the key of one to be gone (False)."""
    match fact:
        case VolumeSealed(row):
            return "volume", asdict(row) | {"digests": dump(row.digests)}, True
        case VolumeGone():
            return "volume", asdict(fact), False
        case SnapshotMade(row):
            return "snapshot", asdict(row), True
        case SnapshotGone():
            return "snapshot", asdict(fact), False
        case LayerSeen():
            seen: Json = {"etag": fact.etag, "size": fact.size, "digest": fact.digest}
            return "seen", {"origin": origin(fact.source), **seen}, True


def mark_of(row: Mapping[str, Any]) -> Mark:
    return Mark(row["image"], What(row["what"]), row["reason"], row["since"], row["until"])
