"""How each image is: its phase, its conditions, its generation, its snapshots, and what is left to do for it.

``statuses`` computes it for all images at once, from what is declared, what is there and the plan between the two. ``controller``
puts it into the result of a run; ``status`` and ``cli`` show it. Pure, and never stored. Reasons: ``planner.reasons``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from reconciler.dataclass import dataclass, field
from reconciler.model import Action, Desired, Failure, ImageRow, ImageSpec, Key, Kind, Observed, Plan, SnapshotRow, Verb
from reconciler.planner import claims
from reconciler.planner.drift import REPAIRS
from reconciler.planner.findings import scheduled
from reconciler.planner.reasons import after_retry, known
from reconciler.pool.driver import Condition as Held


class Phase(StrEnum):
    """An image's phase is derived from its volumes, snapshots and runs; never stored."""

    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    VALIDATING = "Validating"
    PROVISIONING = "Provisioning"
    SNAPSHOTTING = "Snapshotting"
    READY = "Ready"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    REMOVING = "Removing"


RUNNING = {
    "downloading": Phase.DOWNLOADING,
    "validating": Phase.VALIDATING,
    "provisioning": Phase.PROVISIONING,
    "snapshotting": Phase.SNAPSHOTTING,
    "replacing": Phase.SNAPSHOTTING,
    "discarding": Phase.SNAPSHOTTING,
    "activating": Phase.SNAPSHOTTING,
    "growing": Phase.SNAPSHOTTING,
    "removing": Phase.REMOVING,
}
"""The phase that a run's state gives its image. The assembly of a pool gives none: until it ends, the phase is the one before."""
MEANING = {
    Phase.PENDING: "something is still to be created or recorded",
    Phase.DOWNLOADING: "a layer is being downloaded",
    Phase.VALIDATING: "a layer is being checked",
    Phase.PROVISIONING: "a file system is being written",
    Phase.SNAPSHOTTING: "snapshots are being created, activated, grown or replaced",
    Phase.READY: "its volume and its snapshots are intact, and nothing is left to do",
    Phase.DEGRADED: "something of it is missing, damaged or inactive, or its source does not answer",
    Phase.FAILED: "an action failed, or can't start; the failure has the reason",
    Phase.REMOVING: "no manifest declares it, and its snapshots and volumes are being removed",
}
"""What each phase means; docs/status.md has the same words."""
_ORDER = tuple(dict.fromkeys(RUNNING.values()))
_DRIFT = {Verb.REBUILD, Verb.REPAIR, Verb.ACTIVATE}
_REMOVAL = {Verb.REMOVE, Verb.FORGET}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the registry adds to ``Observed``, as plain values."""

    runs: Mapping[Key, str] = field(default_factory=dict)
    """The state of each open run, by its object."""
    suspended: Mapping[str, str] = field(default_factory=dict)
    """Images that ``reconcile suspend`` suspends now, with the reason that was given."""
    generations: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """The digest of the last specification of an image that a run has read, and its number."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, as Kubernetes' tools expect it (kstatus). ``status`` is True or False; none is unknown."""

    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """One image. ``spec`` is None where no manifest declares it, ``row`` where no run has recorded it."""

    name: str
    phase: Phase
    spec: ImageSpec | None = None
    row: ImageRow | None = None
    left: tuple[Action, ...] = ()
    """The actions that the image still needs."""
    failure: Failure | None = None
    """What blocks the image, or how the last attempt at one of ``left`` failed."""
    snapshots: tuple[SnapshotRow, ...] = ()
    """Those that the registry has, in order of name; ``ready`` are the names of those that are intact and active."""
    ready: frozenset[str] = frozenset()
    suspension: str | None = None
    """The reason given to ``reconcile suspend``; None where that does not suspend the image."""
    stale: str = ""
    """Why the image stays at its last known chain."""
    kept: str = ""
    """Why it is not removed although no manifest declares it."""
    recorded: tuple[str, int] = ("", 0)
    kept_names: tuple[str, ...] = ()
    """Of the declared snapshots, those that there should be now (``planner.claims``)."""

    @property
    def declared(self) -> bool:
        return self.spec is not None

    @property
    def suspended(self) -> bool:
        return self.suspension is not None or (self.spec is not None and self.spec.suspend)

    @property
    def chain(self) -> str | None:
        """The chain that a run has applied last."""
        return self.row.chain if self.row else None

    @property
    def pool(self) -> str | None:
        return self.spec.pool if self.spec else self.row.pool if self.row else None

    @property
    def size(self) -> int:
        return self.spec.size if self.spec else self.row.size if self.row else 0

    @property
    def wanted(self) -> frozenset[str]:
        """The names of its snapshots: the declared ones, or the recorded ones where none is declared."""
        return frozenset(self.kept_names) if self.spec else frozenset(row.name for row in self.snapshots)

    @property
    def generation(self) -> int:
        """How many specifications the image has had, including one that no run has read yet; 0 where it is not declared."""
        digest, number = self.recorded
        return 0 if self.spec is None else number + (self.spec.digest != digest)

    @property
    def observed_generation(self) -> int:
        return self.recorded[1]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """In the order of ``reasons.TYPES``."""
        drifted, stalled, suspended = _drifted(self.left), _stalled(self.failure, self.name), _suspended(self)
        reconciling = _reconciling(self, stalled, suspended)
        return (_ready(self, stalled, reconciling, drifted, suspended), reconciling, stalled, drifted, suspended)


