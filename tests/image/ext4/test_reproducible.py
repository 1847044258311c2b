"""The same layers and size give the same bytes: anywhere, at any time, in one go or layer by layer."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.image.builder.feed import Fetch, Input
from reconciler.image.builder.parent import Build, Milestone, Report, Request
from reconciler.image.source.spool import Spool
from reconciler.image.spec import MIB, Layer, Source, chain_ids
from samples import layers as samples
from tests.image.ext4.test_differential import everything
from tests.support import ext4, images, layers
from tests.support.sparse import copied
from tests.support.trees import Layer as Members
from tests.support.trees import file, sparse

SIZE = 288 * MIB
"""Three block groups, so that there are backups of the superblock for data to jump over."""


def growing() -> list[Members]:
    """Layers whose metadata grows and shrinks: many names, a directory with an index, then most of it replaced."""
    many = [file(b"many/%05d" % n, b"%d" % n) for n in range(3000)]
    large = [file(b"large/%d" % n, bytes([n]) * 9_000_000) for n in range(15)]
    return [
        [*many, *large[:2]],
        [*large, sparse(b"holes", 80_000_000, [(8192 * n, b"x" * 512) for n in range(1, 1500)])],
        many[:9],
    ]


def slow(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["everything", slow("growing"), slow("slim")])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The layers of one image, from the bottom."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "slim":
        made = samples.make(directory)
        return [made[name] for name in samples.IMAGES["slim"]]
    made_up = {"everything": everything, "growing": growing}[request.param]()
    paths = [directory / f"{number}.tar" for number in range(len(made_up))]
    for path, members in zip(paths, made_up, strict=True):
        path.write_bytes(layers.pack(members))
    return paths


def assert_identical(one: Path, other: Path) -> None:
    assert filecmp.cmp(one, other, shallow=False), f"{one} and {other} differ: {first_difference(one, other)}"


def first_difference(one: Path, other: Path) -> str:
    with one.open("rb") as left, other.open("rb") as right:
        block = 0
        while (a := left.read(4096)) == right.read(4096) and a:
            block += 1
    return f"block {block} of {one.stat().st_size // 4096}"


@pytest.mark.slow
def test_another_day_place_and_environment_give_the_same_bytes(chain: list[Path], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "a" / "longer" / "path"
    one.mkdir()
    other.mkdir(parents=True)
    images.build(chain, one / "image", "288MiB", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"})
    copies = [Path(shutil.copy(path, other / path.name)) for path in chain]

    time.sleep(1.1)  # more than the second that a clock that crept in would show
    before = os.umask(0o077)
    try:
        images.build(copies, other / "other.name", "288MiB", {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"})
    finally:
        os.umask(before)

    assert_identical(one / "image", other / "other.name")


def test_another_size_gives_another_identity(chain: list[Path], tmp_path: Path) -> None:
    """The size is part of the chain's id, and the id decides the file system's UUID."""
    one, other = (images.build(chain, tmp_path / size, size) for size in ("288MiB", "292MiB"))

    assert one["chain"] != other["chain"]
    assert uuid(tmp_path / "288MiB") != uuid(tmp_path / "292MiB")


def uuid(image: Path) -> bytes:
    with image.open("rb") as file_system:
        return os.pread(file_system.fileno(), 16, 1024 + 0x68)


# ------------------------------------------------------------------------------------------------ layer by layer


class Workshop:
    """Builds volumes through the builder process, as ``host.pipelines`` does."""

    def __init__(self, directory: Path, chain: Sequence[Path]) -> None:
        self._stop = threading.Event()
        self._spool = Spool(directory / "spool", stop=self._stop)
        self._chain = chain
        self._ids = chain_ids(SIZE, [hashlib.sha256(path.read_bytes()).hexdigest() for path in chain])
        self.directory = directory

    def build(self, first: int, last: int, volume: Path, *, index: Path | None = None, replay: bool = False) -> Path:
        """Apply the layers ``first`` to ``last`` - 1; return where the chain's index is. ``replay`` reads those before again."""
        begin = 0 if replay else first
        made = volume.with_suffix(".index")
        with volume.open("rb+") as file_system, made.open("wb") as index_out, opened(index) as index_in:
            request = Request(
                self._inputs(begin, last),
                SIZE,
                lambda digests: self._ids[last - 1],
                volume=file_system.fileno(),
                index_in=index_in,
                index_out=index_out.fileno(),
                replay=first - begin,
            )
            self._run(request)
        return made

    def _run(self, request: Request) -> Report:
        with Build(request) as build:
            return build.wait(Milestone.WRITTEN, stop=self._stop)

    def _inputs(self, first: int, last: int) -> tuple[Input, ...]:
        def begin(path: Path) -> Callable[[], Fetch]:
            return lambda: self._spool.fetch(Layer(Source(str(path))))

        return tuple(Input(path.name, begin(path)) for path in self._chain[first:last])

    def blank(self, name: str) -> Path:
        path = self.directory / name
        with path.open("wb") as volume:
            volume.truncate(SIZE)
        return path

    def clone(self, volume: Path, name: str) -> Path:
        return copied(volume, self.directory / name)


class opened:
    """The descriptor of a file that may be None."""

    def __init__(self, path: Path | None) -> None:
        self._fd = None if path is None else os.open(path, os.O_RDONLY)

    def __enter__(self) -> int | None:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        if self._fd is not None:
            os.close(self._fd)


@pytest.fixture
def workshop(tmp_path: Path, chain: list[Path]) -> Workshop:
    return Workshop(tmp_path, chain)


@pytest.fixture
def at_once(workshop: Workshop, chain: list[Path]) -> Path:
    """The whole chain in one go."""
    volume = workshop.blank("at-once")
    workshop.build(0, len(chain), volume)
    return volume


def test_layer_by_layer_on_clones_gives_the_same_bytes(workshop: Workshop, chain: list[Path], at_once: Path) -> None:
    volume = workshop.blank("volume0")
    index = workshop.build(0, 1, volume)
    for number in range(1, len(chain)):
        parent, volume = volume, workshop.clone(volume, f"volume{number}")
        index = workshop.build(number, number + 1, volume, index=index)
        images.assert_e2fsck_is_content(parent)

    assert_identical(at_once, volume)
    assert index.read_bytes() == at_once.with_suffix(".index").read_bytes()


def test_a_lost_index_is_made_again_from_the_layers(workshop: Workshop, chain: list[Path], at_once: Path) -> None:
    volume = workshop.blank("volume0")
    workshop.build(0, len(chain) - 1, volume)
    clone = workshop.clone(volume, "volume1")

    index = workshop.build(len(chain) - 1, len(chain), clone, replay=True)

    assert_identical(at_once, clone)
    assert index.read_bytes() == at_once.with_suffix(".index").read_bytes()


def test_a_child_leaves_its_parent_as_it_was(workshop: Workshop, chain: list[Path]) -> None:
    """A clone shares the parent's data blocks: the child's own data lies behind them, on other blocks."""
    parent = workshop.blank("parent")
    index = workshop.build(0, 1, parent)
    child = workshop.clone(parent, "child")
    workshop.build(1, 2, child, index=index)

    before, after = dict(data_blocks(parent)), dict(data_blocks(child))
    kept = before.keys() & after.keys()
    assert kept
    assert all(before[block] == after[block] for block in kept)


def data_blocks(image: Path) -> Iterator[tuple[int, str]]:
    """Each physical block of file data, and its digest."""
    with ext4.opened(image) as opened_image:
        for block, content in opened_image.file_blocks():
            yield block, hashlib.sha256(content).hexdigest()
