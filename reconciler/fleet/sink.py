"""The database that hosts report to. The only file that imports psycopg.

Called by ``reporter``, which writes batches, and by ``view``, which reads. A connection lasts for one batch or answer, so that
many hosts share few; each has a deadline and ends when the process is to stop. Errors have no password. No state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from reconciler.dataclass import dataclass
from reconciler.errors import HostCannot, ReconcilerError
from reconciler.fleet import statements
from reconciler.fleet.address import Address
from reconciler.fleet.batch import Batch
from reconciler.image.source.cutoff import Cutoff

if TYPE_CHECKING:
    import psycopg

VERSION = "0001"
"""The schema of this version: the newest revision in ``migrations``; a test compares them."""

CONNECT_SECONDS = 5
LOCKED = "55P03"
"""The SQLSTATE of a lock that was not released in time."""
LIMITS = """
    SELECT set_config('statement_timeout', greatest(1, ceil(%(all)s * 1000))::text, true),
        set_config('lock_timeout', greatest(1, ceil(%(lock)s * 1000))::text, true)
"""
"""Of one transaction, in seconds. PostgreSQL takes 0 for no limit."""

Answer = Sequence[Mapping[str, Any]]


class SinkUnavailable(ReconcilerError):
    """The database can't be reached, does not answer in time, or refuses."""

    reason = "ReportSinkUnavailable"


class SinkSchema(ReconcilerError):
    """The database has no tables of ours, or those of another version."""

    reason = "ReportSchemaMismatch"


@dataclass(frozen=True, slots=True)
class Reached:
    """What the sink has of a host: the sequence of its picture, None where it has none, and its last event without a gap."""

    sequence: int | None
    cursor: int


class Session:
    """One connection, in one transaction."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def rows(self, query: str, values: Mapping[str, Any] | None = None) -> Answer:
        cursor = self._connection.execute(query.encode(), values, prepare=False)
        return cursor.fetchall() if cursor.description else []

    def reached(self, host: str) -> Reached:
        row = self.rows(statements.STATE, {"host": host})[0]
        return Reached(row["sequence"], row["cursor"] or 0)

    def apply(self, batch: Batch) -> bool:
        """Write a batch; whether its picture was the newest. Events are added in any case."""
        taken = bool(self.rows(*statements.of_host(batch)))
        if taken:
            if batch.restart:
                self.rows(statements.RESTART, {"host": batch.id})
            for statement in statements.of_picture(batch):
                self.rows(*statement)
        for statement in statements.of_events(batch):
            self.rows(*statement)
        return taken

    def check_schema(self) -> None:
        """Raises SinkSchema."""
        found = self.rows("SELECT to_regclass(%(table)s) AS name", {"table": f"{statements.SCHEMA}.alembic_version"})
        if found[0]["name"] is None:
            raise SinkSchema("the database has no tables of reconcile", hint="reconcile fleet migrate")
        versions = [row["version_num"] for row in self.rows(f"SELECT version_num FROM {statements.SCHEMA}.alembic_version")]  # noqa: S608
        if versions != [VERSION]:
            found_ = ", ".join(versions) or "none"
            hint = "reconcile fleet migrate, with the version of reconcile that the hosts have"
            raise SinkSchema(f"the database has schema {found_}, this version of reconcile writes {VERSION}", hint=hint)


@dataclass(frozen=True)
class Sink:
    """``unless`` returns True once the process is to stop."""

    address: Address
    unless: Callable[[], bool] = lambda: False

    @contextmanager
    def session(self, seconds: float) -> Iterator[Session]:
        """Connect, and commit at the end, all within so many seconds. Raises SinkUnavailable, SinkSchema."""
        with self.connection(seconds) as connection:
            from psycopg.rows import dict_row

            connection.row_factory = dict_row
            session = Session(connection)
            session.check_schema()
            yield session

    @contextmanager
    def connection(self, seconds: float) -> Iterator[psycopg.Connection[Any]]:
        """As ``session``, whatever the database has. Raises SinkUnavailable."""
        driver = _driver()
        with Cutoff(seconds, self.unless) as cutoff:
            try:
                with driver.connect(
                    self.address.conninfo,
                    connect_timeout=max(2, min(CONNECT_SECONDS, int(seconds))),
                    application_name="reconcile",
                ) as connection:
                    cutoff.watch(cast(Any, connection))
                    connection.execute(LIMITS.encode(), {"all": cutoff.left, "lock": cutoff.left}, prepare=False)
                    yield connection
            except driver.Error as error:
                why = "it did not answer in time" if cutoff.over else self.address.redacted(_first_line(error))
                raise SinkUnavailable(f"the database {self.address.shown}: {why}", hint=_hint(error)) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _hint(error: Exception) -> str:
    locked = getattr(error, "sqlstate", "") == LOCKED
    return "another session keeps a lock: `fleet migrate`, or one that pg_stat_activity names" if locked else ""


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise HostCannot("--report-to needs psycopg", hint="pip install 'reconcile-images[fleet]'") from None
    return psycopg


def require_driver() -> None:
    """Raises HostCannot where the packages of the extra are missing."""
    _driver()
