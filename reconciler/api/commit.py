"""Commits claims that wait together in one transaction: four clients share one fsync instead of waiting for four.

Called by ``routes`` from the threads of connections: the one that finds no transaction under way commits for all that wait, so
that a single client waits for no other thread. State: the changes that wait.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

from reconciler.errors import HostCannot, ReconcilerError, Stopped
from reconciler.registry.claims import Claims

MOST = 64
"""Changes in one transaction."""
STOP_SECONDS = 5.0


class Change:
    """One change, its result and its error."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _HalfWritten(Exception):
    """A change has failed after it had written: the transaction is rolled back, and each change gets one of its own."""


class Committer:
    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._waiting: list[Change] = []
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._stopped = False

    def commit(self, work: Callable[[], Any]) -> Any:
        """The result of the work once it is on disk. What ``work`` raises is raised here, and fails no other change."""
        change = Change(work)
        with self._lock:
            if self._stopped:
                raise Stopped("the service ends")
            self._waiting.append(change)
        with self._committing:
            while not change.done:
                with self._lock:
                    batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                self._commit(batch)
        return change.result()

    def stop(self) -> None:
        """Refuse what comes from now on, and wait for the transaction under way."""
        with self._lock:
            self._stopped = True
        if self._committing.acquire(timeout=STOP_SECONDS):
            self._committing.release()

    def _commit(self, batch: Sequence[Change]) -> None:
        try:
            with self._claims.together():
                if len(batch) == 1:
                    batch[0].value = batch[0].work()
                else:
                    for change in batch:
                        self._do(change)
        except _HalfWritten:
            for change in batch:
                change.error = None
                self._commit([change])
        except BaseException as error:
            for change in batch:
                change.error = change.error or _failure(error, alone=len(batch) == 1)
        for change in batch:
            change.done = True

    def _do(self, change: Change) -> None:
        """One change of several. Raises _HalfWritten where it has failed after it wrote: savepoints would cost each one."""
        before = self._claims.changes
        try:
            change.value = change.work()
        except sqlite3.Error:
            raise
        except Exception as error:
            if self._claims.changes != before:
                raise _HalfWritten from error
            change.error = error


def _failure(error: BaseException, *, alone: bool) -> BaseException:
    """What each change of a transaction raises that failed with this error; the error of a change that was alone is its own."""
    if isinstance(error, ReconcilerError) or (alone and not isinstance(error, sqlite3.Error)):
        return error
    return HostCannot(f"the registry can't be written: {error}")
