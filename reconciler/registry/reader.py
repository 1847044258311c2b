"""The registry's reading half: returns rows, runs and events as the values of ``model`` and ``engine``.

Called by ``controller`` and ``status``; ``writer`` adds the transactions that change something. All of it is plain SQL over the
standard library's sqlite3: importing SQLModel takes half a second of CPU, more than a whole run that changes nothing, ``plan`` or
``list``, which never import it. Columns are named as in ``tables``; ``rows`` converts. State: one connection, see ``database``.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from reconciler.claim import Claim, Moment
from reconciler.engine.definitions import Attempt, Event, Run, Status, Transition
from reconciler.image.spec import ImageReference, Resolved, Source
from reconciler.model import Failure, ImageRow, Key, Kind, SnapshotRow, VolumeRow
from reconciler.pool.file.intents import Intent
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.registry import change_counts, claims, database, rows
from reconciler.registry.change_counts import ChangeCounts
from reconciler.registry.marks import IntentKind, Mark, What
from reconciler.registry.rows import Row

OPEN = "status IN ('active', 'needs-operator')"
_FAILED = """
    SELECT * FROM run WHERE number IN (SELECT MAX(number) FROM run GROUP BY kind, pool, name)
    AND (status IN ('failed', 'needs-operator') OR (status = 'active' AND attempt > 0)) ORDER BY number
"""

_LAST = """
    SELECT run.* FROM json_each(:keys) AS wanted JOIN run ON run.number = (
        SELECT MAX(number) FROM run WHERE kind = wanted.value ->> 0 AND pool = wanted.value ->> 1 AND name = wanted.value ->> 2)
"""
_BEFORE = """
    SELECT status, input FROM run WHERE machine = :machine AND kind = :kind AND pool = :pool AND name = :name
    AND number < (SELECT number FROM run WHERE id = :id) ORDER BY number DESC LIMIT 16
