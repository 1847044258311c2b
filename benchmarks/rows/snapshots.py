"""1,000 snapshots of one volume by one ``--once``, in a file pool with reflinks: CPU of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contest import OURS, Contest, Place, Row, Target
from benchmarks.contestants import loop_device, mounted, quietly
from benchmarks.ground import Ground, pinned
from benchmarks.rows.s3 import reconciled
from samples import layers as samples

SNAPSHOTS = 1000


def declared(root: Path, count: int) -> Ground:
    """One image of a layer of one file."""
    ground, layer = Ground(root / "ground"), root / "layer.tar"
    samples.pack(layer, [samples.file("etc/hostname", "web\n")])
    ground.declare("web", [pinned(str(layer), layer)], [{"name": "web", "count": count}], size="16MiB")
    return ground


@contextmanager
def contest(place: Place) -> Iterator[Contest]:
    """On XFS in a loop device."""
    with loop_device(place.directory / "pool") as device:
        quietly("mkfs.xfs", "-q", "-m", "reflink=1", device)
        with mounted(device, place.directory) as top:
            yield Contest({OURS: reconciled(declared(top, SNAPSHOTS))}, about={"snapshots": SNAPSHOTS})


ROWS = (
    Row(
        "snapshots",
        f"{SNAPSHOTS:,} snapshots of one volume, file pool on XFS, CPU of each",
        contest,
        targets=(Target(0.003, measure="cpu", per=SNAPSHOTS, was=0.020),),
        needs_root=True,
        warm_up=False,
        rounds=3,
    ),
)
