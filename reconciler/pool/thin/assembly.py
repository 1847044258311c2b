"""Creates, activates and grows a thin pool in the kernel: its devices or files, its table, its identity.

An existing pool is used as it is: a pool is formatted once, on devices that hold nothing, and never truncated or formatted again.

Called by ``pool.thin.pool``. State: the backing files, the pool's mapping, and the pool's row in the journal. The table's format:
Documentation/admin-guide/device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from reconciler.dataclass import dataclass, replace
from reconciler.errors import PoolUnusable
from reconciler.pool.driver import Trouble
from reconciler.pool.thin import backing, loop, metadata, permission
from reconciler.pool.thin import status as wire
from reconciler.pool.thin.backing import MIB, Backing, Found
from reconciler.pool.thin.devmapper import Device, DeviceMapper, DmError, Target
from reconciler.pool.thin.journal import DeviceRow, Journal, PoolRow, first_transaction, stamp_of
from reconciler.pool.thin.label import HEAD, TAIL, data_blocks
from reconciler.pool.thin.metadata import Metadata
from reconciler.pool.thin.naming import Names
from reconciler.pool.thin.proof import UNPROVED, FilesystemUuid, Proof, found_label
from reconciler.pool.thin.recovery import Agreement, Verdict, judge, pending
from reconciler.pool.thin.status import Mode, PoolStatus, PoolTable
from reconciler.pool.thin.transaction import Transactions

SECTOR = 512
NEWER = "RegistryOutdated"
"""The reason of a pool that is newer than the registry."""
ELSEWHERE = "PoolDevicesChanged"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The declared shape of a pool. ``block_size`` in bytes. The kernel raises an event at ``low_water_percent`` free."""

    data: Backing
    metadata: Backing
    block_size: int
    low_water_percent: int = 10

    @property
    def backings(self) -> tuple[Backing, Backing]:
        return self.data, self.metadata


@dataclass(frozen=True, slots=True)
class Inspection:
    """The state of a pool, read without changing anything. ``status`` is None unless the pool is active and ours."""

    data: Found
    metadata: Found
    content: Metadata | None
    device: Device | None
    status: PoolStatus | None
    row: PoolRow | None
    rows: Mapping[int, DeviceRow]
    last_id: int
    verdict: Verdict
    trouble: Trouble | None
    unready: str

    def names(self, pool: str) -> Names:
        return Names(pool, self.row.stamp if self.row else 0)


