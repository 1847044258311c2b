"""The service: a scheduler that never ends, woken by manifests, pools, the registry and timers.

Called by ``cli`` where ``--once`` is not given. It reports to the service manager, to metrics and to the log. The manifests are
watched in a thread of their own; everything that can block is a call (``calls``). No failure of one assessment ends the service.
State: what was reported, what failed before, what metrics count.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.backoff import Backoff
from reconciler.controller import housekeeping
from reconciler.controller.assess import Assessment, Wish, changed
from reconciler.controller.events import Wanted
from reconciler.controller.executor import Ledger
from reconciler.controller.scheduler import Scheduler
from reconciler.controller.summary import Reports, outcome
from reconciler.controller.withheld import Withheld
from reconciler.dataclass import dataclass, replace
from reconciler.errors import Guarded, ManifestFault, NotConverged, ReconcilerError, RegistryUpgraded, Stopped
from reconciler.host import claims
from reconciler.host.calls import Mailbox
from reconciler.host.context import Host
from reconciler.host.pulses import PULSE_SECONDS, Pulses
from reconciler.host.state_directory import discard_unfinished_indexes
from reconciler.image.oci.server import answered
from reconciler.manifests.faults import ignored_documents
from reconciler.manifests.watch import EVERYTHING, Watch
from reconciler.model import Action, Finding
from reconciler.output import console, print_result
from reconciler.output.progress import Progress
from reconciler.output.result import Result
from reconciler.planner.claims import stocks
from reconciler.registry import reserve
from reconciler.registry.marks import What
from reconciler.telemetry.systemd import Heart, notify

if TYPE_CHECKING:
    from reconciler.telemetry.metrics import Metrics

PULSE_REST = 4.0
"""Seconds without an assessment at the pulses for each second of CPU of the last one: claims change the registry all the time."""

COUNT_SECONDS = 5.0
"""The shortest time between two counts of claims that were no reason to assess: metrics and reports are no faster."""

MANY_IMAGES = 500
"""Above this number the images whose manifests have changed are assessed before all others."""

CHORE_SECONDS = 1.0
"""How long a stop waits for housekeeping."""

BETWEEN_ASSESSMENTS = Backoff(1.0, 60.0, jitter=(1, 1))
"""Seconds between two assessments where they fail."""


@dataclass(frozen=True, slots=True)
class Telling:
    """Where metrics go: a file, a port of one address, both or neither; and where the host reports to."""

    file: Path | None = None
    port: int | None = None
    reports: Reports | None = None
    address: str = "127.0.0.1"


def file_identity(path: Path) -> Hashable:
    """Differs once the file is another one, or has been written to; None where it can't be found out."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def watched(host: Host, stop: threading.Event) -> Iterator[frozenset[str] | None]:
    """The manifests that may have changed, by path, as they change; None for any of them."""
    settings = host.settings
    watch = Watch(settings.manifests, lambda: file_identity(settings.host_file), stop=stop, resync=settings.resync)
    for named in watch.wakes():
        yield frozenset(named) if named != EVERYTHING else None


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two turns of the main thread, and between two assessments at the pulses, while nothing happens."""

    turn: float = PULSE_SECONDS
    pulse: float = PULSE_SECONDS


class Service:
    """``watch`` yields what has changed until it is to stop; it runs in a thread of its own."""

    def __init__(
        self,
        host: Host,
        wish: Wish,
        progress: Progress,
        telling: Telling,
        *,
        stop: threading.Event,
        watch: Callable[[Host, threading.Event], Iterable[frozenset[str] | None]] = watched,
        pace: Pace = Pace(),
    ) -> None:
        self._threads = host.threads
        self._wish, self._changes, self._pace = wish, watch, pace
        self._stop = stop
        self._heart = Heart(progress, stop)
        self._withheld = Withheld(host.threads.monotonic, host.threads.time)
        self._scheduler = Scheduler(
            host,
            wish,
            self._heart,
            stop,
            withheld=self._withheld,
            read=self._read,
            assessed=self._assessed,
            at_first=self._assessed,
        )
        self._pulses = Pulses(pace.pulse)
        self._chores: Mailbox[Callable[[], None] | None] = self._threads.mailbox()
        self._complaints: tuple[ManifestFault, ...] = ()
        self._ignored = ""
        self._told: frozenset[tuple[str, ...]] | None = None
        self._refused, self._refusal = False, ""
        self._changed = self._measured = self._threads.time()
        self._due = self._threads.monotonic() + 2 * host.settings.resync
        self._failures = 0
        self._rested = self._counted = 0.0
        self._outcome: tuple[Host, Assessment, Result] | None = None
        self._idle, self._late = self._threads.monotonic(), False
        self._kept = self._threads.event()
        self.superseded = False
        self._file, self._reports = telling.file, telling.reports
        self._metrics = _metrics(telling)

    @property
    def host(self) -> Host:
        """The host as it is declared now. Called from any thread."""
        return self._scheduler.host

    @property
    def last(self) -> Assessment | None:
        """The last assessment. Called from any thread."""
        return self._scheduler.last

    def run(self) -> None:
        """Converge now, and again whenever something may have changed, until asked to stop.

        Manifests with faults are reported; what they declared last stays as it is, and nothing is pruned.
        """
        notify({"READY": "1", "STATUS": "first pass"})
        discard_unfinished_indexes(self.host.settings.indexes)
        self._threads.start(self._watch, "watch")
        self._threads.start(self._do_chores, "chores")
        shown = False
        while not self._stop.is_set():
            if shown != bool(self._scheduler.jobs):
                shown = not shown
                self._heart.__enter__() if shown else self._heart.__exit__(None, None, None)
            try:
                self._scheduler.turn(self._pace.turn)
                self._wake()
            except Stopped:
                break
            except RegistryUpgraded as error:
                console.note(f"note: {error}; the service ends, so that the newer version can start", "warning")
                self.superseded = True
                self._stop.set()
            except Exception as error:
                self._fail(error)
            self._check_time()
        notify({"STOPPING": "1"})
        self._scheduler.finish()
        if shown:
            self._heart.__exit__(None, None, None)
        self._chores.put(None)
        self._kept.wait(CHORE_SECONDS)
        if self._late:
            hint = "start it again: it goes on where it stopped"
            raise NotConverged(f"not converged within {self.host.settings.timeout:g} s", hint=hint)

    def _check_time(self) -> None:
        """Stop where a pass, from the change that began it to the end of all that it led to, takes longer than ``--timeout``."""
        now, timeout = self._threads.monotonic(), self.host.settings.timeout
        if self._scheduler.idle:
            self._idle = now
        elif timeout is not None and now - self._idle > timeout and not self._stop.is_set():
            self._late = True
            self._stop.set()

    def _watch(self) -> None:
        """Turn changes of the manifests into requests; a watcher that fails begins anew."""
        while not self._stop.is_set():
            try:
                for named in self._changes(self.host, self._stop):
                    self._scheduler.wake(named)
            except Exception as error:
                console.note(f"error: watching {self.host.settings.manifests} failed: {error}", "error")
                self._stop.wait(BETWEEN_ASSESSMENTS.longest)

    def _wake(self) -> None:
        """Ask for an assessment where a timer has run out, a claim has expired, or a pool or the registry has changed."""
        now = self._threads.monotonic()
        if now >= self._due:
            self._due = now + 2 * self.host.settings.resync  # where nothing watches the manifests any more
            self._scheduler.hint()
        elif now >= min(self._withheld.next(), self._scheduler.next_end, self._pulses.expiry):
            self._scheduler.hint()
        elif now >= self._rested:
            if self._pulses.changed(self.host):
                self._scheduler.hint()
            elif self._outcome and now >= self._counted + COUNT_SECONDS and self._pulses.claimed():
                self._counted = now
                self._chores.put(partial(self._count, *self._outcome))

    def _fail(self, error: Exception) -> None:
        """An assessment failed: report it, and assess again after a pause. What a guard protects stays; the rest is done."""
        if isinstance(error, Guarded):
            if str(error) != self._refusal:
                console.note(f"error: nothing is pruned: {error}", "error")
            self._refusal = str(error)
            self._scheduler.wish = replace(self._wish, prune=False)
            self._scheduler.request()
            return
        reserve.settle(self.host.settings.reserve)
        text = str(error) if isinstance(error, ReconcilerError) else "".join(traceback.format_exception_only(error)).strip()
        console.note(f"error: {text}", "error")
        notify({"STATUS": f"error: {text}"})
        self._failures += 1
        self._scheduler.pause(BETWEEN_ASSESSMENTS.seconds(self._failures))

    # ------------------------------------------------------------------------------------------------- in an assessment's thread

    def _read(self, host: Host, wanted: Wanted) -> tuple[Host, Wanted]:
        """The manifests as they are now: the files that are named, or all of them."""
        notify({"STATUS": "observing"})
        host.records.check_schema()
        if wanted.names is not None:
            few = host.glanced(wanted.names)
            if few is None:
                return host, Wanted(frozenset())
            return few.sharing(host), Wanted(changed(host.desired, few.desired))
        self._pulses.take(host)
        if not wanted.manifests:
            return host, wanted
        now = host.informed(self._wish.on_invalid).sharing(host)
        now.remember()
        self._complain(now)
        if now.desired != host.desired:
            self._changed = self._threads.time()
            first = changed(host.desired, now.desired)
            if first and len(now.desired.images) > MANY_IMAGES:
                self._scheduler.wake(None)  # all others come next
                return now, Wanted(first, manifests=True)
        return now, wanted

    # -------------------------------------------------------------------------------------------------------- after an assessment

    def _assessed(self, now: Assessment) -> None:
        self._failures = 0
        self._rested = self._threads.monotonic() + PULSE_REST * self._scheduler.latest.seconds
        self._refused = self._scheduler.wish.prune != self._wish.prune
        self._scheduler.wish = self._wish
        awaited = any(one.reason == "SnapshotInUse" for one in now.plan.findings)
        self._withheld.await_release(self._threads.monotonic(), awaited=awaited)
        ledger, self._scheduler.ledger = self._scheduler.ledger, Ledger()
        host = self.host
        shown = Ledger({**ledger.done, **ledger.withheld})
        result = outcome(host.name, now.desired, now.observed, now.plan, shown, self._scheduler.latest.took)
        news = self._news(result)
        if ledger.done or news is not None:
            print_result.show_result(news or result)
        ready = sum(1 for one in result.objects if one.ok)
        faults = console.counted(len(host.faults), "fault")
        notify({"STATUS": f"{ready}/{len(result.objects)} ready, {len(result.held)} held, {faults}"})
        self._outcome = host, now, result
        self._chores.put(partial(self._keep_house, *self._outcome, done=bool(ledger.done)))

    # ------------------------------------------------------------------------------------------------- in a thread of its own

    def _do_chores(self) -> None:
        """Housekeeping, then metrics, after each assessment: they read and write the registry, which may block."""
        while (chore := self._chores.get()) is not None:
            try:
                chore()
            except Exception as error:
                console.note(f"error: housekeeping failed: {error}", "error")
        self._kept.set()

    def _keep_house(self, host: Host, now: Assessment, result: Result, *, done: bool) -> None:
        retried = [mark for mark in host.records.marks().values() if mark.what is What.RETRY and mark.image in now.retried]
        try:
            housekeeping.after_assessment(host, now, retried, self._wish, idle=not self._scheduler.jobs)
            if done:
                housekeeping.prune(host)
        finally:
            reserve.settle(host.settings.reserve)
            if self._reports is not None:
                self._reports.offer(host, now, result)
            self._measure(host, now, result)

    def _count(self, host: Host, now: Assessment, result: Result) -> None:
        """Claims have begun that were no reason to assess: what is shown of the last assessment has them too."""
        if self._reports is not None:
            self._reports.offer(host, now, result)
        if self._metrics is not None:
            self._metrics.count(stocks(now.desired, replace(now.observed, claims=claims.current(host))))
            if self._file is not None:
                self._metrics.write(self._file)

    def claimed(self, image: str, result: str, seconds: float) -> None:
        """Count an answer to a request for a claim. Called from any thread."""
        if self._metrics is not None:
            self._metrics.claim(image if image in self.host.desired.images else "", result, seconds)

    def _measure(self, host: Host, now: Assessment, result: Result) -> None:
        if self._metrics is None:
            return
        from reconciler.telemetry.metrics import Pass

        attempts = host.records.attempts(self._measured)
        self._measured = max((one.ended for one in attempts), default=self._measured)
        told = Pass(
            result,
            len(host.faults),
            host.records.marks(),
            attempts,
            self._heart.downloaded,
            queued=self._scheduler.queued,
            stuck=Counter(job.pool for job in self._scheduler.jobs if job.stuck),
            prune_refused=self._refused,
            manifests_changed=self._changed,
            revision=host.revision,
            registries=dict(answered),
            reporting=self._reports.state if self._reports else None,
            stocks=stocks(now.desired, now.observed),
        )
        self._metrics.record(told)
        if self._file is not None:
            self._metrics.write(self._file)

    # --------------------------------------------------------------------------------------------------------------- reports

    def _news(self, result: Result) -> Result | None:
        """Without the findings, held removals and failures of the assessment before; None where nothing is new."""
        before = self._told
        failed = frozenset((str(one.kind), one.name, one.reason) for one in result.objects if not one.ok)
        self._told = frozenset({*map(_topic, result.findings), *map(_topic, result.held), *failed})
        if before is not None and self._told == before:
            return None
        findings = tuple(one for one in result.findings if _topic(one) not in (before or ()))
        held = tuple(one for one in result.held if _topic(one) not in (before or ()))
        return replace(result, findings=findings, held=held)

    def _complain(self, now: Host) -> None:
        """Report faults of manifests, and documents that are ignored, once for each new set of them."""
        ignored, self._ignored = self._ignored, ignored_documents(now.notes)
        if self._ignored not in ("", ignored):
            console.note(self._ignored)
        before, self._complaints = self._complaints, now.faults
        if now.faults == before:
            return
        for fault in now.faults:
            console.note(f"error: {fault}", "error")
        if now.faults:
            stays = f"{console.counted(len(now.frozen), 'file')} {'stays' if len(now.frozen) == 1 else 'stay'} as declared last"
            kept = stays if now.frozen else "what they declare is unknown"
            console.note(
                f"note: {console.counted(len(now.faults), 'fault')} in the manifests: {kept}, and nothing is pruned", "warning"
            )
        else:
            console.note("note: the manifests have no fault any more", "warning")


def _topic(one: Finding | Action) -> tuple[str, ...]:
    """What it is about: how many seconds are left, say, is no news."""
    return (one.subject.path, one.reason) if isinstance(one, Finding) else (one.key.path, str(one.verb))


def _metrics(telling: Telling) -> Metrics | None:
    if telling.file is None and telling.port is None:
        return None
    from reconciler.telemetry.metrics import Metrics

    metrics = Metrics()
    if telling.port is not None:
        metrics.serve(telling.port, telling.address)
    return metrics
