"""The control loop: assesses the host, and starts the actions of the plan as they become ready.

One thread, which never blocks: assessments and actions run in threads of their own and report to a mailbox. ``--once`` runs the
scheduler until nothing is left to do; the service runs it for ever and wakes it (``request``). See docs/architecture.md for the
states of an object between "changed" and "ready".

    wake -> assess (observe, plan) -> admit (queue by key) -> start (slot free) -> action (durable run) -> assess -> converged

State: the queue of actions, the jobs under way, the results of this invocation (``Ledger``). Nothing here outlives the process.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from queue import Empty

from reconciler.controller import queue
from reconciler.controller.assess import Assessment, Patience, Wish, assess, assess_images
from reconciler.controller.events import Answered, Assessed, Beating, Event, Finished, Job, Wanted, Woken, pool_of
from reconciler.controller.executor import Done, Ledger, approval, dependent, failed, opposes, perform_all, perform_rows
from reconciler.controller.housekeeping import release_runs
from reconciler.controller.queue import DESTRUCTIVE, TOGETHER, Slot, Todo, is_admissible, room, slot_of
from reconciler.controller.withheld import Withheld
from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import CommandError, Stopped
from reconciler.host import claims
from reconciler.host.calls import Mailbox
from reconciler.host.context import Host
from reconciler.model import Action, Key, Kind, Plan, Verb, labels
from reconciler.output.progress import Progress
from reconciler.pool.driver import BATCH

TURN_SECONDS = 0.2
"""The longest wait of the main thread: a signal's handler runs between two of them."""

STOP_SECONDS = 4.0
"""How long a stop waits for running work to reach a boundary."""

ASSESS_SHARE = 0.05
"""Most of one core that assessments may take while actions run."""

ASSESS_PAUSE = 0.5
"""The shortest time between two assessments that nothing but running actions has given rise to, and after an action was begun:
most end by then, and an assessment before would have to be made again."""

IMPATIENT = Patience(pools=5.0, sources=1.0)
"""While there is other work, answers that are late are taken into account when they arrive."""

Read = Callable[[Host, Wanted], tuple[Host, Wanted]]
"""Reads the manifests anew in an assessment's thread: the host as declared now, and what is to be assessed."""

ROWS = 256  # rows that one job writes at most


