"""The label of a thin pool: a block of data that proves that a data device belongs to the pool's metadata. Pure.

It is the content of a thin device of its own (role ``label``), the first one of a pool. Its data is found through the metadata,
and compared before the pool is activated (``pool.thin.proof``). It begins with no signature that blkid reports. In a new pool the
device has the first ``HEAD`` bytes of the data device, zeros behind the label, and no device has the last ``TAIL`` bytes: there a
layer or a guest could place the signature of a file system, and the host would take the data device for one.

    offset  bytes
    0       16     magic
    16      4      format version
    20      4      stamp of the pool (``pool.thin.journal``)
    24      16     random id, also recorded in the registry: the name of the label's row
    40      64     name of the pool when the label was written; cut, padded with zeros
    104     4      CRC-32C of all before
    108     -      zeros up to 4096

Numbers are little-endian. Written by ``pool.thin.labelling``.
"""

from __future__ import annotations

import os
import struct

from reconciler.dataclass import dataclass
from reconciler.pool.thin.metadata import BLOCK, crc32c

VERSION = 1
HEAD, TAIL = (4 << 20) + (64 << 10), 2 << 20
"""Bytes at the ends of a data device where blkid looks for signatures: a second LUKS header begins as late as 4 MiB, and
Promise's RAID 3087 sectors before the end."""

_MAGIC = b"reconcile pool\0\0"
_FIELDS = struct.Struct("<16sII16s64s")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Label:
    """``id`` is 32 hexadecimal digits. ``pool`` is for messages: a pool can have been adopted under another name."""

    stamp: int
    id: str
    pool: str
    version: int = VERSION

    def proves(self, other: Label) -> bool:
        return (self.version, self.stamp, self.id) == (other.version, other.stamp, other.id)

    def encoded(self) -> bytes:
        fields = _FIELDS.pack(_MAGIC, self.version, self.stamp, bytes.fromhex(self.id), self.pool.encode()[:64])
        return (fields + _CHECKSUM.pack(crc32c(fields))).ljust(BLOCK, b"\0")

    @classmethod
    def parse(cls, block: bytes) -> Label | None:
        """None for anything that is no label, or a damaged one."""
        if len(block) < _FIELDS.size + _CHECKSUM.size:
            return None
        magic, version, stamp, random, name = _FIELDS.unpack_from(block)
        (checksum,) = _CHECKSUM.unpack_from(block, _FIELDS.size)
        if magic != _MAGIC or checksum != crc32c(block[: _FIELDS.size]):
            return None
        return cls(stamp, random.hex(), name.rstrip(b"\0").decode(errors="replace"), version)


def head_blocks(block_size: int) -> int:
    """How many blocks of data the label of a new pool has."""
    return -(-HEAD // block_size)


def data_blocks(size: int, block_size: int, recorded: int = 0) -> int:
    """How many blocks of a data device of so many bytes a pool uses: never fewer than its metadata has ``recorded``."""
    return max(recorded, (size - TAIL) // block_size, 0)


def new_id() -> str:
    return os.urandom(16).hex()
