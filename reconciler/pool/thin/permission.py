"""Whether this host's policy lets a thin pool have its backing where the manifest places it.

Called by ``pool.thin.pool`` before it opens device-mapper, and by ``pool.thin.assembly`` whenever it inspects the backing, and
so before anything is created, grown or activated. The registry records the places of a pool's backing. A backing that is still
there needs no permission. One that a manifest has moved is judged like that of a new pool: a stamp and a transaction that fit are
no proof, because a copy of the pool has them too. No state; ``policy.force`` has the policy.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.dataclass import replace
from reconciler.policy import force
from reconciler.policy.rules import Refusal, is_within
from reconciler.pool.thin import backing
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.journal import PoolRow

Backings = tuple[Backing, Backing]
"""Data, metadata."""


def require(name: str, backings: Backings, row: PoolRow | None, *, vouched: bool = False) -> None:
    """Raise PolicyRefused where one is refused. ``row`` is the registry's, where it has the pool.

    ``vouched``: the operator states that the backing of a recorded pool is its own. A row without a stamp is what a creation that
    failed has left: it proves nothing, and exempts from nothing.
    """
    policy, recorded = force.current(), row is not None and row.transaction != 0
    for one, place in zip(backings, (row.data_place, row.metadata_place) if row else ("", ""), strict=True):
        exempt = recorded and (vouched or is_at(one, place))
        if one.file is not None:
            refusal = None if exempt else policy.pool_file_refusal(one.file, name)
        else:
            refusal = policy.device_refusal(one.device or "")
            if refusal is None and not exempt and policy.limits_devices and policy.enforced:
                refusal = policy.signature_refusal(one.device or "", _held(one))
        policy.require(_described(refusal, name, place if recorded else "") if refusal else None)


def require_file(name: str, path: str) -> None:
    """Raise PolicyRefused where a new pool may not have a file. ``path`` is the kernel's."""
    if refusal := force.current().pool_file_refusal(path, name):
        force.current().require(refusal.of(f"pool {name}"))


def recorded(row: PoolRow, backings: Backings) -> PoolRow:
    """The row with the places of this backing."""
    data, metadata = map(place_of, backings)
    return replace(row, data_place=data, metadata_place=metadata)


def place_of(one: Backing) -> str:
    """Where a backing is, as the registry records it: inode and path of a file, with its links resolved; a device's name.

    A name in /dev is the host's own and stays with the disk; another name of a device is a link, and is resolved. An inode is 0
    where there is no file.
    """
    if one.file is None:
        name = os.path.normpath(one.device or "")
        return name if is_within(name, "/dev") and not is_within(name, "/dev/shm") else os.path.realpath(name)  # noqa: S108
    real = os.path.realpath(one.file)
    try:
        return f"{Path(real).stat().st_ino} {real}"
    except OSError:
        return f"0 {real}"


def is_at(one: Backing, place: str) -> bool:
    """Whether a backing is where the registry has recorded it. An earlier version recorded no place, which permits any."""
    now = place_of(one)
    if not place or now == place:
        return True
    if one.file is None:
        return os.path.realpath(now) == os.path.realpath(place)
    return _path(now) == _path(place) and (now.startswith("0 ") or place.startswith("0 "))


def moved(row: PoolRow, backings: Backings) -> list[tuple[str, str]]:
    """The recorded and the declared path of each backing that is elsewhere now."""
    pairs = zip(backings, (row.data_place, row.metadata_place), strict=True)
    return [(_path(place), one.file or one.device or "") for one, place in pairs if not is_at(one, place)]


def _path(place: str) -> str:
    return place if place.startswith("/") else place.partition(" ")[2]


def _described(refusal: Refusal, name: str, place: str) -> Refusal:
    if not place or refusal.remedy:
        return refusal.of(f"pool {name}")
    where = f"; the registry has recorded {_path(place)}: if it was moved, accept it with `reconcile adopt {name} --apply`"
    return replace(refusal.of(f"pool {name}"), message=f"pool {name}: {refusal.message}{where}")


def _held(one: Backing) -> str:
    """What a device holds; empty where it holds nothing, or is not there."""
    path = Path(one.device or "")
    return backing.blank(path) if path.is_block_device() and not force.current().lists_device(str(path)) else ""
