"""A kernel mounts the image and agrees with the tree in everything; and it can write to it. Needs root and loop devices."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.image.ext4.writer import Below, Writer
from reconciler.image.tree.tree import Inode
from tests.image.ext4.test_format import ACL, CAPABILITY
from tests.support.ext4_images import FS_UUID, GIB, MIB, SECOND, Image, building, check, directory, inode, symlink, volume
from tests.support.origin import eventually

pytestmark = pytest.mark.root


@contextlib.contextmanager
def mounted(path: Path, options: str = "ro") -> Iterator[bytes]:
    place = path.with_suffix(".mnt")
    place.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", f"loop,{options}", path, place], check=True)
    try:
        yield os.fsencode(place)
    finally:
        subprocess.run(["umount", place], check=True)
        # A builder of another test that is about to leave the mounts it was started with keeps this one for a moment.
        eventually(lambda: not subprocess.run(["losetup", "-j", path], capture_output=True, check=True).stdout)
        place.rmdir()


def assert_same(image: Image, place: bytes) -> None:
    """Names, types, modes, owners, times, sizes, contents, targets, devices, links and attributes."""
    seen: dict[Inode, int] = {}
    pending = [(image.root, place)]
    while pending:
        wanted, path = pending.pop()
        found = os.lstat(path)
        assert (found.st_mode, found.st_uid, found.st_gid) == (wanted.kind | wanted.mode, wanted.uid, wanted.gid), path
        assert (found.st_mtime_ns, found.st_ctime_ns, found.st_atime_ns) == (wanted.mtime,) * 3, path
        assert seen.setdefault(wanted, found.st_ino) == found.st_ino, path
        assert_same_attributes(wanted, path)
        if wanted.kind == stat.S_IFDIR:
            assert sorted(os.listdir(path)) == sorted(wanted.children or {})
            pending.extend((child, path + b"/" + name) for name, child in (wanted.children or {}).items())
        elif wanted.kind == stat.S_IFLNK:
            assert os.readlink(path) == wanted.target
        elif wanted.kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert found.st_rdev == os.makedev(*wanted.device)
        elif wanted.kind == stat.S_IFREG:
            assert found.st_size == wanted.size
            if wanted.size < 200 * MIB:
                assert Path(os.fsdecode(path)).read_bytes() == image.contents[wanted]
    assert len(set(seen.values())) == len(seen)


def assert_same_attributes(wanted: Inode, path: bytes) -> None:
    names = os.listxattr(path, follow_symlinks=False)
    found = {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}
    assert found == wanted.xattrs, path


def plant_everything(image: Image) -> None:
    image.file("bin/su", os.urandom(70_001), mode=0o6755, uid=1, gid=2**32 - 2)
    image.file("bin/ping", b"p", xattrs={b"security.capability": CAPABILITY})
    image.file("acl", b"a", mode=0o650, xattrs={b"system.posix_acl_access": ACL, b"user.note": b"n" * 3000, b"trusted.t": b"t"})
    image.put("d", directory(mode=0o1750, xattrs={b"system.posix_acl_default": ACL}))
    image.put("dev/null", inode(stat.S_IFCHR, mode=0o666, device=(1, 3)))
    image.put("dev/nvme", inode(stat.S_IFBLK, mode=0o660, device=(259, 70_000)))
    image.put("run/fifo", inode(stat.S_IFIFO))
    for length in (1, 59, 60, 4095):
        image.put(f"links/{length}", symlink(b"x" * length))
    linked = image.file("hard/a", b"linked")
    for name in ("b", "c"):
        image.put(f"hard/{name}", linked)
    image.file("empty")
    image.file(b"names/" + b"\xff\xfe \t'\"\\*?", b"bytes")
    image.file(b"names/" + b"n" * 255, b"long")
    for year, time in {
        "1901": -(2**31) * SECOND,
        "1969": -1,
        "2039": 2**31 * SECOND + 999_999_999,
        "2446": (2**34 - 2**31 - 2) * SECOND,
    }.items():
        image.file(f"times/{year}", mtime=time)
    image.file("/".join(["deep"] * 15 + ["leaf"]), b"leaf")


def test_the_kernel_sees_every_property_of_every_kind(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        plant_everything(image)

    check(tmp_path / "image")
    with mounted(tmp_path / "image") as place:
        assert_same(image, place)
        assert os.stat(place + b"/hard/b").st_nlink == 3


@pytest.mark.parametrize("size", [64 * MIB, 1 * GIB, 8 * GIB, 100 * GIB, 3 * 128 * MIB + 4096, GIB - 12345])
def test_the_kernel_writes_to_an_image_of_any_size(tmp_path: Path, size: int) -> None:
    with building(tmp_path / "image", size) as image:
        plant_everything(image)

    with mounted(tmp_path / "image", "rw,noatime") as place:
        assert_same(image, place)
        for number in range(300):
            Path(os.fsdecode(place), "links", f"new-{number}").write_bytes(b"new" * number)
        Path(os.fsdecode(place), "bin/su").write_bytes(b"shorter")
        os.setxattr(place + b"/bin/ping", "user.more", b"m" * 2000)
        os.mkdir(place + b"/more")
        os.unlink(place + b"/hard/a")

    check(tmp_path / "image")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tib", [10, 20])
def test_images_of_many_tib_are_checked_and_written_to(tmp_path: Path, tib: int) -> None:
    """With backups in groups above 65,535; 20 TiB has no resize inode, and only XFS holds a file of that length."""
    disk, top = tmp_path / "disk", tmp_path / "xfs"
    with volume(disk, 20 * GIB):
        top.mkdir()
    subprocess.run(["mkfs.xfs", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, top], check=True)
    try:
        with building(top / "image", tib << 40) as image:
            plant_everything(image)
        check(top / "image")
        with mounted(top / "image", "rw,noatime") as place:
            assert_same(image, place)
            Path(os.fsdecode(place), "new").write_bytes(bytes(MIB))
        check(top / "image")
    finally:
        subprocess.run(["umount", top], check=True)


def test_holes_are_holes_to_the_kernel(tmp_path: Path) -> None:
    segments = [(0, 10), (GIB + 100, 5000), (3 * GIB - 1, 1), (3 * GIB, 0)]
    with building(tmp_path / "image", 64 * MIB) as image:
        image.file("sparse", b"a" * 5011, segments=segments)
        image.file("hole", b"", segments=[(50 * MIB, 0)])

    with mounted(tmp_path / "image") as place, open(place + b"/sparse", "rb") as sparse:
        fd = sparse.fileno()
        assert os.fstat(fd).st_size == 3 * GIB
        assert os.fstat(fd).st_blocks == 8 * 4
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
        assert os.lseek(fd, 4096, os.SEEK_DATA) == GIB
        assert os.pread(fd, 5002, GIB + 99) == b"\0" + b"a" * 5000 + b"\0"
        assert os.pread(fd, 2, 3 * GIB - 2) == b"\0a"
        assert os.stat(place + b"/hole").st_blocks == 0


def test_a_file_around_the_backup_of_the_second_group_reads_whole(tmp_path: Path) -> None:
    with building(tmp_path / "image", 300 * MIB) as image:
        image.file("large", os.urandom(MIB) * 140)

    with mounted(tmp_path / "image") as place:
        assert_same(image, place)


def test_the_kernel_finds_every_name_of_an_indexed_directory_and_adds_more(tmp_path: Path) -> None:
    with building(tmp_path / "image", 256 * MIB) as image:
        for number in range(8000):
            image.file(b"many/\xe9-entry-%07d-with-a-longer-name" % number)

    with mounted(tmp_path / "image", "rw") as place:
        many = place + b"/many/"
        assert all(os.path.lexists(many + name) for name in os.listdir(many))
        assert len(os.listdir(many)) == 8000
        assert not os.path.lexists(many + b"absent")
        for number in range(3000):
            os.close(os.open(many + b"\xe9-added-%07d" % number, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
        for name in os.listdir(many)[::3]:
            os.unlink(many + name)

    check(tmp_path / "image")


def test_a_nearly_full_image_is_mounted_and_says_that_it_is_full(tmp_path: Path) -> None:
    with building(tmp_path / "image", 32 * MIB) as image:
        image.file("large", b"\x33" * (25 * MIB))

    with mounted(tmp_path / "image", "rw") as place:
        assert 0 < os.statvfs(place).f_bfree < 256
        with pytest.raises(OSError, match="No space left"), open(place + b"/more", "wb", buffering=0) as more:
            for _ in range(32):
                more.write(bytes(MIB))
    check(tmp_path / "image")


def test_layers_on_a_block_device(tmp_path: Path) -> None:
    """Onto a loop device, each layer on the one below, as on a thin volume."""
    with volume(tmp_path / "image", 64 * MIB):
        pass
    device = subprocess.run(
        ["losetup", "-f", "--show", tmp_path / "image"], capture_output=True, text=True, check=True
    ).stdout.strip()
    fd = os.open(device, os.O_RDWR)
    try:
        image = Image(Writer(fd, 64 * MIB))
        plant_everything(image)
        below = image.writer.finish(image.root, FS_UUID)
        image.writer = Writer(fd, 64 * MIB, below=Below(image.root, below.next_block))
        image.file("bin/su", b"of the second layer", mode=0o4755)
        image.writer.finish(image.root, FS_UUID)
    finally:
        os.close(fd)
        subprocess.run(["losetup", "-d", device], check=True)

    check(tmp_path / "image")
    with mounted(tmp_path / "image") as place:
        assert_same(image, place)
