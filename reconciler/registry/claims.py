"""Claims in the registry: gives out snapshots, releases, renews and expires claims, each in one transaction, without the lock.

Called by ``host.claims`` (for the API and the verbs) on a connection of its own, and by ``writer`` in the transaction that opens
a run which replaces or removes a snapshot: SQLite puts both in order, so that a snapshot is either claimed or replaced. Plain
SQL: a claim must not pay for importing SQLModel. State: one connection, and what ``choice`` keeps.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from reconciler.claim import Claim, ClaimState, Clock, Moment, utc
from reconciler.dataclass import dataclass, fields, replace
from reconciler.engine.definitions import Event
from reconciler.errors import Busy, ClaimEnded, ClaimForbidden, ClaimNotFound, IdempotencyKeyReused, NoneReady, SnapshotInUse
from reconciler.model import Key, Kind, SnapshotRow
from reconciler.registry import change_counts, database
from reconciler.registry.choice import Choice, Usable
from reconciler.registry.choice import Wanted as Wanted

CHANGING = ("replacement", "removal")
"""The machines that no snapshot may be claimed for."""

_COLUMNS = tuple(one.name for one in fields(Claim))
_PUT = f"INSERT INTO claim ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608

_RECORDED = """
    SELECT coalesce(nullif((SELECT size FROM snapshot WHERE (pool, name) = (:pool, :name)), 0),
                    (SELECT size FROM volume WHERE (pool, chain) = (:pool, :chain))),
           (SELECT filesystem FROM snapshot WHERE (pool, name) = (:pool, :name)),
           (SELECT custom FROM snapshot WHERE (pool, name) = (:pool, :name))
