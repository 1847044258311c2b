"""What threads report to the scheduler, and what it keeps of those under way. State: jobs under way."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.controller.assess import Assessment
from reconciler.controller.executor import Done
from reconciler.controller.queue import Slot
from reconciler.dataclass import dataclass, field
from reconciler.engine.definitions import Run
from reconciler.host.calls import Threads
from reconciler.host.context import Host
from reconciler.model import Action, Key, Kind
from reconciler.output import console
from reconciler.output.progress import Progress

STUCK_SECONDS = 1800.0
"""A job that has reported nothing for so long loses its slot: a check of a large volume takes minutes."""


@dataclass(eq=False)
class Job:
    """Actions under way in one thread. ``beat`` is when it last reported anything.

    ``version`` counts the changes of the manifests until it began. What removes or replaces is not tried again after another one.
    """

    actions: tuple[Action, ...]
    slot: Slot
    beat: float
    version: int
    stuck: bool = False

    @property
    def pool(self) -> str:
        """The pool that it works on; empty for a layer's transfer."""
        return pool_of(self.actions[0])

    def supervise(self, now: float) -> None:
        """Decide whether it is stuck at ``now``, and report it once where it is."""
        stuck = now - self.beat > STUCK_SECONDS
        if stuck and not self.stuck:
            others = f"; other actions on pool {self.pool} wait for it" if self.pool else ""
            what = f"{self.actions[0].verb} {self.actions[0].key}"
            hint = "check the device or file system below it (dmesg); `reconcile events` shows the last step"
            console.note(f"warning: {what} has made no progress for {STUCK_SECONDS / 60:.0f} minutes{others}. {hint}", "warning")
        self.stuck = stuck


def pool_of(action: Action) -> str:
    """The pool that an action works on; empty where it works on none."""
    return action.pool or (action.name if action.kind is Kind.POOL else "")


@dataclass(frozen=True)
class Finished:
    job: Job
    done: tuple[Done, ...]
    error: BaseException | None = None


@dataclass(frozen=True)
class Wanted:
    """An assessment that is due: at ``names``, or at everything where that is None. ``manifests``: they are to be read again."""

    names: frozenset[str] | None = None
    manifests: bool = False


@dataclass(frozen=True)
class Assessed:
    """``began`` numbers the events before it; ``version`` is that of the manifests that were read.

    It took ``seconds`` of CPU in its thread, and ``took`` seconds of time.
    """

    wanted: Wanted
    began: int
    version: int
    seconds: float
    took: float = 0.0
    found: Assessment | None = None
    host: Host | None = None
    local: frozenset[str] = frozenset()
    """Digests of the layers that are whole in the spool."""
    last_runs: Mapping[Key, Run] = field(default_factory=dict)
    """Of the objects of the plan's actions."""
    error: BaseException | None = None


@dataclass(frozen=True)
class Answered:
    """Something that an assessment did not wait for has answered."""


@dataclass(frozen=True)
class Woken:
    """Manifests may have changed: those at these paths, or any where None."""

    named: frozenset[str] | None


Event = Finished | Assessed | Answered | Woken


class Beating:
    """Passes a job's progress on, and notes that it is alive."""

    def __init__(self, progress: Progress, job: Job, threads: Threads) -> None:
        self._progress = progress
        self._job = job
        self._threads = threads
        self.tick = progress.tick

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        self._job.beat = self._threads.monotonic()
        self._progress.update(key, state, done, total, detail)

    def finish(self, key: str, text: str) -> None:
        self._progress.finish(key, text)