def statuses(desired: Desired, observed: Observed, plan: Plan, recorded: Recorded | None = None) -> dict[str, ImageStatus]:
    """The status of every image that is declared or recorded, by name and in order of name."""
    index = _Index(desired, observed, plan, recorded or Recorded())
    return {name: index.status(name) for name in sorted({*desired.images, *observed.images})}


class _Index:
    """Actions, failures and snapshots by image: one pass over each, however many images there are."""

    def __init__(self, desired: Desired, observed: Observed, plan: Plan, recorded: Recorded) -> None:
        self._desired = desired
        self._observed = observed
        self._recorded = recorded
        about_images = [one for one in plan.findings if one.subject.kind is Kind.IMAGE]
        self._blocked = {failure.name: failure for failure in reversed(plan.blocked) if failure.kind is Kind.IMAGE}
        self._stale = {one.subject.name: one.message for one in reversed(about_images) if one.reason == "LastKnownChain"}
        self._kept = {one.subject.name: one.message for one in about_images if one.subject.name not in desired.images}
        self._actions: defaultdict[str, list[Action]] = defaultdict(list)
        for action in plan.actions:
            own = {action.name} if action.kind is Kind.IMAGE else set()
            for image in {*action.images, action.image, *own}:
                self._actions[image].append(action)
        self._snapshots: defaultdict[str, list[SnapshotRow]] = defaultdict(list)
        for _, row in sorted(observed.snapshots.items()):
            self._snapshots[row.image].append(row)

    def status(self, name: str) -> ImageStatus:
        left, snapshots = self._actions.get(name, []), tuple(self._snapshots.get(name, ()))
        tried = (self._observed.failures.get(action.key) for action in left)
        failure = self._blocked.get(name) or next(filter(None, tried), None)
        ready = frozenset(row.name for row in snapshots if self._is_ready(row))
        return ImageStatus(
            name,
            self._phase(name, left, failure, all_ready=len(ready) == len(snapshots)),
            self._desired.images.get(name),
            self._observed.images.get(name),
            tuple(left),
            failure,
            snapshots,
            ready,
            self._recorded.suspended.get(name),
            self._stale.get(name, ""),
            self._kept.get(name, ""),
            self._recorded.generations.get(name, ("", 0)),
            claims.kept(self._desired.images[name], self._observed).names if name in self._desired.images else (),
        )

    def _phase(self, image: str, left: Sequence[Action], failure: Failure | None, *, all_ready: bool) -> Phase:
        """The run that is least far decides; then failures, then repairs, then what is created for the first time.

        An image that is no longer declared keeps its phase until its removal is more than held.
        """
        if image not in self._desired.images and any(action.verb in _REMOVAL for action in left):
            return Phase.REMOVING
        if running := list(self._running(left)):
            return min(running, key=_ORDER.index)
        if failure is not None:
            return Phase.FAILED
        if any(action.verb in _DRIFT or self._brings_back(action, image) for action in left):
            return Phase.DEGRADED
        # It stays at its last known chain, or is broken and left alone (suspended, or no longer declared).
        if image in self._stale or not (all_ready and self._has_volume(image)):
            return Phase.DEGRADED
        return Phase.PENDING if left or image not in self._observed.images else Phase.READY

    def _running(self, actions: Sequence[Action]) -> Iterator[Phase]:
        states = (self._recorded.runs.get(action.key, "") for action in actions)
        return (RUNNING[state] for state in states if state in RUNNING)

    def _brings_back(self, action: Action, image: str) -> bool:
        """Whether the action assembles the pool that the image is in: the image was there before, and is not since a reboot."""
        row = self._observed.images.get(image)
        return action.verb is Verb.ASSEMBLE and row is not None and row.pool == action.name

    def _has_volume(self, image: str) -> bool:
        """Whether the image's recorded volume is intact; True where none is recorded."""
        row = self._observed.images.get(image)
        if row is None or row.chain is None or (row.pool, row.chain) not in self._observed.volumes:
            return True
        found = self._observed.volume_state(row.pool, row.chain)
        return found is not None and found.condition is Held.INTACT

    def _is_ready(self, row: SnapshotRow) -> bool:
        found = self._observed.snapshot_state(row.pool, row.name)
        return found is not None and found.condition is Held.INTACT and found.active


