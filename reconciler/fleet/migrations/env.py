"""What Alembic runs for each command: migrate within the transaction that ``fleet.migrate`` has begun. No state."""

from __future__ import annotations

from alembic import context

from reconciler.fleet.statements import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