@dataclass
class Scheduler:
    """``run_until_idle`` for one invocation; a service calls ``turn`` again and again.

    ``read`` is called at the beginning of each assessment, in its thread; ``assessed`` after each full one was admitted, in the
    scheduler's thread. ``withheld`` keeps back what has failed; without one everything is tried once.
    """

    host: Host
    wish: Wish
    progress: Progress
    stop: threading.Event
    withheld: Withheld | None = None
    read: Read = lambda host, wanted: (host, wanted)
    assessed: Callable[[Assessment], None] = lambda now: None
    at_first: Callable[[Assessment], None] = lambda now: None

    ledger: Ledger = field(default_factory=Ledger)
    last: Assessment | None = None  # the last full assessment
    latest: Assessed = Assessed(Wanted(), 0, 0, 0.0)

    def __post_init__(self) -> None:
        self._threads = self.host.threads
        self._mailbox: Mailbox[Event] = self._threads.mailbox()
        self._todo = Todo()
        self._jobs: dict[Key, Job] = {}
        self._begun: dict[Slot, float] = {}
        self._touched: dict[Key, int] = {}
        self._events = self._version = 0
        self._wanted: Wanted | None = Wanted()
        self._assessing: Assessed | None = None
        self._clean = frozenset(self.host.drivers)
        self._not_before = self._not_before_running = 0.0
        self._pending: float | None = None
        self._stale, self._hinted = True, False
        self._patience = IMPATIENT
        self._cleaning: frozenset[str] = frozenset()
        self._local: frozenset[str] = frozenset()
        self._names: dict[Key, str] = {}
        self.host.calls.on_late_return = lambda: self._mailbox.put(Answered())
        self.host.sources.on_late_answer = lambda: self._mailbox.put(Answered())

    # ---------------------------------------------------------------------------------------------------- inputs

    def request(self, names: Collection[str] | None = None, *, manifests: bool = False) -> None:
        """Assessment again, at some images or at everything. ``manifests`` says that these may have changed.

        Plans that were made before then remove and replace nothing any more.
        """
        self._version += manifests
        if manifests:
            self._todo.discard_all(DESTRUCTIVE)
        self._merge(Wanted(None if names is None else frozenset(names), manifests))

    def wake(self, named: Collection[str] | None) -> None:
        """Manifests may have changed: assess those, or everything. Called from any thread."""
        self._mailbox.put(Woken(None if named is None else frozenset(named)))

    def hint(self) -> None:
        """Assess again soon; ``ASSESS_SHARE`` bounds how often while actions run. Repeat it as long as it holds."""
        self._hinted = self._assessing is None

    def pause(self, seconds: float) -> None:
        """Assessment again, but not before so many seconds have passed."""
        self._not_before, self._hinted = self._threads.monotonic() + seconds, True

    @property
    def next_end(self) -> float:
        """When (monotonic seconds) a suspension or a grace period ends next."""
        return self.last.next_end if self.last else float("inf")

    def _merge(self, wanted: Wanted) -> None:
        now = self._wanted
        if now is None or (now.names is not None and wanted.names is None):
            self._wanted = wanted
        elif now.names is not None and wanted.names is not None:
            self._wanted = Wanted(now.names | wanted.names, manifests=True)
        elif wanted.manifests:
            self._wanted = replace(now, manifests=True)

    # ------------------------------------------------------------------------------------------------------ loop

    def run_until_idle(self, approved: Callable[[Assessment], Iterable[Action]] | None = None) -> Assessment:
        """Carry out plans until one is empty, or all that is left has failed; return the last assessment.

        ``approved`` gets the first one, before anything is changed, and returns the actions that may be carried out, or raises.
        """
        if approved is not None:
            first = assess(self.host, self.wish)
            self.ledger.approved = frozenset(map(approval, approved(first)))
        try:
            while not self.idle and not self.stop.is_set():
                self.turn(TURN_SECONDS)
        except BaseException:
            self.stop.set()
            raise
        finally:
            self.finish()
        if self.last is None:
            raise Stopped("stopped before the host was observed")
        return self.last

    @property
    def idle(self) -> bool:
        """Nothing runs, nothing is due, and the last assessment has seen everything that was done."""
        todo = self._todo.slots() or self._todo.resting
        return not (self._jobs or self._assessing or self._wanted or todo or self._pending or self._stale)

    @property
    def queued(self) -> int:
        """How many actions wait for others, for a slot, or for their next attempt."""
        return len(self._todo) + len(self._todo.resting)

    @property
    def jobs(self) -> tuple[Job, ...]:
        return tuple(dict.fromkeys(self._jobs.values()))

    def turn(self, seconds: float) -> None:
        """Wait for an event up to so many seconds, but not where an assessment is due; then do what has become possible."""
        self.progress.tick()
        self._receive(seconds if self._wanted is None or self._assessing else 0.0)
        if self.stop.is_set():
            return
        self._stale |= self._pending is not None and self._threads.monotonic() >= self._pending
        self._todo.rested(self._threads.monotonic())
        self._begin_assessment()
        self._start()

    def finish(self) -> None:
        """Wait for running work to reach a boundary, up to ``STOP_SECONDS`` where the scheduler is stopped."""
        until = self._threads.monotonic() + STOP_SECONDS
        while (self._jobs or self._assessing) and (not self.stop.is_set() or self._threads.monotonic() < until):
            self.progress.tick()
            with suppress(Exception):  # what ends the scheduler is reported already
                self._receive(TURN_SECONDS)
        for action in self._running():
            self._record(Done(action, False, "Stopped", "did not stop in time; the next run goes on"))
        for action in self._todo.resting if self.stop.is_set() else ():
            self._record(Done(action, False, "Stopped", "stopped before its next attempt; the next run goes on"))

    def _receive(self, seconds: float) -> None:
        try:
            event: Event | None = self._mailbox.get(timeout=seconds)
            while event is not None:
                self._handle(event)
                event = self._mailbox.get_nowait()
        except Empty:
            return

    def _handle(self, event: Event) -> None:
        self._events += 1
        if isinstance(event, Finished):
            self._end(event)
        elif isinstance(event, Assessed):
            self._assessing = None
            self._admit(event)
        elif isinstance(event, Woken):
            self.request(event.named, manifests=True)
        elif self._pending is not None:
            self._stale = True

    # ----------------------------------------------------------------------------------------------------- assessments

    def _begin_assessment(self) -> None:
        """Assess where that was asked for, or where nothing of the last plan can be started and something has changed since."""
        if self._assessing is not None:
            return
        now, not_before = self._threads.monotonic(), max(self._not_before, self._not_before_running if self._jobs else 0.0)
        slots, since = self._todo.slots(), now - not_before
        blocked = since >= queue.BLOCKED_SECONDS and not any(self._room(slot) > 0 for slot in slots)
        begins = since < queue.BLOCKED_SECONDS and any(now - self._begun[job.slot] < ASSESS_PAUSE for job in self.jobs)
        due = not begins and (self._hinted or (self._stale and (blocked or not slots)))
        if self._wanted is None and not (due and since >= 0):
            return
        wanted, self._wanted = self._wanted or Wanted(), None
        clean = frozenset(pool for pool in self._clean if not self._is_busy(pool)) if wanted.names is None else frozenset()
        begun = self._assessing = Assessed(wanted, self._events, self._version, 0.0)
        if wanted.names is None:
            self._stale = self._hinted = False
            self._cleaning = clean
            self._clean -= clean
        self._threads.start(lambda: self._mailbox.put(self._assess(begun, clean)), "assessment")

    def _assess(self, begun: Assessed, clean: frozenset[str]) -> Assessed:
        started, began, host = self._threads.thread_time(), self._threads.monotonic(), self.host
        try:
            host, wanted = self.read(host, begun.wanted)
            claims.expire(host)
            if wanted.names is not None:
                found = assess_images(host, wanted.names, self.wish, patience=self._patience)
            else:
                found = assess(host, self.wish, patience=self._patience, clean=clean)
            release_runs(host, found.plan, found.retried)
            last = host.records.last_runs(one.key for one in found.plan.actions) if self.withheld else {}
            begun = replace(begun, wanted=wanted, found=found, host=host, local=host.spool.whole_layers(), last_runs=last)
            return replace(begun, seconds=self._threads.thread_time() - started, took=self._threads.monotonic() - began)
        except BaseException as error:
            return replace(begun, error=error, host=host)

    def _admit(self, event: Assessed) -> None:
        """Queue what an assessment's plan asks for."""
        self.host = event.host or self.host
        if event.error is not None or event.found is None:
            self._stale = True
            self._cleaning = frozenset()
            raise event.error or Stopped("an assessment ended without a result")
        self._local = event.local
        first, whole, self.latest = self.last is None, event.wanted.names is None, event
        plan = event.found.plan if whole or queue.only_adds(event.found.plan) else Plan()
        if whole:
            self._todo.clear()
            self._pending = event.found.pending
            self._not_before = self._threads.monotonic()
            pause = max(ASSESS_PAUSE, event.seconds / ASSESS_SHARE) if self._jobs else 0.0
            self._not_before_running = self._not_before + pause
            self.last = event.found
        self._names |= labels(action.key for action in plan.actions)
        unmade = {action.name for action in plan.actions if action.verb is Verb.ASSEMBLE}
        out: set[Key] = set()
        withheld = self.ledger.withheld = self._withheld(event, whole=whole)
        for action in plan.actions:
            if action.key in withheld or not self._admits(action, event, unmade, out):
                out.add(action.key)
        if whole:
            self._clean |= self._todo.keep({action.key for action in plan.actions}) | queue.leftovers(plan)
        self._cleaning = frozenset()
        if whole:
            (self.at_first if first else self.assessed)(event.found)

    def _withheld(self, event: Assessed, *, whole: bool) -> dict[Key, Done]:
        if self.withheld is None or event.found is None:
            return {}
        busy = {*self._jobs, *(action.key for action in self._todo.resting)}
        return self.withheld.withheld(event.found, event.last_runs, busy, whole=whole)

    def _admits(self, action: Action, event: Assessed, unmade: Collection[str], out: Collection[Key]) -> bool:
        """Queue the action unless it can't be started on the grounds of this plan; whether it is queued, running or done."""
        if any(opposes(one, action) for one in self._running()):
            return False
        if action.key in self._jobs or self._todo.rests(action):
            return True
        if any(self._touched[key] > event.began for key in self.ledger.opposing(action)):
            self._stale = True
            return False
        if self._touched.get(action.key, -1) > event.began:
            self._stale = True  # the assessment has seen it as it was before
            done = self.ledger.done.get(action.key)
            return done is not None and done.ok
        if self.withheld is None and self.ledger.is_done(action):
            return self.ledger.done[action.key].ok
        current, needs_pool = event.version == self._version, action.pool in unmade and action.kind is not Kind.POOL
        if needs_pool or not is_admissible(action, self.ledger.approved, current=current):
            return False
        missing = [key for key in action.after if key in out]
        if missing:
            failed = next((done for key in missing if (done := self.ledger.result(key)) and not done.ok), None)
            if failed is not None:
                self._record(dependent(action, failed))
            return False
        self._todo.add(action, slot_of(action, self._local), self._jobs)
        return True

    # --------------------------------------------------------------------------------------------------- actions

    def _room(self, slot: Slot) -> int:
        return room(slot, [job.slot for job in self.jobs if not job.stuck], self.host.settings)

    def _is_busy(self, pool: str) -> bool:
        return any(action.pool == pool or (action.kind is Kind.POOL and action.name == pool) for action in self._running())

    def _running(self) -> Iterable[Action]:
        return (action for job in self.jobs for action in job.actions)

    def _start(self) -> None:
        now = self._threads.monotonic()
        for job in self.jobs:
            job.supervise(now)
        busy = queue.images_of(self._running())
        for slot in sorted(self._todo.slots(), key=lambda one: self._begun.get(one, 0.0)):
            free = self._room(slot)
            while free > 0 and (action := self._todo.next(slot, busy)) is not None and not self._waits(action):
                self._begin(action, slot, busy)
                free -= 1

    def _waits(self, action: Action) -> bool:
        """While leftovers of its pool are discarded nothing is begun there; nor while an earlier job on the pool is stuck."""
        pool = pool_of(action)
        return bool(pool) and (pool in self._cleaning or any(job.stuck and job.pool == pool for job in self.jobs))

    def _begin(self, action: Action, slot: Slot, busy: Counter[str]) -> None:
        actions = [action]
        if slot[0] == "row":
            actions = self._todo.batch(slot, action, ROWS)
        elif action.kind is Kind.SNAPSHOT and action.verb in TOGETHER:
            actions = self._todo.batch(slot, action, BATCH, same_chain=not self._shares_blocks(action.pool))
        job = Job(tuple(actions), slot, self._threads.monotonic(), self._version)
        self._begun[slot] = job.beat
        for one in actions:
            self._todo.discard(one.key)
            self._jobs[one.key] = job
            self._touched[one.key] = self._events + 1
            busy[one.image] += 1
        host = self.host.with_engine()
        self._threads.start(lambda: self._mailbox.put(self._run(job, host)), f"{action.verb} {action.name}")

    def _shares_blocks(self, pool: str) -> bool:
        found = self.last.observed.pools.get(pool) if self.last else None
        return found is not None and found.shares_blocks

    def _run(self, job: Job, host: Host) -> Finished:
        done: list[Done] = []
        try:
            progress = Beating(self.progress, job, self._threads)
            rows = job.slot[0] == "row"
            done.extend(perform_rows(host, job.actions) if rows else perform_all(host, job.actions, self._names, progress))
            return Finished(job, tuple(done))
        except BaseException as error:
            return Finished(job, tuple(done), error)

    def _end(self, event: Finished) -> None:
        ended = {done.action.key: done for done in event.done}
        for action in event.job.actions:
            del self._jobs[action.key]
            done = ended.get(action.key) or failed(action, event.error)
            if done.again:
                if action.verb not in DESTRUCTIVE or event.job.version == self._version:
                    self._todo.rest(action, event.job.slot, self._threads.monotonic() + done.again)
                continue
            self._record(done, learn=done.ok or action.key not in ended)
            for later in self._todo.finished(action.key, ok=done.ok):
                self._record(dependent(later, done))
            if action.verb is Verb.ASSEMBLE:
                self._clean |= {action.name}
        self._stale = True
        if isinstance(event.error, CommandError):
            raise event.error

    def _record(self, done: Done, *, learn: bool = False) -> None:
        """``learn`` where no failed run has the pause before the next attempt."""
        self._touched[done.action.key] = self._events
        self.ledger.done[done.action.key] = done
        if learn and self.withheld is not None:
            self.withheld.learn(done)
