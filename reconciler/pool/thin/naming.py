"""What a thin pool's devices are called in the kernel, and the marks by which we know our own.

``/dev/mapper/<pool>`` is the pool, ``/dev/mapper/<pool>-<snapshot>`` a snapshot, ``/dev/mapper/<pool>-.<what>-<id>`` a device of
ours that lives for as long as we work on it: no snapshot's name begins with a dot. The proof is the UUID, not
the name.

Used by ``pool.thin`` and its rooms. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
        """The thin id that one of our UUIDs names, None for anything else."""
        head, _, tail = uuid.rpartition("-")
        return int(tail) if head == f"{PREFIX}{self.stamp:08x}" and tail.isascii() and tail.isdigit() else None

    def snapshot(self, name: str) -> str:
        return f"{self.pool}-{name}"

    def working(self, what: str, thin_id: int) -> str:
        return f"{self.pool}-.{what}-{thin_id}"
