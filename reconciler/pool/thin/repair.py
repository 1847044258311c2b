"""What a person decides about a thin pool: to take it over as it is, to delete what nothing knows any more, to take it down.

Called by ``mend``, as the rest of the driver is called by ``lifecycle``. Callers that change something hold the registry's lock.
No state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reconciler.errors import PoolUnusable, ReconcilerError
from reconciler.pool.file.identity import filesystem
from reconciler.pool.thin import diagnosis
from reconciler.pool.thin.adoption import Adoption, Candidate, adoption
from reconciler.pool.thin.assembly import Sight
from reconciler.pool.thin.devmapper import DmError
from reconciler.pool.thin.journal import DeviceRow, Role, State, stamp_of
from reconciler.pool.thin.naming import Names
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.recovery import Standing


@dataclass(frozen=True)
class Mending:
    pool: ThinPool

    def collect(self, thin_id: int) -> None:
        """Delete an orphan: made by us, by its stamp, and known to nobody. Raises Busy, PoolUnusable."""
        with self.pool.reported(f"delete thin id {thin_id}"), self.pool.brackets.lock:
            seen = self.pool.assembly.sight()
            there = seen.content.devices.get(thin_id) if seen.content else None
            if there is None or thin_id in seen.rows or not diagnosis.is_orphan(seen, there):
                raise PoolUnusable(f"pool {self.pool.name}: thin id {thin_id} is not an orphan")
            size = max(self.pool.geometry.data.size or seen.data.size, self.pool.geometry.block_size)
            self.pool.remove(DeviceRow(thin_id, Role.ORPHAN, "", "", size, there.transaction, State.HELD))

    def orphans(self) -> tuple[Candidate, ...]:
        """What we made, by its stamp, and the registry does not know. Raises PoolUnusable."""
        with self.pool.reported("look for orphans"):
            return self._candidates(self.pool.assembly.sight(), self.pool.names.stamp, {})

    def assemble_as_it_is(self) -> None:
        """Bring up a pool that contradicts the registry, to look at it; nothing in it is changed. Raises PoolUnusable."""
        with self.pool.reported("assemble it"), self.pool.brackets.lock:
            self.pool.assembly.bring_up()

    def adoption(self, named: Mapping[str, int], claims: Collection[str], chains: Mapping[str, str]) -> Adoption | None:
        """What would have to be remembered for the registry to agree with the pool; None where it does.

        ``named`` says which thin ids are which snapshots, ``claims`` are the snapshots that are declared here, ``chains`` the
        chains by the UUIDs of their file systems. Raises PoolUnusable where the pool is not one of ours.
        """
        with self.pool.reported("look at what is in it"):
            seen = self.pool.assembly.sight()
            if seen.verdict.standing in (Standing.NEW, Standing.UNSTAMPED):
                return None
            stamp = stamp_of(seen.content.transaction) if seen.content else 0
            if seen.content and not stamp:
                message = f"pool {self.pool.name}: its transaction id {seen.content.transaction} carries no stamp of ours"
                raise PoolUnusable(message, hint="somebody else's pool is not taken over: declare other devices")
            names = {thin_id: name for name, thin_id in named.items()} | self._active_names(Names(self.pool.name, stamp), claims)
            candidates = self._candidates(seen, stamp, names)
            if seen.verdict.standing is not Standing.QUARANTINED and not any(one.name for one in candidates):
                return None
            return adoption(seen.content, seen.row, seen.rows, candidates, chains)

    def _active_names(self, names: Names, claims: Collection[str]) -> dict[int, str]:
        """Snapshots that are active tell their thin ids."""
        found = {}
        for name in claims:
            device = self.pool.dm.info(names.snapshot(name))
            thin_id = names.thin_id(device.uuid) if device else None
            if thin_id is not None:
                found[thin_id] = name
        return found

    def _candidates(self, seen: Sight, stamp: int, names: Mapping[int, str]) -> tuple[Candidate, ...]:
        found = []
        for device in diagnosis.strangers(seen):
            if stamp_of(device.transaction) == stamp:
                mapped = device.mapped_blocks * (seen.content.block_size if seen.content else 0)
                size, uuid = self._probe(Names(self.pool.name, stamp), device.id)
                found.append(Candidate(device.id, device.transaction, mapped, names.get(device.id, ""), size, uuid))
        return tuple(found)

    def _probe(self, names: Names, thin_id: int) -> tuple[int | None, str | None]:
        """Size (bytes) and UUID of the ext4 file system in a thin device; None where it can't be looked at, or has none."""
        row = DeviceRow(thin_id, Role.ORPHAN, "", "", self.pool.geometry.block_size, 0, State.HELD)
        try:
            device = self.pool.mappings.reader(row, names)
        except (DmError, ReconcilerError, OSError):
            return None, None
        try:
            return filesystem(device.path)
        finally:
            self.pool.mappings.deactivate(device.name)

    def detach(self, *, apply: bool) -> tuple[str, ...]:
        """Deactivate all that is ours, the pool last; return the mappings' names. Raises Busy, PoolUnusable."""
        with self.pool.reported("detach it"), self.pool.brackets.lock:
            ours = [device.name for device in self.pool.mappings.ours()]
            pool = self.pool.dm.info(self.pool.name)
            if pool and pool.uuid == self.pool.names.pool_uuid:
                ours.append(pool.name)
            for name in ours if apply else ():
                self.pool.mappings.deactivate(name)
            return tuple(ours)
