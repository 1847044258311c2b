"""Readers of other projects read each name of an image as the reader of the tests does: dissect.extfs, and GRUB's."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.ext4.test_differential import everything, needs_debian, needs_e2fsprogs
from tests.support import ext4, images, layers
from tests.support.compare import ROOT, Facts, differences, grouped, runs
from tests.support.oci import needs
from tests.support.tier import ROOTFS

BLOCK = 4096
SECOND = 10**9
DEBIAN = os.environ.get(ROOTFS)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert DEBIAN is not None
    image = tmp_path_factory.mktemp("debian") / "image"
    images.build([Path(DEBIAN)], image, "1GiB")
    return image


# ------------------------------------------------------------------------------------------------------- dissect.extfs


def of_dissect(path: Path) -> dict[bytes, Facts]:
    """What dissect.extfs reads, without ``lost+found``."""
    from dissect.extfs import ExtFS

    with path.open("rb") as file:
        root = ExtFS(file).root
        names = {ROOT: root, **dict(below(root, b""))}
        links = grouped({name: node.inum for name, node in names.items() if node.filetype != stat.S_IFDIR})
        return {name: facts(node, links.get(name, ())) for name, node in names.items() if name != b"lost+found"}


def below(directory: Any, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
    for node in directory.iterdir():
        if node.filename not in (".", ".."):
            name = prefix + os.fsencode(node.filename)
            yield name, node
            if node.filetype == stat.S_IFDIR:
                yield from below(node, name + b"/")


def facts(node: Any, links: tuple[bytes, ...]) -> Facts:
    raw, kind = node.inode, node.filetype
    is_file, is_device = kind == stat.S_IFREG, kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Facts(
        kind=kind,
        mode=stat.S_IMODE(raw.i_mode),
        uid=raw.i_uid | raw.i_uid_high << 16,
        gid=raw.i_gid | raw.i_gid_high << 16,
        mtime=node.mtime_ns - (raw.i_mtime >> 31 << 32) * SECOND,  # it takes the 32 bits for unsigned
        size=0 if kind == stat.S_IFDIR else node.size,
        digest=hashlib.file_digest(node.open(), "sha256").hexdigest() if is_file else "",
        data=data(node) if is_file else (),
        target=os.fsencode(node.link) if kind == stat.S_IFLNK else b"",
        device=ext4.device(bytes(raw.i_block)) if is_device else (0, 0),
        xattrs=tuple(sorted(attribute(os.fsencode(one.name), bytes(one.value)) for one in node.xattr)),
        links=links,
    )


def attribute(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """It leaves an ACL as the disk has it."""
    return name, ext4.acl(value) if name.startswith(b"system.posix_acl_") else value


def data(node: Any) -> tuple[tuple[int, int], ...]:
    at, found = 0, []
    for start, blocks in node.dataruns():
        if start is not None:
            found.append((at * BLOCK, blocks * BLOCK))
        at += blocks
    return runs(found)


def assert_dissect_agrees(image: Path) -> int:
    ours, theirs = ext4.of_image(image), of_dissect(image)
    found = differences(ours, theirs)
    assert not found, "\n".join(found)
    return len(theirs)


@needs_e2fsprogs
def test_dissect_reads_every_property_of_every_kind(tmp_path: Path) -> None:
    image = tmp_path / "image"
    images.build_here([layers.pack(layer) for layer in everything()], image)

    assert_dissect_agrees(image)


@needs_debian
@pytest.mark.slow
@needs_e2fsprogs
def test_dissect_reads_a_whole_debian(debian: Path) -> None:
    assert assert_dissect_agrees(debian) > 5000


# ---------------------------------------------------------------------------------------------------------------- GRUB


@needs_debian
@pytest.mark.slow
def test_grub_reads_every_file_of_a_whole_debian(debian: Path, tmp_path: Path) -> None:
    """It compares each file below a directory with the image's; and lists the names that the image has there."""
    needs("grub-fstest")
    top = tmp_path / "root"
    top.mkdir()
    subprocess.run(["tar", "-C", top, "--exclude=./dev/*", "-xf", str(DEBIAN)], check=True)

    images.run("grub-fstest", debian, "cmp", "(loop0)/", top)

    for directory in ("", "usr/share/doc", "etc"):
        listed = {name.rstrip("/") for name in images.run("grub-fstest", debian, "ls", f"(loop0)/{directory}").split()}
        assert listed - {"lost+found"} == {name for name in os.listdir(top / directory) if name[0] != "."}
    changed = next(path for path in (top / "usr/bin").iterdir() if path.is_file() and not path.is_symlink())
    changed.write_bytes(b"changed")
    with pytest.raises(AssertionError):
        images.run("grub-fstest", debian, "cmp", "(loop0)/", top)
