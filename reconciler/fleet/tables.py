"""The tables of the sink, as SQLModel classes: what ``migrations`` come to. A test compares both, and the columns with ``rows``.

Imported by ``migrate`` alone: hosts and the view write plain SQL. No state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

import sqlmodel as sql
from sqlalchemy import BigInteger, DateTime, Float, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel

from reconciler.fleet.statements import SCHEMA

Words = Annotated[str, Field(sa_type=Text)]
Key = Annotated[str, Field(sa_type=Text, primary_key=True)]
Number = Annotated[int, Field(sa_type=BigInteger)]
Moment = Annotated[datetime, Field(sa_type=DateTime(timezone=True))]
_NOW = {"server_default": sql.text("now()")}
_ZERO = {"server_default": sql.text("0")}


class Table(SQLModel):
    metadata = MetaData(schema=SCHEMA)

    @declared_attr.directive
    def __tablename__(cls) -> str:
        return cls.__name__.removesuffix("Table").lower()


class HostTable(Table, table=True):
    """``id`` is that of the registry. ``sequence`` is that of the newest report, ``cursor`` the last event without a gap.

    Times are those of the database: when the host reported last, and since when it has its revision, has converged or failed.
    """

    id: Key
    sequence: Number
    cursor: Number
    lost: int = Field(sa_type=BigInteger, sa_column_kwargs=_ZERO)
    reported_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs=_NOW)
    revision_at: Moment
    converged_at: datetime | None = Field(sa_type=DateTime(timezone=True))
    failed_at: datetime | None = Field(sa_type=DateTime(timezone=True))
    name: Words
    labels: dict[str, str] = Field(sa_type=JSONB)
    version: Words
    every: float = Field(sa_type=Float(53))
    revision: Words
    chains: Words
    converged: bool
    images: Number
    ready: Number
    failed: Number
    faults: Number
    drifted: Number
    reason: Words
    message: Words


class Owned(Table):
    """A row of a host."""

    __table_args__: ClassVar[Any] = {}
    host: str = Field(sa_type=Text, primary_key=True, foreign_key=f"{SCHEMA}.host.id", ondelete="CASCADE")


class ImageTable(Owned, table=True):
    __table_args__ = (sql.Index("image_name", "name"),)
    name: Key
    pool: Words
    phase: Words
    reason: Words
    message: Words
    chain: Words
    size: Number
    ready: Number
    wanted: Number


class SnapshotTable(Owned, table=True):
    pool: Key
    name: Key
    image: Words
    chain: Words
    state: Words
    active: bool


class ClaimTable(Owned, table=True):
    id: Key
    pool: Words
    snapshot: Words
    image: Words
    holder: Words
    uid: Number
    state: Words
    created: Moment


class ConditionTable(Owned, table=True):
    kind: Key
    pool: Key
    name: Key
    reason: Key
    severity: Words
    message: Words


class PoolTable(Owned, table=True):
    name: Key
    state: Words
    message: Words
    total: Number
    used: Number
    available: Number
    metadata_total: Number
    metadata_used: Number
    metadata_available: Number


class EventTable(Owned, table=True):
    seq: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: Moment
    kind: Words
    pool: Words
    name: Words
    reason: Words
    message: Words
    run: Words
