"""Changed labels of this host: nothing is pruned until the change is confirmed or a day old, because a typo deselects everything.

Called by ``assess``, ``housekeeping`` and ``cli``. State: the registry's accepted labels, and the change since.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from reconciler.dataclass import dataclass
from reconciler.host.context import Host
from reconciler.model import Finding, Key, Kind, Severity

HOLD_SECONDS = 86_400.0
"""How long nothing is pruned after a change was first seen; ``--prune-grace`` counts where it is longer."""


@dataclass(frozen=True, slots=True)
class LabelChange:
    """``since`` and ``until`` in seconds since the epoch."""

    host: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    since: float
    until: float

    def finding(self) -> Finding:
        end = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.until))
        changed = f"the labels of this host have changed from {_text(self.before)} to {_text(self.after)}"
        message = f"{changed}; nothing is pruned before {end}"
        return Finding(Severity.WARNING, Key(Kind.HOST, "", self.host), "LabelsChanged", message, "--confirm-labels prunes now")


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


def pending_change(host: Host, now: float, grace: float) -> LabelChange | None:
    """The change that nothing is pruned after, at the time ``now``; None where there is none."""
    accepted, labels = host.records.labels(), dict(host.facts.labels)
    if accepted is None or accepted == labels:
        return None
    seen = host.records.label_change()
    since = seen[1] if seen and seen[0] == labels else now
    until = since + max(HOLD_SECONDS, grace)
    return LabelChange(host.name, accepted, labels, since, until) if now < until else None


def note_labels(host: Host, grace: float) -> None:
    """Record since when the labels differ from the accepted ones; accept them once nothing is held back for them any more."""
    change = pending_change(host, host.threads.time(), grace)
    if change is None:
        host.registry.accept_labels(host.facts.labels)
    else:
        host.registry.note_label_change(change.after, change.since)
