"""One PostgreSQL for all tests of a worker; each test gets a database of its own, copied from one that is migrated."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres, needs_postgres

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    needs_postgres()
    from reconciler.fleet import address, migrate

    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
    with Postgres(directory) as server:
        migrate.upgrade(address.parse(server.create("migrated")))
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of a migrated database without rows."""
    name = f"fleet{next(_NUMBERS)}"
    postgres.query("postgres", f"CREATE DATABASE {name} TEMPLATE migrated")
    return name


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """A database that tests share; each uses hosts of its own."""
    postgres.query("postgres", "CREATE DATABASE shared TEMPLATE migrated")
    return "shared"
