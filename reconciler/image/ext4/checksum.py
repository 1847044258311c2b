"""CRC-32C as ext4 uses it: without the final inversion, with a seed that the superblock holds. No state.

Called by every module that encodes a block of metadata. Format: ``Documentation/filesystems/ext4/checksums``. The seed is a
constant, not the UUID's checksum (feature ``metadata_csum_seed``): a block has the same bytes in every chain.
"""

from __future__ import annotations

import struct

from google_crc32c import extend

MASK = 0xFFFF_FFFF
NUMBER = struct.Struct("<II")
GENERATION = 0


def crc32c(seed: int, data: bytes) -> int:
    """The checksum of ``data`` behind what gave ``seed``."""
    return int(extend(seed ^ MASK, data)) ^ MASK


SEED = crc32c(MASK, b"reconciler/ext4")
"""``s_checksum_seed``."""


def of_inode(number: int) -> int:
    """The seed for the blocks of an inode: directories and extent trees."""
    return crc32c(SEED, NUMBER.pack(number, GENERATION))
