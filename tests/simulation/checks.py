"""The invariants of simulated worlds, by name. ``Checks`` gets what happens and records what must not. State: the violations."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from reconciler.controller.assess import Assessment, prunable
from reconciler.engine.definitions import Entry, Run
from reconciler.errors import Guarded, ReconcilerError
from reconciler.model import Desired, ImageSpec, Kind, ReplacePolicy, Verb
from reconciler.pool.memory import Step
from reconciler.pool.memory.storage import PAGE, Object, is_volume, slice_pages

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

NO_PRUNE = "nothing undeclared is deleted without --prune"
FOREIGN = "nothing foreign is touched"
RECORDED = "nothing that the registry has is discarded as a leftover"
GUARDS = "the guards of pruning hold"
GAP = "the main thread turns every 10 s"
EXIT = "a stop ends the process within 5 s"
CONVERGED = "a world without faults converges"
ISOLATED = "no object waits for an unrelated one"
CURRENT = "a removal or replacement starts from the manifests of now"
ONE_CHAIN = "the content of a snapshot comes from one chain"
ORDER = "an action starts once its prerequisites are done"
ALIVE = "the service ends only when it is stopped"
NO_THREAD_DIES = "no thread ends by an error"

GAP_SECONDS, EXIT_SECONDS = 10.0, 5.0

ISOLATED_SECONDS = 90.0
"""How long a new image takes at most where its pool and its sources are healthy and a slot is free."""


class Violation(AssertionError):
    """An invariant does not hold; the message has its name."""


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[str] = []
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        self._healthy: dict[str, tuple[ImageSpec, float]] = {}
        self._sampled: Process | None = None

    def violated(self, name: str, detail: str) -> None:
        text = f"{name}: {detail} (at {self._world.kernel.now:.1f} s)"
        self._world.log(f"VIOLATION {text}")
        self.violations.append(text)

    # -------------------------------------------------------------------------------------------- the main thread

    def turned(self, process: Process, gap: float) -> None:
        if gap >= GAP_SECONDS:
            self.violated(GAP, f"{gap:.1f} s between two turns")

    def exited(self, process: Process) -> None:
        if process.stopped is not None:
            took = self._world.kernel.now - process.stopped
            if took > EXIT_SECONDS + process.pace.turn - 0.2:
                self.violated(EXIT, f"{process.kind} took {took:.1f} s")

    def raised(self, process: Process, error: Exception) -> None:
        expected = process.kind == "once" and isinstance(error, ReconcilerError)
        if not expected:
            self.violated(ALIVE, f"{type(error).__name__}: {error}")

    def threads(self) -> None:
        for name, error in self._world.kernel.died:
            self.violated(NO_THREAD_DIES, f"{name}: {type(error).__name__}: {error}")
        self._world.kernel.died.clear()

    # ----------------------------------------------------------------------------------------------------- an assessment

    def assessed(self, process: Process, now: Assessment) -> None:
        gone = {a.image for a in now.plan.actions if a.verb in (Verb.REMOVE, Verb.FORGET) and a.image}
        gone -= now.desired.images.keys()
        if not process.wish.prune and any(a.verb in (Verb.REMOVE, Verb.FORGET) for a in now.plan.actions):
            self.violated(NO_PRUNE, "the plan has removals")
        if gone and not now.desired.images:
            self.violated(GUARDS, "the manifests are empty")
        if len(gone) > prunable(process.wish.most, len(now.observed.images)):
            self.violated(GUARDS, f"{len(gone)} images of {len(now.observed.images)} are pruned at once")
        going = sum((a.verb, a.kind) == (Verb.REMOVE, Kind.SNAPSHOT) for a in now.plan.actions)
        if going > prunable(process.wish.most, len(now.observed.snapshots)):
            self.violated(GUARDS, f"{going} snapshots of {len(now.observed.snapshots)} are pruned at once")

    # ---------------------------------------------------------------------------------------------------- a driver

    def passed(self, process: Process, pool: str, step: Step) -> None:
        if step.point != "begin":
            return
        if step.operation in ("remove_snapshot", "remove_volume"):
            if not process.wish.prune:
                self.violated(NO_PRUNE, f"{step.operation} {step.name[:12]}")
            self._removal_is_current(process, pool, step)
        elif step.operation == "replace_snapshot":
            self._replacement_is_current(process, pool, step)
        elif step.operation == "create_snapshot":
            self._has_base(process, pool, step.name)

    def _before(self, process: Process) -> Desired | None:
        """The manifests that the action which runs now has to be based on; None where they have just changed."""
        if process.kind == "once":
            return process.declared
        task = self._world.kernel.current
        assert task is not None
        margin = 0.3 + process.pace.turn
        return self._world.declared_at(task.began - margin, task.began)

    def _removal_is_current(self, process: Process, pool: str, step: Step) -> None:
        desired = self._before(process)
        if desired is None or step.operation != "remove_snapshot":
            return
        for image in desired.images.values():
            if image.pool == pool and step.name in image.snapshots:
                self.violated(CURRENT, f"snapshot {step.name} is removed, and {image.name} declares it")

    def _replacement_is_current(self, process: Process, pool: str, step: Step) -> None:
        desired = self._before(process)
        if desired is None:
            return
        owners = [one for one in desired.images.values() if one.pool == pool and step.name in one.snapshots]
        if not owners or all(one.replace is ReplacePolicy.KEEP for one in owners):
            self.violated(CURRENT, f"snapshot {step.name} is replaced, and the manifests do not ask for it")

    def _has_base(self, process: Process, pool: str, name: str) -> None:
        run = next((one for one in process.records.open_runs() if one.subject.name == name and one.subject.pool == pool), None)
        if run is not None and (pool, run.input["chain"]) not in process.records.volumes([run.input["chain"]]):
            self.violated(ORDER, f"snapshot {name} is created, and its volume was never built")

    # --------------------------------------------------------------------------------------------------- a storage

    def dropped(self, pool: str, one: Object) -> None:
        process = self._world.process
        if one.foreign or one.orphan:
            self.violated(FOREIGN, f"{one} of pool {pool} is deleted")
        if process is None or process.dead:
            return
        rows = process.records.snapshots() if not is_volume(one) else {}
        row = rows.get((pool, one.name))
        if row is None or row.identity != one.identity:
            return
        runs = {run.machine for run in process.records.open_runs() if (run.subject.pool, run.subject.name) == (pool, one.name)}
        # The activation of a snapshot that was withdrawn meanwhile stays open until housekeeping cancels it.
        if not runs & {"removal", "replacement"} and not one.damaged and row.chain == one.chain and "snapshot" not in runs:
            self.violated(RECORDED, f"{one} of pool {pool} is deleted by {', '.join(runs) or 'no run'}")

    def content(self) -> None:
        """Every recorded snapshot has the layers of its chain."""
        for (pool, name), row in self._world.read(lambda records: records.snapshots()).items():
            one = self._world.pools[pool].by_identity(row.identity)
            digests = self._world.chains.get(row.chain)
            if one is None or digests is None or one.name != name:
                continue
            found = [slice_pages(one.pages, n * PAGE, 64).decode() for n in range(len(one.pages))]
            if found != list(digests):
                self.violated(ONE_CHAIN, f"snapshot {name} of pool {pool}")

    # ------------------------------------------------------------------------------------------------- an image

    def sample(self) -> None:
        """Called every few seconds: images that are healthy and still not ready."""
        process, now = self._world.process, self._world.kernel.now
        if process is not self._sampled:  # a reboot or a crash was in the way of all images
            self._sampled = process
            self._healthy.clear()
        if process is not None and process.kind == "service" and not (process.dead or process.ended or process.stopped):
            self.turned(process, now - process.last_turn)
        healthy = self._world.healthy() if process is not None and process.kind == "service" and not process.dead else {}
        if process is not None and process.service is not None and healthy:
            scheduler = process.service._scheduler
            if min(scheduler._room(("build", "")), scheduler._room(("download", ""))) <= 0:
                self._healthy.clear()
                return
        kept = {}
        for name, image in healthy.items():
            before = self._healthy.get(name)
            kept[name] = before if before and before[0] == image else (image, now)
            if now - kept[name][1] > ISOLATED_SECONDS and (missing := self._world.unready(image)):
                self.violated(ISOLATED, f"image {name} lacks {missing} {ISOLATED_SECONDS:.0f} s after nothing is in its way")
                kept[name] = (image, now)
        self._healthy = kept

    def recorded(self, run: Run, entry: Entry) -> None:
        self.transitions[run.machine, run.state, entry.result.value] += 1

    def guarded(self, error: Exception) -> bool:
        return isinstance(error, Guarded)
