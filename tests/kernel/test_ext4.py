"""Images under a kernel that mounts them: online growth, corrupted metadata, programs for mounted file systems."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.image.ext4.layout import BLOCK, Geometry
from reconciler.image.ext4.writer import Writer
from reconciler.pool.file.pool import FilePool
from reconciler.pool.thin.pool import ThinPool
from tests.support.ext4_images import FS_UUID, GIB, Image, building, check, debugfs, dumpe2fs, fill
from tests.support.images import run
from tests.support.intents import KeptIntents

from .rig import BLOCK as BLOCK_OF_POOL
from .rig import MIB, A, Rig, dmsetup, rig


@contextmanager
def mounted(device: Path, root: Path, *options: str) -> Iterator[Path]:
    """``device`` is a block device, or a file for a loop device."""
    top = root / "mnt"
    top.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", "-o", ",".join(("noatime", *options)), device, top)
    try:
        yield top
    finally:
        run("umount", top)


def build(pool: ThinPool | FilePool, chain: str, size: int, ratio: int | None = None) -> None:
    with pool.create_volume(chain, size, None) as volume:
        image = Image(Writer(volume.fd, size, ratio=ratio))
        fill(image, 200)
        image.writer.finish(image.root, FS_UUID)
        volume.seal()


def content(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (top / "usr/share/doc").iterdir()}


# ------------------------------------------------------------------------------------------------------- online growth


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, data_bytes=GIB, metadata_bytes=16 * MIB) as one:
        yield one


def lengthen(device: Path, size: int) -> None:
    """A thin device that is in use becomes longer, as for a snapshot with a larger declared size."""
    start, _, *target = dmsetup("table", device.name).split()
    table = " ".join((start, str(size // 512), *target))
    dmsetup("reload", device.name, "--table", table)
    dmsetup("suspend", device.name)
    dmsetup("resume", device.name)


def grown(device: Path, root: Path, size: int) -> str:
    """What ``dumpe2fs`` reports of a file system that has grown while it was mounted."""
    with mounted(device, root) as top:
        before = content(top) if (top / "usr").exists() else {}
        lengthen(device, size)
        run("resize2fs", device)
        assert os.statvfs(top).f_blocks * BLOCK > size * 95 // 100
        (top / "new").write_bytes(bytes(MIB))
        (top / "new").unlink()
        assert before == (content(top) if before else {})
    check(device)
    return run("dumpe2fs", device)


GROUP = re.compile(r"^Group (\d+): .*?(?=^Group |\Z)", re.MULTILINE | re.DOTALL)
CHECKSUM = re.compile(r" csum 0x[0-9a-f]+|, csum 0x[0-9a-f]+|bitmap csum 0x[0-9a-f]+|^ *Checksum.*$", re.MULTILINE)
ZEROED = re.compile(r", ITABLE_ZEROED| \[ITABLE_ZEROED\]|(?<=\[)ITABLE_ZEROED, ")
"""How far the kernel's thread has come that zeroes inode tables while a file system is mounted."""
COUNTED = (
    "Inode count",
    "Block count",
    "Reserved GDT blocks",
    "Inodes per group",
    "Flex block group size",
    "Overhead clusters",
    "Group descriptor size",
)


def groups(dumped: str, first: int) -> dict[int, str]:
    """Places and counts of each group from ``first`` on."""
    plain = ZEROED.sub("", CHECKSUM.sub("", dumped))
    return {int(found[1]): found[0] for found in GROUP.finditer(plain) if int(found[1]) >= first}


def header(dumped: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in dumped.partition("\n\n")[0].splitlines())
    return {key: value.strip() for key, _, value in pairs if key in COUNTED}


def test_a_mounted_snapshot_of_a_thin_pool_grows_as_the_file_system_of_mke2fs(thin: Rig) -> None:
    """To 8 GiB, and to 64 GiB, for which the resize inode gives away seven of its blocks."""
    with thin.assembled() as pool:
        build(pool, A, GIB, 64 << 10)
        for name in ("ours", "peer"):
            pool.create_snapshot(name, A)
        devices = [pool.snapshot_path(name) for name in ("ours", "peer")]
        run("mke2fs", "-q", "-F", "-t", "ext4", "-i", "65536", "-O", "^orphan_file", devices[1])

        for size in (8 * GIB, 64 * GIB):
            ours, peer = (grown(device, thin.root, size) for device in devices)
            assert header(ours) == header(peer)
            assert len(groups(ours, 8)) == size // (128 * MIB) - 8
            assert groups(ours, 8) == groups(peer, 8)
        assert header(ours)["Reserved GDT blocks"] == "120"


