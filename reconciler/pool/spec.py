"""What manifests declare of a pool's storage, as frozen values.

Made by ``manifests``, part of ``model.PoolSpec``; drivers are created from it. No state.
"""

from __future__ import annotations

from reconciler.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class BackingSpec:
    """A data or metadata device of a thin pool: a block device, or a file of ``size`` bytes used through a loop."""

    device: str | None = None
    file: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ThinSpec:
    data: BackingSpec
    metadata: BackingSpec
    block_size: int


@dataclass(frozen=True, slots=True)
class AccessSpec:
    """Who may open a pool's snapshots: names or numbers of users and groups, empty where they are not declared."""

    owner: str = ""
    group: str = ""
    mode: int = 0o600
