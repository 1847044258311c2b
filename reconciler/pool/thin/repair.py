"""Operations that an operator requests on a thin pool: rebuild the registry's entries, delete orphans, deactivate the pool.

Called by ``cli.repair``. Callers that change something hold the registry's lock. No state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from reconciler.dataclass import dataclass
from reconciler.errors import PoolUnusable, ReconcilerError
from reconciler.pool.driver import Trouble
from reconciler.pool.file.identity import filesystem
from reconciler.pool.thin import diagnosis, permission
from reconciler.pool.thin.adoption import Adoption, Candidate, adoption, of_unknown_chain
from reconciler.pool.thin.assembly import SECTOR, Inspection
from reconciler.pool.thin.devmapper import DmError
from reconciler.pool.thin.journal import DeviceRow, Role, State, stamp_of
from reconciler.pool.thin.metadata import ThinDevice
from reconciler.pool.thin.naming import Names
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.recovery import Agreement


@dataclass(frozen=True)
class Repair:
    pool: ThinPool

    def collect(self, thin_id: int) -> None:
        """Delete an orphan. Raises Busy, PoolUnusable."""
        with self.pool.reported(f"delete thin id {thin_id}"), self.pool.transactions.lock:
            seen = self.pool.assembly.inspect()
            there = seen.content.devices.get(thin_id) if seen.content else None
            if there is None or not diagnosis.is_orphan(seen, there):
                raise PoolUnusable(f"pool {self.pool.name}: thin id {thin_id} is not an orphan")
            size = max(self.pool.geometry.data.size or seen.data.size, self.pool.geometry.block_size)
            self.pool.remove(DeviceRow(thin_id, Role.ORPHAN, "", "", size, there.transaction, State.HELD))

    def orphans(self) -> tuple[Candidate, ...]:
        """Devices that are proved to be ours and that nothing uses. Raises PoolUnusable."""
        with self.pool.reported("list orphans"):
            seen = self.pool.assembly.inspect()
            found = [one for one in diagnosis.unregistered(seen) if diagnosis.is_orphan(seen, one)]
            return self._candidates(found, seen, self.pool.names.stamp, {}, {})

    def assemble_as_it_is(self) -> None:
        """Activate a pool that differs from the registry, to inspect it; nothing in it is changed.

        Raises PoolUnusable, also if its data is another pool's.
        """
        with self.pool.reported("assemble it"), self.pool.transactions.lock:
            self.pool.assembly.bring_up()

    def unproved(self) -> Trouble | None:
        """Why nothing proves the pool's data. Raises PoolUnusable if it is proved to be another pool's."""
        with self.pool.reported("prove its data"):
            return self.pool.assembly.unproved(self.pool.assembly.inspect())

    def moved(self) -> list[tuple[str, str]]:
        """The recorded and the declared path of each backing that the registry has elsewhere."""
        row = self.pool.journal.pool()
        return permission.moved(row, self.pool.geometry.backings) if row else []

    def accept_places(self) -> None:
        """Record where the pool's backing is. Raises PoolUnusable if its data is not proved there."""
        with self.pool.reported("record its devices"), self.pool.transactions.lock:
            if trouble := self.pool.assembly.inspect().trouble:
                raise PoolUnusable(trouble.message)
            self.pool.assembly.record_places()

    def accept_data(self) -> None:
        """Write the label of a pool whose data the operator vouches for. Raises PoolUnusable."""
        with self.pool.reported("write its label"), self.pool.transactions.lock:
            self.pool.labelling.ensure(self.pool.assembly.inspect(), accepted=True)

    def adoption(self, named: Mapping[str, int], claims: Mapping[str, int], chains: Mapping[str, str]) -> Adoption | None:
        """Compute the registry's entries from the pool's metadata; None if they agree already.

        ``named`` maps snapshots to thin ids, ``claims`` the snapshots declared here to their sizes in bytes, ``chains`` snapshots
        to the chains that the operator vouches for. Raises PoolUnusable if reconcile did not create the pool.
        """
        with self.pool.reported("inspect it"):
            seen = self.pool.assembly.inspect()
            if seen.verdict.agreement in (Agreement.NEW, Agreement.UNSTAMPED):
                return None
            stamp = stamp_of(seen.content.transaction) if seen.content else 0
            if seen.content and not stamp:
                message = f"pool {self.pool.name}: its transaction id {seen.content.transaction} has no stamp of reconcile"
                raise PoolUnusable(message, hint="reconcile did not create this pool: declare other devices")
            names = {thin_id: name for name, thin_id in named.items()} | self._active_names(Names(self.pool.name, stamp), claims)
            label = self._label(seen)
            different = seen.verdict.agreement is Agreement.DIFFERENT
            ours = [
                one
                for one in diagnosis.unregistered(seen)
                if stamp_of(one.transaction) == stamp and not (label and one.id == label.id)
                if different or one.id in names or diagnosis.is_orphan(seen, one)
            ]
            candidates = self._candidates(ours, seen, stamp, names, claims)
            unproved = {row.name for row in seen.rows.values() if of_unknown_chain(row)}
            if not different and not any(one.name for one in candidates) and unproved.isdisjoint(chains):
                return None
            return adoption(seen.content, seen.row, seen.rows, candidates, chains, label)

    def _label(self, seen: Inspection) -> DeviceRow | None:
        """The label that the pool has."""
        proof = self.pool.assembly.proof_of_contents(seen)
        return next((row for row in proof.there() if row.labels), None) if proof else None

    def _active_names(self, names: Names, claims: Collection[str]) -> dict[int, str]:
        """The thin ids of active snapshots, from the kernel."""
        found = {}
        for name in claims:
            device = self.pool.dm.info(names.snapshot(name))
            thin_id = names.thin_id(device.uuid) if device else None
            if thin_id is not None:
                found[thin_id] = name
        return found

    def _candidates(
        self,
        devices: Iterable[ThinDevice],
        seen: Inspection,
        stamp: int,
        names: Mapping[int, str],
        claims: Mapping[str, int],
    ) -> tuple[Candidate, ...]:
        found = []
        for device in devices:
            mapped = device.mapped_blocks * (seen.content.block_size if seen.content else 0)
            name, active = names.get(device.id, ""), Names(self.pool.name, stamp)
            size = self._active_size(active, device.id) or claims.get(name)
            found.append(Candidate(device.id, device.transaction, mapped, name, size, self._uuid(active, device.id)))
        return tuple(found)

    def _active_size(self, names: Names, thin_id: int) -> int | None:
        """Size (bytes) of a thin device in its active mapping. A guest writes the superblock in it, and not this."""
        device = self.pool.dm.by_uuid(names.thin_uuid(thin_id))
        return sum(target.length for target in self.pool.dm.table(device.name)) * SECTOR if device else None

    def _uuid(self, names: Names, thin_id: int) -> str | None:
        """UUID of the ext4 file system in a thin device; None if it can't be read, or has none."""
        row = DeviceRow(thin_id, Role.ORPHAN, "", "", self.pool.geometry.block_size, 0, State.HELD)
        try:
            device = self.pool.mappings.reader(row, names)
        except (DmError, ReconcilerError, OSError):
            return None
        try:
            return filesystem(device.path)[1]
        finally:
            self.pool.mappings.deactivate(device.name)

    def detach(self, *, apply: bool) -> tuple[str, ...]:
        """Deactivate the pool's devices, the pool last; return the mappings' names. Raises Busy, PoolUnusable."""
        with self.pool.reported("detach it"), self.pool.transactions.lock:
            ours = [device.name for device in self.pool.mappings.ours()]
            pool = self.pool.dm.info(self.pool.name)
            if pool and pool.uuid == self.pool.names.pool_uuid:
                ours.append(pool.name)
            for name in ours if apply else ():
                self.pool.mappings.deactivate(name)
            return tuple(ours)
