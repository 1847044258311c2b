"""The engine of durable runs: open, attempt, record, back off, cancel.

``controller`` opens and executes runs, ``host.machines`` defines their machines, ``registry`` is the store. The engine depends
on neither kernel nor S3, and has no state that a restart would lose: it reads the run from the store at every turn.

What an attempt raises decides what happens next:

    returned an Outcome             facts, data and the next state are committed together; attempts start again at 0
    Retryable                       attempt counted, back-off; failed once the attempts or the time are used up
    Terminal, CommandError          failed
    NeedsOperator                   needs-operator, until the run is released or cancelled
    Stopped, or the stop event      the run stays active and resumable; no attempt is counted
    any other Exception             a fault of ours: recorded with its traceback, retried as Retryable but less often
    BaseException                   not caught: as if the process had died

While the engine is being stopped every error but NeedsOperator counts as Stopped: what fails then may fail because of the stop.
A step that returns after its deadline has succeeded: what is done and verified is not thrown away. What the store raises is
raised to the caller: only an error of the registry itself ends a command.

Waiting is one number in the store, ``Run.not_before``: when the step of an active run is due again; of a failed run, when a new
run with the same input is. ``execute`` never sleeps: it returns a run that waits, and its caller executes it again when due.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from reconciler.dataclass import dataclass, field, replace
from reconciler.engine.definitions import (
    BETWEEN_RUNS,
    Conflict,
    Context,
    Entry,
    Json,
    Machine,
    Outcome,
    Result,
    Run,
    Status,
    Step,
    Store,
)
from reconciler.engine.facts import Fact
from reconciler.engine.verdicts import (
    after_error,
    called_off,
    crashed,
    paused,
    redefined,
    rested,
    unknown,
)
from reconciler.errors import Retryable, Stopped
from reconciler.model import Key

POLL = 1.0
"""Seconds between two reads of the store for a cancel that another thread or process requested."""

Progress = Callable[[Run, int, int], None]
"""``progress(run, done, total)``, as the run's step reports it."""

Listener = Callable[[Run, Entry], None]


class Cancelled(Stopped):
    """Raised inside a step by ``Context.check``, so that it ends early."""

    reason = "Cancelled"


class StepTimeout(Retryable):
    reason = "StepTimeout"


def _quiet(run: Run, done: int, total: int) -> None:
    """Progress that is not shown."""


