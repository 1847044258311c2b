"""The values of durable runs: definitions, runs, and what passes between a step, the engine and the store.

``host.machines`` defines machines, ``engine`` executes them, ``registry`` stores the runs. Frozen values only: a definition
is shared by all its runs, so nothing of a run is ever written to it. A run's state lives in the store, nowhere else.

    Status of a run

    (open_run) ──> active ──────────────> done              the last step led to an end
                   │ ^  │
                   │ │  ├───────────────> failed            a terminal error, or the attempts are used up
                   │ │  ├───────────────> cancelled         asked for, or superseded by a run with other input
                   v │  │
              needs-operator ───────────> cancelled         an operator releases or cancels it
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from reconciler.backoff import Backoff
from reconciler.dataclass import asdict, dataclass, field
from reconciler.engine.facts import Fact
from reconciler.model import Key

Json = Mapping[str, Any]
"""A JSON object: strings to what ``json`` writes and reads back unchanged."""

# ------------------------------------------------------------------------------------------------ definitions


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried: exponential back-off with full jitter, and an end. Times in seconds.

    ``total`` bounds what failed attempts and their back-offs have used up together; hours switched off don't count.
    ``crashes`` is how often in a row the process may crash in the step before an operator is needed.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 60.0
    total: float = 3600.0
    crashes: int = 20

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.crashes < 1:
            raise ValueError(f"a step needs at least one attempt: {self}")
        if not 0 < self.base <= self.cap or self.total <= 0:
            raise ValueError(f"back-off must have 0 < base <= cap and total > 0: {self}")

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1): uniform below the exponential bound."""
        return Backoff(self.base, self.cap, jitter=(0, 1)).seconds(attempt, rng)


BETWEEN_RUNS = Backoff(30.0, 3600.0)
"""From a failed run to the next one with the same input."""


def no_progress(run: Run) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is done in a state. ``act`` observes, acts and verifies, may be run again at any time, and returns what it found.

    ``timeout`` (seconds) becomes the context's deadline. ``act`` blocks in the caller's thread, where nothing can interrupt it:
    it keeps the deadline by calling ``Context.check`` and by handing ``Context.remaining()`` to what it waits for.
    """

    state: str
    act: Callable[[Context], Outcome]
    next: str
    timeout: float = 3600.0
    retry: Retry = field(default_factory=Retry)
    act_many: Callable[[Sequence[Context]], Sequence[Outcome | Exception]] | None = None
    """The same for many runs at once, with an outcome or an error for each. None where each run acts by itself."""
    progress: Callable[[Run], int] = no_progress
    """What of the step a crash leaves (bytes on disk, say). An attempt that added to it doesn't count as a crash."""


