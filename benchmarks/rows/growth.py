"""How time grows with the size of a layer and with the number of its entries; and 200,000 small files, which have targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import inputs
from benchmarks.contest import OURS, Contest, Place, Row, Target
from benchmarks.contestants import ours, to_file
from benchmarks.measure import MIB
from benchmarks.rows.build import made, makers

SIZES_MIB = (100, 400)
ENTRIES = (2_000, 20_000, 65_000)
MANY = 200_000
LINES = ("GNU tar", "mke2fs -d TAR", "tar2ext4", "mkfs.erofs --tar", "tar2sqfs")
"""The peers that are drawn: each costs a turn at every point."""


@contextmanager
def contest(layer: Callable[[bool], Path], place: Place) -> Iterator[Contest]:
    tar = layer(place.quick)
    found = makers(tar, place.directory)
    yield made({OURS: lambda: to_file(ours(tar), place.directory), **{name: found[name] for name in LINES}}, tar)


def of_size(mib: int, quick: bool) -> Path:
    return inputs.first_bytes("quick" if quick else "debian", mib * MIB // (10 if quick else 1))


def of_entries(count: int, quick: bool) -> Path:
    return inputs.get(f"small-files-{count // 20 if quick else count}")


def _row(name: str, what: str, layer_of: Callable[[bool], Path], axis: str, targets: tuple[Target, ...] = ()) -> Row:
    work = f"`build` of {what}"
    return Row(name, work, partial(contest, layer_of), layer_of, targets, warm_up=False, rounds=3, points=(axis,))


ROWS = (
    *(_row(f"size-{mib}", f"the first {mib} MiB of the Debian", partial(of_size, mib), "bytes") for mib in SIZES_MIB),
    *(_row(f"entries-{count}", f"{count:,} small files", partial(of_entries, count), "entries") for count in ENTRIES),
    _row(
        "entries-200000",
        f"{MANY:,} small files",
        partial(of_entries, MANY),
        "entries",
        (Target(1.1, ("tar2ext4",), was=1.63), Target(130 * MIB, measure="anonymous", was=194 * MIB)),
    ),
)
