"""What single inodes look like on the image, as e2fsprogs reads them; and what ext4 cannot hold, said in clear words."""

from __future__ import annotations

import re
import stat
import struct
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import LayerRefused
from reconciler.image.ext4 import extents, xattr
from reconciler.image.ext4.checksum import MASK, crc32c
from reconciler.image.ext4.halfmd4 import half_md4
from reconciler.image.ext4.inodes import timestamp
from reconciler.image.ext4.writer import Writer
from reconciler.image.tree.tree import Inode
from tests.support.ext4_images import FS_UUID, MIB, MTIME, SECOND, building, check, debugfs, directory, dumpe2fs, inode, symlink

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (8, 5, 2000), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1)]
)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep


def test_owner_mode_and_times_are_whole(tmp_path: Path) -> None:
    with building(tmp_path / "image", 16 * MIB) as image:
        image.file("f", b"x", mode=0o6755, uid=1_000_000, gid=70_000)

    said = debugfs(tmp_path / "image", "stat /f")
    assert "Mode:  06755" in said
    assert re.search(r"User: 1000000 +Group: 70000 ", said)
    for time in ("ctime", "atime", "mtime", "crtime"):
        assert f"{time}: 0x{MTIME // SECOND:08x}:{(MTIME % SECOND) << 2:08x}" in said


@given(st.integers(-(2**31) * SECOND + SECOND, (2**34 - 2**31 - 1) * SECOND - 1))
def test_every_time_from_1901_to_2446_survives(time: int) -> None:
    """Decoded as the kernel does: signed seconds, two more bits of them, nanoseconds."""
    low, extra = timestamp(time)
    seconds = struct.unpack("<i", struct.pack("<I", low))[0] + ((extra & 3) << 32)

    assert seconds * SECOND + (extra >> 2) == time


@pytest.mark.parametrize(("time", "becomes"), [(-(2**40) * SECOND + 5, -(2**31)), (2**40 * SECOND + 5, 2**34 - 2**31 - 1)])
def test_times_beyond_become_the_limit_as_the_kernel_does_it(time: int, becomes: int) -> None:
    assert timestamp(time) == timestamp(becomes * SECOND)


@pytest.mark.parametrize(
    ("kind", "device"),
    [(stat.S_IFCHR, (1, 3)), (stat.S_IFBLK, (255, 255)), (stat.S_IFBLK, (259, 1_048_575)), (stat.S_IFCHR, (4095, 0))],
)
def test_device_numbers_old_and_new(tmp_path: Path, kind: int, device: tuple[int, int]) -> None:
    with building(tmp_path / "image", 16 * MIB) as image:
        image.put("dev", inode(kind, device=device))

    said = debugfs(tmp_path / "image", "stat /dev")
    assert "Device major/minor number: {:02}:{:02} (hex".format(*device) in said
    assert ("(New-style)" in said) == (max(device) > 255)
    check(tmp_path / "image")


@pytest.mark.parametrize("length", [1, 59, 60, 61, 4095])
def test_symlinks_short_and_long(tmp_path: Path, length: int) -> None:
    target = b"t" * length
    with building(tmp_path / "image", 16 * MIB) as image:
        image.put("link", symlink(target))

    said = debugfs(tmp_path / "image", "stat /link")
    assert ("Fast link dest" in said) == (length < 60)
    assert f"Size: {length}" in said
    check(tmp_path / "image")


@pytest.mark.parametrize(
    ("xattrs", "blocks"),
    [
        ({b"security.capability": CAPABILITY}, 0),
        ({b"user.empty": b""}, 0),
        ({b"user." + b"n" * 255: b"v"}, 1),
        ({b"security.capability": CAPABILITY, b"user.note": b"n" * 3900}, 1),
        ({b"user.%d" % i: b"%d" % i * i for i in range(20)}, 1),
        ({b"trusted.overlay.opaque": b"y", b"security.selinux": b"system_u:object_r:bin_t:s0\0"}, 0),
        ({b"user.\xff\xe9": b"\x00\xff"}, 0),
    ],
)
def test_extended_attributes_in_the_inode_and_beside_it(tmp_path: Path, xattrs: dict[bytes, bytes], blocks: int) -> None:
    with building(tmp_path / "image", 16 * MIB) as image:
        image.file("f", xattrs=xattrs)

    said = debugfs(
        tmp_path / "image", "stat /f", *(f'ea_get -f "{tmp_path}/{n}" /f {name.decode()}' for n, name in numbered(xattrs))
    )
    assert f"Blockcount: {blocks * 8}" in said
    for n, name in numbered(xattrs):
        assert (tmp_path / str(n)).read_bytes() == xattrs[name]
    check(tmp_path / "image")


