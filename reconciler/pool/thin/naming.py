"""Names and UUIDs of a thin pool's devices in the kernel. A UUID proves that reconcile created a device.

``/dev/mapper/<pool>`` is the pool, ``/dev/mapper/<pool>-<snapshot>`` a snapshot, ``/dev/mapper/<pool>-.<what>-<id>`` a
working device that exists during one operation: no snapshot's name begins with a dot.

Used by ``pool.thin``. Pure.
"""

from __future__ import annotations

from pathlib import Path

from reconciler.dataclass import dataclass

MAPPER = Path("/dev/mapper")
PREFIX = "RECONCILE-"


@dataclass(frozen=True, slots=True)
class Names:
    pool: str
    stamp: int

    @property
    def pool_uuid(self) -> str:
        return f"{PREFIX}{self.stamp:08x}-pool"

    def thin_uuid(self, thin_id: int) -> str:
        return f"{PREFIX}{self.stamp:08x}-{thin_id}"

    def thin_id(self, uuid: str) -> int | None:
        """The thin id in a UUID of this pool, None for any other UUID."""
        head, _, tail = uuid.rpartition("-")
        return int(tail) if head == f"{PREFIX}{self.stamp:08x}" and tail.isascii() and tail.isdigit() else None

    def snapshot(self, name: str) -> str:
        return f"{self.pool}-{name}"

    def working(self, what: str, thin_id: int) -> str:
        return f"{self.pool}-.{what}-{thin_id}"
