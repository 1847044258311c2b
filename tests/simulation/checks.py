"""The invariants of simulated worlds, by name. ``Checks`` gets what happens and records what must not. State: the violations."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from reconciler.claim import Claim, ClaimState
from reconciler.controller.assess import Assessment, prunable
from reconciler.engine.definitions import Entry, Run, Status
from reconciler.errors import Guarded, ReconcilerError
from reconciler.image.custom import digest_of
from reconciler.image.spec import GIB
from reconciler.model import Desired, ImageSpec, Key, Kind, ReplacePolicy, SnapshotRow, Verb
from reconciler.pool.driver import chain_and_custom
from reconciler.pool.memory import Step
from reconciler.pool.memory.storage import PAGE, Object, is_volume, slice_pages
from tests.simulation.process import EDITED

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
ONCE = "a snapshot is given out once, and never as it was used"
KEPT = "a claimed snapshot is kept"
NO_CLAIM_LOST = "no claim is lost"
CUSTOMIZED = "a snapshot has what is recorded of it"
UNIQUE = "an identity of its own is no other snapshot's"
CALLED_OFF = "a step that nothing wants any more is called off"
NO_THREAD_DIES = "no thread ends by an error"

GAP_SECONDS, EXIT_SECONDS = 10.0, 5.0

MOST_SIZE = 64
"""GiB; what a script declares is smaller."""

ISOLATED_SECONDS = 90.0
"""How long a new image takes at most where its pool and its sources are healthy and a slot is free.

