"""The conditions of an image, as Kubernetes' tools expect them (kstatus): Ready, Reconciling, Stalled, Drifted, Suspended.

Called by ``status``. Pure: derived from what is desired, observed and planned, and never stored. Reasons are a closed set,
``REASONS``, which docs/status.md explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.errors import ReconcilerError
from reconciler.model import Action, Failure, Phase
from reconciler.planner.drift import MENDING
from reconciler.registry.marks import Mark

TYPES = ("Ready", "Reconciling", "Stalled", "Drifted", "Suspended")

OWN = {
    "Converged": "everything is as the manifest says",
    "Progressing": "something is left to do, and nothing stands in its way",
    "NothingToDo": "nothing is left to do",
    "NoObstacle": "nothing keeps it from converging",
    "AsMade": "nobody has changed what was made",
    "ChangedOutside": "somebody else has removed, damaged or deactivated what was made",
    "LastKnownChain": "its source can't be asked, so it stays at the layers that it had",
    "Incomplete": "something of it is missing or broken, and nothing is done about it now",
    "NotDeclared": "no manifest declares it any more",
    "BeingRemoved": "it is no longer declared, and about to be removed",
    "SuspendedInManifest": "its manifest says `suspend: true`",
    "SuspendedByHand": "`reconcile suspend` was said of it",
    "NotSuspended": "it is not suspended",
}
"""Reasons that only conditions have, and what they mean."""

OF_THE_PLANNER = frozenset(["PoolUnknown", "PoolUnavailable", "NoLayers", "SourceUnavailable"])
OF_POOLS = frozenset(
    [
        "PoolLost",
        "PoolSwapped",
        "PoolOlder",
        "PoolNotOurs",
        "RegistryOlder",
        "NameTaken",
        "PoolFull",
        "PoolReadOnly",
        "PoolNeedsCheck",
        "PoolFailed",
    ]
)
"""Why an image can't be planned at all."""

OF_RUNS = frozenset(["Cancelled", "StepTimeout", "InternalError", "UnknownState", "CrashLoop"])


def _of_errors(kind: type[ReconcilerError] = ReconcilerError) -> Iterator[str]:
    yield kind.reason
    for below in kind.__subclasses__():
        yield from _of_errors(below)


REASONS = frozenset({*OWN, *OF_THE_PLANNER, *OF_POOLS, *OF_RUNS, *_of_errors()})


@dataclass(frozen=True, slots=True)
class Condition:
    """``status`` is True or False; a condition that can't be told is not given."""

    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What they follow from. ``left`` are the actions that the image needs, ``failure`` is why one of them can't be done."""

    phase: Phase
    declared: bool
    suspended: bool = False
    mark: Mark | None = None
    left: Sequence[Action] = ()
    failure: Failure | None = None
    stale: str = ""


def conditions(facts: Facts) -> tuple[Condition, ...]:
    """In the order of ``TYPES``."""
    drifted, stalled, suspended = _drifted(facts.left), _stalled(facts), _suspended(facts)
    reconciling = _reconciling(facts, stalled, suspended)
    return (_ready(facts, stalled, reconciling, drifted, suspended), reconciling, stalled, drifted, suspended)


def _suspended(facts: Facts) -> Condition:
    if facts.mark is not None:
        return Condition("Suspended", True, "SuspendedByHand", facts.mark.reason)
    if facts.suspended:
        return Condition("Suspended", True, "SuspendedInManifest")
    return Condition("Suspended", False, "NotSuspended")


def _stalled(facts: Facts) -> Condition:
    if facts.failure is None:
        return Condition("Stalled", False, "NoObstacle")
    return Condition("Stalled", True, known(facts.failure.reason), facts.failure.message)


def _drifted(left: Iterable[Action]) -> Condition:
    mending = [action for action in left if action.verb in MENDING]
    if not mending:
        return Condition("Drifted", False, "AsMade")
    told = "; ".join(f"{action.kind.lower()}/{action.name}: {action.because}" for action in mending)
    return Condition("Drifted", True, "ChangedOutside", told)


def _reconciling(facts: Facts, stalled: Condition, suspended: Condition) -> Condition:
    if not facts.left or suspended.status:
        return Condition("Reconciling", False, "NothingToDo")
    if stalled.status:
        return Condition("Reconciling", False, stalled.reason)
    told = "; ".join(f"{action.verb} {action.kind.lower()}/{action.name}" for action in facts.left)
    return Condition("Reconciling", True, "Progressing", f"{facts.phase}: {told}")


def _ready(facts: Facts, *others: Condition) -> Condition:
    stalled, reconciling, drifted, suspended = others
    if facts.phase is Phase.READY and facts.declared:
        return Condition("Ready", True, "Converged")
    reason, message = "Incomplete", ""
    if not facts.declared:
        reason = "BeingRemoved" if facts.phase is Phase.REMOVING else "NotDeclared"
    elif suspended.status:
        reason, message = suspended.reason, suspended.message
    elif stalled.status:
        reason, message = stalled.reason, stalled.message
    elif drifted.status:
        reason, message = drifted.reason, drifted.message
    elif reconciling.status:
        reason, message = reconciling.reason, reconciling.message
    elif facts.stale:
        reason, message = "LastKnownChain", facts.stale
    return Condition("Ready", False, reason, message)


def known(reason: str) -> str:
    """A reason of the closed set: what an older registry remembers under another name is a failure like others."""
    return reason if reason in REASONS else ReconcilerError.reason
