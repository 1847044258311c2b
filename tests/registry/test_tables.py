"""The SQLModel classes are the registry's one definition: the SQL text that is installed, and the values, follow them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields

import pytest

from reconciler.claim import Claim
from reconciler.engine.definitions import Event, Run, Transition
from reconciler.model import ImageRow, SnapshotRow, VolumeRow
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.registry import database, rows, statements, tables
from reconciler.registry.marks import Mark


def test_the_installed_schema_is_the_one_that_the_classes_define() -> None:
    assert database.SCHEMA.read_text() == tables.text(), "run: python -m reconciler.registry.tables"


def test_the_installed_schema_creates_what_the_classes_create() -> None:
    def created(statements: Callable[[], object]) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(":memory:")) as db:
            for statement in statements():  # type: ignore[attr-defined]
                db.execute(statement)
            listed = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
            return [tuple(" ".join(str(value).split()) for value in row) for row in listed]

    assert created(database.newest) == created(tables.schema)
    assert len(created(tables.schema)) > 15


@pytest.mark.parametrize(
    ("table", "value", "differs"),
    [
        (tables.ImageTable, ImageRow, ""),
        (tables.VolumeTable, VolumeRow, ""),
        (tables.SnapshotTable, SnapshotRow, ""),
        (tables.PoolTable, PoolRow, "name"),
        (tables.DeviceTable, DeviceRow, "pool"),
        (tables.MarkTable, Mark, ""),
        (tables.ClaimTable, Claim, ""),
        (tables.EventTable, Event, ""),
        (tables.TransitionTable, Transition, ""),
        (tables.RunTable, Run, "number kind pool name subject"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_the_fields_of_a_value_are_the_columns_of_its_table(table: type[tables.Table], value: type, differs: str) -> None:
    assert {*table.model_fields} ^ {field.name for field in fields(value)} == {*differs.split()}


def test_what_a_commit_writes_and_compares_are_columns_of_a_run() -> None:
    assert {*rows.COMMITTED, *rows.COMPARED} <= {*tables.RunTable.model_fields}


def test_a_statement_names_the_columns_of_its_row() -> None:
    row = ("pool", "last")

    assert statements.insert("sequence", row) == 'INSERT INTO sequence ("pool", "last") VALUES (:pool, :last)'
    assert statements.insert("sequence", row, replace=True).startswith("INSERT OR REPLACE INTO sequence ")
    assert statements.update("sequence", ("last",), "pool = :pool") == 'UPDATE sequence SET "last" = :last WHERE pool = :pool'
    assert statements.delete("sequence", row) == 'DELETE FROM sequence WHERE "pool" = :pool AND "last" = :last'
