"""The types of conditions and the closed set of their reasons, ``REASONS``, which docs/status.md explains.

Used by ``planner.status``. No state.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.errors import ReconcilerError

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


def known(reason: str) -> str:
    """A reason of the closed set: what an older registry remembers under another name is a failure like others."""
    return reason if reason in REASONS else ReconcilerError.reason
