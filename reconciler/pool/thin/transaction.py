"""The two-store commit protocol: every change of a pool's set of thin devices is a pool transaction, one at a time.

    intents on disk (registry)  ->  messages  ->  status  ->  transaction id N -> N + 1  ->  rows done (registry)

The kernel ignores whether the commit behind a message succeeded, so the pool's status is read after the last one. A message
that the kernel refuses has changed nothing: its intent is dropped. ``recover`` settles any other interruption.

Called by ``pool.thin.pool``. State: the journal and the pool; a lock serialises this process's threads (the registry's lock
excludes other processes). Protocol: Documentation/admin-guide/device-mapper/thin-provisioning.rst, ``pool.thin.recovery``.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import Busy, PoolUnusable, ReconcilerError, Retryable
from reconciler.pool.thin import status as wire
from reconciler.pool.thin.devmapper import DeviceMapper, DmError
from reconciler.pool.thin.failures import converted
from reconciler.pool.thin.journal import DeviceRow, Journal, PoolRow, Role, State, counter_of
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.recovery import pending, settle
from reconciler.pool.thin.status import PoolStatus

ID_LIMIT = 1 << 24
"""Thin ids are 24 bits wide."""


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A thin device to create: empty, or a snapshot of the inactive device ``origin``. ``size`` in bytes."""

    role: Role
    name: str
    chain: str
    size: int
    origin: int | None = None

    def row(self, transaction: int) -> DeviceRow:
        return DeviceRow(0, self.role, self.name, self.chain, self.size, transaction, State.CREATING)

    def message(self, thin_id: int) -> str:
        return wire.create_thin(thin_id) if self.origin is None else wire.create_snap(thin_id, self.origin)


@dataclass
class Transactions:
    """``metadata`` reads the pool's metadata. Methods raise PoolUnusable if the pool can't be changed."""

    pool: str
    dm: DeviceMapper
    journal: Journal
    metadata: Callable[[], Metadata]
    lock: threading.RLock = field(default_factory=threading.RLock)

    def status(self) -> PoolStatus:
        (target,) = self.dm.status(self.pool)
        return PoolStatus.parse(target.params)

    def create(self, status: PoolStatus, held: Collection[int], wanted: Sequence[NewDevice]) -> list[DeviceRow | ReconcilerError]:
        """Create thin devices in one pool transaction. Return the row or the error of each, in order.

        The caller holds the lock, and has read the pool's ``status`` and the ids that it ``held``. An id in use (EEXIST) or a
        missing origin (ENODATA) fails that device only. Any other error ends the batch: what succeeded is kept.
        """
        if not wanted:
            return []
        with self.lock:
            now = self._expected(status)
            rows = self.journal.begin([one.row(now.transaction) for one in wanted], held)
            if rows[-1].id >= ID_LIMIT:
                self.journal.write(drop=[row.id for row in rows])
                raise PoolUnusable(f"pool {self.pool}: all {ID_LIMIT} thin ids have been used", hint="create a new pool")
            results = list(self._send(rows, wanted))
            return self._close(now, rows, results)

    def _send(self, rows: Sequence[DeviceRow], wanted: Sequence[NewDevice]) -> Iterator[ReconcilerError | None]:
        """The messages. Yields the error of each row, None for success."""
        ended: ReconcilerError | None = None
        for row, one in zip(rows, wanted, strict=True):
            if ended is not None:
                yield ended
                continue
            try:
                self.dm.message(self.pool, one.message(row.id))
                yield None
            except DmError as error:
                failure = self._refused(row, one, error)
                ended = None if error.errno in (errno.ENODATA, errno.EEXIST) else failure
                yield failure

    def _refused(self, row: DeviceRow, one: NewDevice, error: DmError) -> ReconcilerError:
        if error.errno == errno.ENODATA:
            gone = f"pool {self.pool}: thin id {one.origin}, the origin of {one.name[:12]}, is missing"
            return Retryable(gone, hint="the next run rebuilds it")
        if error.errno == errno.EEXIST:
            return Retryable(f"pool {self.pool}: {row} exists already", hint="the next run uses another thin id")
        return converted(self.pool, f"create {row}", error)

    def _close(
        self, now: PoolRow, rows: Sequence[DeviceRow], errors: Sequence[ReconcilerError | None]
    ) -> list[DeviceRow | ReconcilerError]:
        """Advance the pool's id if anything succeeded, and record all rows in one write."""
        held = {row.id: replace(row, state=State.HELD) for row, error in zip(rows, errors, strict=True) if error is None}
        after = now
        self._check_writable(self.status())
        if held:
            after = replace(now, transaction=now.transaction + 1)
            self._message(wire.set_transaction_id(now.transaction, after.transaction))
        self.journal.write(after, list(held.values()), [row.id for row in rows if row.id not in held])
        return [error or held[row.id] for row, error in zip(rows, errors, strict=True)]

    def delete(self, row: DeviceRow) -> None:
        """Absent is success. The caller has proved that the id is still ours. Raises Busy where it is active."""
        with self.lock:
            now, going = self._expected(self.status()), replace(row, state=State.DELETING)
            self.journal.write(put=[going])
            try:
                self._message(wire.delete(row.id))
            except DmError as error:
                if error.errno == errno.ENODATA:
                    self.journal.write(drop=[row.id])
                    return
                self.journal.write(put=[replace(row, state=State.HELD)])
                if error.errno == errno.EBUSY:
                    raise Busy(f"{row} of pool {self.pool} is still active", hint="it is retried later") from error
                raise
            self._message(wire.set_transaction_id(now.transaction, now.transaction + 1))
            self.journal.write(replace(now, transaction=now.transaction + 1), drop=[row.id])

    def stamp(self, row: PoolRow, transaction: int) -> None:
        """Give a newly created pool its identity."""
        self._message(wire.set_transaction_id(0, transaction))
        self.journal.write(replace(row, transaction=transaction))

    def recover(self) -> tuple[str, ...]:
        """Settle an interrupted pool transaction; return what was done, as text."""
        with self.lock:
            row, rows = self.journal.pool(), self.journal.devices()
            if row is None or not pending(rows):
                return ()
            found = self.metadata()
            todo = settle(row, rows, found.transaction, found.devices)
            transaction = max(found.transaction, row.transaction)
            if todo.advance:
                self._message(wire.set_transaction_id(transaction, transaction + 1))
                transaction += 1
            self.journal.write(replace(row, transaction=transaction), todo.put, todo.drop)
            kept = tuple(f"kept {one}" for one in todo.put)
            return kept + tuple(f"dropped the intent for thin id {thin_id}, which never happened" for thin_id in todo.drop)

    def _expected(self, status: PoolStatus) -> PoolRow:
        """Return the pool's row after comparing it with the pool."""
        row = self.journal.pool()
        self._check_writable(status)
        if row is None or self.journal.pending() or status.transaction != row.transaction:
            raise PoolUnusable(
                f"pool {self.pool}: its transaction id {counter_of(status.transaction)} is not the registry's, or an operation "
                "was interrupted",
                hint=f"run again; if the error persists, see `reconcile adopt {self.pool}`",
            )
        return row

    def _message(self, text: str) -> None:
        self.dm.message(self.pool, text)
        self._check_writable(self.status())

    def _check_writable(self, status: PoolStatus) -> None:
        if not status.writable:
            raise PoolUnusable(f"pool {self.pool} can't be changed now: {status}", hint="see `reconcile health`")
