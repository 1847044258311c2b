"""Reasons that have got another name, and the migration that renames them in stored runs, transitions and events.

Read by ``database``, and by the tests that compare code, docs, alerts and dashboards. A reason is a CamelCase noun or participle.
No state.
"""

from __future__ import annotations

RENAMED = {
    "AsMade": "NoDrift",
    "BeingRemoved": "Removing",
    "CannotShrink": "ShrinkUnsupported",
    "ChangedOutside": "DriftDetected",
    "Collected": "OrphanDeleted",
    "HandedOver": "Reassigned",
    "HostCannot": "HostUnsupported",
    "LooksRenamed": "PossibleRename",
    "Moved": "Renamed",
    "NeedsOperator": "OperatorRequired",
    "NoObstacle": "NotStalled",
    "NotOurs": "Replaced",
    "NothingToDo": "UpToDate",
    "PoolNeedsCheck": "PoolCheckRequired",
    "PoolNotOurs": "PoolForeign",
    "PoolOlder": "PoolOutdated",
    "RegistryOlder": "RegistryOutdated",
    "Retry": "RetryRequested",
    "Unsuspended": "Resumed",
}
"""The name until schema 5, and the name since. An old name is never used again."""


def _renaming(table: str) -> str:
    cases = " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in RENAMED.items())
    names = ", ".join(f"'{old}'" for old in RENAMED)
    return f"UPDATE {table} SET reason = CASE reason {cases} END WHERE reason IN ({names})"  # noqa: S608 - constants


RENAMING = tuple(_renaming(table) for table in ("run", "transition", "event"))
