"""Each legitimate thing that a layer can say is in the volume, exactly, whichever program wrote the layer.

Without root the volume is read by the tests' own ext4 reader; with ``--root`` the kernel mounts it, too, and what only root can
plant on disk for GNU tar and bsdtar is tried as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import compare, debugfs, ext4, images, peers, reference

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


def _for_debugfs() -> Iterator[object]:
    """Each case by its first writer that needs no root; by its first one where all do."""
    for case in CASES:
        name = next((name for name in case.writers if not needs_root(case, name)), case.writers[0])
        yield pytest.param(case, name, id=case.name, marks=[pytest.mark.root] if needs_root(case, name) else [])


@needs_e2fsprogs
@pytest.mark.parametrize(("case", "name"), list(_for_debugfs()))
def test_debugfs_reads_what_a_real_writer_wrote(tmp_path: Path, case: Case, name: str) -> None:
    """A third reader, of e2fsprogs: names, types, bits, owners, times, holes, content, targets, devices, attributes, links."""
    image = build(case, name, tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    same(reference.model(case.expected), debugfs.of_image(image, scratch))
