"""Reads what a thin pool's metadata says of it, straight from the metadata device: which thin ids it holds, and how full it is.

No metadata snapshot is taken and nothing is changed, so it works on pools that are not assembled, read-only or failed. What is read
is the last commit. A commit never overwrites blocks of the one before, so a walk between two equal reads of the superblock has seen
one moment; otherwise it is done again.

Called by ``pool.assembly``. No state. Format: drivers/md/dm-thin-metadata.c, drivers/md/persistent-data/dm-btree-internal.h and
dm-space-map-common.h.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import HostCannot

BLOCK = 4096
"""Bytes of a metadata block."""
LARGEST = 255 * ((1 << 14) - 64) * BLOCK
"""Bytes of metadata that the kernel can use (THIN_METADATA_MAX_SECTORS); more is left alone."""
ATTEMPTS = 100

_SUPERBLOCK = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")
_HEADER = struct.Struct("<IIQIIII")
_DETAILS = struct.Struct("<QQII")
_SPACE_MAP = struct.Struct("<QQQQ")
_MAGIC = 27022010
_VERSIONS = (1, 2)
_SUPERBLOCK_XOR, _NODE_XOR = 160774, 121107
_NEEDS_CHECK = 1
_INTERNAL, _LEAF = 1, 2
_DEEPEST = 16
_ODIRECT = getattr(os, "O_DIRECT", 0)


class MetadataUnreadable(HostCannot):
    """What is there is no thin pool's metadata, or is damaged."""


@dataclass(frozen=True, slots=True)
class ThinDevice:
    """``mapped_blocks`` in blocks of the pool. ``transaction`` is the pool's id at the creation; the times count snapshots."""

    id: int
    mapped_blocks: int
    transaction: int
    created: int
    snapshotted: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """``block_size`` in bytes; data is counted in blocks of that size, metadata in blocks of ``BLOCK``."""

    transaction: int
    block_size: int
    needs_check: bool
    held_root: int | None
    data_blocks: int
    data_used: int
    metadata_blocks: int
    metadata_used: int
    devices: Mapping[int, ThinDevice]


def read(path: Path, attempts: int = ATTEMPTS) -> Metadata | None:
    """None where the first block is zero: the kernel would format it. Raises MetadataUnreadable."""
    try:
        with _opened(path) as device:
            return _settled(device, attempts)
    except OSError as error:
        raise MetadataUnreadable(f"{path}: {error.strerror}", hint="check the pool's metadata device") from error


def _settled(device: _Device, attempts: int) -> Metadata | None:
    problem = MetadataUnreadable(f"{device.path}: never the same twice", hint="try again")
    for _ in range(attempts):
        before = device.block(0)
        if not any(before):
            return None
        try:
            found: Metadata | MetadataUnreadable = _walked(device, before)
        except MetadataUnreadable as error:
            found = error
        if device.block(0) == before:
            if isinstance(found, Metadata):
                return found
            raise found
    raise problem


class _Device:
    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._page = mmap.mmap(-1, BLOCK)

    def block(self, number: int) -> bytes:
        """Raises MetadataUnreadable beyond the end."""
        if os.preadv(self._fd, [self._page], number * BLOCK) != BLOCK:
            raise self.damaged(number, "lies beyond the end of the device")
        return self._page[:]

    def damaged(self, number: int, what: str) -> MetadataUnreadable:
        hint = f"look at it with thin_check {self.path}; thin_repair may save it"
        return MetadataUnreadable(f"{self.path}: metadata block {number} {what}", hint=hint)


@contextmanager
def _opened(path: Path) -> Iterator[_Device]:
    """The page cache of a block device knows nothing of what the kernel's thin target writes: it is gone around."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _ODIRECT)
    except OSError:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _Device(path, fd)
    finally:
        os.close(fd)


def _walked(device: _Device, superblock: bytes) -> Metadata:
    (
        csum,
        flags,
        number,
        _,
        magic,
        version,
        _,
        transaction,
        held,
        data_map,
        metadata_map,
        _,
        details,
        sectors,
        meta_sectors,
        _,
        _,
        _,
        incompatible,
    ) = _SUPERBLOCK.unpack_from(superblock)
    if magic != _MAGIC:
        raise MetadataUnreadable(f"{device.path}: not the metadata of a thin pool", hint="is it the right device?")
    if version not in _VERSIONS or incompatible or meta_sectors * 512 != BLOCK:
        raise MetadataUnreadable(f"{device.path}: metadata of version {version}, which is not known here")
    if csum != crc32c(superblock[4:]) ^ _SUPERBLOCK_XOR or number != 0:
        raise device.damaged(0, "has a wrong checksum")
    data, meta = _SPACE_MAP.unpack_from(data_map), _SPACE_MAP.unpack_from(metadata_map)
    return Metadata(
        transaction=transaction,
        block_size=sectors * 512,
        needs_check=bool(flags & _NEEDS_CHECK),
        held_root=held or None,
        data_blocks=data[0],
        data_used=data[1],
        metadata_blocks=meta[0],
        metadata_used=meta[1],
        devices={thin_id: ThinDevice(thin_id, *_DETAILS.unpack(value)) for thin_id, value in _leaves(device, details, 0)},
    )


def _leaves(device: _Device, number: int, depth: int) -> Iterator[tuple[int, bytes]]:
    """Keys and values of a B-tree, in order."""
    node = device.block(number)
    csum, flags, written_for, entries, room, size, _ = _HEADER.unpack_from(node)
    if csum != crc32c(node[4:]) ^ _NODE_XOR:
        raise device.damaged(number, "has a wrong checksum")
    expected = 8 if flags & _INTERNAL else _DETAILS.size
    if written_for != number or entries > room or size != expected or _HEADER.size + room * (8 + size) > BLOCK:
        raise device.damaged(number, "is no node of the tree of devices")
    if depth > _DEEPEST:
        raise device.damaged(number, "lies too deep: the tree of devices leads back to itself")
    keys = struct.unpack_from(f"<{entries}Q", node, _HEADER.size)
    begin = _HEADER.size + room * 8
    for key, at in zip(keys, range(begin, begin + entries * size, size), strict=True):
        value = node[at : at + size]
        if flags & _INTERNAL:
            yield from _leaves(device, int.from_bytes(value, "little"), depth + 1)
        else:
            yield key, value


def _table() -> tuple[int, ...]:
    def entry(byte: int) -> int:
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        return byte

    return tuple(map(entry, range(256)))


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720) as the kernel computes it: from all ones, and not inverted at the end."""
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc
