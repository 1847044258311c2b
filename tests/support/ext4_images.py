"""Trees and images for the tests of the ext4 writer, and the programs that judge what it wrote."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from reconciler.image.ext4.writer import Summary, Writer
from reconciler.image.tree.tree import Inode

MIB, GIB = 1 << 20, 1 << 30
FS_UUID = UUID("6d0c7f0e-5a3b-5c1e-9d57-0b7a3a1f4e52")
SECOND = 10**9
MTIME = 1_700_000_000 * SECOND + 123_456_789
MAGIC_AT = 1024 + 0x38


def inode(kind: int, **fields: Any) -> Inode:
    return Inode(kind, **({"mode": 0o644, "uid": 0, "gid": 0, "mtime": MTIME} | fields))


def directory(**fields: Any) -> Inode:
    return inode(stat.S_IFDIR, **({"mode": 0o755, "children": {}} | fields))


def symlink(target: bytes, **fields: Any) -> Inode:
    return inode(stat.S_IFLNK, **({"mode": 0o777, "target": target} | fields))


class Image:
    """A tree whose files are written as they are put into it; ``writer`` is replaced for each layer."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.root = directory()
        self.contents: dict[Inode, bytes] = {}

    def put(self, path: str | bytes, what: Inode) -> Inode:
        """Name ``what`` by ``path``; directories on the way are made."""
        *parents, name = os.fsencode(path).split(b"/")
        place = self.root
        for parent in parents:
            assert place.children is not None
            place = place.children.setdefault(parent, directory())
        assert place.children is not None
        place.children[name] = what
        return what

    def file(
        self, path: str | bytes, content: bytes = b"", *, segments: Sequence[tuple[int, int]] | None = None, **fields: Any
    ) -> Inode:
        """A file whose data is ``content``; with ``segments`` its last one gives the apparent size."""
        made = self.put(path, inode(stat.S_IFREG, **fields))
        size = len(content) if segments is None else sum(segments[-1])
        self.writer.append(made, size, segments, pieces(content))
        self.contents[made] = apparent(content, segments)
        return made


def apparent(content: bytes, segments: Sequence[tuple[int, int]] | None) -> bytes:
    if segments is None or sum(segments[-1]) > 64 * MIB:
        return content
    whole, taken = bytearray(sum(segments[-1])), 0
    for offset, length in segments:
        whole[offset : offset + length] = content[taken : taken + length]
        taken += length
    return bytes(whole)


def pieces(content: bytes) -> Iterator[memoryview]:
    """As a tar reader delivers them: in parts of any length."""
    view = memoryview(content)
    return (view[at : at + 100_003] for at in range(0, len(view), 100_003))


def fill(image: Image, files: int = 50, salt: bytes = b"") -> None:
    for number in range(files):
        image.file(f"usr/share/doc/{number:04}", salt + bytes([number % 251]) * (number * 97))
    image.put("usr/bin/sh", symlink(b"../share/doc/0001"))


@contextlib.contextmanager
def volume(path: Path, size: int) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def building(path: Path, size: int) -> Iterator[Image]:
    """An image that is finished when the block ends without an error."""
    with volume(path, size) as fd:
        image = Image(Writer(fd, size))
        try:
            yield image
            image.writer.finish(image.root, FS_UUID)
        finally:
            image.writer.close()


def build_empty(path: Path, size: int) -> Summary:
    with volume(path, size) as fd:
        return Writer(fd, size).finish(directory(), FS_UUID)


def has_superblock(path: Path) -> bool:
    with path.open("rb") as file:
        return os.pread(file.fileno(), 2, MAGIC_AT) == b"\x53\xef"


PHASES = ("Pass 1: ", "Pass 2: ", "Pass 3: ", "Pass 4: ", "Pass 5: ")


def check(path: Path | str) -> None:
    """e2fsck reports nothing: exit code 0, and not a line besides the names of its passes and the totals."""
    done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True)
    expected = (*PHASES, f"{str(path).replace(' ', '_')}: ")  # e2fsck prints blanks of the name like this
    complaints = [line for line in done.stdout.splitlines() if line and not line.startswith(expected)]
    errors = [line for line in done.stderr.splitlines() if not line.startswith("e2fsck ")]
    assert (done.returncode, complaints, errors) == (0, [], [])


def debugfs(path: Path, *requests: str) -> str:
    script = "\n".join(requests)
    done = subprocess.run(["debugfs", "-f", "-", path], input=script, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0
    return done.stdout


def dumpe2fs(path: Path) -> dict[str, str]:
    done = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=True)
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


def same_bytes(one: Path, other: Path) -> None:
    """Byte for byte; holes equal zeros."""
    with one.open("rb") as a, other.open("rb") as b:
        assert os.fstat(a.fileno()).st_size == os.fstat(b.fileno()).st_size
        for start, stop in sorted([*data_regions(a.fileno()), *data_regions(b.fileno())]):
            for at in range(start, stop, MIB):
                length = min(MIB, stop - at)
                assert os.pread(a.fileno(), length, at) == os.pread(b.fileno(), length, at), f"they differ near byte {at}"


def data_regions(fd: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole."""
    end = 0
    with contextlib.suppress(OSError):  # ENXIO: only a hole is left
        while True:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, end


def dump_tree(path: Path, into: Path) -> Path:
    """The whole tree as debugfs extracts it."""
    into.mkdir()
    debugfs(path, f'rdump / "{into}"')
    return into


def assert_extracted(image: Image, place: Path) -> None:
    """What was extracted to ``place`` has the names, types, modes, times, link targets and contents of the tree.

    ``lost+found`` is part of the tree once its layer has ended."""
    pending = [(image.root, os.fsencode(place))]
    while pending:
        parent, path = pending.pop()
        assert sorted(os.listdir(path)) == sorted(parent.children or {})
        for name, child in (parent.children or {}).items():
            below = path + b"/" + name
            found = os.lstat(below)
            assert stat.S_IFMT(found.st_mode) == child.kind
            if child.kind == stat.S_IFDIR:
                pending.append((child, below))
            elif child.kind == stat.S_IFLNK:
                assert os.readlink(below) == child.target
            else:
                assert Path(os.fsdecode(below)).read_bytes() == image.contents[child]
                assert stat.S_IMODE(found.st_mode) & 0o777 == child.mode & 0o777