"""

_GIVEN = "(SELECT value FROM json_each(:given))"


def _given(values: Iterable[str] | None) -> str | None:
    """A list as a query takes it."""
    return None if values is None else json.dumps(list(values))


class Records:
    """The open registry, for reading. Thread-safe; a context manager. Raises HostCannot where SQLite can't read its file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, read_only: bool, clock: Callable[[], float]) -> None:
        self.path = path
        self._raw = connection
        self._lock = threading.RLock()
        self._read_only = read_only
        self._clock = clock
        self._own = [0]  # how many changes this process has made; ``writer`` counts them

    @classmethod
    def of(cls, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> Self:
        """Open the registry; create or migrate it first where that is due. Only who holds the lock may migrate it.

        With ``read_only``, the contents of now as a copy in memory; empty where there is no file. Nothing is written.
        """
        connection = database.snapshot(path) if read_only else database.connect(path)
        try:
            if not read_only:
                database.back_up(connection, path)
            database.upgrade(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, read_only=read_only, clock=clock)

    def close(self) -> None:
        with self._lock:  # SQLite crashes where a connection is closed while another thread uses it
            self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------------- what there should be

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written; a copy of the contents of some moment."""
        return self._read_only

    @property
    def host(self) -> str:
        """Random id of this host, made when the registry was."""
        return self._meta("host")

    @property
    def serial(self) -> int:
        """Grows with every change; equal serials mean an unchanged registry."""
        return int(self._meta("serial"))

    def change_counts(self, now: Moment) -> ChangeCounts:
        """What others have changed, other processes and users who claim; ``now`` is for what is left of claims."""
        with self._lock:
            try:
                return change_counts.read(self._raw, self._own[0], now)
            except sqlite3.Error as error:
                raise database.as_host_error(self.path, error) from error

    def check_schema(self) -> None:
        """Raises RegistryUpgraded where a newer version has migrated the registry since it was opened."""
        if (version := int(self._meta("schema"))) > database.CURRENT:
            raise database.newer(self.path, version)

    def pools(self) -> list[str]:
        """The pools that hold something which is recorded."""
        return [row["pool"] for row in self._rows("SELECT pool FROM volume UNION SELECT pool FROM snapshot ORDER BY pool")]

    def images(self, names: Iterable[str] | None = None) -> dict[str, ImageRow]:
        """By name: all of them, or these."""
        query = f"SELECT * FROM image WHERE :given IS NULL OR name IN {_GIVEN} ORDER BY name"  # noqa: S608
        return {row["name"]: rows.image_of(row) for row in self._rows(query, {"given": _given(names)})}

    def volumes(self, chains: Iterable[str] | None = None) -> dict[tuple[str, str], VolumeRow]:
        """By pool and chain: all of them, or those of these chains."""
        query = f"SELECT * FROM volume WHERE :given IS NULL OR chain IN {_GIVEN} ORDER BY pool, chain"  # noqa: S608
        return {(row["pool"], row["chain"]): rows.volume_of(row) for row in self._rows(query, {"given": _given(chains)})}

    def snapshots(self, images: Iterable[str] | None = None, names: Iterable[str] = ()) -> dict[tuple[str, str], SnapshotRow]:
        """By pool and name: all of them, or those of these images or names."""
        named = "name IN (SELECT value FROM json_each(:names))"
        query = f"SELECT * FROM snapshot WHERE :given IS NULL OR image IN {_GIVEN} OR {named} ORDER BY pool, name"  # noqa: S608
        found = self._rows(query, {"given": _given(images), "names": _given(names)})
        return {(row["pool"], row["name"]): SnapshotRow(**row) for row in found}

    def claims(self, of: Key | None = None) -> dict[tuple[str, str], Claim]:
        """Claims that have not ended, by pool and name of the snapshot: all, or that of one snapshot."""
        with self._lock:
            try:
                return claims.open_claims(self._raw, of)
            except sqlite3.Error as error:
                raise database.as_host_error(self.path, error) from error

    def intents(self, pool: str) -> dict[str, Intent]:
        """The files of a file pool that are about to get the name of a snapshot, by that name."""
        found = self._rows("SELECT * FROM intent WHERE pool = ? AND what = ?", (pool, IntentKind.PUBLISH))
        return {row["name"]: Intent(row["identity"], row["chain"]) for row in found}

    def asides(self) -> dict[tuple[str, str], str]:
        """What `retry --recreate` sets aside: its identity, by pool and name of the snapshot."""
        found = self._rows("SELECT * FROM intent WHERE what = ?", (IntentKind.SET_ASIDE,))
        return {(row["pool"], row["name"]): row["identity"] for row in found}

    def thin_pool(self, pool: str) -> PoolRow | None:
        """What a thin pool's driver remembers of its pool."""
        found = self._rows('SELECT stamp, "transaction", data_place, metadata_place FROM pool WHERE name = ?', (pool,))
        return PoolRow(**found[0]) if found else None

    def thin_devices(self, pool: str, name: str | None = None) -> dict[int, DeviceRow]:
        """Of its devices, by thin id: all of them, or those of one name."""
        query = f"SELECT {rows.DEVICE} FROM device WHERE pool = :pool AND (:name IS NULL OR name = :name) ORDER BY id"  # noqa: S608
        return {row[0]: rows.device_of(row) for row in self._select(query, {"pool": pool, "name": name})[1]}

    def last_thin_id(self, pool: str) -> int:
        """The last id that was allocated for one of its devices; 0 if none was."""
        found = self._rows("SELECT last FROM sequence WHERE pool = ?", (pool,))
        return int(found[0]["last"]) if found else 0

    def thin_pending(self, pool: str) -> bool:
        """Whether a change of one of its devices was begun and never closed."""
        return bool(self._rows("SELECT 1 FROM device WHERE pool = ? AND state <> 'held' LIMIT 1", (pool,)))

    def references(self) -> dict[tuple[str, str], Row]:
        """What references stood for when they were asked last, by URL and platform; without the configurations' texts."""
        query = "SELECT url, platform, digest, manifest, '' AS config, blobs FROM reference"
        return {(row["url"], row["platform"]): row for row in self._rows(query)}

    def recorded(self, wanted: Collection[ImageReference]) -> dict[ImageReference, Resolved]:
        """What these references stood for when they were asked last, without their configurations."""
        found = self.references() if wanted else {}
        keys = {one: (one.source.url, one.platform) for one in wanted}
        return {one: rows.resolved_of(found[key], one) for one, key in keys.items() if key in found}

    def image_configs(self) -> dict[tuple[str, str], str]:
        """The texts of their configurations."""
        return {(row["url"], row["platform"]): row["config"] for row in self._rows("SELECT url, platform, config FROM reference")}

    def resolved(self, wanted: ImageReference, identity: str) -> Resolved | None:
        """What a digest stands for on a platform, whichever reference led to it; None where none has.

        The key of a compressed archive: what the reference stood for while its archive had it.
        """
        by_digest = identity.startswith("sha256:")
        query = f"SELECT * FROM reference WHERE {'digest' if by_digest else 'url'} = ? AND platform = ? LIMIT 1"  # noqa: S608
        rows_ = self._rows(query, (identity if by_digest else wanted.source.url, wanted.platform))
        found = rows.resolved_of(rows_[0], wanted) if rows_ else None
        packed = found.layers[0].source.packed if found and not by_digest else None
        return found if by_digest or (packed and packed[0] == identity) else None

    def digest_seen(self, source: Source, etag: str, size: int) -> str | None:
        """The digest that the bytes of this ETag and length were seen to have, or None where they never were."""
        return self._digest_seen(rows.origin(source), etag, size)

    def digest_seen_in_bucket(self, source: Source, etag: str, size: int) -> str | None:
        """As older versions recorded it, without the key: it may be of another object of the same ETag and length."""
        return self._digest_seen(rows.bucket_of(source), etag, size) if source.is_s3 else None

    def _digest_seen(self, origin: str, etag: str, size: int) -> str | None:
        query = "SELECT digest FROM seen WHERE origin = ? AND etag = ? AND size = ?"
        return next((row["digest"] for row in self._rows(query, (origin, etag, size))), None)

    # ---------------------------------------------------------------------------------------------- what happened

    def labels(self) -> dict[str, str] | None:
        """This host's labels when it last converged and pruning was not held back; None where it never has."""
        found = self._rows("SELECT value FROM meta WHERE key = 'labels'")
        return dict(json.loads(found[0]["value"])) if found else None

    def label_change(self) -> tuple[dict[str, str], float] | None:
        """The labels that this host has had instead since then (seconds since the epoch); None where it has the same."""
        found = self._rows("SELECT value FROM meta WHERE key = 'labels-changed'")
        change = json.loads(found[0]["value"]) if found else None
        return (dict(change["labels"]), float(change["since"])) if change else None

    def manifests(self) -> dict[str, str]:
        """The last good text of each manifest file, by its path."""
        return {row["path"]: row["text"] for row in self._rows("SELECT * FROM manifest")}

    def generations(self, images: Iterable[str] | None = None) -> dict[str, tuple[str, int]]:
        """By image: the digest of the specification that was seen last, and the how many-th it was."""
        query = f"SELECT * FROM generation WHERE :given IS NULL OR image IN {_GIVEN}"  # noqa: S608
        return {row["image"]: (row["digest"], row["number"]) for row in self._rows(query, {"given": _given(images)})}

    def marks(self) -> dict[tuple[str, What], Mark]:
        found = (rows.mark_of(row) for row in self._rows("SELECT * FROM mark ORDER BY image, what"))
        return {(mark.image, mark.what): mark for mark in found}

    def failures(self) -> dict[Key, Failure]:
        """Objects whose last run failed, needs an operator, or waits for its back-off."""
        found = (rows.failure_of(row) for row in self._rows(_FAILED))
        return {failure.key: failure for failure in found}

    def events(self, of: Key | None = None, limit: int = 100) -> tuple[Event, ...]:
        """The newest ``limit`` events, oldest first: all, or those of an object (in any pool where the key has none)."""
        return tuple(Event(**row) for row in self._newest("event", "seq", limit, of))

    def events_after(self, seq: int, limit: int) -> tuple[Event, ...]:
        """The newest ``limit`` of the events after this one, oldest first."""
        found = self._rows("SELECT * FROM event WHERE seq > ? ORDER BY seq DESC LIMIT ?", (seq, limit))
        return tuple(Event(**row) for row in reversed(found))

    def last_events(self) -> dict[Key, float]:
        """When the newest event of each object was recorded; those of before schema 5 have no pool."""
        found = self._rows("SELECT kind, pool, name, MAX(at) AS at FROM event GROUP BY kind, pool, name")
        return {Key(Kind(row["kind"]), row["pool"], row["name"]): row["at"] for row in found}

    def runs(self, of: Key | None = None, status: Status | None = None, limit: int = 100) -> tuple[Run, ...]:
        """The newest ``limit`` runs, oldest first; ``of`` as in ``events``."""
        return tuple(rows.run_of(row) for row in self._newest("run", "number", limit, of, status=status))

    def run(self, run_id: str) -> Run:
        """Raises KeyError."""
        found = self._rows("SELECT * FROM run WHERE id = ?", (run_id,))
        if not found:
            raise KeyError(run_id)
        return rows.run_of(found[0])

    def last_runs(self, keys: Iterable[Key]) -> dict[Key, Run]:
        """The newest run of each of these objects that has one."""
        wanted = json.dumps([list(rows.key_row(key).values()) for key in keys])
        found = (rows.run_of(row) for row in self._rows(_LAST, {"keys": wanted}))
        return {run.subject: run for run in found}

    def failed_before(self, run: Run) -> int:
        """How many runs of the same machine, object and input have failed in a row, directly before this one; a few at most."""
        about = {"machine": run.machine, **rows.key_row(run.subject), "id": run.id}
        found = self._rows(_BEFORE, about)
        same = itertools.takewhile(lambda row: (row["status"], row["input"]) == (Status.FAILED, rows.dump(run.input)), found)
        return sum(1 for _ in same)

    def open_runs(self) -> tuple[Run, ...]:
        """Runs that have not ended, oldest first."""
        return tuple(rows.run_of(row) for row in self._rows(f"SELECT * FROM run WHERE {OPEN} ORDER BY number"))  # noqa: S608

    def transitions(self, run_id: str) -> tuple[Transition, ...]:
        """Every attempt and other change of a run, oldest first."""
        found = self._rows("SELECT * FROM transition WHERE run = ? ORDER BY seq", (run_id,))
        return tuple(rows.transition_of(row) for row in found)

    def attempts(self, since: float) -> tuple[Attempt, ...]:
        """What was tried and has ended after that time, in the order in which it ended."""
        query = """
            SELECT run.machine, from_state AS state, result, transition.reason, ended - started AS seconds, ended
            FROM transition JOIN run ON run.id = transition.run WHERE ended > ? ORDER BY ended
        """
        return tuple(Attempt(**row) for row in self._rows(query, (since,)))

    # ------------------------------------------------------------------------------------------------- small parts

    def _rows(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[dict[str, Any]]:
        names, found = self._select(query, values)
        return [dict(zip(names, row, strict=True)) for row in found]

    def _select(self, query: str, values: Sequence[object] | Mapping[str, object]) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of the columns, and the rows."""
        with self._lock:
            try:
                cursor = self._raw.execute(query, values)
                return [column[0] for column in cursor.description], cursor.fetchall()
            except sqlite3.Error as error:
                raise database.as_host_error(self.path, error) from error

    def _newest(self, table: str, order: str, limit: int, of: Key | None, **equal: str | None) -> list[dict[str, Any]]:
        """Events of before schema 5 have no pool: they count for every pool that has an object of the name."""
        wanted = {f"{name} = ?": value for name, value in equal.items() if value is not None}
        if of is not None:
            wanted |= {"kind = ?": of.kind, "name = ?": of.name} | ({"pool IN ('', ?)": of.pool} if of.pool else {})
        where = " AND ".join(["1", *wanted])
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY {order} DESC LIMIT ?"  # noqa: S608 - no name comes from outside
        return self._rows(query, (*wanted.values(), limit))[::-1]

    def _meta(self, key: str) -> str:
        return str(self._rows("SELECT value FROM meta WHERE key = ?", (key,))[0]["value"])
