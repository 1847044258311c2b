"""The fixed records of the format, with the field names of the kernel's documentation.

``Documentation/filesystems/ext4/``: ``super`` (superblock), ``group_descr``, ``inodes``.
Called by ``inodes``, ``groups``, ``superblock`` and ``parent``. No state.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from reconciler.image.ext4 import checksum

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_SIZE = 1024
MAGIC = 0xEF53

# has_journal, ext_attr, resize_inode (not above 16 TiB), dir_index
RESIZE_INODE = 0x10
COMPAT = 0x4 | 0x8 | RESIZE_INODE | 0x20
# filetype, extents, 64bit, flex_bg, csum_seed
INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000
# sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
RO_COMPAT = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400

SUPERBLOCK_FIELDS = {
    "s_inodes_count": (0x00, "<I"),
    "s_blocks_count_lo": (0x04, "<I"),
    "s_r_blocks_count_lo": (0x08, "<I"),
    "s_free_blocks_count_lo": (0x0C, "<I"),
    "s_free_inodes_count": (0x10, "<I"),
    "s_first_data_block": (0x14, "<I"),
    "s_log_block_size": (0x18, "<I"),
    "s_log_cluster_size": (0x1C, "<I"),
    "s_blocks_per_group": (0x20, "<I"),
    "s_clusters_per_group": (0x24, "<I"),
    "s_inodes_per_group": (0x28, "<I"),
    "s_mtime": (0x2C, "<I"),
    "s_wtime": (0x30, "<I"),
    "s_mnt_count": (0x34, "<H"),
    "s_max_mnt_count": (0x36, "<H"),
    "s_magic": (0x38, "<H"),
    "s_state": (0x3A, "<H"),
    "s_errors": (0x3C, "<H"),
    "s_minor_rev_level": (0x3E, "<H"),
    "s_lastcheck": (0x40, "<I"),
    "s_checkinterval": (0x44, "<I"),
    "s_creator_os": (0x48, "<I"),
    "s_rev_level": (0x4C, "<I"),
    "s_first_ino": (0x54, "<I"),
    "s_inode_size": (0x58, "<H"),
    "s_block_group_nr": (0x5A, "<H"),
    "s_feature_compat": (0x5C, "<I"),
    "s_feature_incompat": (0x60, "<I"),
    "s_feature_ro_compat": (0x64, "<I"),
    "s_uuid": (0x68, "16s"),
    "s_volume_name": (0x78, "16s"),
    "s_journal_inum": (0xE0, "<I"),
    "s_hash_seed": (0xEC, "16s"),
    "s_def_hash_version": (0xFC, "<B"),
    "s_jnl_backup_type": (0xFD, "<B"),
    "s_reserved_gdt_blocks": (0xCE, "<H"),
    "s_desc_size": (0xFE, "<H"),
    "s_default_mount_opts": (0x100, "<I"),
    "s_mkfs_time": (0x108, "<I"),
    "s_jnl_blocks": (0x10C, "68s"),
    "s_min_extra_isize": (0x15C, "<H"),
    "s_want_extra_isize": (0x15E, "<H"),
    "s_flags": (0x160, "<I"),
    "s_log_groups_per_flex": (0x174, "<B"),
    "s_kbytes_written": (0x178, "<Q"),
    "s_blocks_count_hi": (0x150, "<I"),
    "s_free_blocks_count_hi": (0x158, "<I"),
    "s_checksum_type": (0x175, "<B"),
    "s_overhead_clusters": (0x248, "<I"),
    "s_checksum_seed": (0x270, "<I"),
    "s_mkfs_time_hi": (0x276, "<B"),
    "s_lastcheck_hi": (0x277, "<B"),
}
SUPERBLOCK_CHECKSUM = struct.Struct("<I")
SUPERBLOCK_CHECKSUM_AT = 0x3FC


def superblock(fields: Mapping[str, int | bytes]) -> bytes:
    """The 1024 bytes of a superblock; fields that are not given are zero."""
    block = bytearray(SUPERBLOCK_SIZE)
    for name, value in fields.items():
        offset, form = SUPERBLOCK_FIELDS[name]
        struct.pack_into(form, block, offset, value)
    seal_superblock(block)
    return bytes(block)


def seal_superblock(block: bytearray) -> None:
    """Put the checksum into a superblock."""
    found = checksum.crc32c(checksum.MASK, bytes(block[:SUPERBLOCK_CHECKSUM_AT]))
    SUPERBLOCK_CHECKSUM.pack_into(block, SUPERBLOCK_CHECKSUM_AT, found)


def superblock_is_whole(block: bytes) -> bool:
    """Whether the checksum of a superblock that has been read is right."""
    found = checksum.crc32c(checksum.MASK, block[:SUPERBLOCK_CHECKSUM_AT])
    return len(block) == SUPERBLOCK_SIZE and SUPERBLOCK_CHECKSUM.unpack_from(block, SUPERBLOCK_CHECKSUM_AT) == (found,)


def superblock_number(block: bytes | bytearray, name: str) -> int:
    """One number of a superblock that has been read."""
    offset, form = SUPERBLOCK_FIELDS[name]
    return int(struct.unpack_from(form, block, offset)[0])


# bg_block_bitmap_lo, bg_inode_bitmap_lo, bg_inode_table_lo, bg_free_blocks_count_lo, bg_free_inodes_count_lo,
# bg_used_dirs_count_lo, bg_flags, (bg_exclude_bitmap_lo), bg_block_bitmap_csum_lo, bg_inode_bitmap_csum_lo, bg_itable_unused_lo,
# bg_checksum, bg_block_bitmap_hi, bg_inode_bitmap_hi, bg_inode_table_hi, (the high halves of the counts, which 32768 is below),
# bg_block_bitmap_csum_hi, bg_inode_bitmap_csum_hi
GROUP_DESCRIPTOR = struct.Struct("<IIIHHHH4xHHHHIII12xHH4x")
GROUP_CHECKSUM = struct.Struct("<H")
GROUP_CHECKSUM_AT = 0x1E
BG_INODE_UNINIT, BG_BLOCK_UNINIT, BG_INODE_ZEROED = 0x1, 0x2, 0x4

# i_mode, i_uid, i_size_lo, i_atime, i_ctime, i_mtime, (i_dtime), i_gid, i_links_count, i_blocks_lo, i_flags, (i_osd1), i_block,
# (i_generation), i_file_acl_lo, i_size_high, (i_obso_faddr), l_i_blocks_high, l_i_file_acl_high, l_i_uid_high, l_i_gid_high,
# (l_i_checksum_lo, l_i_reserved), i_extra_isize, (i_checksum_hi), i_ctime_extra, i_mtime_extra, i_atime_extra, i_crtime,
# i_crtime_extra, (i_version_hi, i_projid), and the extended attributes; the ones in parentheses are zero, but for the checksum
INODE = struct.Struct("<HHIIII4xHHII4x60s4xII4xHHHH4xH2xIIIII8x96s")
INODE_CHECKSUM = struct.Struct("<H")
INODE_CHECKSUM_LOW_AT, INODE_CHECKSUM_HIGH_AT = 0x7C, 0x82
EXTRA_ISIZE = 32
FLAG_EXTENTS, FLAG_INDEX = 0x80000, 0x1000
