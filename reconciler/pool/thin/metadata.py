"""Reads a thin pool's metadata directly from the metadata device: its thin ids, where a device's data is, how full it is.

No metadata snapshot is taken and nothing is changed, so it works on pools that are inactive, read-only or failed. It reads the
last commit. Until the next commit none of its blocks is overwritten, so a walk between two equal reads of the superblock has
read one state; otherwise it is repeated. Checksums are verified afterwards, because the walk must be short in a pool that
commits all the time.

Called by ``pool.thin.assembly`` and ``pool.thin.proof``. No state. Format: drivers/md/dm-thin-metadata.c, and dm-btree-internal.h
and dm-space-map-common.h in drivers/md/persistent-data.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from reconciler.dataclass import dataclass, field
from reconciler.errors import HostCannot

BLOCK = 4096
"""Bytes of a metadata block."""
LARGEST = 255 * ((1 << 14) - 64) * BLOCK
"""Bytes of metadata that the kernel can use (THIN_METADATA_MAX_SECTORS); more is left alone."""
ATTEMPTS = 200

_SUPERBLOCK = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")
_HEADER = struct.Struct("<IIQIIII")
_DETAILS = struct.Struct("<QQII")
_SPACE_MAP = struct.Struct("<QQQQ")
_MAGIC = 27022010
_VERSIONS = (1, 2)
_SUPERBLOCK_XOR, _NODE_XOR = 160774, 121107
_NEEDS_CHECK = 1
_INTERNAL, _LEAF = 1, 2
_POINTER = 8
"""Bytes of a value that is a block number: in internal nodes, and in the leaves of the mapping trees."""
_DEEPEST = 16
_TIME_BITS = 24
"""A mapping's value is ``block << 24 | time``."""
_ID_LIMIT = 1 << 24


class MetadataUnreadable(HostCannot):
    """What is there is no thin pool's metadata, or is damaged, or can't be read."""


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
    """``block_size`` in bytes; data is counted in blocks of that size, metadata in blocks of ``BLOCK``.

    All is as of the last commit. What the kernel keeps in reserve of the metadata counts as used in its status, and not here.
    """

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
    """None where the first block is empty or zero: the kernel would format it. Raises MetadataUnreadable.

    ``attempts`` bounds how often a pool that commits in the middle of the walk is walked again.
    """
    found = _settled(path, _walk, attempts)
    return found.checked() if found else None


def first_blocks(path: Path, thin_ids: Collection[int], attempts: int = ATTEMPTS) -> dict[int, int]:
    """The data block that the first block of each device is mapped to, by thin id; devices without one are left out.

    Only the nodes on the way to these are read. Raises MetadataUnreadable.
    """
    found = _settled(path, lambda device, superblock: _look_up(device, superblock, thin_ids), attempts)
    if found is None:
        return {}
    found.checked()
    return found.mapped


def _settled(path: Path, walk: Callable[[_Device, bytes], _Walk], attempts: int) -> _Walk | None:
    """A walk during which the pool did not commit. None where there is no pool."""
    with _opened(path) as device:
        for _ in range(attempts):
            before = device.superblock()
            if not any(before):
                return None
            found = walk(device, before)
            if device.superblock() == before:
                return found
        raise MetadataUnreadable(f"{path}: changed each time while it was read", hint="the pool is very busy: try again")


def is_superblock(block: bytes) -> bool:
    """Whether a first block is that of a thin pool's metadata, damaged or not."""
    return len(block) == BLOCK and _Superblock(*_SUPERBLOCK.unpack_from(block)).magic == _MAGIC


class _Device:
    """Block by block, into a buffer as direct I/O wants it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._page = mmap.mmap(-1, BLOCK)

    def superblock(self) -> bytes:
        """What there is of it: nothing, in a file that was made and has no size yet."""
        return self._read(0)

    def block(self, number: int) -> bytes:
        """Raises MetadataUnreadable, beyond the end too."""
        data = self._read(number) if number < LARGEST // BLOCK else b""
        if len(data) != BLOCK:
            raise self.damaged(number, "lies beyond the end of the device")
        return data

    def _read(self, number: int) -> bytes:
        try:
            return self._page[: os.preadv(self._fd, [self._page], number * BLOCK)]
        except OSError as error:
            raise self.damaged(number, f"can't be read: {error.strerror}") from error

    def damaged(self, number: int, what: str) -> MetadataUnreadable:
        hint = f"check it with thin_check {self.path}; thin_repair may save it"
        return MetadataUnreadable(f"{self.path}: metadata block {number} {what}", hint=hint)

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)


@contextmanager
def _opened(path: Path) -> Iterator[_Device]:
    """The page cache of a block device does not have what the kernel's thin target writes: bypass it."""
    try:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a file, on a file system that has no direct I/O
    except OSError as error:
        hint = "is it the pool's metadata, and is this root?"
        raise MetadataUnreadable(f"{path}: can't be read: {error.strerror}", hint=hint) from error
    with closing(_Device(path, fd)) as device:
        yield device


