"""What a thin pool lies on: files that are made once and only grow, devices that are recognised, and what neither may be."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import process
from reconciler.errors import HostCannot
from reconciler.pool.thin import backing, loop
from reconciler.pool.thin.backing import Backing, Found, Kind, blank, content, grow, make, metadata_size, probe, wiping
from reconciler.pool.thin.label import Label, new_id
from reconciler.pool.thin.metadata import BLOCK, LARGEST
from tests.pool.thin.test_metadata import restore

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


# ------------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("data", "block", "expected"),
    [
        (GIB, 64 * KIB, 2 * MIB),
        (100 * GIB, 64 * KIB, 75 * MIB),
        (100 * GIB, MIB, 4_915_200),
        (10 * GIB + 64 * KIB, 64 * KIB, 48 * 163841 // BLOCK * BLOCK + BLOCK),
        (1 << 60, 64 * KIB, LARGEST),
    ],
)
def test_metadata_is_as_large_as_the_kernels_documentation_advises(data: int, block: int, expected: int) -> None:
    assert metadata_size(data, block) == expected


@given(st.integers(1, 1 << 50), st.sampled_from([64 * KIB, 128 * KIB, MIB, GIB]))
def test_metadata_is_always_of_a_size_that_the_kernel_takes(data: int, block: int) -> None:
    size = metadata_size(data, block)

    assert 2 * MIB <= size <= LARGEST
    assert size % BLOCK == 0
    assert size >= 48 * (data // block) or size == LARGEST


# ---------------------------------------------------------------------------------------------------------- looking


def test_a_file_that_is_not_there_yet_is_no_error_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "thin.data"

    assert probe(Backing(file=str(path), size=MIB)) == Found(path, False, 0, Kind.FILE)
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_size_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.write_bytes(b"x" * 1000)

    assert probe(Backing(file=str(path), size=MIB)) == Found(path, True, 1000, Kind.FILE)


def test_a_missing_device_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="no such device") as caught:
        probe(Backing(device=str(tmp_path / "sdx")))
    assert "by-id" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "words"), [("directory", "a directory"), ("pipe", "a pipe"), ("null", "a character device"), ("link", "a directory")]
)
def test_neither_a_file_nor_a_device_may_be_something_else(kind: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if kind == "null" else tmp_path)

    with pytest.raises(HostCannot, match=f"odd: {words}, and not a regular file"):
        probe(Backing(file=str(path), size=MIB))
    with pytest.raises(HostCannot, match=f"odd: {words}, and not a block device"):
        probe(Backing(device=str(path)))


def test_a_file_is_not_taken_for_a_device(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()

    with pytest.raises(HostCannot, match="a regular file, and not a block device") as caught:
        probe(Backing(device=str(tmp_path / "plain")))
    assert "declare a file as `file`" in caught.value.hint


def test_a_path_through_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()

    with pytest.raises(HostCannot, match="Not a directory"):
        probe(Backing(file=str(tmp_path / "plain" / "thin.data"), size=MIB))


# ----------------------------------------------------------------------------------------------------------- making


def test_a_file_is_made_sparse_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "thin.data"

    make(Backing(file=str(path), size=10 * GIB))

    found = path.stat()
    assert found.st_size == 10 * GIB
    assert found.st_blocks == 0
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_a_file_that_is_there_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.write_bytes(b"precious")

    make(Backing(file=str(path), size=4))
    assert path.read_bytes() == b"precious"

    make(Backing(file=str(path), size=10))
    assert path.read_bytes() == b"precious\0\0"


def test_what_a_crash_left_half_made_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.touch()

    make(Backing(file=str(path), size=MIB))

    assert path.stat().st_size == MIB


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel answers as a file system does whose files can't be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_size_that_the_file_system_can_not_have_leaves_nothing_behind(tmp_path: Path) -> None:
    with files_of_at_most(MIB), pytest.raises(HostCannot, match=f"can't have {2 * MIB} bytes: File too large"):
        make(Backing(file=str(tmp_path / "thin.data"), size=2 * MIB))

    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_file_system_can_not_have_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.write_bytes(b"precious")

    with files_of_at_most(MIB), pytest.raises(HostCannot, match="can't have"):
        make(Backing(file=str(path), size=2 * MIB))

    assert path.read_bytes() == b"precious"


def test_a_directory_that_can_not_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()

    with pytest.raises(HostCannot, match=r"thin\.data: can't be created"):
        make(Backing(file=str(tmp_path / "plain" / "thin.data"), size=MIB))


def test_files_grow_and_never_shrink(tmp_path: Path) -> None:
    path = tmp_path / "thin.data"
    path.write_bytes(b"x" * 100)

    with path.open("r+b") as file:
        assert grow(Backing(file=str(path), size=200), file.fileno())
        assert not grow(Backing(file=str(path), size=200), file.fileno())
        assert not grow(Backing(file=str(path), size=50), file.fileno())
    assert path.read_bytes() == b"x" * 100 + bytes(100)


# ------------------------------------------------------------------------------------------------------------ blank

needs_blkid = pytest.mark.skipif(process.find("blkid") is None, reason="needs blkid")


def sparse(path: Path, size: int = 8 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def formatted(path: Path, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    subprocess.run([*command, sparse(path, 320 * MIB)], check=True, capture_output=True)
    return path


def partitioned(path: Path) -> Path:
    """A master boot record with one Linux partition, as fdisk writes it."""
    with sparse(path).open("r+b") as file:
        file.seek(446)
        file.write(bytes([0, 0x20, 0x21, 0, 0x83, 0, 0x10, 0]) + (2048).to_bytes(4, "little") + (8192).to_bytes(4, "little"))
        file.seek(510)
        file.write(b"\x55\xaa")
    return path


@pytest.mark.parametrize("size", [0, 100, 8 * MIB])
def test_nothing_is_blank(size: int, tmp_path: Path) -> None:
    assert blank(sparse(tmp_path / "blank", size)) == ""


@needs_blkid
def test_what_a_device_holds_is_described(tmp_path: Path) -> None:
    assert blank(formatted(tmp_path / "one", "mkfs.ext4", "-q", "-F")) == "an ext4 file system"
    assert blank(formatted(tmp_path / "two", "mkfs.xfs", "-q", "-L", "home")) == "an xfs file system, labelled home"
    assert blank(formatted(tmp_path / "swap", "mkswap", "-q")) == "swap (blkid)"
    assert blank(partitioned(tmp_path / "disk")) == "a partition table (dos)"


@needs_blkid
def test_two_things_at_once_are_something(tmp_path: Path) -> None:
    """ext4 over the rest of a file system that another tool left: neither can be believed."""
    path = formatted(tmp_path / "both", "mkfs.ext4", "-q", "-F")
    with path.open("r+b") as file:
        file.write(b"XFSB")
        btrfs = formatted(tmp_path / "btrfs", "mkfs.btrfs", "-q")
        file.seek(64 * KIB)
        file.write(btrfs.read_bytes()[64 * KIB : 68 * KIB])

    assert blank(path) == "several signatures at once (blkid)"


@needs_blkid
def test_zeros_over_a_file_system_make_it_blank(tmp_path: Path) -> None:
    path = formatted(tmp_path / "disk", "mkfs.ext4", "-q", "-F")

    subprocess.run(["wipefs", "--quiet", "--all", path], check=True)

    assert blank(path) == ""


def test_a_file_with_anything_in_it_is_no_place_for_a_new_pool(tmp_path: Path) -> None:
    """blkid has no name for most files."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"SQLite format 3\0" + bytes(1 << 20))
    assert "not zero" in content(probe(Backing(None, str(path), 4 * MIB)))

    path.write_bytes(bytes(1 << 20))
    assert content(probe(Backing(None, str(path), 4 * MIB))) == ""


