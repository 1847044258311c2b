"""The superblock's fields, and why they have these values. Called by ``writer`` as the last thing. No state.

Fields and features: ``Documentation/filesystems/ext4/super``.
"""

from __future__ import annotations

import struct
from uuid import UUID, uuid5

from reconciler.image.ext4 import structs
from reconciler.image.ext4.groups import Groups
from reconciler.image.ext4.hashtree import HALF_MD4
from reconciler.image.ext4.layout import BLOCK, BLOCKS_PER_GROUP, INODE_SIZE
from reconciler.image.ext4.numbering import FIRST, JOURNAL

STATE_CLEAN = 1
ERRORS_REMOUNT_RO = 2  # a snapshot is recreated in a second: stopping is better than writing to a damaged one
OS_LINUX = 0
DYNAMIC_REVISION = 1
JOURNAL_BACKUP_BLOCKS = 1
MOUNT_XATTR_ACL = 0xC
UNSIGNED_HASH = 2
GROUPS_PER_FLEX = 4  # as a power of two, mke2fs's default
NEVER = 0xFFFF  # s_max_mnt_count -1: mounts do not make a check due


def hash_seed(uuid: UUID) -> UUID:
    """Seed of the directories' hashes: fixed by the file system's UUID, so the same input gives the same bytes."""
    return uuid5(uuid, "s_hash_seed")


def fields(groups: Groups, uuid: UUID, journal: bytes) -> dict[str, int | bytes]:
    """The primary superblock. Times and the count of mounts are zero; ``journal`` is the journal's inode.

    s_r_blocks_count is 0: there are no ordinary users whose writes root would have to be shielded from.
    """
    geometry, inodes = groups.geometry, groups.placement.inodes_per_group * groups.geometry.groups
    i_block, size_high, size_low = journal[0x28:0x64], journal[0x6C:0x70], journal[0x04:0x08]
    backups = [*geometry.backups, 0, 0][:2]
    return {
        "s_inodes_count": inodes,
        "s_blocks_count_lo": geometry.blocks,
        "s_free_blocks_count_lo": groups.free_blocks,
        "s_free_inodes_count": inodes - groups.last_inode,
        "s_log_block_size": 2,
        "s_log_cluster_size": 2,
        "s_blocks_per_group": BLOCKS_PER_GROUP,
        "s_clusters_per_group": BLOCKS_PER_GROUP,
        "s_inodes_per_group": groups.placement.inodes_per_group,
        "s_max_mnt_count": NEVER,
        "s_magic": structs.MAGIC,
        "s_state": STATE_CLEAN,
        "s_errors": ERRORS_REMOUNT_RO,
        "s_creator_os": OS_LINUX,
        "s_rev_level": DYNAMIC_REVISION,
        "s_first_ino": FIRST,
        "s_inode_size": INODE_SIZE,
        "s_feature_compat": structs.COMPAT,
        "s_feature_incompat": structs.INCOMPAT,
        "s_feature_ro_compat": structs.RO_COMPAT,
        "s_uuid": uuid.bytes,
        "s_journal_inum": JOURNAL,
        "s_hash_seed": hash_seed(uuid).bytes,
        "s_def_hash_version": HALF_MD4,
        "s_jnl_backup_type": JOURNAL_BACKUP_BLOCKS,
        "s_default_mount_opts": MOUNT_XATTR_ACL,
        "s_jnl_blocks": i_block + size_high + size_low,
        "s_min_extra_isize": structs.EXTRA_ISIZE,
        "s_want_extra_isize": structs.EXTRA_ISIZE,
        "s_flags": UNSIGNED_HASH,
        "s_log_groups_per_flex": GROUPS_PER_FLEX,
        "s_kbytes_written": (geometry.blocks - groups.free_blocks) * BLOCK // 1024,
        "s_backup_bgs": struct.pack("<II", *backups),
    }