def test_a_mounted_snapshot_of_a_file_pool_grows(tmp_path: Path) -> None:
    """As a guest's root does at boot with the mount option ``x-systemd.growfs``."""
    pool = FilePool("default", tmp_path / "pool", 0, KeptIntents())
    build(pool, A, GIB)
    pool.create_snapshot("web", A)
    path = pool.snapshot_path("web")
    loop = Path(run("losetup", "--find", "--show", path).strip())
    try:
        with mounted(loop, tmp_path) as top:
            before = content(top)
            os.truncate(path, 2 * GIB)
            run("losetup", "--set-capacity", loop)
            run("/lib/systemd/systemd-growfs", top)
            assert os.statvfs(top).f_blocks * BLOCK > 2 * GIB * 95 // 100
            assert content(top) == before
    finally:
        run("losetup", "--detach", loop)
    check(path)
    assert dumpe2fs(path)["Block count"] == str(2 * GIB // BLOCK)


# -------------------------------------------------------------------------------------------------- corrupted metadata

SIZE = 64 * MIB
SMALL, INDEXED, FILE, SPARSE = "etc", "usr/share/doc", "etc/file", "etc/sparse"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with metadata of each kind, to which a kernel has written: only then has the journal a checksum."""
    root = tmp_path_factory.mktemp("everything")
    with building(root / "image", SIZE) as image:
        fill(image, 400)
        image.file(FILE, b"data", xattrs={b"user.note": b"n" * 600})
        image.file(SPARSE, b"x" * 50, segments=[(at * 8192, 10) for at in range(5)])
    with mounted(root / "image", root, "loop") as top:
        (top / "written").touch()
    return root / "image"


def create(top: Path) -> None:
    (top / SMALL / "new").write_bytes(b"new")
    os.sync()


Use = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """``block`` holds the metadata, ``offset`` is the byte that changes, ``use`` reads it (None: the mount does)."""

    block: int | tuple[str, str]
    """Its number, or a request of debugfs and a pattern with the number in the answer."""
    offset: int
    report: str
    use: Use | None = None

    def at(self, image: Path) -> int:
        if isinstance(self.block, int):
            return self.block * BLOCK + self.offset
        request, pattern = self.block
        found = re.search(pattern, debugfs(image, request))
        assert found, request
        inside = int(found[2], 16) if found.re.groups == 2 else 0
        return int(found[1]) * BLOCK + inside + self.offset


FIRST = r"(?m)^(\d+) "
FLEX = Geometry.of_bytes(SIZE).flex_groups[0]
KINDS = {
    "superblock": Kind(0, 1024 + 0x40, "invalid superblock checksum"),
    "group descriptors": Kind(1, 0x10, "Checksum for group 0 failed"),
    "block bitmap": Kind(FLEX.block_bitmap(0), 4000, "bad block bitmap checksum", create),
    "inode bitmap": Kind(FLEX.inode_bitmap(0), 100, "Corrupt inode bitmap", create),
    "inode": Kind(
        (f"imap {FILE}", r"block (\d+), offset (0x[0-9a-f]+)"),
        0x10,
        "iget: checksum invalid",
        lambda top: (top / FILE).stat(),
    ),
    "extent block": Kind(
        (f"ex {SPARSE}", r" 0/ *1 +1/ *1 +\d+ - +\d+ +(\d+)"),
        12 + 8,
        "extent tree corrupted",
        lambda top: (top / SPARSE).read_bytes(),
    ),
    "directory leaf": Kind(
        (f"blocks {SMALL}", FIRST), 30, "Directory block failed checksum", lambda top: os.listdir(top / SMALL)
    ),
    "hash tree node": Kind(
        (f"blocks {INDEXED}", FIRST), 0x2C, "Directory index failed checksum", lambda top: (top / INDEXED / "0300").stat()
    ),
    "attribute block": Kind(
        (f"stat {FILE}", r"File ACL: (\d+)"),
        BLOCK - 1,
        "corrupted xattr block",
        lambda top: os.getxattr(top / FILE, "user.note"),
    ),
    "journal superblock": Kind(("blocks <8>", FIRST), 0x30, "journal checksum error"),
}


@contextmanager
def kernel_log() -> Iterator[list[str]]:
    """What the kernel reports before the block ends."""
    lines: list[str] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        yield lines
        with suppress(BlockingIOError):
            while True:
                lines.append(os.read(fd, 8192).decode(errors="replace"))
    finally:
        os.close(fd)


def change(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_reports_one_changed_bit_in_metadata(everything: Path, tmp_path: Path, kind: str) -> None:
    found = KINDS[kind]
    image, top = tmp_path / "image", tmp_path / "mnt"
    top.mkdir()
    run("cp", "--sparse=always", everything, image)
    change(image, found.at(image))

    with kernel_log() as log:
        done = subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, top], capture_output=True, check=False)
        assert (done.returncode == 0) == (found.use is not None), done.stderr
        if found.use is not None:
            try:
                with suppress(OSError):
                    found.use(top)
            finally:
                run("umount", top)

    assert found.report in "".join(log)
    with pytest.raises(AssertionError):
        check(image)


# ---------------------------------------------------------------------------------- programs for mounted file systems


def used_blocks(pool: Rig) -> int:
    return int(pool.status().split()[5].partition("/")[0])


def test_fstrim_gives_blocks_back_to_the_thin_pool(thin: Rig) -> None:
    with thin.assembled() as pool:
        build(pool, A, GIB)
        pool.create_snapshot("web", A)
        device = pool.snapshot_path("web")
        with mounted(device, thin.root) as top:
            run("fstrim", top)
            before = used_blocks(thin)
            (top / "large").write_bytes(os.urandom(32 * MIB))
            os.sync()
            assert used_blocks(thin) >= before + 32 * MIB // BLOCK_OF_POOL
            (top / "large").unlink()
            os.sync()
            run("fstrim", top)
            assert used_blocks(thin) < before + 16
            expected = content(top)
        check(device)
        with mounted(device, thin.root, "ro") as top:
            assert content(top) == expected


def test_e4defrag_moves_a_files_blocks_together(tmp_path: Path) -> None:
    with building(tmp_path / "image", SIZE) as image:
        fill(image, 20)
    with mounted(tmp_path / "image", tmp_path, "loop") as top:
        with (top / "one").open("wb", buffering=0) as one, (top / "other").open("wb", buffering=0) as other:
            for part in range(20):
                for file in (one, other):
                    file.write(bytes([part]) * 65536)
                    os.fsync(file.fileno())
        expected = (top / "one").read_bytes()
        assert extents(top / "one") > 1
        run("e4defrag", top / "one")
        assert extents(top / "one") == 1
        assert (top / "one").read_bytes() == expected
    check(tmp_path / "image")


def extents(path: Path) -> int:
    found = re.search(r"(\d+) extents? found", run("filefrag", path))
    assert found
    return int(found[1])