The transfers of one endpoint, however slow they are, are in the way of images of that endpoint only.
"""


CALLED_OFF_SECONDS = 45.0
"""How long a step goes on that no manifest needs, in a service that nothing is in the way of."""


def edit_of(one: Object) -> tuple[str, str]:
    """What an edit has given a snapshot, and its UUID; both empty where there was none."""
    text, _, uuid = slice_pages(one.pages, EDITED, PAGE).rstrip(b"\0").decode().partition("\n")
    return text, uuid.strip()


class Violation(AssertionError):
    """An invariant does not hold; the message has its name."""


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[str] = []
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        self._healthy: dict[str, tuple[ImageSpec, float]] = {}
        self._sampled: Process | None = None
        self._used: set[tuple[str, int]] = set()
        self._called_off: dict[str, tuple[Process, float]] = {}

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
        removals = [a for a in now.plan.actions if a.verb in (Verb.REMOVE, Verb.FORGET)]
        if not process.wish.prune and any((a.pool, a.name) not in self._world.recycled for a in removals):
            self.violated(NO_PRUNE, "the plan has removals")
        if gone and not now.desired.images:
            self.violated(GUARDS, "the manifests are empty")
        if len(gone) > prunable(process.wish.most, len(now.observed.images)):
            self.violated(GUARDS, f"{len(gone)} images of {len(now.observed.images)} are pruned at once")
        going = sum(a.kind is Kind.SNAPSHOT and (a.pool, a.name) not in self._world.recycled for a in removals)
        if going > prunable(process.wish.most, len(now.observed.snapshots)):
            self.violated(GUARDS, f"{going} snapshots of {len(now.observed.snapshots)} are pruned at once")

    # ---------------------------------------------------------------------------------------------------- a driver

    def passed(self, process: Process, pool: str, step: Step) -> None:
        if step.point != "begin":
            return
        if step.operation in ("remove_snapshot", "remove_volume"):
            if not process.wish.prune and (pool, step.name) not in self._world.recycled:
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
        if desired is None or step.operation != "remove_snapshot" or (pool, step.name) in self._world.recycled:
            return
        for image in desired.images.values():
            if image.pool == pool and step.name in image.snapshots:
                self.violated(CURRENT, f"snapshot {step.name} is removed, and {image.name} declares it")

    def _replacement_is_current(self, process: Process, pool: str, step: Step) -> None:
        desired = self._before(process)
        if desired is None or (pool, step.name) in self._world.recycled:
            return
        owners = [one for one in desired.images.values() if one.pool == pool and step.name in one.snapshots]
        if not owners or all(one.replace is ReplacePolicy.KEEP for one in owners):
            self.violated(CURRENT, f"snapshot {step.name} is replaced, and the manifests do not ask for it")

    def _has_base(self, process: Process, pool: str, name: str) -> None:
        key = Key(Kind.SNAPSHOT, pool, name)  # its last run: one that was cancelled meanwhile goes on until its next boundary
        run = process.records.last_runs([key]).get(key)
        if run is not None and (pool, run.input["chain"]) not in process.records.volumes([run.input["chain"]]):
            self.violated(ORDER, f"snapshot {name} is created, and its volume was never built")

    # --------------------------------------------------------------------------------------------------- a storage

    def dropped(self, pool: str, one: Object) -> None:
        process = self._world.process
        claim = self._world.current_claims().get((pool, one.name)) if (pool, one.id) in self._used else None
        if claim and claim.state is ClaimState.CLAIMED and not one.damaged and self._recorded(pool, one):
            self.violated(KEPT, f"{one} of pool {pool} is deleted, and {claim} has it")
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
        if (
            not runs & {"removal", "replacement"}
            and not one.damaged
            and row.chain == chain_and_custom(one.chain)[0]
            and "snapshot" not in runs
        ):
            self.violated(RECORDED, f"{one} of pool {pool} is deleted by {', '.join(runs) or 'no run'}")

    def _recorded(self, pool: str, one: Object) -> bool:
        row = self._world.read(lambda records: records.snapshots()).get((pool, one.name))
        return row is not None and row.identity == one.identity

    def given_out(self, claim: Claim, one: Object | None) -> None:
        if one is None:
            self.violated(ONCE, f"{claim} is of a snapshot that is not there")
        elif (claim.pool, one.id) in self._used:
            self.violated(ONCE, f"{one} of pool {claim.pool} is given out to {claim}, and was before")
        else:
            self._used.add((claim.pool, one.id))
            row = self._world.read(lambda records: records.snapshots()).get((claim.pool, claim.name))
            if row is not None and row.identity == one.identity:
                self._customized(row, one)

    def none_is_lost(self) -> None:
        """Each claim that was given, not released and has not expired is recorded as it was given."""
        now, recorded = self._world.kernel.moment(), self._world.current_claims()
        for claim in self._world.claims.values():
            found = recorded.get((claim.pool, claim.name))
            if claim.left(now) > 0 and (found is None or (found.id, found.state) != (claim.id, ClaimState.CLAIMED)):
                self.violated(NO_CLAIM_LOST, f"{claim} of snapshot {claim.name}: {found}")

    def content(self) -> None:
        """Every recorded snapshot has the layers of its chain, and the files and the identity that are recorded."""
        self.customized()
        ids: dict[str, str] = {}
        for (pool, name), row in self._world.read(lambda records: records.snapshots()).items():
            one = self._world.pools[pool].by_identity(row.identity)
            digests = self._world.chains.get(row.chain)
            if one is None or digests is None or one.name != name:
                continue
            layers = len(one.pages) - (EDITED in one.pages)
            found = [slice_pages(one.pages, n * PAGE, 64).decode() for n in range(layers)]
            if found != list(digests):
                self.violated(ONE_CHAIN, f"snapshot {name} of pool {pool}")
            _, uuid = edit_of(one)
            if uuid and ids.setdefault(uuid, f"{pool}/{name}") != f"{pool}/{name}":
                self.violated(UNIQUE, f"snapshot {name} of pool {pool} has that of {ids[uuid]}")

    def customized(self) -> None:
        """Every recorded snapshot has the files and the identity that are recorded, at any time."""
        for (pool, name), row in self._world.read(lambda records: records.snapshots()).items():
            one = self._world.pools[pool].by_identity(row.identity)
            if one is not None and one.name == name and not one.damaged:
                self._customized(row, one)

    def _customized(self, row: SnapshotRow, one: Object) -> None:
        """``size`` aside: it may have been declared anew since the run was opened."""
        text, uuid = edit_of(one)
        _, _, unique, files = json.loads(text or "[1, 0, false, []]")
        digests = {digest_of(json.dumps([1, n * GIB, unique, files]).encode()) for n in range(MOST_SIZE)} if text else {""}
        if row.custom not in digests or bool(uuid) != unique:
            self.violated(CUSTOMIZED, f"snapshot {row.name} of pool {row.pool} has {text}, recorded is {row.custom[:12]}")

    # --------------------------------------------------------------------------------------------- a cancelled step

    def cancelled(self, run: Run) -> None:
        """A manifest changed while the run's step was out; from now on, where no image needs what it makes, it has to end."""
        process = self._world.process
        if process is not None and process.kind == "service" and run.machine in ("volume", "layer", "snapshot"):
            self._called_off[run.id] = (process, self._world.kernel.now)

    def _ended(self, process: Process | None) -> None:
        world = self._world
        for run_id, (of, since) in [*self._called_off.items()]:
            run = of.records.run(run_id) if of is process and process is not None and not process.dead else None
            still = run is not None and run.status is Status.ACTIVE and process is not None and process.stopped is None
            if run is None or not still or world.hindered() or world.wanted_by_an_image(run):
                del self._called_off[run_id]
            elif world.kernel.now - since > CALLED_OFF_SECONDS:
                self.violated(CALLED_OFF, f"{run.machine} {run.subject} is in step {run.state} after {CALLED_OFF_SECONDS:.0f} s")
                del self._called_off[run_id]

    # ------------------------------------------------------------------------------------------------- an image

    def sample(self) -> None:
        """Called every few seconds: images that are healthy and still not ready."""
        process, now = self._world.process, self._world.kernel.now
        self._ended(process)
        self.customized()
        if process is not self._sampled:  # a reboot or a crash was in the way of all images
            self._sampled = process
            self._healthy.clear()
        if process is not None and process.kind == "service" and not (process.dead or process.ended or process.stopped):
            self.turned(process, now - process.last_turn)
        healthy = self._world.healthy() if process is not None and process.kind == "service" and not process.dead else {}
        if process is not None and process.service is not None and healthy:
            scheduler = process.service._scheduler
            most = scheduler.host.settings.downloads
            transfers = Counter(job.slot[1] for job in scheduler.jobs if job.slot[0] == "download")
            if (transfers.total() >= most and len(transfers) > 1) or scheduler._room(("build", "")) <= 0:
                self._healthy.clear()
                return
            crowded = {endpoint for endpoint, count in transfers.items() if count >= most - 1}
            healthy = {name: one for name, one in healthy.items() if not {la.source.endpoint for la in one.layers} & crowded}
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