@dataclass(frozen=True)
class Assembly:
    """``uuid_of`` returns the UUID of the file system that a chain has. ``vouched``: see ``permission.require``."""

    name: str
    geometry: Geometry
    dm: DeviceMapper
    journal: Journal
    uuid_of: FilesystemUuid
    vouched: bool = False

    # ------------------------------------------------------------------------------------------------- inspecting

    def inspect(self) -> Inspection:
        """Read the backing, the metadata, the journal and the kernel. Raises HostCannot if the backing can't be read.

        Raises PolicyRefused if this host's policy refuses the backing's place.
        """
        permission.require(self.name, self.geometry.backings, self.journal.pool(), vouched=self.vouched)
        data, meta = backing.probe(self.geometry.data), backing.probe(self._metadata())
        content = metadata.read(meta.path) if meta.present else None
        row, rows, device = self.journal.pool(), self.journal.devices(), self.dm.info(self.name)
        verdict = judge(self.name, row, rows, content)
        ours = device is not None and device.live_table and device.uuid == Names(self.name, row.stamp if row else 0).pool_uuid
        status = self._status() if ours else None
        last_id = self.journal.last_id()
        seen = Inspection(data, meta, content, device, status, row, rows, last_id, verdict, verdict.trouble, "")
        if trouble := self._elsewhere(seen) or self._unproved(seen) or self._obstacle(seen):
            return replace(seen, trouble=trouble)
        return replace(seen, unready=self._unready(seen) if verdict.trouble is None else self._unready_if_newer(seen))

    def inspect_settled(self, lock: AbstractContextManager[object]) -> Inspection:
        """``inspect``, after the pool transaction that is under way in this process: it is no interrupted operation."""
        seen = self.inspect()
        if not pending(seen.rows):
            return seen
        with lock:
            return self.inspect()

    def _elsewhere(self, seen: Inspection) -> Trouble | None:
        """Whether the kernel has the pool active on other devices than the declared ones; not of a pool that has failed."""
        if seen.status is None or seen.status.mode is Mode.FAIL:
            return None
        (target,) = self.dm.table(self.name)
        table = PoolTable.parse(target.params)
        declared = ((table.data, self.geometry.data), (table.metadata, self.geometry.metadata))
        if all(backing.lies_on(number, one) for number, one in declared):
            return None
        used, wanted = (backing.described(number) for number, _ in declared), (self._where(one) for _, one in declared)
        text = (
            f"pool {self.name} is active on {' and '.join(used)}, and {' and '.join(wanted)} are declared: declare what it is on"
        )
        return Trouble(ELSEWHERE, f"{text}, or run `reconcile detach {self.name} --apply` and then `reconcile --once`")

    def _unproved(self, seen: Inspection) -> Trouble | None:
        """Why this pool of ours can't be used with these devices."""
        if seen.verdict.trouble and seen.verdict.trouble.reason != NEWER:
            return seen.verdict.trouble
        proof = self.proof(seen)
        return proof.trouble() if proof else None

    def proof(self, seen: Inspection) -> Proof | None:
        """The proof of the pool's data, which reads it; None where there is nothing to prove."""
        if seen.content is None or seen.row is None or not seen.data.present:
            return None
        live = seen.status is not None
        return Proof(self.name, seen.data, seen.metadata, seen.content, seen.row, seen.rows, self.uuid_of, live)

    def _status(self) -> PoolStatus:
        (target,) = self.dm.status(self.name)
        return PoolStatus.parse(target.params)

    def _unready_if_newer(self, seen: Inspection) -> str:
        """A pool of ours that is newer than the registry is activated after a reboot: common objects can be used.

        One that is older is not: its blocks may have been given to other devices since.
        """
        return "not assembled since the host was started" if seen.device is None and seen.data.present else ""

    def _metadata(self) -> Backing:
        """The metadata's backing; its size follows from the data's if a file is declared without one."""
        declared = self.geometry.metadata
        if declared.file is None or declared.size is not None:
            return declared
        size = self.geometry.data.size or backing.probe(self.geometry.data).size
        return replace(declared, size=backing.metadata_size(size, self.geometry.block_size))

    def _obstacle(self, seen: Inspection) -> Trouble | None:
        if seen.device and seen.device.uuid != seen.names(self.name).pool_uuid:
            held = f"uuid {seen.device.uuid!r}" if seen.device.uuid else "no uuid"
            rename = "rename the pool in its manifest, or that mapping with dmsetup rename"
            return Trouble("NameTaken", f"/dev/mapper/{self.name} is a mapping that reconcile did not create ({held}): {rename}")
        if seen.verdict.agreement is not Agreement.NEW and not seen.data.present:
            gone, left = self._where(self.geometry.data), self._where(self.geometry.metadata)
            lost = f"if it is lost, remove {left} too and run `reconcile adopt {self.name}`"
            return Trouble("PoolLost", f"the data of pool {self.name} is missing: no {gone}: restore it; {lost}")
        return None

    def _where(self, one: Backing) -> str:
        return str(one.file or one.device)

    def _unready(self, seen: Inspection) -> str:
        if seen.verdict.agreement is Agreement.NEW:
            return f"pool {self.name} is created on {self._where(self.geometry.data)} and {self._where(self.geometry.metadata)}"
        if seen.device is None or not seen.device.live_table:
            return "not assembled since the host was started"
        if seen.device.suspended:
            return "the pool is suspended"
        if seen.status and (seen.status.needs_check or seen.status.mode is Mode.FAIL):
            return ""  # neither settled nor grown before it has been checked
        if seen.verdict.agreement is not Agreement.CURRENT:
            return str(seen.verdict.agreement.value) if seen.status and seen.status.writable else ""
        if larger := [what for what, now, wanted in self._sizes(seen) if wanted > now]:
            return f"declared larger: {' and '.join(larger)}"
        return ""

    def _sizes(self, seen: Inspection) -> Iterator[tuple[str, int, int]]:
        """(what, bytes now, bytes wanted) of both devices, whole blocks only."""
        content = seen.content
        if content is None:
            return
        block = content.block_size
        wanted = max(self.geometry.data.size or 0, seen.data.size)
        yield "data", content.data_blocks, data_blocks(wanted, block, content.data_blocks)
        wanted = max(self._metadata().size or 0, seen.metadata.size)
        yield "metadata", content.metadata_blocks, min(wanted, metadata.LARGEST) // metadata.BLOCK

    # ---------------------------------------------------------------------------------------------- assembling

    def assemble(self, transactions: Transactions) -> tuple[str, ...]:
        """Do what ``inspect`` reports as missing; return what was done. Raises PoolUnusable, HostCannot."""
        now = self.inspect()
        if now.trouble and not now.unready:
            raise PoolUnusable(now.trouble.message)
        if now.trouble:
            return tuple(self._activate(now, now.names(self.name)))
        done = []
        if now.verdict.agreement is Agreement.NEW:
            now = self._claim(now)
            row = now.row or PoolRow(0, 0)
            done.append(f"created {self._where(self.geometry.data)} and {self._where(self.geometry.metadata)}")
        else:
            row = now.row or PoolRow(0, 0)
        done += self._activate(now, Names(self.name, row.stamp))
        if not self._status().writable:
            return tuple(done)  # its snapshots can be used; an interrupted operation is settled once the pool is writable
        if row.transaction == 0:
            self._stamp(transactions, row)
        self.record_places()
        done += transactions.recover()
        return tuple(done)

    def record_places(self) -> None:
        """Record where the pool's backing is, once the pool is proved; no other place is used without permission then."""
        if (row := self.journal.pool()) and row.transaction and (now := permission.recorded(row, self.geometry.backings)) != row:
            self.journal.write(now)

    def bring_up(self) -> None:
        """Activate a pool that differs from the registry, under the identity in its metadata, to inspect what it holds.

        Raises PoolUnusable if its data is proved to be another pool's.
        """
        now = self.inspect()
        if now.content is None or now.device is not None:
            return
        unproved = self.unproved(now)
        if now.verdict.agreement is Agreement.DIFFERENT or unproved:
            tuple(self._activate(now, Names(self.name, stamp_of(now.content.transaction))))

    def unproved(self, now: Inspection) -> Trouble | None:
        """Why nothing proves the data of the pool that is there, the registry's or not; only an operator can accept it.

        Raises PoolUnusable if the data is proved to be another pool's.
        """
        proof = self.proof_of_contents(now)
        trouble = proof.trouble() if proof else None
        if trouble and trouble.reason != UNPROVED:
            raise PoolUnusable(trouble.message)
        return trouble

    def proof_of_contents(self, now: Inspection) -> Proof | None:
        """``proof``, with the label that is in the pool if the registry has none."""
        if now.content is None or not now.data.present:
            return None
        tid = now.content.transaction
        ours = now.row is not None and now.row.stamp == stamp_of(tid)
        row, rows = PoolRow(stamp_of(tid), tid), now.rows if ours else {}
        live = ours and now.status is not None
        proof = Proof(self.name, now.data, now.metadata, now.content, row, rows, self.uuid_of, live)
        if not any(one.labels for one in proof.there()) and (label := found_label(proof)):
            return replace(proof, rows={**rows, label.id: label}, live=False)
        return proof

    def _claim(self, now: Inspection) -> Inspection:
        """Ensure that nothing is overwritten, record that the pool is being created, and create its files."""
        for found in (now.data, now.metadata):
            if found.present and (held := backing.content(found)):
                hint = f"to overwrite it: {backing.wiping(found)}"
                raise PoolUnusable(f"pool {self.name}: {found.path} holds {held}; it is not overwritten", hint=hint)
        row = now.row or PoolRow(secrets.randbelow((1 << 31) - 1) + 1, 0)
        self.journal.write(row)
        for one in (self.geometry.data, self._metadata()):
            if one.file is not None:
                backing.make(one, partial(permission.require_file, self.name))
        data, meta = (backing.probe(one) for one in (self.geometry.data, self._metadata()))
        return replace(now, data=data, metadata=meta, row=row)

    def _stamp(self, transactions: Transactions, row: PoolRow) -> None:
        first = first_transaction(row.stamp)
        if transactions.status().transaction == first:
            self.journal.write(replace(permission.recorded(row, self.geometry.backings), transaction=first))
        else:
            transactions.stamp(permission.recorded(row, self.geometry.backings), first)

    def _activate(self, now: Inspection, names: Names) -> Iterator[str]:
        with ExitStack() as stack:
            data, meta = map(stack.enter_context, map(self._grown, *self._opened(now, stack)))
            table = self._table(data, meta, now.content)
            if now.device is None or not now.device.live_table:
                if now.device is not None:
                    self.dm.remove(self.name)
                self._create(names.pool_uuid, table)
                yield "assembled"
                yield from self._release()
                return
            if self._differs(table):
                self._reload(table)
                yield f"grown to {table.length * SECTOR} bytes"
            elif now.device.suspended:
                self.dm.resume(self.name)
                yield "resumed"

    def _create(self, uuid: str, table: Target) -> None:
        try:
            self.dm.create(self.name, uuid, [table])
        except DmError as error:
            if error.errno == errno.EINVAL and "thin-pool" not in self.dm.targets():
                hint = "load its module: modprobe dm-thin-pool"
                raise PoolUnusable(f"pool {self.name}: this kernel has no thin pools", hint=hint) from error
            raise

    def _reload(self, table: Target) -> None:
        """Load a larger table. If the kernel refuses it, load the old one again: the pool keeps working."""
        (old,) = self.dm.table(self.name)
        self.dm.load(self.name, [table])
        self.dm.suspend(self.name)
        try:
            self.dm.resume(self.name)
        except DmError:
            self.dm.load(self.name, [old])
            self.dm.resume(self.name)
            raise

    def _release(self) -> Iterator[str]:
        """Release a stale metadata snapshot: a pool that was just activated has no reader of one."""
        status = self._status()
        if status.held_root is not None and status.writable:
            self.dm.message(self.name, wire.release_metadata_snap())
            yield "released a stale metadata snapshot"

    def _differs(self, wanted: Target) -> bool:
        """Larger data, or a metadata device that is larger than the pool's metadata is."""
        (live,) = self.dm.table(self.name)
        now = self.inspect()
        return wanted.length > live.length or any(wish > have for _, have, wish in self._sizes(now))

    def _table(self, data: Path, meta: Path, content: Metadata | None) -> Target:
        block = (content.block_size if content else self.geometry.block_size) // SECTOR
        blocks = data_blocks(size_of(data), block * SECTOR, content.data_blocks if content else 0)
        if not blocks:
            hint = f"declare {(HEAD + TAIL) // MIB + 1} MiB at least, and space for images"
            raise PoolUnusable(f"pool {self.name}: {self._where(self.geometry.data)} is too small for a pool", hint=hint)
        low_water = blocks * self.geometry.low_water_percent // 100
        table = PoolTable(number(meta), number(data), block, low_water, ("error_if_no_space",))
        return Target(0, blocks * block, "thin-pool", str(table))

    def _opened(self, now: Inspection, stack: ExitStack) -> tuple[tuple[Backing, Backing], list[int]]:
        """The backing that was inspected, and descriptors of it: what a path leads to can have changed since.

        Raises PolicyRefused if the policy refuses an open file; PoolUnusable.
        """
        wanted = self.geometry.data, self._metadata()
        fds = [
            stack.enter_context(backing.opened(one, found)) for one, found in zip(wanted, (now.data, now.metadata), strict=True)
        ]
        data, meta = (replace(one, file=backing.real_path(fd)) if one.file else one for one, fd in zip(wanted, fds, strict=True))
        permission.require(self.name, (data, meta), now.row, vouched=self.vouched)
        return wanted, fds

    @contextmanager
    def _grown(self, one: Backing, fd: int) -> Iterator[Path]:
        """A block device of at least the declared size; a loop device stays attached until the pool's table holds it."""
        if one.file is None:
            yield Path(f"/proc/self/fd/{fd}")
            return
        grew = backing.grow(one, fd)
        with loop.attach(Path(one.file), fd) as device:
            if grew:
                loop.grow(device)
            yield device


def number(device: Path) -> str:
    """``major:minor``, as tables require it."""
    found = device.stat().st_rdev
    return f"{os.major(found)}:{os.minor(found)}"


def size_of(device: Path) -> int:
    """Size of a block device in bytes."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
