"""The registry's schema, as SQLModel classes: the one definition of every table, column, check and index.

``schema.sql`` is generated from these classes (``python -m reconciler.registry.tables``), so that no command imports SQLModel,
which takes longer than most of them. Statements are plain SQL over these columns. A test compares both schemas, and another one
the columns with the fields of the values that ``rows`` converts. Migrations don't change with the classes. No state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import sqlmodel as sql
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import declared_attr
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import CheckConstraint, Field, SQLModel, Text

from reconciler.claim import ClaimState
from reconciler.engine.definitions import Result, Status
from reconciler.model import Kind
from reconciler.pool.thin.journal import Role, State
from reconciler.registry import database
from reconciler.registry.marks import IntentKind, What

Key = Annotated[str, Field(sa_type=Text, primary_key=True)]
Words = Annotated[str, Field(sa_type=Text)]
Seconds = Annotated[float, Field(sa_type=sql.REAL)]


def _one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(v.value) for v in values)})")


def _json(column: str) -> CheckConstraint:
    return CheckConstraint(f"json_valid({column})")


STRICT = {"sqlite_strict": True}
NUMBERED = {"sqlite_strict": True, "sqlite_autoincrement": True}
"""A number that was given once is not given again, whatever is deleted."""


class Table(SQLModel):
    metadata = sql.MetaData()
    __table_args__: ClassVar[Any] = (STRICT,)

    @declared_attr.directive
    def __tablename__(cls) -> str:
        return cls.__name__.removesuffix("Table").lower()


class MetaTable(Table, table=True):
    """``schema``, ``host`` (random, made once), ``serial`` (of the last change), ``quiet`` (how many of these call for
    no assessment), ``horizon`` (events below it may be deleted).

    ``reports`` is the number of the last process that reported to a sink (``fleet.reporter``).
    ``labels`` that the host is selected by, ``labels-changed``: others that it has had since, and when they were first seen.
    """

    key: Key
    value: Words


class ImageTable(Table, table=True):
    __table_args__ = (CheckConstraint("retain IN (0, 1)"), STRICT)
    name: Key
    pool: Words
    chain: str | None = Field(sa_type=Text)
    size: int
    retain: int


class VolumeTable(Table, table=True):
    __table_args__ = (_json("digests"), STRICT)
    pool: Key
    chain: Key
    parent: str | None = Field(sa_type=Text)
    size: int
    digests: Words
    identity: Words


class SnapshotTable(Table, table=True):
    """``custom`` is the digest of what a snapshot has besides its chain, ``size`` a size of its own.

    ``filesystem`` is that of the file system that it was created with, where it has grown since.
    """

    __table_args__ = (sql.Index("snapshot_image", "image", "chain"), STRICT)
    pool: Key
    name: Key
    image: Words
    chain: Words
    identity: Words
    custom: str = Field(sa_type=Text, sa_column_kwargs={"server_default": ""})
    size: int = Field(sa_column_kwargs={"server_default": sql.text("0")})
    filesystem: int = Field(sa_column_kwargs={"server_default": sql.text("0")})


class ClaimTable(Table, table=True):
    """Claims of snapshots (``claim``). A snapshot has one that has not ended at most: its index admits no second one."""

    __table_args__ = (
        _one_of("state", ClaimState),
        sql.Index("claim_open", "pool", "name", unique=True, sqlite_where=sql.text("state <> 'ended'")),
        sql.Index("claim_request", "uid", "request", unique=True, sqlite_where=sql.text("request <> ''")),
        STRICT,
    )
    id: Key
    pool: Words
    name: Words
    image: Words
    chain: Words
    holder: Words
    uid: int
    ttl: Seconds
    created: Seconds
    renewed: Seconds
    elapsed: Seconds
    boot: Words
    ended: Seconds
    state: Words
    request: Words
    wish: Words


class IntentTable(Table, table=True):
    """Files of file pools that are about to get the name of a snapshot, and what `retry --recreate` sets aside.

    A snapshot's row replaces its intents (``pool.file.intents``).
    """

    __table_args__ = (_one_of("what", IntentKind), STRICT)
    pool: Key
    name: Key
    what: Key
    chain: Words
    identity: Words


class SeenTable(Table, table=True):
    """Bytes of this ETag and length, at this origin (endpoint and bucket, or a file's path), have this digest."""

    origin: Key
    etag: Key
    size: int = Field(primary_key=True)
    digest: Words


class ReferenceTable(Table, table=True):
    """What the reference of an image stood for when it was asked last; ``blobs`` are its layers (``rows``)."""

    __table_args__ = (_json("blobs"), STRICT)
    url: Key
    platform: Key
    digest: Words
    manifest: Words
    config: Words
    blobs: Words


class ManifestTable(Table, table=True):
    """The text of each manifest file when it last was valid (see ``manifests.last_good``)."""

    path: Key
    text: Words


class GenerationTable(Table, table=True):
    """How often an image's specification has become another one, and the digest of the one that was seen last."""

    image: Key
    digest: Words
    number: int


class MarkTable(Table, table=True):
    """Marks of images; ``until`` 0 is for ever (see ``marks``)."""

    __table_args__ = (_one_of("what", What), STRICT)
    image: Key
    what: Key
    reason: Words
    since: Seconds
    until: Seconds


class PoolTable(Table, table=True):
    """Thin pools: the stamp that identifies the pool, its expected transaction id, the places of its backing.

    See ``pool.thin.journal``.
    """

    name: Key
    stamp: int
    transaction: int
    data_place: str = Field(sa_type=Text, sa_column_kwargs={"server_default": ""})
    metadata_place: str = Field(sa_type=Text, sa_column_kwargs={"server_default": ""})


class DeviceTable(Table, table=True):
    """Thin devices that are ours, and changes of them that are under way."""

    __table_args__ = (_one_of("role", Role), _one_of("state", State), STRICT)
    pool: Key
    id: int = Field(primary_key=True)
    role: Words
    name: Words
    chain: Words
    size: int
    transaction: int
    state: Words
    mapped: int


class SequenceTable(Table, table=True):
    pool: Key
    last: int


class RunTable(Table, table=True):
    __table_args__ = (
        _one_of("status", Status),
        _one_of("kind", (kind for kind in Kind if kind is not Kind.HOST)),  # no run has the host as its object
        _json("input"),
        _json("data"),
        sql.Index("run_subject", "kind", "pool", "name"),
        sql.Index(
            "run_open",
            *("machine", "kind", "pool", "name"),
            unique=True,
            sqlite_where=sql.text("status IN ('active', 'needs-operator') AND cancel = ''"),
        ),
        NUMBERED,
    )
    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(sa_type=Text, unique=True)
    machine: Words
    kind: Words
    name: Words
    pool: Words
    state: Words
    digest: Words
    opened: Seconds
    updated: Seconds
    input: Words
    data: Words
    status: Words
    attempt: int
    spent: Seconds
    crashes: int
    not_before: Seconds
    cancel: Words
    reason: Words
    message: Words


class TransitionTable(Table, table=True):
    __table_args__ = (_one_of("result", Result), _json("data"), STRICT)
    run: str = Field(sa_type=Text, sa_column_args=(sql.ForeignKey("run.id", ondelete="CASCADE"),), primary_key=True)
    seq: int = Field(primary_key=True)
    from_state: Words
    to_state: Words
    attempt: int
    started: Seconds
    ended: float | None = Field(sa_type=sql.REAL)
    result: Words
    reason: Words
    message: Words
    data: Words


class EventTable(Table, table=True):
    __table_args__ = (sql.Index("event_subject", "kind", "name"), NUMBERED)
    seq: int | None = Field(default=None, primary_key=True)
    at: Seconds
    kind: Words
    name: Words
    reason: Words
    message: Words
    run: Words
    pool: str = Field(sa_type=Text, sa_column_kwargs={"server_default": ""})


def schema() -> Iterator[str]:
    """The statements that create the newest schema in an empty database."""
    dialect = sqlite.dialect()
    for table in Table.metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        yield str(CreateTable(table).compile(dialect=dialect))
        yield from (str(CreateIndex(index).compile(dialect=dialect)) for index in indexes)
    yield from database.TRIGGERS
    values = ("'host', lower(hex(randomblob(16)))", "'serial', '0'", "'quiet', '0'", "'horizon', '0'", "'policy', 'enforced'")
    yield f"INSERT INTO meta VALUES {', '.join(f'({one})' for one in values)}"  # noqa: S608 - constants


def text() -> str:
    """``schema.sql``."""
    lines = (re.sub(r"\s*\n\s*", "\n  ", statement.strip()).replace("\n  )\n  ", "\n) ") for statement in schema())
    return "-- Generated by: python -m reconciler.registry.tables\n\n" + "".join(f"{line};\n\n" for line in lines).rstrip() + "\n"


if __name__ == "__main__":
    database.SCHEMA.write_text(text())
