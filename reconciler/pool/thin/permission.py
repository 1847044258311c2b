"""Whether this host's policy lets a thin pool have its backing where the manifest places it.

Called by ``pool.thin.pool`` before it opens device-mapper, and by ``pool.thin.assembly`` whenever it inspects the backing, and
so before anything is created, grown or activated. A pool that the registry has, with its stamp, is used where it is: its
metadata and its data are proved to be its own. No state; ``policy.force`` has the policy.
"""

from __future__ import annotations

from pathlib import Path

from reconciler.policy import force
from reconciler.pool.thin import backing
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.journal import PoolRow


def require(name: str, backings: tuple[Backing, ...], row: PoolRow | None) -> None:
    """Raise PolicyRefused where one is refused. ``row`` is the registry's, where it has the pool.

    A row without a stamp is what a creation that failed has left: it proves nothing, and exempts from nothing.
    """
    policy, recorded = force.current(), row is not None and row.transaction != 0
    for one in backings:
        if one.file is not None:
            refusal = None if recorded else policy.pool_file_refusal(one.file)
        else:
            refusal = policy.device_refusal(one.device or "")
            if refusal is None and not recorded and policy.limits_devices and policy.enforced:
                refusal = policy.signature_refusal(one.device or "", _held(one))
        policy.require(refusal.of(f"pool {name}") if refusal else None)


def _held(one: Backing) -> str:
    """What a device holds; empty where it holds nothing, or is not there."""
    path = Path(one.device or "")
    return backing.blank(path) if path.is_block_device() and not force.current().lists_device(str(path)) else ""
