"""``reconcile build`` of one plain layer, to a file and onto a device, beside all that makes or fills a file system of a tar."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import inputs
from benchmarks.contest import OURS, Contest, Place, Row, Target, Work
from benchmarks.contestants import (
    GNU_TAR,
    IMAGE_BYTES,
    UNPACKERS,
    available,
    loop_device,
    ours,
    quietly,
    to_device,
    to_file,
    to_nothing,
    tool,
    unpacked,
)
from benchmarks.measure import MIB, Cost, run

NEED_ROOT = ("GNU tar", "bsdtar", "mke2fs -d DIR", "dd")
INPUTS = {"build": ("debian", "quick"), "build-small": ("minbase", "quick-minbase")}


Works = dict[str, Callable[[], Work]]


def layer_of(name: str, quick: bool) -> Path:
    return inputs.get(INPUTS[name][quick])


def about(layer: Path) -> dict[str, float]:
    return {"bytes": layer.stat().st_size, "entries": inputs.entries(layer)}


def makers(layer: Path, place: Path) -> Mapping[str, Callable[[], Work]]:
    """Everything that goes from a tar to a file system, by its name in ``peers.PEERS``. ``mke2fs -d DIR`` finds it unpacked."""
    size = f"{IMAGE_BYTES // MIB}M"
    mke2fs = [tool("mke2fs"), "-q", "-F", "-t", "ext4", "-d"]

    def from_directory() -> Work:
        top = place / "unpacked"
        top.mkdir()
        quietly(*GNU_TAR, "--directory", top, "--file", layer)
        return to_file(lambda target: [*mke2fs, str(top), str(target), size], place)

    return {
        **{name: partial(unpacked, command, layer, place) for name, command in UNPACKERS.items()},
        "mke2fs -d DIR": from_directory,
        "mke2fs -d TAR": lambda: to_file(lambda target: [*mke2fs, str(layer), str(target), size], place),
        "tar2ext4": lambda: to_file(lambda target: [tool("tar2ext4"), "-i", str(layer), "-o", str(target)], place),
        "mkfs.erofs --tar": lambda: to_file(lambda target: [tool("mkfs.erofs"), "--tar=f", str(target), str(layer)], place),
        "tar2sqfs": lambda: to_file(lambda target: [tool("tar2sqfs"), "-q", "-c", "lz4", "-j", "2", str(target)], place, layer),
    }


def dd(layer: Path, place: Path) -> Work:
    """The bytes of the layer onto a loop device, past the page cache: what the storage takes."""

    def turn() -> Cost:
        with loop_device(place / "backing") as device:
            return run([tool("dd"), f"if={layer}", f"of={device}", "bs=4M", "oflag=direct", "conv=fsync", "status=none"])

    return turn


def checked(layer: Path, place: Path) -> Work:
    """e2fsck of an image with this content."""
    image = place / "checked"
    run(ours(layer)(image))
    return to_nothing("e2fsck", "-fn", image)


@contextmanager
def contest(name: str, place: Place) -> Iterator[Contest]:
    layer = layer_of(name, place.quick)
    works: Works = {OURS: lambda: to_file(ours(layer), place.directory), **makers(layer, place.directory)}
    works |= {
        "sha256": lambda: to_nothing("openssl", "dgst", "-sha256", layer),
        "e2fsck": partial(checked, layer, place.directory),
        "dd": partial(dd, layer, place.directory),
    }
    yield made(works, layer)
    shutil.rmtree(place.directory / "unpacked", ignore_errors=True)


def made(works: Mapping[str, Callable[[], Work]], layer: Path) -> Contest:
    able, missing = available(works, root=NEED_ROOT)
    return Contest(able, [layer], about(layer), missing)


@contextmanager
def device_contest(place: Place) -> Iterator[Contest]:
    layer = layer_of("build", place.quick)
    works: Works = {
        OURS: lambda: to_device(ours(layer), place.directory),
        **{name: partial(unpacked, command, layer, place.directory) for name, command in UNPACKERS.items()},
    }
    yield made(works, layer)


ROWS = (
    Row(
        "build",
        "`build` of a Debian with Go, Python and gcc, plain, to a file",
        partial(contest, "build"),
        partial(layer_of, "build"),
        (
            Target(0.45, ("GNU tar",), was=0.64),
            Target(1.0, ("tar2ext4",), was=1.43),
            Target(0.55, ("tar2ext4", "sha256", "e2fsck"), was=0.78),
            Target(2.2, ("dd",), was=3.3),
            Target(55 * MIB, measure="anonymous", was=50 * MIB),
        ),
        points=("bytes",),
    ),
    Row(
        "build-device",
        "the same onto a loop device with direct I/O",
        device_contest,
        partial(layer_of, "build"),
        (Target(0.45, ("GNU tar",)),),
        needs_root=True,
        warm_up=False,
        rounds=3,
    ),
    Row(
        "build-small",
        "`build` of a minimal Debian, plain, to a file",
        partial(contest, "build-small"),
        partial(layer_of, "build-small"),
        (Target(0.5, ("GNU tar",), was=0.88), Target(1.2, ("tar2ext4",), was=1.95)),
        points=("bytes",),
    ),
)
