"""Each legitimate thing that a layer can say is in the volume, exactly, whichever program wrote the layer.

Without root the volume is read by the tests' own ext4 reader; with ``--root`` the kernel mounts it, too, and what only root can
plant on disk for GNU tar and bsdtar is tried as well.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import compare, ext4, images, peers, reference
from tests.support.trees import HARDLINK, SECOND

from .cases import CASES, DEEPEST, Case, written
from .writers import WRITERS

IMAGE = 16 << 20

needs_e2fsprogs = pytest.mark.skipif(shutil.which("e2fsck", path=images.ENVIRONMENT["PATH"]) is None, reason="needs e2fsprogs")


def needs_writer(name: str) -> None:
    program = {"gnu": "GNU tar", "bsd": "bsdtar", "lis": "bsdtar"}.get(name[:3])
    if program and not peers.version(program):
        pytest.skip(f"needs {program}")


def needs_root(case: Case, name: str) -> bool:
    return case.privileged and WRITERS[name].plants


def layers_of(case: Case, name: str, directory: Path) -> list[bytes]:
    found = []
    for number, layer in enumerate(case.chain):
        place = directory / f"layer{number}"
        place.mkdir()
        found.append(WRITERS[name].write(layer, place))
    return found


def same(expected: compare.Tree, actual: compare.Tree, ignoring: Sequence[str] = ()) -> None:
    found = compare.differences(expected, actual, ignoring=ignoring)
    assert not found, "\n".join(found)


PAIRS = [pytest.param(case, name, id=f"{case.name}-{name}") for case, name in written()]
UNPRIVILEGED = [pair for pair in PAIRS if not needs_root(*pair.values)]  # type: ignore[arg-type]
PRIVILEGED = [pair for pair in PAIRS if needs_root(*pair.values)]  # type: ignore[arg-type]


def build(case: Case, name: str, directory: Path) -> Path:
    needs_writer(name)
    image = directory / "image"
    images.build_here(layers_of(case, name, directory), image, IMAGE)
    return image


@needs_e2fsprogs
@pytest.mark.parametrize(("case", "name"), UNPRIVILEGED)
def test_a_volume_holds_what_a_real_writer_wrote(tmp_path: Path, case: Case, name: str) -> None:
    image = build(case, name, tmp_path)

    same(reference.model(case.expected), ext4.of_image(image))


@needs_e2fsprogs
@pytest.mark.root
@pytest.mark.parametrize(("case", "name"), PRIVILEGED)
def test_a_volume_holds_what_only_root_could_plant_for_the_writer(tmp_path: Path, case: Case, name: str) -> None:
    assert os.geteuid() == 0
    image = build(case, name, tmp_path)

    images.assert_e2fsck_is_content(image)
    same(reference.model(case.expected), ext4.of_image(image))


ONE_EACH = [pytest.param(case, case.writers[0], id=case.name) for case in CASES if case is not DEEPEST]


@pytest.mark.root
@pytest.mark.parametrize(("case", "name"), ONE_EACH)
def test_a_kernel_mounts_what_a_real_writer_wrote(tmp_path: Path, case: Case, name: str) -> None:
    image = build(case, name, tmp_path)

    with images.mounted(image, "ro") as top:
        same(reference.model(case.expected), compare.of_directory(top))


@needs_e2fsprogs
@pytest.mark.parametrize("name", ["python-pax", "list-pax"])
def test_debugfs_reads_the_same_of_every_inode(tmp_path: Path, name: str) -> None:
    """A third reader: types, bits, owners, sizes, times and links as e2fsprogs see them."""
    needs_writer(name)
    layer = [entry for case in CASES if name in case.writers and len(case.chain) == 1 for entry in case.expected[0]]
    layer = [entry for entry in layer if b"\n" not in entry.name and entry.kind != HARDLINK and len(entry.name) < 256]
    unique = {entry.name.split(b"/")[0]: entry for entry in layer if b"/" not in entry.name and entry.name != b"."}
    image = tmp_path / "image"
    images.build_here([WRITERS[name].write([list(unique.values())], tmp_path)], image, IMAGE)

    with ext4.opened(image) as opened:
        expected = sorted(told_of(inode) for number in range(11, 11 + len(unique)) if (inode := opened.inode(number)))
    script = tmp_path / "script"
    script.write_text("".join(f"stat <{number}>\n" for number in range(11, 11 + len(unique))))
    told = images.run("debugfs", "-f", script, image).split("debugfs: stat <")[1:]

    assert sorted(map(told_by_debugfs, told)) == expected


Told = tuple[int, str, int, int, int, int, int]


def told_of(inode: ext4.Inode) -> Told:
    kind = TYPES[stat.S_IFMT(inode.mode)]
    return inode.number, kind, stat.S_IMODE(inode.mode), inode.uid, inode.gid, inode.size, inode.mtime


def told_by_debugfs(text: str) -> Told:
    found = re.search(r"Inode: (\d+) +Type: (.+?) +Mode: +(\d+) +Flags", text)
    owner = re.search(r"User: +(-?\d+) +Group: +(-?\d+)(?: +Project: +\d+)? +Size: (\d+)", text)
    time = re.search(r"mtime: 0x([0-9a-f]+):([0-9a-f]+)", text)
    size = int(owner[3]) if owner else 0
    assert found and owner and time, text
    low, extra = int(time[1], 16), int(time[2], 16)
    seconds = low - (low >> 31 << 32) + ((extra & 3) << 32)
    return (
        int(found[1]),
        found[2],
        int(found[3], 8),
        int(owner[1]) % 2**32,
        int(owner[2]) % 2**32,
        size,
        seconds * SECOND + (extra >> 2),
    )


TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character special",
    stat.S_IFBLK: "block special",
    stat.S_IFIFO: "FIFO",
}
