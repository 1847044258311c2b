"""Gives a thin pool its label: the thin device with the block that proves the pool's data (``pool.thin.label``).

A new pool gets it before anything else is written, and with it the beginning of the data device; a pool that an earlier version
made gets one block with its next change. Each step can be
repeated: the row of a label counts once its block has been read back through the metadata.

Called by ``pool.thin.pool`` and ``pool.thin.repair``. Callers hold the registry's lock. State: the pool and the journal.
"""

from __future__ import annotations

import os

from reconciler.dataclass import dataclass, replace
from reconciler.errors import PoolUnusable, ReconcilerError
from reconciler.pool.thin import diagnosis
from reconciler.pool.thin.assembly import Assembly, Inspection
from reconciler.pool.thin.journal import DeviceRow, Role
from reconciler.pool.thin.label import HEAD, Label, head_blocks, new_id
from reconciler.pool.thin.mappings import Mappings
from reconciler.pool.thin.metadata import BLOCK
from reconciler.pool.thin.proof import UNPROVED
from reconciler.pool.thin.status import Mode
from reconciler.pool.thin.transaction import NewDevice, Transactions


@dataclass(frozen=True)
class Labelling:
    pool: str
    assembly: Assembly
    transactions: Transactions
    mappings: Mappings

    def ensure(self, seen: Inspection, *, accepted: bool = False) -> str:
        """Write the label where there is none; return what was done. ``accepted``: the operator vouches for unproved data.

        Does nothing in a pool that can't be changed, or has no space for one more block. Raises PoolUnusable, DmError.
        """
        status, content = seen.status, seen.content
        labels = [row for row in seen.rows.values() if row.role is Role.LABEL]
        there = [row for row in labels if content and diagnosis.proved(row, content)]
        acceptable = seen.trouble is None or (accepted and seen.trouble.reason == UNPROVED)
        if content is None or any(row.labels for row in there) or not acceptable:
            return ""
        if status is None or status.mode is not Mode.RW or not status.writable or status.used_data == status.total_data:
            return ""
        if gone := [row.id for row in labels if row not in there]:
            self.transactions.journal.write(drop=gone)
        self._write(there[0] if there else self._create(seen))
        return "label written"

    def required(self, seen: Inspection) -> Inspection:
        """Write what a pool that an earlier version made lacks, before anything else changes the pool: label and places.

        ``seen`` is the pool as it is now; returns it as it is then. Raises PoolUnusable.
        """
        labelled = any(row.labels for row in seen.rows.values())
        if labelled and seen.row and seen.row.data_place:
            return seen
        if not labelled:
            if seen.trouble:
                raise PoolUnusable(seen.trouble.message)
            self.ensure(seen)
        if (row := self.transactions.journal.pool()) and not row.data_place:
            self.assembly.record_places()
        return self.assembly.inspect()

    def _create(self, seen: Inspection) -> DeviceRow:
        if seen.content is None or seen.status is None:
            raise PoolUnusable(f"pool {self.pool} does not exist", hint="run `reconcile --once`")
        head, block = head_blocks(seen.content.block_size), seen.content.block_size
        is_new = seen.status.used_data == 0 and seen.status.total_data > head
        wanted = NewDevice(Role.LABEL, new_id(), "", head * block if is_new else block)
        (made,) = self.transactions.create(self.transactions.status(), seen.content.devices.keys(), [wanted])
        if isinstance(made, ReconcilerError):
            raise made
        return made

    def _write(self, row: DeviceRow) -> None:
        device = self.mappings.dm.by_uuid(self.mappings.names().thin_uuid(row.id))
        if device is not None:  # an interrupted run left it active
            self.mappings.deactivate(device.name)
        names = self.mappings.names()
        label = Label(names.stamp, row.name, self.pool)
        device = self.mappings.activate(row, names.working("label", row.id))
        try:
            fd = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.pwrite(fd, label.encoded(), 0)
                os.fsync(fd)  # it gets the first block of a new pool, and the zeros those that follow
                os.pwrite(fd, bytes(min(row.size, HEAD) - BLOCK), BLOCK)  # touches each block; the kernel zeroes the rest
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            self.mappings.deactivate(device.name)
        proof = self.assembly.proof(self.assembly.inspect())
        if proof is None or Label.parse(proof.first_blocks([row.id]).get(row.id, b"")) != label:
            where = self.assembly.geometry.data.file or self.assembly.geometry.data.device
            hint = "check the device and the kernel's log (dmesg)"
            raise PoolUnusable(f"pool {self.pool}: its label can't be read back from {where}", hint=hint)
        self.transactions.journal.write(put=[replace(row, mapped=1)])
