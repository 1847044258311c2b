"""Proves that a data device is the one that a thin pool's metadata describes, before anything is activated or written.

The kernel compares nothing: it maps whatever data device it is given. The proof reads both devices from user space. The data
device is at least as long as the metadata records. The label (``pool.thin.label``) is where the metadata maps it; in a pool that
has none yet, made by an earlier version, the superblock of each sealed volume is. A pool with neither is proved if it maps
nothing and its data device holds no signature.

Called by ``pool.thin.assembly``, ``pool.thin.labelling`` and ``pool.thin.repair``. Reads the devices; keeps no state.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.errors import HostCannot
from reconciler.pool.driver import Trouble
from reconciler.pool.file import identity
from reconciler.pool.thin import backing, metadata
from reconciler.pool.thin.backing import Found
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State
from reconciler.pool.thin.label import Label, head_blocks
from reconciler.pool.thin.metadata import BLOCK, Metadata, crc32c

WRONG, UNPROVED = "PoolDataWrong", "PoolDataUnproved"

FilesystemUuid = Callable[[str], object]
"""The UUID, as text, of the file system that a chain has."""

_SUPERBLOCK = slice(1024, 2048)
_CHECKSUM_AT = 0x3FC
_METADATA_CSUM = 0x400


@dataclass(frozen=True, slots=True)
class Proof:
    """``live``: the kernel has the pool active on these devices. Methods raise HostCannot where a device can't be read."""

    pool: str
    data: Found
    metadata: Found
    content: Metadata
    row: PoolRow
    rows: Mapping[int, DeviceRow]
    uuid_of: FilesystemUuid
    live: bool = False

    def trouble(self) -> Trouble | None:
        """Why the pool can't be used; None if its data is proved. A live pool with a label was proved when it was activated."""
        if short := self._short():
            return short
        label = next((row for row in self.there() if row.labels), None)
        if label is not None:
            return None if self.live else self._by_label(label)
        volumes = [row for row in self.there() if row.sealed]
        if self._is_written_label() or (volumes and not any(self._contradictions(volumes))):
            return None
        if volumes:
            return self._by_volumes(volumes)
        return None if self._is_empty() else self._unproved()

    def there(self) -> Iterator[DeviceRow]:
        """The rows of devices that the pool holds."""
        for row in self.rows.values():
            found = self.content.devices.get(row.id)
            if found is not None and found.transaction == row.transaction:
                yield row

    def _short(self) -> Trouble | None:
        wanted = self.content.data_blocks * self.content.block_size
        if self.data.size >= wanted:
            return None
        return self._wrong(f"it has {self.data.size} bytes, and the metadata describes {wanted}")

    def _by_label(self, row: DeviceRow) -> Trouble | None:
        block = self.first_blocks([row.id]).get(row.id, b"")
        found = Label.parse(block)
        if found is not None and found.proves(Label(self.row.stamp, row.name, self.pool)):
            return None
        what = f"it has the label of pool {found.pool}" if found else "there is no label of this pool on it"
        return self._wrong(what)

    def _is_written_label(self) -> bool:
        """Whether a label was written and not recorded: the run that wrote it was interrupted."""
        begun = [row for row in self.there() if row.role is Role.LABEL]
        blocks = self.first_blocks([row.id for row in begun])
        found = {thin_id: label for thin_id, block in blocks.items() if (label := Label.parse(block))}
        return any(row.id in found and found[row.id].proves(Label(self.row.stamp, row.name, "")) for row in begun)

    def _by_volumes(self, volumes: list[DeviceRow]) -> Trouble | None:
        wrong = list(self._contradictions(volumes))
        if not wrong or (self.live and self._has_changed()):
            return None
        return self._wrong(f"{wrong[0]} ({len(wrong)} of {len(volumes)} volumes)")

    def _contradictions(self, volumes: list[DeviceRow]) -> Iterator[str]:
        blocks = self.first_blocks([row.id for row in volumes])
        for row in volumes:
            if fault := _fault(blocks.get(row.id, b""), row.size, str(self.uuid_of(row.chain))):
                yield f"volume {row.chain[:12]} has {fault}"

    def _has_changed(self) -> bool:
        """Whether a process that holds the registry's lock has changed the pool since its content was read."""
        now = metadata.read(self.metadata.path)
        return now is None or now.transaction != self.content.transaction

    def _is_empty(self) -> bool:
        labels = {row.id for row in self.rows.values() if row.role is Role.LABEL}
        mapped = any(one.mapped_blocks for one in self.content.devices.values() if one.id not in labels)
        return not mapped and (self.live or not backing.blank(self.data.path))

    def _wrong(self, what: str) -> Trouble:
        data, meta = self.data.path, self.metadata.path
        text = (
            f"{data} does not hold the data of pool {self.pool}, whose metadata is on {meta}: {what}. Nothing is activated: put "
            f"the data device that belongs to {meta} back, or declare it; if it is lost: {backing.wiping(self.metadata)}, and "
            f"then `reconcile adopt {self.pool}`"
        )
        return Trouble(WRONG, text)

    def _unproved(self) -> Trouble:
        data, meta = self.data.path, self.metadata.path
        text = (
            f"nothing proves that {data} holds the data of pool {self.pool}, whose metadata is on {meta}: there is no label, and "
            f"no volume to compare. If they belong together, accept {data} with `reconcile adopt {self.pool} --apply`"
        )
        return Trouble(UNPROVED, text)

    def first_blocks(self, thin_ids: list[int]) -> dict[int, bytes]:
        """The first ``BLOCK`` bytes of devices, read from the data device; those that have no data there are left out."""
        if not thin_ids:
            return {}
        places = metadata.first_blocks(self.metadata.path, thin_ids)
        return {thin_id: self._read(at * self.content.block_size) for thin_id, at in places.items()}

    def _read(self, offset: int) -> bytes:
        try:
            return read_directly(self.data.path, offset)
        except OSError as error:
            what = f"pool {self.pool}: its data device {self.data.path} can't be read at byte {offset}: {error.strerror}"
            raise HostCannot(what, hint="check the device, its cables, and the kernel's log (dmesg)") from error


