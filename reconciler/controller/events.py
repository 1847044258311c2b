"""What threads report to the scheduler, and what it keeps of those under way. Values; no state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.controller.assess import Assessment
from reconciler.controller.executor import Done
from reconciler.controller.queue import Slot
from reconciler.engine.definitions import Run
from reconciler.host.calls import Threads
from reconciler.host.context import Host
from reconciler.model import Action, Key
from reconciler.output.progress import Progress


@dataclass(eq=False)
class Job:
    """Actions under way in one thread. ``beat`` is when it last reported anything."""

    actions: tuple[Action, ...]
    slot: Slot
    beat: float
    stuck: bool = False


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
    """``began`` numbers the events before it; ``version`` is that of the manifests that were read."""

    wanted: Wanted
    began: int
    version: int
    seconds: float
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