@dataclass
class _Walk:
    """What one walk has seen; none of it is believed before ``checked``.

    ``fault`` is where the walk had to end, which is no fault of the pool's if the superblock has changed meanwhile.
    """

    device: _Device
    superblock: bytes
    nodes: dict[int, bytes] = field(default_factory=dict)
    devices: dict[int, ThinDevice] = field(default_factory=dict)
    mapped: dict[int, int] = field(default_factory=dict)
    fault: MetadataUnreadable | None = None

    def checked(self) -> Metadata:
        """Raises MetadataUnreadable. Checksums are verified first: they are the most precise report."""
        fields = _superblock(self.device, self.superblock)
        for number, node in self.nodes.items():
            if int.from_bytes(node[:4], "little") != crc32c(node[4:]) ^ _NODE_XOR:
                raise self.device.damaged(number, "has a wrong checksum")
        if self.fault is not None:
            raise self.fault
        data, meta = _SPACE_MAP.unpack_from(fields.data_map), _SPACE_MAP.unpack_from(fields.metadata_map)
        return Metadata(
            transaction=fields.transaction,
            block_size=fields.data_block_sectors * 512,
            needs_check=bool(fields.flags & _NEEDS_CHECK),
            held_root=fields.held_root or None,
            data_blocks=data[0],
            data_used=data[1],
            metadata_blocks=meta[0],
            metadata_used=meta[1],
            devices=self.devices,
        )


def _walk(device: _Device, superblock: bytes) -> _Walk:
    walk = _Walk(device, superblock)
    try:
        root = _Superblock(*_SUPERBLOCK.unpack(superblock[: _SUPERBLOCK.size].ljust(_SUPERBLOCK.size))).details_root
        for thin_id, value in _leaves(walk, root, 0):
            walk.devices[thin_id] = ThinDevice(thin_id, *_DETAILS.unpack(value))
    except MetadataUnreadable as fault:
        walk.fault = fault
    return walk


def _look_up(device: _Device, superblock: bytes, thin_ids: Collection[int]) -> _Walk:
    walk = _Walk(device, superblock)
    try:
        root = _Superblock(*_SUPERBLOCK.unpack(superblock[: _SUPERBLOCK.size].ljust(_SUPERBLOCK.size))).mapping_root
        for thin_id in thin_ids:
            tree = _found(walk, root, thin_id)
            value = None if tree is None else _found(walk, tree, 0)
            if value is not None:
                walk.mapped[thin_id] = value >> _TIME_BITS
    except MetadataUnreadable as fault:
        walk.fault = fault
    return walk


class _Superblock(NamedTuple):
    """struct thin_disk_superblock of drivers/md/dm-thin-metadata.c."""

    csum: int
    flags: int
    number: int
    uuid: bytes
    magic: int
    version: int
    time: int
    transaction: int
    held_root: int
    data_map: bytes
    metadata_map: bytes
    mapping_root: int
    details_root: int
    data_block_sectors: int
    metadata_block_sectors: int
    metadata_blocks: int
    compatible: int
    read_only_compatible: int
    incompatible: int


def _superblock(device: _Device, block: bytes) -> _Superblock:
    if not is_superblock(block):
        raise MetadataUnreadable(f"{device.path}: not the metadata of a thin pool (its block 0)", hint="is it the right device?")
    found = _Superblock(*_SUPERBLOCK.unpack_from(block))
    if found.csum != crc32c(block[4:]) ^ _SUPERBLOCK_XOR or found.number != 0:
        raise device.damaged(0, "has a wrong checksum")
    if found.version not in _VERSIONS or found.incompatible or found.metadata_block_sectors * 512 != BLOCK:
        said = f"version {found.version}, features {found.incompatible:#x}, blocks of {found.metadata_block_sectors * 512} bytes"
        raise MetadataUnreadable(f"{device.path}: unsupported thin pool metadata ({said})", hint="update this program")
    return found


def _leaves(walk: _Walk, number: int, depth: int) -> Iterator[tuple[int, bytes]]:
    """Keys and values of the tree of devices, in order. No block is met twice, so it ends, whatever is written there."""
    device = walk.device
    if number in walk.nodes:
        raise device.damaged(number, "is met twice in the tree of devices")
    if depth > _DEEPEST:
        raise device.damaged(number, "lies too deep in the tree of devices")
    kind, keys, values = _node(walk, number, _DETAILS.size)
    if any(key >= _ID_LIMIT for key in keys):
        raise device.damaged(number, "has keys that are not thin ids in order")
    for key, value in zip(keys, values, strict=True):
        if kind == _INTERNAL:
            yield from _leaves(walk, int.from_bytes(value, "little"), depth + 1)
        else:
            yield key, value


def _found(walk: _Walk, number: int, key: int) -> int | None:
    """The value of one key in a tree of block numbers, None where it has none."""
    for _ in range(_DEEPEST):
        kind, keys, values = _node(walk, number, _POINTER)
        at = bisect_right(keys, key) - 1
        if at < 0 or (kind == _LEAF and keys[at] != key):
            return None
        number = int.from_bytes(values[at], "little")
        if kind == _LEAF:
            return number
    raise walk.device.damaged(number, "lies too deep in a tree of mappings")


def _node(walk: _Walk, number: int, leaf: int) -> tuple[int, tuple[int, ...], list[bytes]]:
    """Kind, keys and values of a node, in a tree whose leaves have values of so many bytes. Its checksum is verified later."""
    device = walk.device
    node = walk.nodes.get(number) or device.block(number)
    walk.nodes[number] = node
    _, kind, written_for, entries, room, size, _ = _HEADER.unpack_from(node)
    fits = entries <= room and _HEADER.size + room * (8 + size) <= BLOCK
    if {_INTERNAL: _POINTER, _LEAF: leaf}.get(kind) != size or written_for != number or not fits:
        raise device.damaged(number, "is not a node of the tree of devices")
    keys = struct.unpack_from(f"<{entries}Q", node, _HEADER.size)
    if any(key <= before for before, key in pairwise(keys)):
        raise device.damaged(number, "has keys that are not thin ids in order")
    begin = _HEADER.size + room * 8
    return kind, keys, [node[at : at + size] for at in range(begin, begin + entries * size, size)]


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
