"""The two-store commit protocol: every change of a pool's set of thin devices is a pool transaction, one at a time.

    intents on disk (registry)  ->  messages  ->  status  ->  transaction id N -> N + 1  ->  rows done (registry)

The kernel ignores whether the commit behind a message succeeded, so the pool's status is read after each one. A message that the
kernel refuses has changed nothing: its intent is dropped. ``recover`` settles any other interruption.

Called by ``pool.thin.pool``. State: the journal and the pool; a lock serialises this process's threads (the registry's lock
excludes other processes). Protocol: Documentation/admin-guide/device-mapper/thin-provisioning.rst, ``pool.thin.recovery``.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reconciler.errors import Busy, PoolUnusable, Retryable
from reconciler.pool.thin import status as wire
from reconciler.pool.thin.devmapper import DeviceMapper, DmError
from reconciler.pool.thin.journal import DeviceRow, Journal, PoolRow, Role, State
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.recovery import pending, settle
from reconciler.pool.thin.status import PoolStatus

ID_LIMIT = 1 << 24
"""Thin ids are 24 bits wide."""


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

    def create(self, status: PoolStatus, role: Role, name: str, chain: str, size: int, origin: int | None) -> DeviceRow:
        """A new thin device, empty or a snapshot of ``origin`` (which must be inactive). Raises Retryable where that is gone.

        The caller holds the lock, and has found the pool's status to be ``status``.
        """
        above = 0
        with self.lock:
            now = self._expected(status)
            while True:
                wanted = DeviceRow(0, role, name, chain, size, now.transaction, State.CREATING)
                row = self.journal.begin(wanted, above)
                if row.id >= ID_LIMIT:
                    self.journal.write(drop=[row.id])
                    raise PoolUnusable(f"pool {self.pool}: all {ID_LIMIT} thin ids have been used", hint="create a new pool")
                try:
                    return self._run(now, row, wire.create_thin(row.id) if origin is None else wire.create_snap(row.id, origin))
                except DmError as error:
                    if error.errno == errno.ENODATA:
                        gone = f"pool {self.pool}: thin id {origin}, the origin of {name[:12]}, is missing"
                        raise Retryable(gone, hint="the next run rebuilds it") from error
                    if error.errno != errno.EEXIST:
                        raise
                    above = max(self.metadata().devices, default=row.id)  # foreign ids: those below ours stay what they are

    def delete(self, row: DeviceRow) -> None:
        """Absent is success. The caller has proved that the id is still ours. Raises Busy where it is active."""
        with self.lock:
            now, going = self._expected(self.status()), replace(row, state=State.DELETING)
            self.journal.write(put=[going])
            try:
                self._run(now, going, wire.delete(row.id))
            except DmError as error:
                if error.errno == errno.ENODATA:
                    self.journal.write(drop=[row.id])
                elif error.errno == errno.EBUSY:
                    raise Busy(f"{row} of pool {self.pool} is still active", hint="it is retried later") from error
                else:
                    raise

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
                f"pool {self.pool}: its transaction id {status.transaction:#x} is not the registry's, or an operation "
                "was interrupted",
                hint=f"run again; if the error persists, see `reconcile adopt {self.pool}`",
            )
        return row

    def _run(self, now: PoolRow, row: DeviceRow, message: str) -> DeviceRow:
        """The rest of the pool transaction, once the intent is on disk."""
        try:
            self._message(message)
        except DmError:
            self._take_back(row)
            raise
        self._message(wire.set_transaction_id(now.transaction, now.transaction + 1))
        after = replace(now, transaction=now.transaction + 1)
        if row.state is State.DELETING:
            self.journal.write(after, drop=[row.id])
            return row
        made = replace(row, state=State.HELD)
        self.journal.write(after, put=[made])
        return made

    def _take_back(self, row: DeviceRow) -> None:
        if row.state is State.CREATING:
            self.journal.write(drop=[row.id])
        else:
            self.journal.write(put=[replace(row, state=State.HELD)])

    def _message(self, text: str) -> None:
        self.dm.message(self.pool, text)
        self._check_writable(self.status())

    def _check_writable(self, status: PoolStatus) -> None:
        if not status.writable:
            raise PoolUnusable(f"pool {self.pool} can't be changed now: {status}", hint="see `reconcile health`")