def numbered(xattrs: dict[bytes, bytes]) -> list[tuple[int, bytes]]:
    return [(number, name) for number, name in enumerate(xattrs) if name.isascii()]


def test_access_control_lists_are_stored_in_the_format_of_the_disk(tmp_path: Path) -> None:
    """e2fsprogs reads them back in the format of the system call, with 0 where the kernel has no id."""
    names = ("system.posix_acl_access", "system.posix_acl_default")
    with building(tmp_path / "image", 16 * MIB) as image:
        image.put("d", directory(xattrs={name.encode(): ACL for name in names}))

    debugfs(tmp_path / "image", *(f'ea_get -f "{tmp_path}/{name}" /d {name}' for name in names))
    expected = ACL.replace(b"\xff" * 4, bytes(4))
    assert [(tmp_path / name).read_bytes() for name in names] == [expected, expected]
    check(tmp_path / "image")


def test_short_entries_of_an_access_control_list_have_no_id() -> None:
    inside, outside = xattr.encode({b"system.posix_acl_access": ACL})

    assert outside == b""
    assert struct.pack("<I", 1) + struct.pack("<HHHHIHHHHIHHHH", 1, 6, 2, 4, 1000, 4, 4, 8, 5, 2000, 16, 5, 32, 0) in inside


def test_attributes_of_a_block_are_sorted_as_the_kernel_searches() -> None:
    names = [b"user.bb", b"user.a", b"security.zzz", b"user.c", b"trusted.x"]
    _, block = xattr.encode(dict.fromkeys(names, b"v" * 200))

    at, found = 32, []
    while any(block[at : at + 4]):
        length, index = block[at], block[at + 1]
        found.append((index, length, block[at + 16 : at + 16 + length]))
        at += 16 + (length + 3 & ~3)
    assert found == sorted(found)
    assert len(found) == len(names)


def test_directories_count_their_sub_directories(tmp_path: Path) -> None:
    with building(tmp_path / "image", 16 * MIB) as image:
        for name in ("d/a", "d/b", "d/c"):
            image.put(name, directory())

    assert "Links: 5 " in debugfs(tmp_path / "image", "stat /d")
    assert "Links: 4 " in debugfs(tmp_path / "image", "stat /")  # d and lost+found


@pytest.mark.slow
def test_a_directory_of_more_than_65000_sub_directories_stops_counting(tmp_path: Path) -> None:
    with building(tmp_path / "image", 500 * MIB) as image:
        many = image.put("many", directory())
        shared = many.children
        assert shared is not None
        for number in range(65_000):
            shared[b"%d" % number] = Inode(stat.S_IFDIR, 0o755, children={})

    assert "Links: 1 " in debugfs(tmp_path / "image", "stat /many")
    check(tmp_path / "image")


