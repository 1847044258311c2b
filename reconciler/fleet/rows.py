"""What the sink has of a host: the columns of its tables, as frozen values. A test compares them with ``tables``.

Made by ``picture`` from an assessment, written by ``statements``. Every table but ``host`` has the host's id as its first column,
and the columns in ``KEYS`` identify a row of one host. No state.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reconciler.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """``every``: seconds after which the next report comes at the latest; 0 where none is promised (``--once``)."""

    name: str
    labels: Mapping[str, str]
    version: str
    every: float
    revision: str
    chains: str
    """Digest of the chain of every image."""
    converged: bool
    images: int
    ready: int
    failed: int
    """Objects that failed, or that something failed for, and images that stay at their last known chain."""
    faults: int
    """Of manifests."""
    drifted: int
    reason: str
    """Why it has not converged."""
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    pool: str
    phase: str
    reason: str
    message: str
    chain: str
    size: int
    ready: int
    """Snapshots."""
    wanted: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    pool: str
    name: str
    image: str
    chain: str
    state: str
    active: bool


@dataclass(frozen=True, slots=True)
class Claim:
    id: str
    pool: str
    snapshot: str
    image: str
    holder: str
    uid: int
    state: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """A finding, or a condition of an image that is not as it should be; ``severity`` is ``note``, ``warn`` or ``fail``."""

    kind: str
    pool: str
    name: str
    reason: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Space in bytes; ``available`` is what is free above the reserve. 0, all of them, where the pool can't be read."""

    name: str
    state: str
    message: str
    total: int
    used: int
    available: int
    metadata_total: int
    metadata_used: int
    metadata_available: int


@dataclass(frozen=True, slots=True)
class Event:
    seq: int
    at: datetime
    kind: str
    pool: str
    name: str
    reason: str
    message: str
    run: str


Row = Image | Snapshot | Claim | Condition | Pool

TABLES: Mapping[str, type[Row]] = {
    "image": Image,
    "snapshot": Snapshot,
    "claim": Claim,
    "condition": Condition,
    "pool": Pool,
}
"""The tables that hold what a host is like now."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "image": ("name",),
    "snapshot": ("pool", "name"),
    "claim": ("id",),
    "condition": ("kind", "pool", "name", "reason"),
    "pool": ("name",),
    "event": ("seq",),
}


def key_of(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, column) for column in KEYS[table])
