"""Reports a host to the sink, in a thread of its own: nothing else waits for the database.

Called by ``cli``; ``controller`` offers it each outcome. The registry's events are the outbox: the sink has the number of the
last one that it got, so nothing is stored twice, and what it missed while it was down comes with the next batch, within what
the registry keeps. A report is what has changed since the one before; the whole picture where the sink has another one.
State: the picture that the sink has confirmed.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from reconciler.backoff import Backoff
from reconciler.controller.assess import Assessment
from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import CommandError, ReconcilerError
from reconciler.fleet import picture
from reconciler.fleet.address import Address
from reconciler.fleet.batch import EPOCH, Batch, Picture, changes
from reconciler.fleet.sink import Reached, Sink
from reconciler.fleet.statements import EVENTS_KEPT
from reconciler.host.context import Host
from reconciler.output import console
from reconciler.output.result import Reporting, Result

JITTER = (0.5, 1.5)
MISSED = 3
"""A service that has not assessed its host for so many intervals (``--interval``) has not converged."""


def about(seconds: float) -> float:
    """These seconds, with jitter."""
    return Backoff(seconds, seconds, JITTER).seconds(1)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, from which the waits differ at random: hosts that change together report apart."""

    gather: float = 1.0
    """From an outcome to its report: what comes meanwhile is part of it."""
    least: float = 5.0
    """Between two reports."""
    every: float = 60.0
    """Between two reports where nothing changes."""
    deadline: float = 30.0
    """For one report."""
    back_off: Backoff = field(default_factory=lambda: Backoff(5.0, 300.0, JITTER))


class ReportIdTaken(ReconcilerError):
    """A newer process reports with the id of this registry: the registry was copied to another host."""

    reason = "ReportIdTaken"


