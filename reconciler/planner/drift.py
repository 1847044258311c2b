"""What has changed behind the reconciler's back, told apart from what is still to be done.

Called by ``verbs`` for ``drift``. Pure: it only sorts a plan that others have made.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.model import Plan, Verb

MENDING = (Verb.ASSEMBLE, Verb.REBUILD, Verb.REPAIR, Verb.ACTIVATE)
"""Actions on what was made before and is no longer as it was left. All others are for what the manifests say now."""

FINDINGS = frozenset(
    (
        *("PoolUnavailable", "PoolLost", "PoolSwapped", "PoolOutdated", "PoolForeign", "RegistryOutdated", "NameTaken"),
        *("PoolReadOnly", "PoolCheckRequired", "PoolFailed", "Orphan", "Unregistered"),
    )
)
"""Reasons of findings that somebody else has caused, and that only a person can mend."""


def drifted(plan: Plan) -> Plan:
    """The part of a plan that mends drift; nothing in it where everything is as it was left."""
    return replace(
        plan,
        actions=tuple(action for action in plan.actions if action.verb in MENDING),
        findings=tuple(finding for finding in plan.findings if finding.reason in FINDINGS),
        held=(),
        blocked=(),
    )
