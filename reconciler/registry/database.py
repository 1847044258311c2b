"""The registry's SQLite file: opens it for writing and for reading, migrates it to the schema of this version.

Called by ``reader`` and ``writer``, which run SQL on the connections that it returns. State: ``registry.sqlite3``, and its
``-wal`` and ``-shm`` files while it is open for writing. Plain SQL over the standard library's sqlite3, for two reasons: a
migration must not change when a table class does, and importing SQLModel takes half a second of CPU, which no read pays.

A reader reads one state and writes nothing. Beside a process that has the file open it reads in place, in one transaction. A file
at rest is copied into memory: a connection to it would create ``-wal`` and ``-shm`` files, and one that ignores them may read a
page that is being written. So is an older schema, which is migrated in the copy, and a file whose log can't be used where it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from reconciler import atomic_file
from reconciler.errors import HostCannot, RegistryUpgraded
from reconciler.registry import reasons

SCHEMA = Path(__file__).with_name("schema.sql")
"""The newest schema, generated from ``tables``."""

BUSY_TIMEOUT = 5.0
"""Seconds that a writer waits for another one."""

Migration = Sequence[str]
"""The statements that lead from one schema version to the next."""

_THIN_POOLS = (
    'CREATE TABLE pool (name TEXT NOT NULL PRIMARY KEY, stamp INTEGER NOT NULL, "transaction" INTEGER NOT NULL) STRICT',
    """CREATE TABLE device (
        pool TEXT NOT NULL, id INTEGER NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL, chain TEXT NOT NULL,
        size INTEGER NOT NULL, "transaction" INTEGER NOT NULL, state TEXT NOT NULL, mapped INTEGER NOT NULL,
        PRIMARY KEY (pool, id),
        CHECK (role IN ('volume', 'snapshot', 'orphan')), CHECK (state IN ('creating', 'held', 'deleting'))) STRICT""",
    # Runs may now be a pool's: a CHECK can't be changed in place (https://www.sqlite.org/lang_altertable.html, section 7).
    """CREATE TABLE run_2 (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, machine TEXT NOT NULL,
        kind TEXT NOT NULL, name TEXT NOT NULL, pool TEXT NOT NULL, state TEXT NOT NULL, digest TEXT NOT NULL,
        opened REAL NOT NULL, updated REAL NOT NULL, input TEXT NOT NULL, data TEXT NOT NULL, status TEXT NOT NULL,
        attempt INTEGER NOT NULL, spent REAL NOT NULL, crashes INTEGER NOT NULL, not_before REAL NOT NULL,
        cancel TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
        CHECK (status IN ('active', 'done', 'failed', 'cancelled', 'needs-operator')),
        CHECK (kind IN ('Pool', 'Image', 'Volume', 'Snapshot', 'Layer')),
        CHECK (json_valid(input)), CHECK (json_valid(data))) STRICT""",
    "INSERT INTO run_2 SELECT * FROM run",
    "DROP TABLE run",
    "ALTER TABLE run_2 RENAME TO run",
    """CREATE UNIQUE INDEX run_open ON run (machine, kind, pool, name)
        WHERE status IN ('active', 'needs-operator') AND cancel = ''""",
    "CREATE INDEX run_subject ON run (kind, pool, name)",
)

_LAST_GOOD = (
    "CREATE TABLE manifest (path TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL) STRICT",
    """CREATE TABLE mark (
        image TEXT NOT NULL, what TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (image, what), CHECK (what IN ('protected', 'suspended', 'undeclared', 'retry'))) STRICT""",
)

_GENERATIONS = (
    "CREATE TABLE generation (image TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, number INTEGER NOT NULL) STRICT",
)

# The log of events is append-only for every program that opens the file: only events below the horizon in ``meta`` can be
# deleted, and only ``prune`` moves it. (A replacing INSERT deletes without firing the second trigger, hence the third.)
TRIGGERS = (
    "CREATE TRIGGER event_unchanged BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    """CREATE TRIGGER event_kept BEFORE DELETE ON event
       WHEN NOT COALESCE(OLD.seq < (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'horizon'), FALSE)
       BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    """CREATE TRIGGER event_not_replaced BEFORE INSERT ON event WHEN NEW.seq IN (SELECT seq FROM event)
       BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
)

# An identity had the UUID of the file's file system: bytes that guests write. What is left of it is the inode.
_IDENTITIES = tuple(
    f"""UPDATE {table} SET identity =
            substr(identity, 1, instr(identity, ' uuid=')) || substr(identity, instr(identity, ' size=') + 1)
        WHERE instr(identity, ' uuid=') > 0 AND instr(identity, ' size=') > instr(identity, ' uuid=')"""  # noqa: S608
    for table in ("volume", "snapshot")
)

_POOLS_AND_REASONS = (
    """CREATE TABLE intent (
        pool TEXT NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL, chain TEXT NOT NULL, identity TEXT NOT NULL,
        PRIMARY KEY (pool, name, what), CHECK (what IN ('publish', 'set-aside'))) STRICT""",
    *_IDENTITIES,
    "ALTER TABLE event ADD COLUMN pool TEXT DEFAULT '' NOT NULL",
    "DROP TRIGGER event_unchanged",
    *reasons.RENAMING,
    TRIGGERS[0],
    "ALTER TABLE pool ADD COLUMN data_place TEXT DEFAULT '' NOT NULL",
    "ALTER TABLE pool ADD COLUMN metadata_place TEXT DEFAULT '' NOT NULL",
    # Thin pools have a label.
    """CREATE TABLE device_5 (
        pool TEXT NOT NULL, id INTEGER NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL, chain TEXT NOT NULL,
        size INTEGER NOT NULL, "transaction" INTEGER NOT NULL, state TEXT NOT NULL, mapped INTEGER NOT NULL,
        PRIMARY KEY (pool, id),
        CHECK (role IN ('volume', 'snapshot', 'draft', 'label', 'orphan')),
        CHECK (state IN ('creating', 'held', 'deleting'))) STRICT""",
    "INSERT INTO device_5 SELECT * FROM device",
    "DROP TABLE device",
    "ALTER TABLE device_5 RENAME TO device",
    "ALTER TABLE snapshot ADD COLUMN custom TEXT DEFAULT '' NOT NULL",
    *(f"ALTER TABLE snapshot ADD COLUMN {one} INTEGER DEFAULT 0 NOT NULL" for one in ("size", "filesystem")),
    """CREATE TABLE reference (
        url TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, manifest TEXT NOT NULL, config TEXT NOT NULL,
        blobs TEXT NOT NULL, PRIMARY KEY (url, platform), CHECK (json_valid(blobs))) STRICT""",
    """CREATE TABLE claim (
        id TEXT NOT NULL PRIMARY KEY, pool TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, chain TEXT NOT NULL,
        holder TEXT NOT NULL, uid INTEGER NOT NULL, ttl REAL NOT NULL, created REAL NOT NULL, renewed REAL NOT NULL,
        elapsed REAL NOT NULL, boot TEXT NOT NULL, ended REAL NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL,
        wish TEXT NOT NULL, CHECK (state IN ('claimed', 'released', 'expired', 'recycling', 'ended'))) STRICT""",
    "CREATE UNIQUE INDEX claim_open ON claim (pool, name) WHERE state <> 'ended'",
    "CREATE UNIQUE INDEX claim_request ON claim (uid, request) WHERE request <> ''",
    "CREATE INDEX snapshot_image ON snapshot (image, chain)",
    "INSERT INTO meta VALUES ('quiet', '0')",
)

MIGRATIONS: tuple[Migration, ...] = (_THIN_POOLS, _LAST_GOOD, _GENERATIONS, _POOLS_AND_REASONS)
"""``MIGRATIONS[n]`` leads from schema n + 1 to n + 2. Forward only; ``tables`` always defines the newest schema."""

CURRENT = 1 + len(MIGRATIONS)
"""The schema of this version."""

_HINTS = {
    "SQLITE_BUSY": "another process has been writing to it for 5 seconds; retry",
    "SQLITE_FULL": "free space on its file system",
    "SQLITE_READONLY": "run as the user who owns the state directory",
    "SQLITE_CANTOPEN": "check --state, and the permissions of the state directory",
    "SQLITE_NOTADB": "check --state; restore the file from a backup if it was the registry",
    "SQLITE_CORRUPT": "restore it from a backup; don't delete it: the pools' contents are identified by it",
}


def as_host_error(path: Path, error: BaseException) -> BaseException:
    """An error of SQLite or the file system about ``path`` as HostCannot, with a hint; an error of this code as it is."""
    if isinstance(error, OSError):
        return HostCannot(f"registry {path}: {error.strerror}", hint=_HINTS["SQLITE_CANTOPEN"])
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    code = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    return HostCannot(f"registry {path}: {error}", hint=_HINTS.get(code, ""))


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise as_host_error(path, error) from None


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing; create it and its directory where they don't exist. The caller begins transactions."""
    with reporting(path):
        atomic_file.make_directory(path.parent)
        atomic_file.make_private(path)  # its log and shared memory get the same mode
        connection = _open(path)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            connection.close()
            raise HostCannot(
                f"registry {path}: its file system can't have a write-ahead log", hint="use a local file system for --state"
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


def snapshot(path: Path, schema: int = CURRENT) -> sqlite3.Connection:
    """The registry as of now, for reading; empty where there is no file. Writes nothing anywhere."""
    with reporting(path):
        if (live := _in_place(path, schema)) is not None:
            return live
        memory = _open(":memory:")
        if path.exists() and not _copied_at_rest(path, memory):
            _copy_with_log(path, memory)
        return memory


def _in_place(path: Path, schema: int) -> sqlite3.Connection | None:
    """A connection that reads the file as it is now, with its log; None where that takes a copy."""
    if not all(path.with_name(f"{path.name}{suffix}").exists() for suffix in ("-wal", "-shm")):
        return None
    try:
        connection = _open(f"{path.absolute().as_uri()}?mode=ro")
    except sqlite3.OperationalError:
        return None
    try:
        connection.execute("BEGIN")
        if _version(connection, path, schema) == schema:
            return connection
    except sqlite3.OperationalError:
        pass
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def enforces_policy(path: Path) -> bool:
    """Whether a host without a policy of its own has the default one enforced: not where an older version made its registry."""
    if not path.exists():
        return True
    query = "SELECT 1 FROM meta WHERE key = 'policy'"
    with suppress(sqlite3.Error, OSError), closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as file:
        if file.execute(query).fetchone():
            return True
    with closing(snapshot(path)) as memory:  # its log may have what the file does not have yet
        return "meta" not in _tables(memory) or bool(memory.execute(query).fetchone())


def _copy_with_log(path: Path, memory: sqlite3.Connection) -> None:
    """Copy a file that has a log, also where its directory or file system can't be written to."""
    try:
        _copy(path, "mode=ro", memory)
    except sqlite3.OperationalError as error:
        if "_".join(error.sqlite_errorname.split("_")[:2]) not in ("SQLITE_CANTOPEN", "SQLITE_READONLY"):
            raise
        import shutil
        import tempfile  # which imports it, too

        with tempfile.TemporaryDirectory(prefix="reconcile-") as directory:
            aside = Path(directory) / path.name
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{aside}{suffix}")
            _copy(aside, "mode=rw", memory)


def _open(where: Path | str) -> sqlite3.Connection:
    uri = str(where).startswith("file:")
    return sqlite3.connect(where, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=uri)


def _copied_at_rest(path: Path, memory: sqlite3.Connection) -> bool:
    """Copy a file that no process has open, without log and locks; False where a process has it open, or opens it."""
    before = _at_rest(path)
    if before is None:
        return False
    try:
        _copy(path, "immutable=1", memory)
    except sqlite3.DatabaseError:
        if _at_rest(path) == before:
            raise
    return _at_rest(path) == before


def _at_rest(path: Path) -> tuple[int, int, int] | None:
    """Identity of the file's content while it has no log; None while it has one."""
    if path.with_name(f"{path.name}-wal").exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _copy(path: Path, how: str, memory: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", timeout=BUSY_TIMEOUT, uri=True)) as source:
        source.backup(memory)


def newest() -> Iterator[str]:
    """The statements that create the newest schema in an empty database."""
    statement = ""
    for line in SCHEMA.read_text().splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def upgrade(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    create: Callable[[], Iterable[str]] = newest,
) -> None:
    """Bring the schema to version ``1 + len(migrations)`` in one transaction; a database without tables gets ``create()``.

    Raises HostCannot where the schema is newer than this version of the code, or not the registry's.
    """
    current = 1 + len(migrations)
    with reporting(path):
        if _version(connection, path, current) == current:
            return
        connection.execute("PRAGMA foreign_keys = OFF")
        try:
            connection.execute("BEGIN IMMEDIATE")
            _migrate(connection, _version(connection, path, current), create, migrations)
            if connection.execute("PRAGMA foreign_key_check").fetchall():
                raise HostCannot(
                    f"registry {path}: the migration to schema {current} would leave rows without the rows that they refer to"
                )
            connection.commit()
        finally:
            connection.rollback()
            connection.execute("PRAGMA foreign_keys = ON")


def back_up(connection: sqlite3.Connection, path: Path, current: int = CURRENT) -> None:
    """Copy a registry of an older schema to ``backup_of`` it, before it is migrated."""
    with reporting(path):
        version = _version(connection, path, current)
        if version is None or version == current:
            return
        with atomic_file.draft(backup_of(path, version)) as made:
            with closing(sqlite3.connect(made.path)) as copy:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            made.publish()


def backup_of(path: Path, version: int) -> Path:
    """The file that keeps a registry as it was when a newer version migrated it from this schema."""
    return path.with_name(f"{path.name}.schema-{version}")


def is_outdated(path: Path, current: int = CURRENT) -> bool:
    """Whether the registry has an older schema. Raises HostCannot where it has a newer one."""
    with closing(snapshot(path)) as found:
        version = _version(found, path, current)
        return version is not None and version < current


def _migrate(
    connection: sqlite3.Connection, version: int | None, create: Callable[[], Iterable[str]], migrations: Sequence[Migration]
) -> None:
    steps = [create()] if version is None else migrations[version - 1 :]
    for statement in (statement for step in steps for statement in step):
        connection.execute(statement)
    stamp = "INSERT INTO meta VALUES ('schema', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    connection.execute(stamp, (str(1 + len(migrations)),))


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _version(connection: sqlite3.Connection, path: Path, current: int) -> int | None:
    """Schema version of the database; None where it has no tables yet. One statement, which every transaction of a claim pays."""
    try:
        row = connection.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.OperationalError:
        if "meta" in (tables := _tables(connection)):
            raise
        if not tables:
            return None
        raise HostCannot(f"{path} is the database of another program", hint="check --state") from None
    if (version := int(row[0])) > current:
        raise newer(path, version, current)
    return version


def require_current(connection: sqlite3.Connection, path: Path) -> None:
    """Raises RegistryUpgraded where a newer version has migrated the registry, HostCannot where this one has not yet."""
    if _version(connection, path, CURRENT) != CURRENT:
        raise HostCannot(f"registry {path} has an older schema", hint="run `reconcile --once`, which migrates it")


def newer(path: Path, version: int, current: int = CURRENT) -> RegistryUpgraded:
    kept = f"; {backup} is the registry as it was before" if (backup := backup_of(path, current)).exists() else ""
    message = f"registry {path} has schema {version}, this version of reconcile supports schema {current}"
    return RegistryUpgraded(message, hint=f"use the newer version that wrote it{kept}")
