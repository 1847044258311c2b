"""Where the snapshots of a thin pool are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from reconciler.image.spec import filesystem_uuid
from reconciler.pool.thin.assembly import Geometry
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.pool.thin.pool import ThinPool


class Locked:
    """A registry that is being written: whoever asks it waits."""

    def pool(self) -> PoolRow | None:
        raise AssertionError("waits for the registry")

    def devices(self, name: str | None = None) -> dict[int, DeviceRow]:
        raise AssertionError("waits for the registry")

    def last_id(self) -> int:
        raise AssertionError("waits for the registry")

    def pending(self) -> bool:
        raise AssertionError("waits for the registry")

    def begin(self, rows: Sequence[DeviceRow], taken: Collection[int] = ()) -> tuple[DeviceRow, ...]:
        raise AssertionError("waits for the registry")

    def write(self, pool: PoolRow | None = None, put: Sequence[DeviceRow] = (), drop: Sequence[int] = ()) -> None:
        raise AssertionError("waits for the registry")


def test_a_claim_finds_a_snapshot_without_the_registry() -> None:
    """It would wait for a run that writes."""
    pool = ThinPool("thin", Geometry(Backing("/d"), Backing("/m"), 65536), Locked(), filesystem_uuid)

    assert pool.snapshot_path("web-0") == Path("/dev/mapper/thin-web-0")
    assert not pool.is_present("web-0", "id=3 tid=4294967299")
