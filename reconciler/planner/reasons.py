"""The types of conditions and the closed set of their reasons, ``REASONS``, which docs/status.md explains.

Used by ``planner.status`` and, for what a person has to do, by ``controller``. No state.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.errors import ReconcilerError

TYPES = ("Ready", "Reconciling", "Stalled", "Drifted", "Suspended")

OWN = {
    "Converged": "everything is as declared",
    "Progressing": "actions are left, and can be carried out",
    "UpToDate": "nothing is left to do",
    "NotStalled": "nothing blocks it and no action has failed",
    "NoDrift": "everything that was created is intact and active",
    "DriftDetected": "something that was created was removed, damaged or deactivated from outside",
    "LastKnownChain": "its source is unavailable; it stays at the layers of its last known chain",
    "Incomplete": "a volume or snapshot is missing or broken, and no action is planned for it now",
    "NotDeclared": "no manifest declares it any more",
    "Removing": "no manifest declares it any more, and it is being removed",
    "SuspendedInManifest": "its manifest has `suspend: true`",
    "SuspendedByHand": "`reconcile suspend` suspends it",
    "Scheduled": "its `hosts.notBefore` is in the future",
    "NotSuspended": "it is not suspended",
}
"""Reasons that only conditions have, and what they mean."""

OF_THE_PLANNER = frozenset(["PoolUnknown", "PoolUnavailable", "NoLayers", "SourceUnavailable", "ShrinkUnsupported"])
OF_POOLS = frozenset(
    [
        "PoolLost",
        "PoolSwapped",
        "PoolDataWrong",
        "PoolDataUnproved",
        "PoolDevicesChanged",
        "PoolOutdated",
        "PoolForeign",
        "RegistryOutdated",
        "NameTaken",
        "PoolFull",
        "PoolReadOnly",
        "PoolCheckRequired",
        "PoolFailed",
    ]
)
"""Why an image can't be planned at all."""

OF_RUNS = frozenset(["Cancelled", "StepTimeout", "InternalError", "UnknownState", "CrashLoop", "DifferencePersists"])


def _of_errors(kind: type[ReconcilerError] = ReconcilerError) -> Iterator[str]:
    yield kind.reason
    for below in kind.__subclasses__():
        yield from _of_errors(below)


REASONS = frozenset({*OWN, *OF_THE_PLANNER, *OF_POOLS, *OF_RUNS, *_of_errors()})


def known(reason: str) -> str:
    """The reason itself if the set has it, ``Error`` otherwise: a newer version may have stored it."""
    return reason if reason in REASONS else ReconcilerError.reason


def after_retry(message: str, image: str) -> str:
    """What a run says that waits for a person, with the command that lets it go on."""
    return f"{message}; then: reconcile retry image/{image or 'NAME'}"
