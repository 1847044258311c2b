"""Extended attributes on disk: in the inode's spare bytes where they fit, in one block beside it otherwise.

Called by ``inodes``. Format: ``Documentation/filesystems/ext4/attributes``; POSIX ACLs as in ``fs/ext4/acl.h``. No state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from reconciler.dataclass import dataclass
from reconciler.image.ext4 import checksum
from reconciler.image.ext4.layout import BLOCK
from reconciler.image.ext4.refusal import NotRepresentable

MAGIC = 0xEA02_0000
IN_INODE = 96  # what i_extra_isize leaves of a 256-byte inode
MAX_NAME = 255

# e_name_len, e_name_index, e_value_offs, e_value_inum, e_value_size, e_hash
ENTRY = struct.Struct("<BBHIII")
# h_magic, h_refcount, h_blocks, h_hash, h_checksum, h_reserved
BLOCK_HEADER = struct.Struct("<IIIII12x")
CHECKSUM_AT = 16
BLOCK_NUMBER = struct.Struct("<Q")
INODE_HEADER = struct.Struct("<I")
TERMINATOR = 4

WHOLE_NAMES = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6), (b"system.", 7))

ACL_XATTR_VERSION = 2
ACL_DISK_VERSION = struct.pack("<I", 1)
ACL_XATTR_ENTRY = struct.Struct("<HHI")
ACL_TAGS_WITHOUT_ID = (0x01, 0x04, 0x10, 0x20)  # owner, owning group, mask, others
ACL_TAGS_WITH_ID = (0x02, 0x08)


@dataclass(frozen=True, slots=True, order=True)
class Attribute:
    """Sorts as the kernel searches: by index, length of the name, name."""

    index: int
    name_length: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        return ENTRY.size + _padded(self.name_length) + _padded(len(self.value))


def encode(xattrs: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """What goes into the inode, and what into a block (each empty where there is nothing). Raises NotRepresentable."""
    inside: list[Attribute] = []
    outside: list[Attribute] = []
    for attribute in sorted(_attribute(name, value) for name, value in xattrs.items()):
        (inside if _fits([*inside, attribute], IN_INODE - INODE_HEADER.size) else outside).append(attribute)
    if not _fits(outside, BLOCK - BLOCK_HEADER.size):
        raise NotRepresentable("xattr-space", "its extended attributes take more than the 4 KiB that ext4 has for them")
    return _in_inode(inside), _in_block(outside)


def sealed(block: bytes, place: int) -> bytes:
    """A block of attributes with the checksum that it has at its place."""
    found = checksum.crc32c(checksum.crc32c(checksum.SEED, BLOCK_NUMBER.pack(place)), block)
    return block[:CHECKSUM_AT] + struct.pack("<I", found) + block[CHECKSUM_AT + 4 :]


def _attribute(name: bytes, value: bytes) -> Attribute:
    if name in WHOLE_NAMES:
        return Attribute(WHOLE_NAMES[name], 0, b"", _disk_acl(value))
    for prefix, index in PREFIXES:
        suffix = name.removeprefix(prefix)
        if suffix != name and 0 < len(suffix) <= MAX_NAME:
            return Attribute(index, len(suffix), suffix, value)
    raise NotRepresentable("xattr-name", f"ext4 has no place for an extended attribute named {name!r}")


def _fits(attributes: Iterable[Attribute], room: int) -> bool:
    return sum(attribute.size for attribute in attributes) + TERMINATOR <= room


def _in_inode(attributes: list[Attribute]) -> bytes:
    if not attributes:
        return b""
    # offsets of values count from the first entry here, from the beginning of the block there
    body, _ = _entries(attributes, IN_INODE - INODE_HEADER.size, 0)
    return INODE_HEADER.pack(MAGIC) + body


def _in_block(attributes: list[Attribute]) -> bytes:
    if not attributes:
        return b""
    body, hashes = _entries(attributes, BLOCK - BLOCK_HEADER.size, BLOCK_HEADER.size)
    return BLOCK_HEADER.pack(MAGIC, 1, 1, _block_hash(hashes), 0) + body


def _entries(attributes: list[Attribute], room: int, base: int) -> tuple[bytes, list[int]]:
    """Entries from the front, values from the back of ``room`` bytes; the hashes of the entries."""
    body, at, end = bytearray(room), 0, room
    hashes = []
    for attribute in attributes:
        value = attribute.value
        end -= _padded(len(value))
        body[end : end + len(value)] = value
        hashes.append(_hash(attribute))
        ENTRY.pack_into(body, at, attribute.name_length, attribute.index, base + end if value else 0, 0, len(value), hashes[-1])
        body[at + ENTRY.size : at + ENTRY.size + attribute.name_length] = attribute.name
        at += ENTRY.size + _padded(attribute.name_length)
    return bytes(body), hashes


def _padded(length: int) -> int:
    return length + 3 & ~3


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & 0xFFFF_FFFF


def _hash(attribute: Attribute) -> int:
    """e_hash: of the name's bytes, then of the value's little-endian words."""
    value = 0
    for byte in attribute.name:
        value = _rotate(value, 5) ^ byte
    padded = attribute.value.ljust(_padded(len(attribute.value)), b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        value = _rotate(value, 16) ^ word
    return value


def _block_hash(hashes: list[int]) -> int:
    if 0 in hashes:
        return 0  # the block must not be shared
    value = 0
    for each in hashes:
        value = _rotate(value, 16) ^ each
    return value


def _disk_acl(value: bytes) -> bytes:
    """From the version 2 format of the system call to version 1 of the disk, where entries without an id are short."""
    if len(value) % ACL_XATTR_ENTRY.size != 4 or struct.unpack_from("<I", value)[0] != ACL_XATTR_VERSION:
        raise NotRepresentable("xattr-acl", "its POSIX ACL is not in the format of version 2")
    entries = ACL_XATTR_ENTRY.iter_unpack(value[4:])
    return ACL_DISK_VERSION + b"".join(_disk_acl_entry(*entry) for entry in entries)


def _disk_acl_entry(tag: int, permissions: int, identity: int) -> bytes:
    if tag in ACL_TAGS_WITHOUT_ID:
        return struct.pack("<HH", tag, permissions)
    if tag in ACL_TAGS_WITH_ID:
        return ACL_XATTR_ENTRY.pack(tag, permissions, identity)
    raise NotRepresentable("xattr-acl", f"its POSIX ACL has an entry with the unknown tag {tag:#x}")
