"""The registry's writing half: the transactions that change it, and the store of durable runs.

Called by ``engine``, ``controller`` and ``cli``. State: one SQLite file, see ``database``. Values go in and out as the frozen
dataclasses of ``model`` and ``engine``. Statements are composed from the classes of ``tables``; plain SQL where they run for each
snapshot (composing them each time would double its cost), or where a single column changes.

Every change is one ``BEGIN IMMEDIATE`` transaction, on disk (``synchronous=FULL``) when the method returns. All of them go
through one connection behind a lock: a second one would wait for the first inside SQLite, neither fairly nor promptly.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlmodel as sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select

from reconciler.engine.definitions import Entry, Result, Run, Status
from reconciler.engine.engine import Conflict
from reconciler.model import Fact, ImageRow, Key, Kind
from reconciler.pool.file.intents import Intent
from reconciler.pool.thin.adoption import Adoption
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.registry import database, rows, thin_ids
from reconciler.registry.marks import IntentKind, Mark, What
from reconciler.registry.reader import Records
from reconciler.registry.tables import (
    DeviceTable,
    EventTable,
    GenerationTable,
    ImageTable,
    IntentTable,
    ManifestTable,
    MarkTable,
    MetaTable,
    PoolTable,
    RunTable,
    Table,
    TransitionTable,
    put,
)


class Registry(Records):
    """The open registry. Thread-safe; a context manager. Raises HostCannot where SQLite can't read or write its file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, read_only: bool, clock: Callable[[], float]) -> None:
        super().__init__(connection, path, read_only=read_only, clock=clock)
        self._outer: Connection | None = None
        self._engine = sql.create_engine("sqlite://", creator=lambda: connection, poolclass=sql.StaticPool)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> Registry:
        """See ``Records.of``."""
        return cls.of(path, read_only=read_only, clock=clock)

    @classmethod
    def over(cls, records: Records) -> Registry:
        """The writing half of an open registry; it shares the connection, which stays the other's to close."""
        registry = cls(records._raw, records.path, read_only=records._read_only, clock=records._clock)
        registry._lock = records._lock
        return registry

    def close(self) -> None:
        self._engine.dispose()
        super().close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._lock, self._engine.connect() as db:
            try:
                yield db
            except DBAPIError as error:
                raise database.as_host_error(self.path, error.orig or error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction, rolled back by any exception; moves the serial where it has changed something."""
        if self._read_only:
            raise RuntimeError(f"registry {self.path} was opened for reading")
        with self._lock:
            if self._outer is not None:  # of this thread: the lock excludes all others
                yield self._outer
                return
        with self._reading() as db:
            db.exec_driver_sql("BEGIN IMMEDIATE")
            before = self._raw.total_changes
            yield db
            if self._raw.total_changes != before:
                self._raw.execute("UPDATE meta SET value = value + 1 WHERE key = 'serial'")
            db.commit()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread changes within the context is one transaction; other threads wait."""
        with self._writing() as db:
            self._outer = db
            try:
                yield
            finally:
                self._outer = None

    def record_image(self, row: ImageRow) -> None:
        with self._writing() as db:
            old = _first(db, select(ImageTable).where(ImageTable.name == row.name))
            if old is None or rows.image_of(old) != row:
                db.execute(_put("image", asdict(row)))

    def forget_image(self, name: str) -> None:
        """Drop the row; absent is success."""
        with self._writing() as db:
            if db.execute(sql.delete(ImageTable).where(col(ImageTable.name) == name)).rowcount:
                self._log(db, Key(Kind.IMAGE, "", name), "Forgotten", "no longer declared; pruned", "")
            db.execute(sql.delete(GenerationTable).where(col(GenerationTable.image) == name))

    def forget_seen(self, digest: str) -> None:
        """Drop the ETags that were seen to stand for these bytes; absent is success."""
        with self._writing():
            self._raw.execute("DELETE FROM seen WHERE digest = ?", (digest,))

    def reassign_snapshot(self, pool: str, name: str, image: str) -> None:
        """Make a snapshot belong to another image."""
        with self._writing() as db:
            self._raw.execute("UPDATE snapshot SET image = ? WHERE pool = ? AND name = ?", (image, pool, name))
            self._log(db, Key(Kind.SNAPSHOT, pool, name), "Reassigned", f"belongs to image {image} now", "")

    def move_image(self, old: str, new: str, message: str) -> None:
        """Rename an image with its row, marks and snapshots; both names get an event."""
        with self._writing() as db:
            self._raw.execute("UPDATE image SET name = ? WHERE name = ?", (new, old))
            self._raw.execute("UPDATE snapshot SET image = ? WHERE image = ?", (new, old))
            self._raw.execute("DELETE FROM mark WHERE image = ? AND what IN (?, ?)", (old, What.UNDECLARED, What.RETRY))
            self._raw.execute("UPDATE OR REPLACE mark SET image = ? WHERE image = ?", (new, old))
            self._raw.execute("UPDATE OR REPLACE generation SET image = ? WHERE image = ?", (new, old))
            for name in (old, new):
                self._log(db, Key(Kind.IMAGE, "", name), "Renamed", message, "")

    def abandon_image(self, name: str, devices: Sequence[tuple[str, int]], message: str) -> None:
        """Delete the rows of an image and its snapshots; ``devices`` are their thin ids, by pool."""
        with self._writing() as db:
            self._raw.execute("DELETE FROM image WHERE name = ?", (name,))
            self._raw.execute("DELETE FROM snapshot WHERE image = ?", (name,))
            self._raw.execute("DELETE FROM mark WHERE image = ?", (name,))
            self._raw.execute("DELETE FROM generation WHERE image = ?", (name,))
            self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", devices)
            self._log(db, Key(Kind.IMAGE, "", name), "Forgotten", message, "")

    def write_intents(self, pool: str, put: Mapping[str, Intent], drop: Collection[str] = ()) -> None:
        """Record which files are about to get these names; see ``pool.file.intents.Intents``."""
        rows = [
            {"pool": pool, "name": name, "what": IntentKind.PUBLISH.value, "chain": one.chain, "identity": one.identity}
            for name, one in put.items()
        ]
        with self._writing():
            self._raw.executemany(_PUT_INTENT, rows)
            gone = [(pool, name, IntentKind.PUBLISH.value) for name in drop]
            self._raw.executemany("DELETE FROM intent WHERE pool = ? AND name = ? AND what = ?", gone)

    def request_aside(self, pool: str, name: str, identity: str) -> None:
        """Let what has a snapshot's name now be set aside, so that the snapshot is created again."""
        row = {"pool": pool, "name": name, "what": IntentKind.SET_ASIDE.value, "chain": "", "identity": identity}
        with self._writing():
            self._raw.execute(_PUT_INTENT, row)

    def apply(self, facts: Sequence[Fact]) -> None:
        """Record facts that no run brings, such as drift that was found; runs commit theirs with the transition."""
        with self._writing() as db:
            _apply(db, facts)

    def begin_devices(self, pool: str, wanted: Sequence[DeviceRow], taken: Collection[int]) -> tuple[DeviceRow, ...]:
        """Give thin devices their ids and record them, in one transaction; see ``pool.thin.journal.Journal.begin``."""
        with self._writing():
            given = tuple(replace(row, id=thin_ids.allocate(self._raw, pool, taken)) for row in wanted)
            self._raw.executemany(_PUT_DEVICE, [rows.device_row(pool, row) for row in given])
        return given

    def journal(self, pool: str, row: PoolRow | None, put: Sequence[DeviceRow], drop: Sequence[int]) -> None:
        """Write the rows of a pool's driver; see ``pool.thin.journal.Journal.write``.

        Plain SQL: this is two thirds of what a snapshot costs, and composing statements would double it.
        """
        with self._writing():
            if row is not None:
                self._raw.execute(_PUT_POOL, {"name": pool, "stamp": row.stamp, "transaction": row.transaction})
            self._raw.executemany(_PUT_DEVICE, [rows.device_row(pool, device) for device in put])
            self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", [(pool, thin_id) for thin_id in drop])

    def adopt_pool(self, pool: str, plan: Adoption, facts: Sequence[Fact], messages: Sequence[str]) -> None:
        """Record a pool and its devices as planned, in one transaction.

        The sequence of ids stays as it is: ids that the pool holds are skipped, and a large one would use up all below it.
        """
        with self._writing() as db:
            if plan.pool is None:
                db.execute(sql.delete(DeviceTable).where(col(DeviceTable.pool) == pool))
                db.execute(sql.delete(PoolTable).where(col(PoolTable.name) == pool))
            else:
                put = (*plan.keep, *plan.take)
                self._raw.execute(_PUT_POOL, {"name": pool, **asdict(plan.pool)})
                self._raw.executemany(_PUT_DEVICE, [rows.device_row(pool, row) for row in put])
                self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", [(pool, row.id) for row in plan.drop])
            _apply(db, facts)
            for message in messages:
                self._log(db, Key(Kind.POOL, "", pool), "Adopted", message, "")

    def remember_manifests(self, texts: Mapping[str, str], *, whole: bool, known: Mapping[str, str]) -> None:
        """Keep these texts where they are not ``known``; with ``whole`` they are all there are, and others are forgotten."""
        changed = [{"path": path, "text": text} for path, text in texts.items() if known.get(path) != text]
        gone = [(path,) for path in known if path not in texts] if whole else []
        if changed or gone:
            with self._writing():
                self._raw.executemany(_PUT_MANIFEST, changed)
                self._raw.executemany("DELETE FROM manifest WHERE path = ?", gone)

    def observe_generations(self, digests: Mapping[str, str]) -> None:
        """Count each image whose specification has this digest now and had another one before."""
        known = self.generations(digests)
        changed = [(name, digest) for name, digest in digests.items() if known.get(name, ("", 0))[0] != digest]
        if changed:
            with self._writing():
                self._raw.executemany(
                    "INSERT INTO generation (image, digest, number) VALUES (?, ?, 1)"
                    " ON CONFLICT (image) DO UPDATE SET digest = excluded.digest, number = number + 1",
                    changed,
                )

    def accept_labels(self, labels: Mapping[str, str]) -> None:
        """Store the labels of this host as those that it is selected by; no change of them is pending then."""
        if self.labels() != dict(labels) or self.label_change():
            with self._writing():
                text = json.dumps(dict(sorted(labels.items())))
                self._raw.execute(_PUT_META, {"key": "labels", "value": text})
                self._raw.execute("DELETE FROM meta WHERE key = 'labels-changed'")

    def note_label_change(self, labels: Mapping[str, str], since: float) -> None:
        """Store that this host has had other labels since then, which are not accepted yet."""
        if self.label_change() != (dict(labels), since):
            with self._writing():
                text = json.dumps({"labels": dict(sorted(labels.items())), "since": since})
                self._raw.execute(_PUT_META, {"key": "labels-changed", "value": text})

    def mark(self, mark: Mark) -> None:
        """Set a mark; it replaces an earlier one of the same kind."""
        with self._writing():
            self._raw.execute(_PUT_MARK, asdict(mark) | {"what": mark.what.value})

    def unmark(self, image: str, what: What) -> bool:
        """Delete a mark; False where there is none."""
        with self._writing():
            return self._raw.execute("DELETE FROM mark WHERE image = ? AND what = ?", (image, what.value)).rowcount > 0

    def event(self, of: Key, reason: str, message: str, run: str = "") -> None:
        """Append to the log."""
        with self._writing() as db:
            self._log(db, of, reason, message, run)

    def forget_gone(self, declared: Iterable[str], before: float) -> None:
        """Drop generations and marks of images that are neither declared nor recorded; marks only if set before that time."""
        values = {"names": json.dumps(list(declared)), "before": before}
        gone = "image NOT IN (SELECT name FROM image) AND image NOT IN (SELECT value FROM json_each(:names))"
        with self._writing():
            self._raw.execute(f"DELETE FROM generation WHERE {gone}", values)  # noqa: S608 - a constant
            self._raw.execute(f"DELETE FROM mark WHERE since < :before AND {gone}", values)  # noqa: S608

    def prune_history(self, keep: int) -> int:
        """Keep the newest ``keep`` events, runs and seen digests, and what objects need; return how many were deleted."""
        with self._writing():
            return database.prune(self._raw, keep)

    # ------------------------------------------------------------------------------ what the engine needs (its Store)

    def open_run(self, run: Run) -> Run:
        about = {"machine": run.machine, **rows.key_row(run.subject), "cancel": ""}
        with self._writing() as db:
            row = _first(db, select(RunTable).filter_by(**about).where(_OPEN))
            if row is not None and row["input"] == rows.dump(run.input):
                return rows.run_of(row)
            if row is not None:
                self._mark(db, rows.run_of(row), f"superseded by run {run.id}, which has other input")
            db.execute(sql.insert(RunTable).values(**rows.run_row(run)))
            self._log(db, run.subject, "Opened", f"{run.machine}: {run.state}", run.id)
        return run

    def begin_attempt(self, run: Run, at: float, progress: int = 0) -> Run:
        with self._writing() as db:
            now = _find(db, run.id)
            if (now.state, now.attempt, now.status) != (run.state, run.attempt, run.status):
                raise Conflict(run.id)
            before = _progress(db, run.id)
            if _close(db, run.id, {"result": Result.INTERRUPTED, "ended": at}):
                now = replace(now, crashes=0 if progress > before else now.crashes + 1)
                db.execute(sql.update(RunTable).where(col(RunTable.id) == run.id).values(crashes=now.crashes))
                self._log(db, run.subject, "Interrupted", f"the process crashed in step {run.state}", run.id)
            _append(db, run, run.attempt + 1, at, {"progress": progress} if progress else {})
        return now

    def commit_run(self, before: Run, after: Run, entry: Entry, facts: Sequence[Fact] = ()) -> None:
        unmoved = {name: getattr(before, name) for name in rows.COMPARED}
        changed = {name: value for name, value in rows.run_row(after).items() if name in rows.COMMITTED}
        ending = rows.ending(after.state, after.updated, entry)
        with self._writing() as db:
            if db.execute(sql.update(RunTable).filter_by(**unmoved).values(**changed)).rowcount != 1:
                raise Conflict(before.id)
            if not _close(db, before.id, ending):
                _append(db, before, before.attempt, after.updated)
                _close(db, before.id, ending)
            _apply(db, facts)
            self._log(db, after.subject, entry.reason, entry.message, after.id)

    def request_cancel(self, run_id: str, why: str) -> Run:
        with self._writing() as db:
            run = _find(db, run_id)
            return self._mark(db, run, why) if run.status.is_open and not run.cancel else run

    # ------------------------------------------------------------------------------------------------- small parts

    def _mark(self, db: Connection, run: Run, why: str) -> Run:
        db.execute(sql.update(RunTable).where(col(RunTable.id) == run.id).values(cancel=why))
        self._log(db, run.subject, "CancelRequested", why, run.id)
        return replace(run, cancel=why)

    def _log(self, db: Connection, subject: Key, reason: str, message: str, run: str) -> None:
        values = {"reason": reason, "message": rows.storable(message), "run": run}
        db.execute(sql.insert(EventTable).values(at=self._clock(), **rows.key_row(subject), **values))


# ------------------------------------------------------------------------------- statements inside a transaction

_PUT_DEVICE = put(DeviceTable)
_PUT_INTENT = put(IntentTable)
_PUT_MANIFEST = put(ManifestTable)
_PUT_MARK = put(MarkTable)
_PUT_META = put(MetaTable)
_PUT_POOL = put(PoolTable)
"""Plain SQL, composed once: SQLAlchemy would compose it for every statement, which doubles what a snapshot costs."""

_OPEN = col(RunTable.status).in_([Status.ACTIVE, Status.NEEDS_OPERATOR])


def _first(db: Connection, query: Any) -> dict[str, Any] | None:
    row = db.execute(query).mappings().first()
    return None if row is None else dict(row)


def _find(db: Connection, run_id: str) -> Run:
    row = _first(db, select(RunTable).where(RunTable.id == run_id))
    if row is None:
        raise KeyError(run_id)
    return rows.run_of(row)


def _put(table: str, row: dict[str, Any]) -> Any:
    return sql.insert(Table.metadata.tables[table]).prefix_with("OR REPLACE").values(**row)


def _apply(db: Connection, facts: Sequence[Fact]) -> None:
    for table, row, present in map(rows.effect, facts):
        db.execute(_put(table, row) if present else sql.delete(Table.metadata.tables[table]).filter_by(**row))
        if table == "snapshot":
            db.exec_driver_sql("DELETE FROM intent WHERE pool = ? AND name = ?", (row["pool"], row["name"]))


def _progress(db: Connection, run_id: str) -> int:
    """The progress with which the attempt under way began."""
    running = _first(db, select(TransitionTable).filter_by(run=run_id, result=Result.RUNNING))
    return int(json.loads(running["data"]).get("progress", 0)) if running else 0


def _append(db: Connection, run: Run, attempt: int, at: float, data: Mapping[str, Any] | None = None) -> None:
    """A new row of the run's history, for an attempt that begins."""
    last = select(sql.func.max(TransitionTable.seq)).where(TransitionTable.run == run.id)
    seq = (db.execute(last).scalar() or 0) + 1
    db.execute(sql.insert(TransitionTable).values(**rows.beginning(run, seq, attempt, at, data or {})))


def _close(db: Connection, run_id: str, ending: dict[str, Any]) -> bool:
    """Write how the run's attempt under way ended; False where there is none."""
    running = {"run": run_id, "result": Result.RUNNING}
    return bool(db.execute(sql.update(TransitionTable).filter_by(**running).values(**ending)).rowcount)