class Engine:
    """Drives runs of ``machines`` that ``store`` keeps; several threads may execute runs at once.

    ``clock`` gives seconds since the epoch (recorded), ``monotonic`` the seconds that deadlines and durations are measured in.
    ``listener`` gets each change after it is durable.
    """

    def __init__(
        self,
        store: Store,
        machines: Iterable[Machine],
        *,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        listener: Listener = lambda run, entry: None,
    ) -> None:
        self.store = store
        self.machines = {machine.name: machine for machine in machines}
        self.stop = stop or threading.Event()
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng or random.SystemRandom()
        self._listener = listener
        self._claims = _Claims()
        self._batch = threading.local()

    # -------------------------------------------------------------------------------------- what callers ask for

    def open(self, machine: str, subject: Key, input: Json) -> Run:
        """The run that takes ``subject`` through ``machine``: the one already open if its input is equal, a new one otherwise.

        An open run with other input is cancelled as superseded. Raises KeyError for a machine that isn't there, and
        TypeError or ValueError where ``input`` isn't JSON.
        """
        run = self._open(machine, subject, input)
        for old in self.store.open_runs():
            if old.subject == subject and old.cancel:
                self._finish_cancelled(old)
        return run

    def _open(self, machine: str, subject: Key, input: Json) -> Run:
        definition, now = self.machines[machine], self._clock()
        new = Run(ulid(now, self._rng), machine, subject, definition.initial, definition.digest, now, now, input)
        return self.store.open_run(new)

    def execute(self, run_id: str, progress: Progress = _quiet) -> Run:
        """Execute a run, in this thread, until it ends, has to wait, or the engine is asked to stop; return the run.

        It waits for its next attempt (``Run.waits``) or for an operator.
        Waits while another thread executes a run of the same subject. Raises KeyError for an unknown run, and whatever the
        store raises: a run whose change can't be recorded does not go on.
        """
        with self._claims.hold(self.store.run(run_id).subject):
            run, go_on = self.store.run(run_id), True
            while go_on and run.status is Status.ACTIVE and not self.stop.is_set():
                try:
                    go_on = self._turn(run, progress)
                except Conflict:
                    go_on = True
                run = self.store.run(run_id)
        return run

    def execute_many(self, machine: str, requests: Sequence[tuple[Key, Json]], progress: Progress = _quiet) -> tuple[Run, ...]:
        """Open and drive runs of one machine whose steps can act on many (``Step.act_many``), in one transaction a step.

        Runs that can't go on with the others (cancelled, waiting for a back-off, failed and to be retried) are then executed one
        by one. Returns the runs in the order of ``requests``, whose subjects are distinct.
        """
        with ExitStack() as held:
            for subject in sorted(subject for subject, _ in requests):
                held.enter_context(self._claims.hold(subject))
            runs = self._act_together(machine, requests, progress)
        return tuple(run if not run.status.is_open else self.execute(run.id, progress) for run in runs)

    def _act_together(self, machine: str, requests: Sequence[tuple[Key, Json]], progress: Progress) -> list[Run]:
        runs: list[Run] = []
        results: list[tuple[Run, Outcome | Exception, float]] = []
        for step in self.machines[machine].steps:
            with self._together():
                runs = [self._open(machine, *one) for one in requests] if not runs else self._settle(runs, results)
                begun = [self.store.begin_attempt(run, self._clock()) for run in runs if self._can_join(run, step)]
            results = self._try_together(step, begun, progress) if begun else []
        with self._together():
            return self._settle(runs, results)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """One transaction; the listener gets its changes once they are durable."""
        committed: list[tuple[Run, Entry]] = []
        self._batch.committed = committed
        try:
            with self.store.together():
                yield
        finally:
            self._batch.committed = None
        for change in committed:
            self._listener(*change)

    def _can_join(self, run: Run, step: Step) -> bool:
        """Whether a run can act together with others: nothing about it is out of the ordinary."""
        ordinary = run.status is Status.ACTIVE and not run.cancel and run.digest == self.machines[run.machine].digest
        rested = not run.waits(self._clock()) and run.crashes + 1 < step.retry.crashes
        return ordinary and rested and run.state == step.state and step.act_many is not None and not self.stop.is_set()

    def _try_together(self, step: Step, begun: Sequence[Run], progress: Progress) -> list[tuple[Run, Outcome | Exception, float]]:
        """The outcome or error of each run, and how long it took. An error that is raised is everybody's."""
        began = self._monotonic()
        for run in begun:
            progress(run, 0, 0)
        outcomes: Sequence[Outcome | Exception]
        try:
            assert step.act_many is not None
            outcomes = step.act_many([self._context(run, began + step.timeout, progress) for run in begun])
        except Exception as error:
            outcomes = [error] * len(begun)
        elapsed = self._monotonic() - began
        return [(run, outcome, elapsed) for run, outcome in zip(begun, outcomes, strict=True)]

    def _settle(self, runs: Sequence[Run], results: Sequence[tuple[Run, Outcome | Exception, float]]) -> list[Run]:
        """Record what became of an attempt of many runs; all runs as they are then."""
        after = {run.id: run for run in runs}
        for run, outcome, elapsed in results:
            tried = self.machines[run.machine].by_state[run.state]
            if isinstance(outcome, Outcome):
                after[run.id] = self._commit(run, *self._advanced(run, tried, outcome), outcome.facts)
            elif isinstance(outcome, Stopped):
                after[run.id] = self._commit(run, *paused(run, outcome))
            else:
                after[run.id] = self._commit(run, *self._failed(run, tried, outcome, elapsed))
        return [after[run.id] for run in runs]

    def cancel(self, run_id: str, why: str = "cancelled on request") -> Run:
        """Cancel an open run: at once where no thread executes it, at the next boundary or ``Context.check`` otherwise."""
        return self._finish_cancelled(self.store.request_cancel(run_id, why))

    def release(self, run_id: str) -> Run:
        """Let a run in state needs-operator repeat its step, with all its attempts."""
        run = self.store.run(run_id)
        if run.status is not Status.NEEDS_OPERATOR:
            return run
        after = replace(rested(run), status=Status.ACTIVE, reason="", message="")
        return self._commit(run, after, Entry(Result.NOTED, "Released"))

    # ------------------------------------------------------------------------------------------------- one turn

    def _turn(self, run: Run, progress: Progress) -> bool:
        """Do the one thing that the run needs next; False where it must be left alone now."""
        if run.cancel:
            self._end_cancelled(run)
            return True
        step = self._step(run)
        if step is None:
            self._commit(run, *unknown(run, self.machines.get(run.machine)))
        elif run.digest != self.machines[run.machine].digest:
            self._commit(run, *redefined(run, self.machines[run.machine]))
        elif run.waits(self._clock()):
            return False
        else:
            return self._attempt(self.store.begin_attempt(run, self._clock(), step.progress(run)), step, progress)
        return True

    def _attempt(self, run: Run, step: Step, progress: Progress) -> bool:
        if run.crashes >= step.retry.crashes:
            self._commit(run, *crashed(run))
            return True
        began = self._monotonic()
        try:
            outcome = step.act(self._context(run, began + step.timeout, progress))
        except Stopped as stopped:
            self._commit(run, *paused(run, stopped))
            return isinstance(stopped, Cancelled)
        except Exception as error:
            self._commit(run, *self._failed(run, step, error, self._monotonic() - began))
        else:
            self._commit(run, *self._advanced(run, step, outcome), outcome.facts)
        return True

    def _context(self, run: Run, deadline: float, progress: Progress) -> Context:
        looked = self._monotonic()

        def check() -> None:
            nonlocal looked
            now = self._monotonic()
            if self.stop.is_set():
                raise Stopped(f"{run.subject}: stopped in step {run.state}")
            if now >= deadline:
                raise StepTimeout(f"{run.subject}: deadline exceeded in step {run.state}")
            if now - looked >= POLL:
                looked = now
                if called_off(self.store.run(run.id)):
                    raise Cancelled(f"{run.subject}: cancelled in step {run.state}")

        def remaining() -> float:
            return max(0.0, deadline - self._monotonic())

        return Context(run, self.stop, check, remaining, lambda done, total: progress(run, done, total))

    # ------------------------------------------------------------------------------------------- what is recorded

    def _failed(self, run: Run, step: Step, error: Exception, elapsed: float) -> tuple[Run, Entry]:
        now = self._clock()
        after, entry = after_error(run, step.retry, error, elapsed, now, self._rng)
        if self.stop.is_set() and after.status is not Status.NEEDS_OPERATOR:
            return paused(run, error)
        if after.status is Status.FAILED:
            after = replace(after, not_before=now + BETWEEN_RUNS.seconds(1 + self.store.failed_before(run), self._rng))
        return after, entry

    def _advanced(self, run: Run, step: Step, outcome: Outcome) -> tuple[Run, Entry]:
        status = Status.DONE if step.next in self.machines[run.machine].ends else Status.ACTIVE
        data = {**run.data, **outcome.data}
        after = replace(rested(run), state=step.next, status=status, data=data, reason="", message=outcome.message)
        return after, Entry(Result.ADVANCED, step.next.capitalize(), outcome.message, outcome.data)

    def _finish_cancelled(self, run: Run) -> Run:
        """End a run that is marked to be cancelled, unless a thread executes it: then that thread does."""
        with self._claims.hold_if_free(run.subject) as free:
            now = self.store.run(run.id)
            return self._end_cancelled(now) if free and now.cancel and now.status.is_open else now

    def _end_cancelled(self, run: Run) -> Run:
        after = replace(run, status=Status.CANCELLED, reason=Cancelled.reason, message=run.cancel)
        return self._commit(run, after, Entry(Result.CANCELLED, Cancelled.reason, run.cancel))

    def _step(self, run: Run) -> Step | None:
        machine = self.machines.get(run.machine)
        return machine.by_state.get(run.state) if machine else None

    def _commit(self, before: Run, after: Run, entry: Entry, facts: tuple[Fact, ...] = ()) -> Run:
        after = replace(after, updated=self._clock())
        self.store.commit_run(before, after, entry, facts)
        batch = getattr(self._batch, "committed", None)
        if batch is None:
            self._listener(after, entry)
        else:
            batch.append((after, entry))
        return after


# ------------------------------------------------------------------------------------------------------ small parts


@dataclass(slots=True)
class _Claims:
    """The subjects whose runs this process executes: at most one thread each."""

    _held: set[Key] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def hold(self, subject: Key) -> Iterator[None]:
        """Acquire the subject; wait until no other thread holds it."""
        with self._changed:
            self._changed.wait_for(lambda: subject not in self._held)
            self._held.add(subject)
        try:
            yield
        finally:
            self._release(subject)

    @contextmanager
    def hold_if_free(self, subject: Key) -> Iterator[bool]:
        with self._changed:
            free = subject not in self._held
            self._held.add(subject)
        try:
            yield free
        finally:
            if free:
                self._release(subject)

    def _release(self, subject: Key) -> None:
        with self._changed:
            self._held.discard(subject)
            self._changed.notify_all()


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(at: float, rng: random.Random) -> str:
    """26 characters that sort by time: 48 bits of milliseconds, 80 of chance (github.com/ulid/spec)."""
    value = int(at * 1000) << 80 | rng.getrandbits(80)
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
