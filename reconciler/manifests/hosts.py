"""Whether the ``hosts`` of an image select this host: labels, as in Kubernetes, and a percentage. Called by ``desired``. Pure."""

from __future__ import annotations

import hashlib

from reconciler.manifests.image import Expression, Hosts
from reconciler.model import HostFacts


def selects(hosts: Hosts | None, host: HostFacts, image: str) -> bool:
    """Whether ``hosts`` selects this host, by the rules of Kubernetes' label selectors: all conditions hold."""
    if hosts is None:
        return True
    labels = host.labels
    if not (hosts.match_labels.items() <= labels.items() and all(_holds(e, labels.get(e.key)) for e in hosts.match_expressions)):
        return False
    return hosts.percent is None or bucket(host.id, image) < hosts.percent


def bucket(host: str, image: str) -> int:
    """A stable hash of host id and image name, 0 to 99: a higher percentage adds hosts and removes none."""
    return int.from_bytes(hashlib.sha256(f"{host}/{image}".encode()).digest()[:8], "big") % 100


def _holds(expression: Expression, value: str | None) -> bool:
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
