"""The superblock's fields, and why they have these values. Called by ``writer`` as the last thing. No state.

Fields and features: ``Documentation/filesystems/ext4/super``. docs/ext4.md compares them with mke2fs's.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid5

from reconciler.image.ext4 import checksum, journal, structs
from reconciler.image.ext4.groups import Groups
from reconciler.image.ext4.hashtree import HALF_MD4, HASH_SEED
from reconciler.image.ext4.inodes import SECOND
from reconciler.image.ext4.journal import Journal
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, INODE_SIZE, Geometry
from reconciler.image.ext4.numbering import FIRST, JOURNAL

STATE_CLEAN = 1
ERRORS_REMOUNT_RO = 2  # a snapshot is recreated in a second: stopping is better than writing to a damaged one
OS_LINUX = 0
DYNAMIC_REVISION = 1
JOURNAL_BACKUP_BLOCKS = 1
MOUNT_XATTR_ACL = 0xC
UNSIGNED_HASH = 2
GROUPS_PER_FLEX = 4  # as a power of two, mke2fs's default
CRC32C = 1
NEVER = 0xFFFF  # s_max_mnt_count -1: mounts do not make a check due
LATEST = (1 << 40) - 1
LAST_NUMBERED = 0xFFFF  # what mke2fs writes for every group above it: the field has 16 bits
GEOMETRY = UUID("0f6c1c1e-3a57-5d0b-9a51-6f1b7d1c8a42")

Fields = Mapping[str, int | bytes]


def primary(groups: Groups, journal_inode: bytes, uuid: UUID, label: bytes, newest: int) -> bytes:
    """The superblock that counts. ``newest`` is the newest time of the layers, in nanoseconds: when the file system was made.

    s_wtime is 0, as no kernel has written: e2fsck reports one in the future, which a layer may have.
    """
    seconds = min(max(newest // SECOND, 0), LATEST)
    low, high = seconds & 0xFFFF_FFFF, seconds >> 32
    times = dict.fromkeys(("s_mkfs_time", "s_lastcheck"), low)
    high_times = dict.fromkeys(("s_mkfs_time_hi", "s_lastcheck_hi"), high)
    own: dict[str, int | bytes] = {"s_state": STATE_CLEAN, "s_uuid": uuid.bytes, "s_volume_name": label}
    return structs.superblock({**_fields(groups, journal_inode), **times, **high_times, **own})


def backup(groups: Groups, journal_inode: bytes, group: int) -> bytes:
    """A copy in another group. It depends on the geometry alone, so that no layer but the first writes it.

    It is not marked clean, as mke2fs's are not: a check with a backup checks everything.
    """
    geometry = groups.geometry
    uuid = uuid5(GEOMETRY, f"{geometry.blocks} {geometry.inodes_per_group}")
    own: dict[str, int | bytes] = {"s_uuid": uuid.bytes, "s_block_group_nr": min(group, LAST_NUMBERED)}
    return structs.superblock({**_fields(groups, journal_inode), **own})


def overhead(geometry: Geometry, placed: Journal) -> int:
    """Blocks that no file can have: s_overhead_clusters, as mke2fs counts."""
    bases = sum(map(geometry.base_blocks, (0, *geometry.backups)))
    return bases + geometry.groups * (2 + geometry.table_blocks) + geometry.journal_blocks + len(placed.tree)


def _fields(groups: Groups, journal_inode: bytes) -> dict[str, int | bytes]:
    """What primary and backups have in common. Counts of mounts are zero.

    s_r_blocks_count is 0: there are no ordinary users whose writes root would have to be shielded from.
    """
    geometry = groups.geometry
    i_block, size_high, size_low = journal_inode[0x28:0x64], journal_inode[0x6C:0x70], journal_inode[0x04:0x08]
    return {
        "s_inodes_count": geometry.inodes,
        "s_blocks_count_lo": geometry.blocks & 0xFFFF_FFFF,
        "s_blocks_count_hi": geometry.blocks >> 32,
        "s_free_blocks_count_lo": groups.free_blocks & 0xFFFF_FFFF,
        "s_free_blocks_count_hi": groups.free_blocks >> 32,
        "s_free_inodes_count": geometry.inodes - groups.names.count,
        "s_log_block_size": 2,
        "s_log_cluster_size": 2,
        "s_blocks_per_group": BLOCKS_PER_GROUP,
        "s_clusters_per_group": BLOCKS_PER_GROUP,
        "s_inodes_per_group": geometry.inodes_per_group,
        "s_max_mnt_count": NEVER,
        "s_magic": structs.MAGIC,
        "s_errors": ERRORS_REMOUNT_RO,
        "s_creator_os": OS_LINUX,
        "s_rev_level": DYNAMIC_REVISION,
        "s_first_ino": FIRST,
        "s_inode_size": INODE_SIZE,
        "s_feature_compat": structs.COMPAT if geometry.resizable else structs.COMPAT & ~structs.RESIZE_INODE,
        "s_feature_incompat": structs.INCOMPAT,
        "s_feature_ro_compat": structs.RO_COMPAT,
        "s_reserved_gdt_blocks": geometry.reserved_blocks,
        "s_journal_inum": JOURNAL,
        "s_hash_seed": HASH_SEED,
        "s_def_hash_version": HALF_MD4,
        "s_jnl_backup_type": JOURNAL_BACKUP_BLOCKS,
        "s_desc_size": DESCRIPTOR_SIZE,
        "s_default_mount_opts": MOUNT_XATTR_ACL,
        "s_jnl_blocks": i_block + size_high + size_low,
        "s_min_extra_isize": structs.EXTRA_ISIZE,
        "s_want_extra_isize": structs.EXTRA_ISIZE,
        "s_flags": UNSIGNED_HASH,
        "s_log_groups_per_flex": GROUPS_PER_FLEX,
        "s_checksum_type": CRC32C,
        "s_checksum_seed": checksum.SEED,
        "s_kbytes_written": (geometry.blocks - groups.free_blocks) * BLOCK // 1024,
        "s_overhead_clusters": overhead(geometry, journal.place(geometry)),
    }
