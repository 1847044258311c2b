"""Admits new work to a thin pool: what it takes must fit above the reserve, together with what running work has reserved.

Called by ``pool.thin.pool``. State in memory: the bytes reserved by volumes that are being written.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.dataclass import dataclass, field
from reconciler.errors import NoSpace, PoolUnusable
from reconciler.pool.driver import Space
from reconciler.pool.thin.status import PoolStatus


def require_writable(pool: str, status: PoolStatus) -> None:
    """Raises PoolUnusable."""
    if not status.writable:
        raise PoolUnusable(f"pool {pool} can't be changed now: {status}", hint="see `reconcile health`")


@dataclass
class Admission:
    """The reserves are percentages of data and metadata. Iterates over the thin ids with a reservation."""

    pool: str
    data_percent: int
    metadata_percent: int
    _reserved: dict[int, int] = field(default_factory=dict)

    def reserve(self, thin_id: int, size: int) -> None:
        self._reserved[thin_id] = size

    def release(self, thin_id: int) -> None:
        self._reserved.pop(thin_id, None)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._reserved))

    def __contains__(self, thin_id: object) -> bool:
        return thin_id in self._reserved

    def __len__(self) -> int:
        return len(self._reserved)

    def admit(self, status: PoolStatus, block: int, expected: int) -> int:
        """Return the bytes that may be written above the reserve. Raises NoSpace, PoolUnusable. ``block`` in bytes."""
        require_writable(self.pool, status)
        space, promised = self.space(status, block), sum(self._reserved.values())
        free, reserve = space.free, space.reserve
        room = free - reserve - promised
        if room < max(expected, block):
            running = f", {promised} are promised to running builds" if promised else ""
            raise NoSpace(
                f"pool {self.pool}: {free} bytes are free, {reserve} must stay free{running}, {expected} more are needed",
                hint="remove images with --prune, or declare the pool larger",
            )
        self._admit_metadata(status)
        return room

    def space(self, status: PoolStatus, block: int) -> Space:
        """Space of the data now."""
        total = status.total_data * block
        return Space(total, (status.total_data - status.used_data) * block, total * self.data_percent // 100)

    def _admit_metadata(self, status: PoolStatus) -> None:
        left = status.total_metadata - status.used_metadata
        if left * 100 < status.total_metadata * self.metadata_percent:
            raise NoSpace(
                f"pool {self.pool}: {left} of {status.total_metadata} metadata blocks are free, "
                f"{self.metadata_percent} % must stay free",
                hint="remove images with --prune, or declare the pool's metadata larger",
            )
