"""``--once``, ``apply`` and ``plan --fetch``: one scheduler, run until nothing is left to do. Called by ``cli``. No state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from reconciler.controller import housekeeping
from reconciler.controller.assess import Assessment, Wish
from reconciler.controller.executor import Done
from reconciler.controller.scheduler import Scheduler
from reconciler.controller.summary import Reports, outcome
from reconciler.errors import NotConverged
from reconciler.host.context import Host
from reconciler.host.state_directory import discard_unfinished_indexes
from reconciler.model import Action, Verb
from reconciler.output import print_plan
from reconciler.output.progress import Progress
from reconciler.output.result import Result
from reconciler.registry.marks import What
from reconciler.telemetry import tracing


def converge(
    host: Host,
    wish: Wish,
    progress: Progress,
    *,
    stop: threading.Event,
    approved: Callable[[Assessment], Iterable[Action]] | None = None,
    reports: Reports | None = None,
) -> Result:
    """Carry out plans until one is empty, or all that is left has failed. Raises NotConverged when time is up.

    ``approved`` gets the first assessment, before anything is changed; it returns the actions that may be carried out, or raises.
    """
    started = host.threads.monotonic()
    retries = [mark for mark in host.records.marks().values() if mark.what is What.RETRY]
    scheduler = Scheduler(host, wish, progress, stop, at_first=lambda now: print_plan.note_plan(now.plan) if wish.diff else None)
    with tracing.span("pass", revision=host.revision), deadline(host.settings.timeout, stop) as expired, progress:
        discard_unfinished_indexes(host.settings.indexes)
        now = scheduler.run_until_idle(approved)
        if expired.is_set():
            raise NotConverged(f"not converged within {host.settings.timeout:g} s", hint="run again: it goes on where it stopped")
    if not stop.is_set():
        housekeeping.after_assessment(host, now, retries, wish)
    if scheduler.ledger.done:
        housekeeping.prune(host)
    result = outcome(host.name, now.desired, now.observed, now.plan, scheduler.ledger, host.threads.monotonic() - started)
    if reports is not None:
        reports.offer(host, now, result)
    return result


def fetch(host: Host, wish: Wish, progress: Progress, *, stop: threading.Event) -> list[Done]:
    """Fetch the layers and archives that are unresolved into the spool, and nothing else; return those that failed."""
    scheduler = Scheduler(host, wish, progress, stop)
    with progress:
        scheduler.run_until_idle(lambda now: [action for action in now.plan.actions if action.verb is Verb.RESOLVE])
    return [done for done in scheduler.ledger.done.values() if not done.ok]


class deadline:
    """Sets ``stop`` when the time is up, and records that it was the time."""

    def __init__(self, seconds: float | None, stop: threading.Event) -> None:
        self._expired = threading.Event()
        self._stop = stop
        self._timer = threading.Timer(seconds, self._expire) if seconds else None

    def _expire(self) -> None:
        self._expired.set()
        self._stop.set()

    def __enter__(self) -> threading.Event:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self._expired

    def __exit__(self, *exc: object) -> None:
        if self._timer:
            self._timer.cancel()
