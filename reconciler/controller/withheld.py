"""The actions that a service does not try yet, because they failed a short time ago: each waits for its back-off.

Used by ``scheduler`` for a service; an invocation of ``--once`` tries everything, because it was asked to. Waiting after a failed
run lies in the registry (``Run.not_before``, written by ``engine``), so that a restarted service goes on waiting; other input, a
success or a newer ``reconcile retry`` ends it.

State in memory: actions that have ended without such a run and are in the next plan again (a success after which the difference
persists, say), each with its pause. Times are monotonic seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from reconciler.backoff import Backoff
from reconciler.controller.assess import Assessment
from reconciler.controller.executor import Done, dependent, verdict
from reconciler.dataclass import dataclass, replace
from reconciler.engine.definitions import BETWEEN_RUNS, Run, Status
from reconciler.model import Action, Finding, Key, Kind, Severity, Verb

BETWEEN_REPEATS = Backoff(2.0, BETWEEN_RUNS.longest, jitter=(1, 1))
"""For an action that succeeds although the difference persists, from its second success on."""

RELEASE_SECONDS = 30.0
"""Nothing reports that a file or a device is closed: where an action waits for that, the pool is observed this often."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An action that has ended ``times`` in a row. ``at`` is in seconds since the epoch, ``again`` monotonic."""

    done: Done
    times: int
    at: float
    again: float


class Withheld:
    """``clock`` gives monotonic seconds, ``wall`` seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._ended: dict[Key, Ended] = {}
        self._due: dict[Key, float] = {}
        self._release = float("inf")

    def withheld(self, now: Assessment, last: Mapping[Key, Run], busy: Collection[Key], *, whole: bool = True) -> dict[Key, Done]:
        """The actions of a plan that are not to be tried yet, each with its last failure, or that of the one it comes after.

        ``last`` are the last runs of their objects. Actions come after what they need. What a ``whole`` plan no longer has is
        forgotten. ``busy`` are actions under way.
        """
        if whole:
            self._due = {}
            self._ended = {key: self._ended[key] for key in (one.key for one in now.plan.actions) if key in self._ended}
        found: dict[Key, Done] = {}
        for action in now.plan.actions:
            if action.key in busy:
                continue
            blocker = next((found[key] for key in action.after if key in found), None)
            done = dependent(action, blocker) if blocker else self._withheld(action, last.get(action.key), _asked(now, action))
            if done is not None:
                found[action.key] = done
        return found

    def _withheld(self, action: Action, run: Run | None, asked: float) -> Done | None:
        """``asked`` is when a retry was requested, in seconds since the epoch."""
        clock, wall, ended = self._clock(), self._wall(), self._ended.get(action.key)
        if run is not None and asked <= run.updated and _waits(run, wall) and _is_of(run, action):
            if run.status is Status.FAILED:
                self._due[action.key] = clock + run.waits(wall)
            return verdict(action, run, wall)
        if ended is not None and asked <= ended.at and clock < ended.again and _wanted(ended.done.action) == _wanted(action):
            self._due[action.key] = ended.again
            return replace(ended.done, action=action) if not ended.done.ok else _persists(action, ended)
        return None

    def next(self) -> float:
        """When the first of them is due, or a pool is to be observed because something in it is in use."""
        return min((self._release, *self._due.values()))

    def await_release(self, now: float, *, awaited: bool) -> None:
        self._release = now + RELEASE_SECONDS if awaited else float("inf")

    def learn(self, done: Done) -> None:
        """An action has ended, and no failed run has its pause."""
        before = self._ended.get(done.action.key)
        same = before is not None and before.done.ok == done.ok and _wanted(before.done.action) == _wanted(done.action)
        times = before.times + 1 if before is not None and same else 1
        repeats = BETWEEN_REPEATS.seconds(times - 1) if times > 1 else 0.0
        wait = repeats if done.ok else BETWEEN_RUNS.seconds(times)
        self._ended[done.action.key] = Ended(done, times, self._wall(), self._clock() + wait)


def halted(now: Assessment, last: Mapping[Key, Run]) -> Iterator[Finding]:
    """A note for each action of a plan whose run waits for a person: it is not carried out before ``reconcile retry``."""
    for action in now.plan.actions:
        run = last.get(action.key)
        if run is not None and run.status is Status.NEEDS_OPERATOR and _asked(now, action) <= run.updated and _is_of(run, action):
            yield Finding(Severity.WARNING, action.key, run.reason, verdict(action, run, run.updated).message)


def _asked(now: Assessment, action: Action) -> float:
    """When a retry of the action was requested, in seconds since the epoch; 0 where it was not."""
    return max(now.retried.get(image, 0.0) for image in (*action.images, action.image))


def _waits(run: Run, now: float) -> bool:
    return run.status is Status.NEEDS_OPERATOR or (run.status is Status.FAILED and run.waits(now) > 0)


def _is_of(run: Run, action: Action) -> bool:
    """Whether the run is what the action would be now; otherwise it is another attempt."""
    if action.kind is Kind.IMAGE or action.verb is Verb.RECORD:
        return False
    from reconciler.host.machines import run_input

    machine, value = run_input(action)
    return run.machine == machine and run.input == json.loads(json.dumps(value))


def _persists(action: Action, ended: Ended) -> Done:
    text = f"{action.verb} has succeeded {ended.times} times, and the difference persists: {action.because}"
    return Done(action, False, "DifferencePersists", text)


def _wanted(action: Action) -> Action:
    """Without what differs between two plans of the same thing."""
    return replace(action, because="", after=())
