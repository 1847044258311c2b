"""The tables of the sink have one definition: migrations, values and statements follow it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from reconciler.fleet import address, rows, sink
from reconciler.fleet.sink import Sink, SinkSchema, SinkUnavailable
from tests.support.postgres import Postgres, needs_postgres

OWNED = {"id", "sequence", "cursor", "lost", "reported_at", "revision_at", "converged_at", "failed_at"}


def test_the_migrations_come_to_the_tables(postgres: Postgres, database: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from reconciler.fleet.tables import Table

    engine = create_engine(postgres.url(database))
    with engine.connect() as connection:
        options = {"version_table_schema": "reconcile", "include_schemas": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata) == []
    engine.dispose()
    assert len(Table.metadata.tables) == 7


def test_hosts_write_the_newest_schema() -> None:
    needs_postgres()
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from reconciler.fleet import migrate

    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == sink.VERSION


@pytest.mark.parametrize(("table", "value"), [*rows.TABLES.items(), ("host", rows.Host), ("event", rows.Event)])
def test_the_fields_of_a_value_are_the_columns_of_its_table(table: str, value: type) -> None:
    needs_postgres()
    from reconciler.fleet.tables import Table

    columns = {one.name for one in Table.metadata.tables[f"reconcile.{table}"].columns}
    assert columns == {one.name for one in fields(value)} | (OWNED if table == "host" else {"host"})


def test_a_migration_that_is_repeated_changes_nothing(postgres: Postgres, database: str) -> None:
    from reconciler.fleet import migrate

    before = postgres.query(database, "SELECT oid, relname FROM pg_class ORDER BY oid")
    migrate.upgrade(address.parse(postgres.url(database)))
    assert postgres.query(database, "SELECT oid, relname FROM pg_class ORDER BY oid") == before


@pytest.mark.parametrize("change", ["DROP SCHEMA reconcile CASCADE", "UPDATE reconcile.alembic_version SET version_num = '9999'"])
def test_another_schema_is_not_written_to(postgres: Postgres, database: str, change: str) -> None:
    postgres.query(database, change)
    with pytest.raises(SinkSchema, match=r"9999|no tables"), Sink(address.parse(postgres.url(database))).session(5.0):
        pass


def test_a_migration_gives_up_while_another_one_runs(postgres: Postgres, database: str) -> None:
    import psycopg

    from reconciler.fleet import migrate

    where = address.parse(postgres.url(database))
    with psycopg.connect(where.conninfo) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({migrate.LOCK})")
        with pytest.raises(SinkUnavailable, match="another session keeps a lock"):
            migrate.upgrade(where, patience=0.1)
    assert migrate.upgrade(where, patience=0.1) == sink.VERSION


def test_tables_of_a_newer_version_are_left_as_they_are(postgres: Postgres, database: str) -> None:
    from reconciler.fleet import migrate

    postgres.query(database, "UPDATE reconcile.alembic_version SET version_num = '9999'")
    with pytest.raises(SinkSchema, match="9999"):
        migrate.upgrade(address.parse(postgres.url(database)))
