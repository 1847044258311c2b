"""Drift: the part of a plan that repairs changes made outside of reconcile.

Called by ``cli`` for ``drift`` and by ``status``. Pure.
"""

from __future__ import annotations

from reconciler.dataclass import replace
from reconciler.model import Plan, Verb

REPAIRS = (Verb.ASSEMBLE, Verb.REBUILD, Verb.REPAIR, Verb.ACTIVATE)
"""Verbs of actions on what was created before and has changed since. All other actions follow from the manifests."""

FINDINGS = frozenset(
    (
        *("PoolUnavailable", "PoolLost", "PoolSwapped", "PoolOutdated", "PoolForeign", "RegistryOutdated", "NameTaken"),
        *("PoolDataWrong", "PoolDataUnproved", "PoolDevicesChanged"),
        *("PoolReadOnly", "PoolCheckRequired", "PoolFailed", "Orphan", "Unregistered", "SnapshotUnrecognised"),
    )
)
"""Reasons of findings that have causes outside of reconcile and that you have to repair."""


def drifted(plan: Plan) -> Plan:
    """The part of a plan that repairs drift; empty where there is none."""
    return replace(
        plan,
        actions=tuple(action for action in plan.actions if action.verb in REPAIRS),
        findings=tuple(finding for finding in plan.findings if finding.reason in FINDINGS),
        held=(),
        blocked=(),
    )