# -------------------------------------------------------------------------------------------------- conditions


def _suspended(image: ImageStatus) -> Condition:
    if image.suspension is not None:
        return Condition("Suspended", True, "SuspendedByHand", image.suspension)
    if image.spec is not None and image.spec.scheduled:
        return Condition("Suspended", True, "Scheduled", scheduled(image.spec))
    if image.suspended:
        return Condition("Suspended", True, "SuspendedInManifest")
    return Condition("Suspended", False, "NotSuspended")


def _stalled(failure: Failure | None, image: str) -> Condition:
    if failure is None:
        return Condition("Stalled", False, "NotStalled")
    message = after_retry(failure.message, image) if failure.waits_for_person else failure.message
    return Condition("Stalled", True, known(failure.reason), message)


def _drifted(left: Sequence[Action]) -> Condition:
    repairs = [action for action in left if action.verb in REPAIRS]
    if not repairs:
        return Condition("Drifted", False, "NoDrift")
    message = "; ".join(f"{action.kind.lower()}/{action.name}: {action.because}" for action in repairs)
    return Condition("Drifted", True, "DriftDetected", message)


def _reconciling(image: ImageStatus, stalled: Condition, suspended: Condition) -> Condition:
    if not image.left or suspended.status:
        return Condition("Reconciling", False, "UpToDate")
    if stalled.status:
        return Condition("Reconciling", False, stalled.reason)
    actions = "; ".join(f"{action.verb} {action.kind.lower()}/{action.name}" for action in image.left)
    return Condition("Reconciling", True, "Progressing", f"{image.phase}: {actions}")


def _ready(image: ImageStatus, *others: Condition) -> Condition:
    stalled, reconciling, drifted, suspended = others
    if image.phase is Phase.READY and image.declared:
        return Condition("Ready", True, "Converged")
    if not image.declared:
        if image.phase is Phase.REMOVING:
            return Condition("Ready", False, "Removing")
        return Condition("Ready", False, "NotDeclared", image.kept or "no manifest declares it; `--prune` removes it")
    if cause := next((one for one in (suspended, stalled, drifted, reconciling) if one.status), None):
        return Condition("Ready", False, cause.reason, cause.message)
    return Condition("Ready", False, "LastKnownChain" if image.stale else "Incomplete", image.stale)