@dataclass(frozen=True)
class Machine:
    """A chain of steps from ``initial`` to one of ``ends``. Raises ValueError, naming every fault, where it isn't one."""

    name: str
    steps: tuple[Step, ...]
    initial: str
    ends: frozenset[str]

    def __post_init__(self) -> None:
        if faults := tuple(_faults(self)):
            raise ValueError(f"machine {self.name!r}: {'; '.join(faults)}")

    @cached_property
    def by_state(self) -> Mapping[str, Step]:
        return {step.state: step for step in self.steps}

    @cached_property
    def digest(self) -> str:
        """Identity of the definition (its shape, times and retries; not the code behind it), stored with each run."""
        steps = [[s.state, s.next, s.timeout, asdict(s.retry)] for s in self.steps]
        text = json.dumps([self.name, self.initial, sorted(self.ends), steps], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _faults(machine: Machine) -> Iterator[str]:
    states = [step.state for step in machine.steps]
    names = {machine.name, *states, *machine.ends}
    if not all(name and name == name.strip() for name in names):
        yield "empty or padded name"
    if not states:
        yield "no steps"
    for state in sorted({s for s in states if states.count(s) > 1}):
        yield f"state {state!r} has two steps"
    for state in sorted(machine.ends & set(states)):
        yield f"state {state!r} is an end and has a step"
    if machine.initial not in states:
        yield f"initial state {machine.initial!r} has no step"
    for step in machine.steps:
        if step.next not in machine.ends and step.next not in states:
            yield f"state {step.state!r} leads to unknown state {step.next!r}"
        if step.timeout <= 0:
            yield f"state {step.state!r} has a time-out of {step.timeout} s"
    yield from _path_faults(machine, states)


def _path_faults(machine: Machine, states: Sequence[str]) -> Iterator[str]:
    following = {step.state: step.next for step in machine.steps}
    seen: list[str] = []
    state = machine.initial
    while state in following and state not in seen:
        seen.append(state)
        state = following[state]
    if state in seen:
        yield f"state {state!r} is reached again: no way to an end"
    for unreached in sorted({*states, *machine.ends} - {*seen, state}):
        yield f"state {unreached!r} can't be reached from {machine.initial!r}"


# ------------------------------------------------------------------------------------------------------- runs


class Status(StrEnum):
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEEDS_OPERATOR = "needs-operator"

    @property
    def is_open(self) -> bool:
        """True where the object still belongs to the run: no other run of the machine is started beside it."""
        return self in (Status.ACTIVE, Status.NEEDS_OPERATOR)


@dataclass(frozen=True, slots=True)
class Run:
    """One durable execution of a machine for one subject. Times are seconds since the epoch, 0 where unset."""

    id: str
    """A ULID: sorts by the time of opening."""
    machine: str
    subject: Key
    state: str
    digest: str
    """Of the machine's definition, as it was when the run was last taken up."""
    opened: float
    updated: float
    input: Json = field(default_factory=dict)
    data: Json = field(default_factory=dict)
    """What the steps so far have returned, later over earlier."""
    status: Status = Status.ACTIVE
    attempt: int = 0
    """Failed attempts of the step in ``state``; starts again at 0 with every transition, as do ``spent`` and ``crashes``."""
    spent: float = 0.0
    """Seconds that those attempts and their back-offs have used up."""
    crashes: int = 0
    """Attempts in a row, up to the latest, that a crash of the process ended without any progress."""
    not_before: float = 0.0
    """When the step is due again; in a failed run, when a new run with the same input is."""
    cancel: str = ""
    """Why the run is to end; the first cause stays. Acted upon at the next boundary between steps."""
    reason: str = ""
    message: str = ""

    def waits(self, now: float) -> float:
        """Seconds until ``not_before``; 0 where the clock was set back since, which would hold the run for that long."""
        return max(0.0, self.not_before - now) if self.updated <= now else 0.0


class Result(StrEnum):
    """How an attempt, or another change of a run, ended."""

    RUNNING = "running"
    """It has not: the process is at it, or died at it."""
    ADVANCED = "advanced"
    RETRY = "retry"
    FAILED = "failed"
    NEEDS_OPERATOR = "needs-operator"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    NOTED = "noted"
    """No attempt: the run was released, or its definition has changed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change in the history of a run: the part of a Transition that the engine sets."""

    result: Result
    reason: str
    message: str = ""
    data: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One step of a run of ``machine`` that has ended, how, and after how many ``seconds``; ``ended`` since the epoch."""

    machine: str
    state: str
    result: str
    reason: str
    seconds: float
    ended: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of a run's history: an attempt or another change. ``seq`` counts within the run, from 1."""

    run: str
    seq: int
    from_state: str
    to_state: str
    attempt: int
    started: float
    ended: float | None
    result: Result
    reason: str
    message: str
    data: Json


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the append-only log. ``seq`` is never used twice; ``at`` in seconds since the epoch."""

    seq: int
    at: float
    kind: str
    name: str
    reason: str
    message: str
    run: str = ""
    pool: str = ""
    """Empty for objects without one, and in events of versions before schema 5."""


# ----------------------------------------------------------------------------------------- what a step sees


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step returns; committed together with the next state. ``data`` must be JSON: TypeError or ValueError otherwise."""

    data: Json = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    message: str = ""

    def __post_init__(self) -> None:
        json.dumps(self.data, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Context:
    """What a step gets: its run, its deadline, and where it reports progress."""

    run: Run
    stop: threading.Event
    """Set when the process is asked to stop; a step then raises Stopped (``check`` does) at the next safe place."""
    check: Callable[[], None]
    """Call it often (once a chunk; it is cheap): the heartbeat. Raises Stopped, Cancelled or StepTimeout."""
    remaining: Callable[[], float]
    """Seconds until the deadline, 0.0 when it has passed: the time-out to give to whatever blocks."""
    progress: Callable[[int, int], None]
    """``progress(done, total)`` in the step's own unit, ``total`` 0 where unknown. Shown, never stored."""


class Conflict(Exception):
    """The stored run is not the one that was read: another thread or process changed it. The stored one is valid."""


class Store(Protocol):
    """What the engine needs of the registry. Every method is one transaction, durable when it returns, and thread-safe."""

    def together(self) -> AbstractContextManager[None]:
        """All that this thread changes within the context is one transaction; other threads wait."""
        ...

    def open_run(self, run: Run) -> Run:
        """The open run of the same machine and subject where its input is the same, ``run`` itself otherwise.

        A run with other input is marked to be cancelled in the same transaction.
        """
        ...

    def run(self, run_id: str) -> Run:
        """Raises KeyError."""
        ...

    def open_runs(self) -> Sequence[Run]:
        """Runs that have not ended, oldest first; those that need an operator or are to be cancelled included."""
        ...

    def failed_before(self, run: Run) -> int:
        """How many runs of the same machine, subject and input have failed in a row, directly before this one; a few at most."""
        ...

    def begin_attempt(self, run: Run, at: float, progress: int = 0) -> Run:
        """Write down that the step of ``run.state`` is being tried; count an attempt that never ended as a crash.

        It counts only if ``progress`` is no more than when it began.
        Raises Conflict where the stored run differs from ``run``.
        """
        ...

    def commit_run(self, before: Run, after: Run, entry: Entry, facts: Sequence[Fact] = ()) -> None:
        """The run's new state, its history and the facts, all or nothing. ``cancel`` stays unchanged.

        Raises Conflict where the stored run differs from ``before`` (compare-and-set on state, attempt and status).
        """
        ...

    def request_cancel(self, run_id: str, why: str) -> Run:
        """Mark an open run to be cancelled. Raises KeyError."""
        ...