def test_the_superblock_is_made_for_reproducible_images(tmp_path: Path) -> None:
    with building(tmp_path / "image", 1024 * MIB):
        pass

    said = dumpe2fs(tmp_path / "image")
    assert said["Filesystem UUID"] == str(FS_UUID)
    made = datetime.fromtimestamp(MTIME // SECOND).strftime("%a %b %e %H:%M:%S %Y")
    assert {said["Filesystem created"], said["Last checked"]} == {made}
    assert said["Last write time"] == "Thu Jan  1 00:00:00 1970"
    assert said["Last mount time"] == "n/a"
    assert said["Mount count"] == "0"
    assert said["Maximum mount count"] == "-1"
    assert said["Filesystem state"] == "clean"
    assert said["Default mount options"] == "user_xattr acl"
    assert said["Journal backup"] == "inode blocks"
    assert said["Journal start"] == "0"


# ------------------------------------------------------------------------------------------------- the formats' algorithms


@pytest.mark.parametrize("name", ["a", "abc", "abcd", "libc.so.6", "x" * 32, "y" * 33, "z" * 255])
def test_names_hash_as_debugfs_hashes_them(name: str) -> None:
    done = subprocess.run(
        ["debugfs", "-R", f"dx_hash -h half_md4 -s {FS_UUID} {name}"], capture_output=True, text=True, check=True
    )

    assert f"is 0x{half_md4([name.encode()], struct.unpack('<4I', FS_UUID.bytes))[0]:08x} " in done.stdout


def test_the_checksum_is_castagnoli_s() -> None:
    """The check value of the algorithm, whose last step ext4 leaves out."""
    assert crc32c(MASK, b"123456789") ^ MASK == 0xE3069283


@pytest.mark.slow
def test_an_index_of_two_levels_is_sound(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        for number in range(7700):
            image.file(f"many/{number:0250}")

    assert "Indirect levels: 1" in debugfs(tmp_path / "image", "htree_dump /many")
    check(tmp_path / "image")


def test_extents_of_more_than_32768_blocks_are_cut() -> None:
    root, _ = extents.build([(0, 100, 70_000)])

    found = [extents.LEAF.unpack_from(root, 12 + 12 * i) for i in range(root[2])]
    assert found == [(0, 32768, 0, 100), (32768, 32768, 0, 32868), (65536, 4464, 0, 65636)]


@pytest.mark.parametrize(("count", "depth"), [(4, 0), (5, 1), (1360, 1), (1361, 2)])
def test_an_extent_tree_is_no_deeper_than_it_must_be(count: int, depth: int) -> None:
    mapped = [(2 * i, 5000 + 2 * i, 1) for i in range(count)]
    root, blocks = extents.build(mapped, range(100))

    assert struct.unpack_from("<4H", root)[3] == depth
    assert len(blocks) == extents.tree_blocks(mapped)


# --------------------------------------------------------------------------------------------------- what ext4 cannot hold


def refused(tmp_path: Path, made: Inode, name: bytes = b"dir/thing") -> LayerRefused:
    with pytest.raises(LayerRefused) as caught, building(tmp_path / "image", 16 * MIB) as image:
        image.put(name, made)
    return caught.value


def regular(**fields: Any) -> Inode:
    return inode(stat.S_IFREG, **fields)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (regular(xattrs={b"user.a": b"v" * 4100}), "xattr-space"),
        (regular(xattrs={b"com.apple.quarantine": b"v"}), "xattr-name"),
        (regular(xattrs={b"user.": b"v"}), "xattr-name"),
        (regular(xattrs={b"user." + b"n" * 256: b"v"}), "xattr-name"),
        (regular(xattrs={b"system.posix_acl_access": b"junk"}), "xattr-acl"),
        (regular(xattrs={b"system.posix_acl_access": struct.pack("<IHHI", 2, 64, 7, 0)}), "xattr-acl"),
        (symlink(b""), "symlink-target"),
        (symlink(b"t" * 4096), "symlink-target"),
        (inode(stat.S_IFCHR, device=(4096, 0)), "device-number"),
        (inode(stat.S_IFCHR, device=(0, 1 << 20)), "device-number"),
        (regular(size=1 << 44), "file-size"),
        (inode(0o030000), "type"),
    ],
)
def test_what_ext4_cannot_hold_is_refused_with_the_name_of_the_member(tmp_path: Path, made: Inode, rule: str) -> None:
    error = refused(tmp_path, made)

    assert (error.rule, error.member) == (rule, b"dir/thing")
    assert str(error).startswith("dir/thing: its") or rule in ("xattr-name", "type")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, regular(), b"dir/" + b"n" * 256).rule == "name-length"


def test_too_many_hard_links_are_refused() -> None:
    writer, root, file = Writer(-1, 64 * MIB, sink=True), directory(), regular()
    root.children = {b"%d" % n: directory(children={b"%d" % m: file for m in range(1000)}) for n in range(66)}

    with pytest.raises(LayerRefused, match="66000 hard links"):
        writer.finish(root, FS_UUID)
