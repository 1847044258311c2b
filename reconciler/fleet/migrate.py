"""``reconcile fleet migrate``: creates or upgrades the tables of the sink, by Alembic. No state.

The scripts are in ``migrations``. Two that run at once wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reconciler.errors import HostCannot
from reconciler.fleet.address import Address
from reconciler.fleet.sink import LIMITS, Sink, SinkSchema
from reconciler.fleet.statements import SCHEMA

MIGRATIONS = Path(__file__).with_name("migrations")
LOCK = 0x7265636F6E63696C
"""Of ``pg_advisory_xact_lock``: "reconcil"."""
SECONDS = 600.0
"""For all of it."""
LOCK_SECONDS = 30.0
"""For each lock: of another migration, or of a session that uses a table."""


def upgrade(address: Address, *, unless: Callable[[], bool] = lambda: False, patience: float = LOCK_SECONDS) -> str:
    """Bring the tables to the newest revision, in one transaction; return it. Raises HostCannot, SinkUnavailable, SinkSchema."""
    try:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError
        from sqlalchemy import create_engine, pool, text
        from sqlalchemy.exc import DBAPIError
    except ImportError as error:
        raise HostCannot(f"fleet migrate needs {error.name}", hint="pip install 'reconcile-images[fleet]'") from None
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with Sink(address, unless).connection(SECONDS) as raw:
        engine = create_engine("postgresql+psycopg://", poolclass=pool.NullPool, creator=lambda: raw)
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(LIMITS, {"all": SECONDS, "lock": patience})
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise error.orig or error from None
        except CommandError as error:
            hint = "reconcile fleet migrate, with the newest version of reconcile that the hosts have"
            raise SinkSchema(
                f"the tables of the database {address.shown} are not those of this version: {error}", hint=hint
            ) from None
    return str(ScriptDirectory.from_config(config).get_current_head())