@pytest.mark.skipif(shutil.which("thin_restore") is None, reason="needs thin_restore (thin-provisioning-tools)")
def test_the_metadata_of_a_pool_is_not_blank(tmp_path: Path) -> None:
    """blkid knows nothing of it."""
    text = '<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="10"></superblock>'

    path = restore(tmp_path / "metadata", text)

    assert blank(path) == "the metadata of a thin pool"


def test_the_label_of_a_pool_is_not_blank(tmp_path: Path) -> None:
    """blkid has no name for it, and wipefs does not clear it."""
    path = sparse(tmp_path / "data")
    path.write_bytes(Label(1, new_id(), "thin").encoded().ljust(8 * MIB, b"\0"))

    assert blank(path) == "the data of a thin pool"
    assert wiping(Found(path, True, 8 * MIB, Kind.DEVICE)).startswith(f"dd if=/dev/zero of={path} ")


@pytest.mark.parametrize("at", [0, 64 * KIB - 1, 8 * MIB - 1])
def test_without_blkid_only_zeros_are_blank(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    path = sparse(tmp_path / "disk")
    assert blank(path) == ""

    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"x")

    assert "not zero" in blank(path)


def test_a_probe_that_fails_is_not_taken_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "blkid"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 4\n")
    broken.chmod(0o755)
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", f"{tmp_path}:/bin")

    with pytest.raises(HostCannot, match="blkid ended with code 4: out of order"):
        blank(sparse(tmp_path / "disk"))


def test_what_can_not_be_read_is_not_blank(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="can't be read: No such file"):
        blank(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with loop.attach(sparse(tmp_path / "disk", 16 * MIB)) as device:
        yield device


@pytest.mark.root
def test_a_device_is_found_through_its_link(device: Path, tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(device)

    assert probe(Backing(device=str(link))) == Found(link, True, 16 * MIB, Kind.DEVICE)
    with pytest.raises(HostCannot, match="a block device, and not a regular file"):
        probe(Backing(file=str(link), size=MIB))


@pytest.mark.root
def test_a_device_that_is_mounted_is_not_blank(device: Path, tmp_path: Path) -> None:
    assert blank(device) == ""
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    assert blank(device) == "an ext4 file system"
    where = tmp_path / "mounted"
    where.mkdir()

    subprocess.run(["mount", device, where], check=True)
    try:
        assert blank(device) == "something in use: it is mounted, or part of another device"
    finally:
        subprocess.run(["umount", where], check=True)


def test_what_is_looked_at_is_only_looked_at(tmp_path: Path) -> None:
    path = sparse(tmp_path / "disk")
    path.write_bytes(b"precious")
    path.chmod(0o400)
    before = path.stat()

    probe(Backing(file=str(path), size=MIB))
    blank(path)

    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (before.st_size, before.st_mtime_ns, before.st_ctime_ns)
    assert backing.probe(Backing(file=str(path))).size == 8


@pytest.mark.parametrize(
    ("data", "block", "wanted"),
    [(21, 64 << 10, ""), (22, 64 << 10, "blockSize 128KiB"), (90, 64 << 10, "blockSize 512KiB"), (90, 1 << 20, "")],
)
def test_data_that_the_metadata_can_not_describe_is_noted_with_the_block_size_that_can(
    data: int, block: int, wanted: str
) -> None:
    found = backing.undescribed(data << 40, block)

    assert wanted in found
    assert bool(found) == bool(wanted)
