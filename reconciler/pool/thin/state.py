"""Builds the ``PoolState`` of a thin pool from its ``Inspection`` and the kernel's list of mappings.

Called by ``pool.thin.pool``. Reads the kernel's mappings through the functions that it is given; no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from reconciler.dataclass import dataclass
from reconciler.pool.driver import Condition, PoolState, SnapshotState, VolumeState
from reconciler.pool.thin import diagnosis, space
from reconciler.pool.thin.assembly import Geometry, Inspection
from reconciler.pool.thin.devices import Listed
from reconciler.pool.thin.journal import DeviceRow
from reconciler.pool.thin.naming import MAPPER, Names
from reconciler.pool.thin.nodes import Nodes


@dataclass(frozen=True)
class StateReader:
    """``listed`` are the existing mappings by name. ``state_of`` returns whether one is live, and whether it is suspended."""

    pool: str
    geometry: Geometry
    seen: Inspection
    listed: Mapping[str, Listed]
    state_of: Callable[[Listed], tuple[bool, bool]]
    nodes: Nodes

    @cached_property
    def names(self) -> Names:
        return self.seen.names(self.pool)

    def state(
        self, volumes: Mapping[str, str], snapshots: Mapping[str, str], reserves: tuple[int, int], *, whole: bool
    ) -> PoolState:
        """``reserves`` are the percentages of data and metadata; the other arguments are those of ``Driver.observe``."""
        seen, (of_data, of_metadata) = self.seen, reserves
        return PoolState(
            space=space.of_data(seen, self.geometry, of_data),
            volumes={chain: self._volume(chain, identity) for chain, identity in sorted(volumes.items())},
            snapshots={name: self._snapshot(name, identity) for name, identity in sorted(snapshots.items())},
            foreign=diagnosis.foreign(seen) if whole else (),
            leftovers=diagnosis.leftovers(seen, {*volumes.values(), *snapshots.values()}) if whole else (),
            orphans=diagnosis.orphans(seen) if whole else (),
            troubles=diagnosis.troubles(self.pool, seen, self.geometry),
            unready=seen.unready,
            metadata=space.of_metadata(seen, of_metadata),
            reachable=not diagnosis.barred(seen) and (seen.status is not None or bool(seen.unready)),
        )

    def _volume(self, chain: str, identity: str) -> VolumeState:
        condition, detail, row = diagnosis.judge_thin(self.seen, identity)
        mapped = self._mapped_blocks(row)
        if row and condition is Condition.INTACT and row.mapped != mapped:
            condition, detail = Condition.DAMAGED, f"{mapped} blocks instead of {row.mapped}: written to since it was sealed"
        path = f"{MAPPER}/{self.names.working('volume', row.id)}" if row else ""
        used = self._bytes(row) if condition in (Condition.INTACT, Condition.DAMAGED) else 0
        return VolumeState(chain, condition, path, row.size if row else 0, used, detail)

    def _snapshot(self, name: str, identity: str) -> SnapshotState:
        condition, detail, row = diagnosis.judge_thin(self.seen, identity)
        if row and condition is Condition.INTACT:
            detail = self._inactivity(name, row)
        active = row is not None and condition is Condition.INTACT and not detail
        path = f"{MAPPER}/{self.names.snapshot(name)}"
        there = self.seen.content.devices.get(row.id) if row and self.seen.content else None
        found = f"id={there.id} tid={there.transaction}" if there else ""
        return SnapshotState(name, condition, path, active, row.size if row else 0, self._bytes(row), detail, found)

    def _mapped_blocks(self, row: DeviceRow | None) -> int:
        there = self.seen.content.devices.get(row.id) if row and self.seen.content else None
        return there.mapped_blocks if there else 0

    def _bytes(self, row: DeviceRow | None) -> int:
        return self._mapped_blocks(row) * self.seen.content.block_size if self.seen.content else 0

    def _inactivity(self, name: str, row: DeviceRow) -> str:
        """Why a snapshot that is in the pool can't be opened under its path now; empty if it can."""
        mapping = self.names.snapshot(name)
        listed = self.listed.get(mapping)
        if listed is None:
            return "not active"
        if listed.uuid != self.names.thin_uuid(row.id):
            return "another device has its name"
        live, suspended = self.state_of(listed)
        if not live:
            return "not active"
        if suspended:
            return "suspended"
        return self.nodes.difference(mapping)