def found_label(proof: Proof) -> DeviceRow | None:
    """The label's row, for a registry without one: of the devices as large as one, the first that has a label there.

    The label can be another pool's: then ``proof`` fails with it.
    """
    unit = proof.content.block_size
    sizes = (1, head_blocks(unit))
    likely = sorted(one.id for one in proof.content.devices.values() if one.mapped_blocks in sizes)
    for thin_id, block in sorted(proof.first_blocks(likely).items()):
        if label := Label.parse(block):
            found = proof.content.devices[thin_id]
            size = found.mapped_blocks * unit
            return DeviceRow(thin_id, Role.LABEL, label.id, "", size, found.transaction, State.HELD, mapped=1)
    return None


def read_directly(path: Path, offset: int) -> bytes:
    """``BLOCK`` bytes, past the page cache where that is possible: it does not have what the kernel's thin target writes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a file, on a file system that has no direct I/O
    try:
        with mmap.mmap(-1, BLOCK) as page:
            return page[: os.preadv(fd, [page], offset)]
    finally:
        os.close(fd)


BLOCK_GROUP = 128 << 20
"""A file system may leave out the end of its volume that is too small for one: it is of whole groups then."""


def _fault(block: bytes, size: int, uuid: str) -> str:
    """How the first block of a sealed volume differs from an ext4 file system of this size and UUID; empty if it does not."""
    found_size, found_uuid = identity.filesystem_of(block[_SUPERBLOCK])
    if found_uuid is None:
        return "no ext4 superblock on it"
    if found_uuid != uuid:
        return f"the file system {found_uuid} instead of {uuid} on it"
    whole_groups = size - size % BLOCK_GROUP
    if found_size not in {size, whole_groups} - {0}:
        return f"a file system of {found_size} bytes instead of {size} on it"
    superblock = block[_SUPERBLOCK]
    (features,) = struct.unpack_from("<I", superblock, 0x64)
    (checksum,) = struct.unpack_from("<I", superblock, _CHECKSUM_AT)
    if features & _METADATA_CSUM and checksum != crc32c(superblock[:_CHECKSUM_AT]):
        return "a superblock with a wrong checksum on it"
    return ""