"""

MOST_LOST = 64
"""How often a request chooses again, where another one has got what it chose."""


Give = Callable[[Wanted, SnapshotRow], Claim | None]
"""``Claims.give``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The user who asks. An administrator may release and renew the claims of all users."""

    uid: int
    is_admin: bool


class Claims:
    """Thread-safe; a context manager. Raises HostCannot where SQLite can't write the registry's file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._raw = connection
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._is_open = False
        self._quiet = 0  # rows of the transaction under way that call for no assessment
        self._choice = Choice(connection, self._lock, path, clock)

    @classmethod
    def open(cls, path: Path, clock: Clock = Moment.now) -> Self:
        """Open the registry, which has the schema of this version."""
        return cls(database.connect(path), path, clock)

    def close(self) -> None:
        with self._lock:
            self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread changes within the context is one transaction, on disk when the context ends.

        Within another such context it is part of that one's transaction: an error that is caught between them rolls nothing back,
        see ``changes``.
        """
        with self._lock:
            if self._is_open:
                yield
                return
            with database.reporting(self._path):
                self._raw.execute("BEGIN IMMEDIATE")
            self._is_open, self._quiet = True, 0
            try:
                database.require_current(self._raw, self._path)
                before = self._raw.total_changes
                yield
                with database.reporting(self._path):
                    if changed := self._raw.total_changes - before:
                        self._raw.execute(change_counts.QUIET if changed == self._quiet else change_counts.CHANGED)
                    self._raw.commit()
            finally:
                self._is_open = False
                self._raw.rollback()

    @property
    def changes(self) -> int:
        """Rows that were written since the connection was opened, also by the transaction under way."""
        return self._raw.total_changes

    # --------------------------------------------------------------------------------------------------- changes

    def take(self, wanted: Wanted, usable: Usable, give: Give | None = None) -> Claim:
        """Claim a snapshot that is ready, unclaimed and unused. A repeated request gets the claim that it got before.

        ``usable`` is called outside of a transaction: a pool may be slow, and may need the registry. ``give`` is that of another
        connection. Raises NoneReady, IdempotencyKeyReused.
        """
        for _ in range(MOST_LOST):
            if wanted.request and (before := self._before(wanted)):
                return before
            row = self._choice.choose(wanted, usable)
            if row is None:
                break
            if claim := (give or self.give)(wanted, row):
                return claim
        raise NoneReady(f"{wanted}: {self._why_none(wanted)}", hint="wait for one: reconcile claim --wait")

    def give(self, wanted: Wanted, row: SnapshotRow) -> Claim | None:
        """Claim this snapshot; None where it is no longer free. Raises IdempotencyKeyReused."""
        with self.together():
            if wanted.request and (before := self._requested(wanted)):
                return before
            if row not in (free for _, free in self._choice.free(replace(wanted, name=row.name))):
                return None
            claim = Claim.begin(
                os.urandom(8).hex(), row, wanted.uid, self._clock(), holder=wanted.holder, ttl=wanted.ttls[row.name]
            )
            claim = replace(claim, request=wanted.request, wish=wanted.wish)
            with self._counted(quiet=not wanted.replaced):
                _put(self._raw, claim)
                _log(
                    self._raw,
                    claim,
                    "Claimed",
                    f"{claim}, uid {claim.uid}, until {utc(claim.expires) or 'it is released'}",
                    claim.created,
                )
            return claim

    @contextmanager
    def _counted(self, *, quiet: bool) -> Iterator[None]:
        """What changes within calls for no assessment, where it is ``quiet``."""
        before = self.changes
        yield
        if quiet:
            self._quiet += self.changes - before

    def release(self, claim_id: str, caller: Caller) -> Claim:
        """End a claim; one that has ended already is success. Raises ClaimNotFound, ClaimForbidden."""
        with self.together():
            claim = self._of(claim_id, caller)
            if claim.state is not ClaimState.CLAIMED:
                return claim
            _log(self._raw, claim, "ClaimReleased", f"{claim}, by uid {caller.uid}", self._clock().wall)
            return self._end(claim, ClaimState.RELEASED)

    def renew(self, claim_id: str, caller: Caller, ttl: float | None = None) -> Claim:
        """Let a claim's ttl begin again. Raises ClaimNotFound, ClaimForbidden, ClaimEnded."""
        with self.together():
            claim, now = self._of(claim_id, caller), self._clock()
            if (state := claim.at(now)) is not ClaimState.CLAIMED:
                raise ClaimEnded(f"claim {claim_id} is {state}", hint="claim another snapshot")
            after = replace(claim, renewed=now.wall, elapsed=now.elapsed, boot=now.boot, ttl=claim.ttl if ttl is None else ttl)
            names = ("renewed", "elapsed", "boot", "ttl")
            with self._counted(quiet=True):
                self._raw.execute(
                    f"UPDATE claim SET {', '.join(f'{name} = :{name}' for name in names)} WHERE id = :id",  # noqa: S608
                    {name: getattr(after, name) for name in (*names, "id")},
                )
                _log(self._raw, after, "ClaimRenewed", f"{after}, until {utc(after.expires) or 'it is released'}", now.wall)
            return after

    def recycle(self, row: SnapshotRow, caller: Caller) -> Claim:
        """Request that a snapshot is made from the base again. Raises Busy while it is claimed."""
        with self.together():
            claim = self.open_claims(row.key).get((row.pool, row.name))
            if claim and claim.state is ClaimState.CLAIMED:
                raise Busy(f"{row.key} is claimed: {claim}", hint=f"reconcile release {claim.id}")
            if claim is None:
                claim = Claim.begin(os.urandom(8).hex(), row, caller.uid, self._clock(), holder="reconcile recycle")
                _put(self._raw, claim)
            _log(self._raw, claim, "RecycleRequested", f"by uid {caller.uid}", self._clock().wall)
            return self._end(claim, ClaimState.RECYCLING)

    def _end(self, claim: Claim, state: ClaimState) -> Claim:
        return set_state(self._raw, claim, state, self._clock().wall)

    # ---------------------------------------------------------------------------------------------------- reading

    def open_claims(self, of: Key | None = None) -> dict[tuple[str, str], Claim]:
        """The claims that have not ended, by pool and name of the snapshot: all, or that of one snapshot."""
        with self._lock:
            return open_claims(self._raw, of)

    def find(self, claim_id: str) -> Claim:
        """Also one that has ended. Raises ClaimNotFound."""
        with self._lock, database.reporting(self._path):
            found = _select(self._raw, "id = ?", (claim_id,))
        if not found:
            raise ClaimNotFound(f"there is no claim {claim_id!r}", hint="list them with: reconcile list claims")
        return found[0]

    def events(self, since: int, limit: int) -> tuple[Event, ...]:
        """The oldest events after this one."""
        with self._lock, database.reporting(self._path):
            cursor = self._raw.execute("SELECT * FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (since, limit))
            names = [column[0] for column in cursor.description]
            return tuple(Event(**dict(zip(names, row, strict=True))) for row in cursor)

    def image_config(self, url: str, platform: str) -> str | None:
        """The text of the configuration of an OCI image, by its reference; None where it is not resolved."""
        with self._lock, database.reporting(self._path):
            found = self._raw.execute("SELECT config FROM reference WHERE (url, platform) = (?, ?)", (url, platform)).fetchone()
        return str(found[0]) if found else None

    def recorded(self, claim: Claim) -> tuple[int, int, str]:
        """Of the claimed snapshot: bytes (its own size, else that of its volume), those of its file system, and ``custom``.

        0 for a file system of the same size.
        """
        with self._lock, database.reporting(self._path):
            found = self._raw.execute(_RECORDED, {"pool": claim.pool, "name": claim.name, "chain": claim.chain}).fetchone()
        return int(found[0] or 0), int(found[1] or 0), found[2] or ""

    def _of(self, claim_id: str, caller: Caller) -> Claim:
        claim = self.find(claim_id)
        if not caller.is_admin and claim.uid != caller.uid:
            raise ClaimForbidden(f"claim {claim_id} belongs to uid {claim.uid}", hint="its user or root may change it")
        return claim

    def _requested(self, wanted: Wanted) -> Claim | None:
        """The claim that an earlier request with this key got. Raises IdempotencyKeyReused, ClaimEnded."""
        found = _select(self._raw, "uid = ? AND request = ? AND request <> ''", (wanted.uid, wanted.request))
        if not found:
            return None
        (claim,), hint = found, "use a new key for each claim"
        if claim.wish != wanted.wish:
            raise IdempotencyKeyReused(f"Idempotency-Key {wanted.request!r} was used for another request", hint=hint)
        if (state := claim.at(self._clock())) is not ClaimState.CLAIMED:
            raise ClaimEnded(f"Idempotency-Key {wanted.request!r} has got claim {claim.id}, which is {state}", hint=hint)
        return claim

    def _before(self, wanted: Wanted) -> Claim | None:
        with self._lock, database.reporting(self._path):
            return self._requested(wanted)

    def _why_none(self, wanted: Wanted) -> str:
        claim = self.open_claims(Key(Kind.SNAPSHOT, wanted.pool, wanted.name)).get((wanted.pool, wanted.name))
        if claim:
            return f"it is claimed: {claim}" if claim.state is ClaimState.CLAIMED else f"its last claim is {claim.state}"
        return "it is not ready" if wanted.name else "no snapshot of it is ready and unclaimed"


def _put(raw: sqlite3.Connection, claim: Claim) -> None:
    raw.execute(_PUT, {name: getattr(claim, name) for name in _COLUMNS})


def _select(raw: sqlite3.Connection, where: str, values: Sequence[Any]) -> list[Claim]:
    cursor = raw.execute(f"SELECT {', '.join(_COLUMNS)} FROM claim WHERE {where}", values)  # noqa: S608 - constants
    found = (dict(zip(_COLUMNS, row, strict=True)) for row in cursor)
    return [Claim(**{**row, "state": ClaimState(row["state"])}) for row in found]


# ------------------------------------------------------------------- statements inside a transaction of ``writer``


def open_claims(raw: sqlite3.Connection, of: Key | None = None) -> dict[tuple[str, str], Claim]:
    where, values = "state <> 'ended'", ()
    found = _select(raw, f"{where} AND pool = ? AND name = ?", (of.pool, of.name)) if of else _select(raw, where, values)
    return {(claim.pool, claim.name): claim for claim in sorted(found, key=lambda one: (one.pool, one.name))}


def require_unclaimed(raw: sqlite3.Connection, machine: str, of: Key) -> None:
    """Raise SnapshotInUse where a run of the machine would replace or remove a snapshot that is claimed."""
    if machine in CHANGING and of.kind is Kind.SNAPSHOT:
        claim = open_claims(raw, of).get((of.pool, of.name))
        if claim and claim.state is ClaimState.CLAIMED:
            raise SnapshotInUse(f"{of} is claimed: {claim}", hint=f"reconcile release {claim.id}")


def set_state(raw: sqlite3.Connection, claim: Claim, state: ClaimState, now: float) -> Claim:
    ended = claim.ended or now
    raw.execute("UPDATE claim SET state = ?, ended = ? WHERE id = ?", (state, ended, claim.id))
    return replace(claim, state=state, ended=ended)


def expire(raw: sqlite3.Connection, now: Moment) -> None:
    """Record which claims have expired at that moment."""
    for one in open_claims(raw).values():
        if one.at(now) is not one.state:
            _log(raw, set_state(raw, one, ClaimState.EXPIRED, now.wall), "ClaimExpired", f"{one}, uid {one.uid}", now.wall)


def keep_in_use(raw: sqlite3.Connection, snapshots: Sequence[SnapshotRow], holder: str, now: Moment) -> None:
    """Claim snapshots that hold data of users, without a ttl; those that are claimed already stay as they are."""
    for row in snapshots:
        before = open_claims(raw, row.key).get((row.pool, row.name))
        if before and before.at(now) is ClaimState.CLAIMED:
            continue
        if before:
            set_state(raw, before, ClaimState.ENDED, now.wall)
        claim = Claim.begin(os.urandom(8).hex(), row, 0, now, holder=holder)
        _put(raw, claim)
        _log(raw, claim, "Claimed", f"{claim}, until it is released", now.wall)


def end(raw: sqlite3.Connection, places: Sequence[tuple[str, str]]) -> None:
    """Snapshots were made by a run, or are gone: the claims of what was there before have ended.

    An edit of the registry ends none: it makes nothing anew.
    """
    over = "state IN ('released', 'expired', 'recycling')"
    raw.executemany(f"UPDATE claim SET state = 'ended' WHERE pool = ? AND name = ? AND {over}", places)  # noqa: S608


def _log(raw: sqlite3.Connection, claim: Claim, reason: str, message: str, at: float) -> None:
    event = (at, Kind.SNAPSHOT.value, claim.name, reason, message, "", claim.pool)
    raw.execute("INSERT INTO event (at, kind, name, reason, message, run, pool) VALUES (?, ?, ?, ?, ?, ?, ?)", event)
