"""Real root file systems on a thin pool: what the kernel mounts is what GNU tar unpacks; each snapshot is its user's alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from samples import layers as samples
from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.workshop import digest, fsck
from tests.support import compare, images, layers, reference
from tests.support.tier import ROOTFS
from tests.support.trees import Entry
from tests.support.zygote import Zygote

from .rig import thin_check
from .workshop import ThinWorkshop

MIB = 1 << 20
DEBIAN = os.environ.get(ROOTFS)


@pytest.fixture
def host(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    workshop = ThinWorkshop(tmp_path / "host", zygote, data_size="1GiB")
    yield workshop
    workshop.take_down()
    ThinWorkshop.up = None
    thin_check(workshop.metadata_path)


def declare(host: ThinWorkshop, name: str, paths: Sequence[Path], size: str) -> None:
    """An image of these layers, with two snapshots."""
    host.pool()
    sources = [{"source": str(path), "sha256": digest(path)} for path in paths]
    body = {"size": size, "layers": sources, "snapshots": [{"name": name, "count": 2}]}
    host.declare(name, {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": body})


@contextmanager
def mounted(device: Path, top: Path, *options: str) -> Iterator[Path]:
    top.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", ",".join(("defaults", *options)), device, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)
        top.rmdir()


def same(expected: compare.Tree, actual: compare.Tree, ignoring: Sequence[str] = ()) -> None:
    assert not (found := compare.differences(expected, actual, ignoring=ignoring)), "\n".join(found)


def as_gnu_tar_unpacks(host: ThinWorkshop, name: str, paths: Sequence[Path], chain: Sequence[Sequence[Entry]], room: int) -> None:
    """Mounted read-write, one snapshot holds what GNU tar makes of the layers on a file system of mke2fs, holes aside."""
    expected = reference.model(layers.entries(path) for path in paths)
    with mounted(host.snapshot(f"{name}-0"), host.root / "mnt", "noatime") as top:
        actual = compare.of_directory(top)
        same(expected, actual)
    with images.fresh_ext4(host.root / "peer", room) as top:
        for path, layer in zip(paths, chain, strict=True):
            reference.unpack_with_gnu_tar(path, layer, top)
        unpacked = compare.of_directory(top)
    (host.root / "peer").unlink()
    same(reference.forgiving(unpacked, expected), actual, ignoring=["data"])


def written_to(host: ThinWorkshop, name: str) -> None:
    """What one guest does to its root is nobody else's affair."""
    mine, other = host.snapshot(f"{name}-0"), host.snapshot(f"{name}-1")
    others = {path.name: digest(path) for path in (*host.volumes, other)}
    with mounted(mine, host.root / "mnt") as top:
        (top / "etc" / "mine").write_bytes(b"mine")
        (top / "bin" / "gone").write_bytes(bytes(MIB))
    fsck(mine)
    fsck(other)
    assert images.run("debugfs", "-R", "cat /etc/mine", mine) == "mine"
    assert {path.name: digest(path) for path in (*host.volumes, other)} == others
    host.settled()


@pytest.fixture(scope="module")
def sample_layers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return samples.make(tmp_path_factory.mktemp("samples"))


@pytest.mark.timeout(400)
def test_the_quickstarts_images(host: ThinWorkshop, sample_layers: Mapping[str, Path]) -> None:
    """All three, on one pool: they share their lower layers, and each is what its own layers say."""
    paths = {name: [sample_layers[layer] for layer in chain] for name, chain in samples.IMAGES.items()}
    for name, chain in paths.items():
        declare(host, name, chain, "256MiB")

    host.converge()

    made = [role for role, *_ in host.devices().values() if role != "label"]
    assert len(made) == len(set(prefixes(samples.IMAGES.values()))) + 2 * len(paths), "a volume for each distinct chain"
    for name, chain in paths.items():
        as_gnu_tar_unpacks(host, name, chain, [list(layers.entries(path)) for path in chain], 512 * MIB)
    written_to(host, "slim")


def prefixes(chains: Sequence[Sequence[str]] | object) -> Iterator[tuple[str, ...]]:
    for chain in chains:  # type: ignore[attr-defined]
        yield from (tuple(chain[: n + 1]) for n in range(len(chain)))


@pytest.mark.slow
@pytest.mark.skipif(DEBIAN is None, reason=f"{ROOTFS} names no tar of a whole root file system")
@pytest.mark.timeout(900)
def test_a_whole_debian(host: ThinWorkshop) -> None:
    assert DEBIAN is not None
    path = Path(DEBIAN)
    declare(host, "debian", [path], "512MiB")

    host.converge()

    described = [reference.without_data(entry) for entry in layers.entries(path)]
    as_gnu_tar_unpacks(host, "debian", [path], [described], 512 * MIB)
    written_to(host, "debian")
