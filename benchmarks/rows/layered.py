"""Three images of five stages of a Debian, eight of them distinct, from S3: with the default of concurrency and one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import inputs
from benchmarks.contest import OURS, Contest, Place, Row, Target
from benchmarks.ground import Ground, pinned
from benchmarks.rows.s3 import BUCKET, reconciled
from samples.s3 import S3Server, upload

ONE_BY_ONE = "--jobs 1 --downloads 1"


@contextmanager
def contest(place: Place) -> Iterator[Contest]:
    stages = inputs.staged(quick=place.quick)
    ground = Ground(place.directory)
    with S3Server() as server:
        upload(server.endpoint, {path.name: path for path in stages}, BUCKET)
        s3 = {"endpointUrl": server.endpoint, "region": "us-east-1", "anonymous": True}
        layers = [pinned(f"s3://{BUCKET}/{path.name}", path) for path in stages]
        for name, chosen in inputs.IMAGES.items():
            ground.declare(name, [layers[number] for number in chosen], [{"name": name}], size="4GiB", s3=s3)
        works = {OURS: reconciled(ground), ONE_BY_ONE: reconciled(ground, *ONE_BY_ONE.split())}
        yield Contest(works, [], {"bytes": sum(path.stat().st_size for path in stages)})


ROWS = (
    Row(
        "layered",
        "three images of five gzip layers, eight distinct, from S3",
        contest,
        lambda quick: inputs.staged(quick=quick),
        (Target(0.65, (ONE_BY_ONE,), was=0.9),),
        warm_up=False,
        rounds=3,
    ),
)