class Reporter:
    """A context manager around the work of one process. ``offer`` and ``state`` are for any thread.

    ``service`` False promises no further report. Leaving it sends what is due, within ``patience`` seconds.
    """

    def __init__(self, address: Address, *, service: bool, pace: Pace = Pace(), patience: float = 3.0) -> None:
        self._pace, self._patience = pace, patience
        self._every = pace.every if service else 0.0
        self._cut = threading.Event()
        self._sink = Sink(address, self._cut.is_set)
        self._lock = threading.Condition()
        self._offered: Callable[[], Picture] | None = None
        self._host: Host | None = None
        self._now: Assessment | None = None
        self._closing = False
        self._next, self._not_before = float("inf"), 0.0
        self._ended = threading.Event()
        self._picture: Picture | None = None
        self._assessed = 0.0
        self._confirmed: tuple[int, Picture] | None = None
        self._epoch = self._count = 0
        self._restart = False
        self.state = Reporting()

    def __enter__(self) -> Reporter:
        threading.Thread(target=self._run, name="report", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        self._ended.wait(self._patience)
        self._cut.set()
        if not self._ended.wait(0.5) and not self.state.failures:
            why = f"{self._sink.address.shown} did not answer within {self._patience:g} s"
            console.note(f"warning: not reported: {why}", "warning", reason="ReportSinkUnavailable")

    def offer(self, host: Host, now: Assessment, result: Result, ended: CommandError | None = None) -> None:
        """Report this outcome soon, instead of one that has not been reported yet; again the last one, with the claims of now."""
        with self._lock:
            if now is not self._now:
                self._assessed = time.monotonic()
            self._host, self._now = host, now
            self._offered = lambda: picture.picture(host, now, result, self._every, ended)
            self._next = min(self._next, time.monotonic() + about(self._pace.gather))
            self._lock.notify_all()

    # --------------------------------------------------------------------------------------- in a thread of its own

    def _run(self) -> None:
        try:
            while self._wait() or not self._closing:
                self._try()
            if self._offered is not None and not self.state.failures:
                self._try()
        finally:
            self._ended.set()

    def _wait(self) -> bool:
        """Until a report is due; False once the process ends."""
        with self._lock:
            while not self._closing:
                left = max(self._next, self._not_before) - time.monotonic()
                if left <= 0:
                    return True
                self._lock.wait(min(left, 3600.0))
        return False

    def _try(self) -> None:
        try:
            rows = self.report()
        except Exception as error:
            self._fail(error)
            return
        if self.state.failures:
            console.note(f"note: reports to {self._sink.address.shown} succeed again", "notice")
        before = self.state
        self.state = Reporting(time.time(), batches=before.batches + 1, rows=before.rows + rows)
        self._pause(about(self._pace.least))

    def _fail(self, error: Exception) -> None:
        """Nothing is lost: what was offered is still here, and events are in the registry."""
        failures = self.state.failures + 1
        expected = isinstance(error, ReconcilerError)
        reason = error.reason if isinstance(error, ReconcilerError) else "InternalError"
        if failures == 1 or reason != self.state.reason:
            text = str(error) if expected else "".join(traceback.format_exception_only(error)).strip()
            console.note(f"warning: not reported: {self._sink.address.redacted(text)}", "warning", reason=reason)
        self.state = replace(self.state, failures=failures, reason=reason)
        self._confirmed = None
        self._pause(self._pace.back_off.seconds(failures))
        with self._lock:
            self._next = 0.0

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self._not_before = time.monotonic() + seconds

    def report(self) -> int:
        """Send one batch; return how many rows it had. Raises ReconcilerError, and what the registry raises."""
        with self._lock:
            offered, host = self._offered, self._host
            self._next = time.monotonic() + about(self._every) if self._every else float("inf")
        if host is None:
            return 0
        if offered is not None:
            self._picture = offered()
            with self._lock:
                self._offered = None if self._offered is offered else self._offered
        assert self._picture is not None
        self._picture = self._current(host, self._picture)
        with self._sink.session(self._pace.deadline) as session:
            batch = self._batch(host, session.reached(host.records.host), self._picture)
            if not session.apply(batch):
                raise ReportIdTaken("another process reports with the id of this host's registry")
        self._confirmed, self._restart = (batch.sequence, self._picture), False
        return batch.rows

    def _current(self, host: Host, last: Picture) -> Picture:
        """The last picture; one that says so where no assessment has succeeded for long."""
        age = time.monotonic() - self._assessed
        if age <= MISSED * host.settings.resync:
            return last
        message = f"the last assessment that succeeded was {age:.0f} s ago; see the log of the service"
        return replace(last, host=replace(last.host, converged=False, reason="NotAssessed", message=message))

    def _batch(self, host: Host, reached: Reached, now: Picture) -> Batch:
        """What the sink lacks."""
        self._number(host, reached)
        self._count += 1
        before = self._confirmed
        on_top = before is not None and before[0] == reached.sequence and not self._restart
        put, gone = changes(before[1], now) if before is not None and on_top else (now.rows, {})
        after = 0 if self._restart else reached.cursor
        events = tuple(map(picture.event, host.records.events_after(after, EVENTS_KEPT)))
        known = reached.sequence is not None and not self._restart
        return Batch(
            id=host.records.host,
            sequence=self._epoch * EPOCH + self._count,
            base=reached.sequence if on_top else None,
            host=now.host,
            put=put,
            gone=gone,
            events=events,
            after=after,
            lost=events[0].seq - after - 1 if events and known else 0,
            restart=self._restart,
        )

    def _number(self, host: Host, reached: Reached) -> None:
        """Give this process its number. A sink that has a later one had it from a registry that is newer than this copy of it."""
        there = reached.sequence or 0
        if not self._epoch:
            self._epoch = host.registry.begin_reports()
            if there >= self._epoch * EPOCH:
                self._epoch, self._restart = host.registry.begin_reports(there // EPOCH), True
        elif there > self._epoch * EPOCH + self._count:
            hint = "give one of them a state directory of its own; the one that was started last reports"
            raise ReportIdTaken("another host reports with the id of this host's registry", hint=hint)
