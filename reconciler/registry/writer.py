"""The registry's writing half: the transactions that change it, and the store of durable runs.

Called by ``engine``, ``controller`` and ``cli``. State: one SQLite file, see ``database``. Values go in and out as the frozen
dataclasses of ``model`` and ``engine``. Plain SQL (``statements``) for the columns that ``tables`` defines: statements that
SQLAlchemy composes cost five times as much, and importing SQLModel as much as a hundred snapshots.

Every change is one ``BEGIN IMMEDIATE`` transaction, on disk (``synchronous=FULL``) when the method returns. All of them go
through one connection behind a lock: a second one would wait for the first inside SQLite, neither fairly nor promptly.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.claim import Moment
from reconciler.dataclass import replace
from reconciler.engine.definitions import Conflict, Entry, Result, Run
from reconciler.engine.facts import Fact, SnapshotGone, SnapshotGrown, SnapshotMade
from reconciler.model import ImageRow, Key, Kind, SnapshotRow
from reconciler.pool.file.intents import Intent
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.registry import change_counts, claims, database, history, pruning, rows, statements, thin_ids
from reconciler.registry.marks import IntentKind, Mark, What
from reconciler.registry.reader import OPEN, Records

if TYPE_CHECKING:
    from reconciler.pool.thin.adoption import Adoption


class Registry(Records):
    """The open registry. Thread-safe; a context manager. Raises HostCannot where SQLite can't read or write its file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, read_only: bool, clock: Callable[[], float]) -> None:
        super().__init__(connection, path, read_only=read_only, clock=clock)
        self._open = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> Registry:
        """See ``Records.of``."""
        return cls.of(path, read_only=read_only, clock=clock)

    @classmethod
    def over(cls, records: Records) -> Registry:
        """The writing half of an open registry; it shares the connection, which stays the other's to close."""
        registry = cls(records._raw, records.path, read_only=records._read_only, clock=records._clock)
        registry._lock, registry._own = records._lock, records._own
        return registry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, rolled back by any exception; moves the serial where it has changed something.

        Within another one of this thread (``together``), a part of that.
        """
        if self._read_only:
            raise RuntimeError(f"registry {self.path} was opened for reading")
        with self._lock:
            if self._open:  # by this thread: the lock excludes all others
                yield
                return
            try:
                self._raw.execute("BEGIN IMMEDIATE")
                self._open = True
                self.check_schema()
                before = self._raw.total_changes
                yield
                changed = self._raw.total_changes != before
                if changed:
                    self._raw.execute(change_counts.CHANGED)
                self._raw.execute("COMMIT")
                self._own[0] += changed
            except sqlite3.Error as error:
                raise database.as_host_error(self.path, error) from error
            finally:
                self._open = False
                self._raw.rollback()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread changes within the context is one transaction; other threads wait."""
        with self._writing():
            yield

    def record_image(self, row: ImageRow) -> None:
        with self._writing():
            if self.images([row.name]).get(row.name) != row:
                self._put("image", rows.columns(row))

    def forget_image(self, name: str) -> None:
        """Drop the row; absent is success."""
        with self._writing():
            if self._raw.execute("DELETE FROM image WHERE name = ?", (name,)).rowcount:
                self._log(Key(Kind.IMAGE, "", name), "Forgotten", "no longer declared; pruned", "")
            self._raw.execute("DELETE FROM generation WHERE image = ?", (name,))

    def forget_seen(self, digest: str) -> None:
        """Drop the ETags that were seen to stand for these bytes; absent is success."""
        with self._writing():
            self._raw.execute("DELETE FROM seen WHERE digest = ?", (digest,))

    def reassign_snapshot(self, pool: str, name: str, image: str) -> None:
        """Make a snapshot belong to another image."""
        with self._writing():
            self._raw.execute("UPDATE snapshot SET image = ? WHERE pool = ? AND name = ?", (image, pool, name))
            self._log(Key(Kind.SNAPSHOT, pool, name), "Reassigned", f"belongs to image {image} now", "")

    def move_image(self, old: str, new: str, message: str) -> None:
        """Rename an image with its row, marks and snapshots; both names get an event."""
        with self._writing():
            self._raw.execute("UPDATE image SET name = ? WHERE name = ?", (new, old))
            for table in ("snapshot", "claim"):
                self._raw.execute(f"UPDATE {table} SET image = ? WHERE image = ?", (new, old))  # noqa: S608
            self._raw.execute("DELETE FROM mark WHERE image = ? AND what IN (?, ?)", (old, What.UNDECLARED, What.RETRY))
            self._raw.execute("UPDATE OR REPLACE mark SET image = ? WHERE image = ?", (new, old))
            self._raw.execute("UPDATE OR REPLACE generation SET image = ? WHERE image = ?", (new, old))
            for name in (old, new):
                self._log(Key(Kind.IMAGE, "", name), "Renamed", message, "")

    def abandon_image(self, name: str, devices: Sequence[tuple[str, int]], message: str) -> None:
        """Delete the rows of an image and its snapshots; ``devices`` are their thin ids, by pool."""
        with self._writing():
            self._raw.execute("DELETE FROM image WHERE name = ?", (name,))
            self._raw.execute("DELETE FROM snapshot WHERE image = ?", (name,))
            self._raw.execute("UPDATE claim SET state = 'ended' WHERE image = ?", (name,))
            self._raw.execute("DELETE FROM mark WHERE image = ?", (name,))
            self._raw.execute("DELETE FROM generation WHERE image = ?", (name,))
            self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", devices)
            self._log(Key(Kind.IMAGE, "", name), "Forgotten", message, "")

    def write_intents(self, pool: str, put: Mapping[str, Intent], drop: Collection[str] = ()) -> None:
        """Record which files are about to get these names; see ``pool.file.intents.Intents``."""
        rows = [
            {"pool": pool, "name": name, "what": IntentKind.PUBLISH.value, "chain": one.content, "identity": one.identity}
            for name, one in put.items()
        ]
        with self._writing():
            self._put_many("intent", rows)
            gone = [(pool, name, IntentKind.PUBLISH.value) for name in drop]
            self._raw.executemany("DELETE FROM intent WHERE pool = ? AND name = ? AND what = ?", gone)

    def request_aside(self, pool: str, name: str, identity: str) -> None:
        """Let what has a snapshot's name now be set aside, so that the snapshot is created again."""
        row = {"pool": pool, "name": name, "what": IntentKind.SET_ASIDE.value, "chain": "", "identity": identity}
        with self._writing():
            self._put("intent", row)

    def apply(self, facts: Sequence[Fact]) -> None:
        """Record facts that no run brings, such as drift that was found; runs commit theirs with the transition."""
        with self._writing():
            self._apply(facts)

    def begin_devices(self, pool: str, wanted: Sequence[DeviceRow], taken: Collection[int]) -> tuple[DeviceRow, ...]:
        """Give thin devices their ids and record them, in one transaction; see ``pool.thin.journal.Journal.begin``."""
        with self._writing():
            given = tuple(replace(row, id=thin_ids.allocate(self._raw, pool, taken)) for row in wanted)
            self._put_many("device", [rows.device_row(pool, row) for row in given])
        return given

    def journal(self, pool: str, row: PoolRow | None, put: Sequence[DeviceRow], drop: Sequence[int]) -> None:
        """Write the rows of a pool's driver; see ``pool.thin.journal.Journal.write``."""
        with self._writing():
            if row is not None:
                self._put("pool", {"name": pool, **rows.columns(row)})
            self._put_many("device", [rows.device_row(pool, device) for device in put])
            self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", [(pool, thin_id) for thin_id in drop])

    def adopt_pool(self, pool: str, plan: Adoption, facts: Sequence[Fact], messages: Sequence[str]) -> None:
        """Record a pool and its devices as planned, in one transaction.

        The sequence of ids stays as it is: ids that the pool holds are skipped, and a large one would use up all below it.
        """
        with self._writing():
            if plan.pool is None:
                self._raw.execute("DELETE FROM device WHERE pool = ?", (pool,))
                self._raw.execute("DELETE FROM pool WHERE name = ?", (pool,))
            else:
                self._put("pool", {"name": pool, **rows.columns(plan.pool)})
                self._put_many("device", [rows.device_row(pool, row) for row in (*plan.keep, *plan.take)])
                self._raw.executemany("DELETE FROM device WHERE pool = ? AND id = ?", [(pool, row.id) for row in plan.drop])
            self._apply(facts)
            for message in messages:
                self._log(Key(Kind.POOL, "", pool), "Adopted", message, "")

    def remember_manifests(self, texts: Mapping[str, str], *, whole: bool, known: Mapping[str, str]) -> None:
        """Keep these texts where they are not ``known``; with ``whole`` they are all there are, and others are forgotten."""
        changed = [{"path": path, "text": text} for path, text in texts.items() if known.get(path) != text]
        gone = [(path,) for path in known if path not in texts] if whole else []
        if changed or gone:
            with self._writing():
                self._put_many("manifest", changed)
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
                self._put("meta", {"key": "labels", "value": text})
                self._raw.execute("DELETE FROM meta WHERE key = 'labels-changed'")

    def note_label_change(self, labels: Mapping[str, str], since: float) -> None:
        """Store that this host has had other labels since then, which are not accepted yet."""
        if self.label_change() != (dict(labels), since):
            with self._writing():
                text = json.dumps({"labels": dict(sorted(labels.items())), "since": since})
                self._put("meta", {"key": "labels-changed", "value": text})

    def begin_reports(self, above: int = 0) -> int:
        """A number for the reports of this process: greater than that of any process before, and than ``above``."""
        with self._writing():
            found = self._rows("SELECT value FROM meta WHERE key = 'reports'")
            number = max(int(found[0]["value"]) if found else 0, above) + 1
            self._put("meta", {"key": "reports", "value": str(number)})
        return number

    def mark(self, mark: Mark) -> None:
        """Set a mark; it replaces an earlier one of the same kind."""
        with self._writing():
            self._put("mark", rows.columns(mark) | {"what": mark.what.value})

    def unmark(self, image: str, what: What) -> bool:
        """Delete a mark; False where there is none."""
        with self._writing():
            return self._raw.execute("DELETE FROM mark WHERE image = ? AND what = ?", (image, what.value)).rowcount > 0

    def expire_claims(self, now: Moment) -> None:
        """Record which claims have expired at that moment."""
        with self._writing():
            claims.expire(self._raw, now)

    def keep_in_use(self, snapshots: Sequence[SnapshotRow], holder: str, now: Moment) -> None:
        """Claim snapshots that hold data of users, without a ttl; those that are claimed already stay as they are."""
        with self._writing():
            claims.keep_in_use(self._raw, snapshots, holder, now)

    def event(self, of: Key, reason: str, message: str, run: str = "") -> None:
        """Append to the log."""
        with self._writing():
            self._log(of, reason, message, run)

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
            return pruning.prune(self._raw, keep)

    # ------------------------------------------------------------------------------ what the engine needs (its Store)

    def open_run(self, run: Run) -> Run:
        with self._writing():
            claims.require_unclaimed(self._raw, run.machine, run.subject)
            found = self._rows(_OPEN_RUN, {"machine": run.machine, **rows.key_row(run.subject)})
            now = rows.run_of(found[0]) if found else None
            if now is not None and rows.dump(now.input) == rows.dump(run.input):
                return now
            if now is not None:
                self._mark(now, f"superseded by run {run.id}, which has other input")
            self._insert("run", rows.run_row(run))
            self._log(run.subject, "Opened", f"{run.machine}: {run.state}", run.id)
        return run

    def begin_attempt(self, run: Run, at: float, progress: int = 0) -> Run:
        with self._writing():
            now = self.run(run.id)
            if (now.state, now.attempt, now.status) != (run.state, run.attempt, run.status):
                raise Conflict(run.id)
            last, before = history.under_way(self._raw, run.id)
            if before is not None:
                history.close(self._raw, run.id, {"result": Result.INTERRUPTED.value, "ended": at})
                now = replace(now, crashes=0 if progress > before else now.crashes + 1)
                self._raw.execute("UPDATE run SET crashes = ? WHERE id = ?", (now.crashes, run.id))
                self._log(run.subject, "Interrupted", f"the process crashed in step {run.state}", run.id)
            history.append(self._raw, run, run.attempt + 1, at, last, {"progress": progress} if progress else {})
        return now

    def commit_run(self, before: Run, after: Run, entry: Entry, facts: Sequence[Fact] = ()) -> None:
        ending = rows.ending(after.state, after.updated, entry)
        with self._writing():
            if self._raw.execute(_COMMIT_RUN, rows.committed(before, after)).rowcount != 1:
                raise Conflict(before.id)
            if not history.close(self._raw, before.id, ending):
                history.append(self._raw, before, before.attempt, after.updated, history.under_way(self._raw, before.id)[0])
                history.close(self._raw, before.id, ending)
            self._apply(facts)
            claims.end(self._raw, [one.place for one in facts if isinstance(one, SnapshotMade | SnapshotGone)])
            self._log(after.subject, entry.reason, entry.message, after.id)

    def request_cancel(self, run_id: str, why: str) -> Run:
        with self._writing():
            run = self.run(run_id)
            return self._mark(run, why) if run.status.is_open and not run.cancel else run

    # ------------------------------------------------------------------------------- parts of a transaction

    def _mark(self, run: Run, why: str) -> Run:
        self._raw.execute("UPDATE run SET cancel = ? WHERE id = ?", (why, run.id))
        self._log(run.subject, "CancelRequested", why, run.id)
        return replace(run, cancel=why)

    def _log(self, subject: Key, reason: str, message: str, run: str) -> None:
        values = {"reason": reason, "message": rows.storable(message), "run": run}
        self._insert("event", {"at": self._clock(), **rows.key_row(subject), **values})

    def _apply(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, SnapshotGrown):
                self._raw.execute(_GROW, rows.columns(fact))
                continue
            table, row, present = rows.effect(fact)
            if present:
                self._put(table, row)
            else:
                self._raw.execute(statements.delete(table, tuple(row)), row)
            if table == "snapshot":
                self._raw.execute("DELETE FROM intent WHERE pool = ? AND name = ?", (row["pool"], row["name"]))

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        self._raw.execute(statements.insert(table, tuple(row)), row)

    def _put(self, table: str, row: Mapping[str, Any]) -> None:
        """Insert a row; it replaces the one that has its key."""
        self._raw.execute(statements.insert(table, tuple(row), replace=True), row)

    def _put_many(self, table: str, put: Sequence[Mapping[str, Any]]) -> None:
        """The same for rows of equal columns."""
        if put:
            self._raw.executemany(statements.insert(table, tuple(put[0]), replace=True), put)


_OPEN_RUN = f"""
    SELECT * FROM run WHERE machine = :machine AND kind = :kind AND pool = :pool AND name = :name AND cancel = '' AND {OPEN}
"""  # noqa: S608 - a constant
_COMMIT_RUN = statements.update("run", rows.COMMITTED, " AND ".join(f"{name} = :was_{name}" for name in rows.COMPARED))
_GROW = """
    UPDATE snapshot SET identity = :identity, size = :size, filesystem = coalesce(nullif(filesystem, 0), nullif(size, 0),
        (SELECT volume.size FROM volume WHERE (volume.pool, volume.chain) = (snapshot.pool, snapshot.chain)), 0)
    WHERE pool = :pool AND name = :name
"""
