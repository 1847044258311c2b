"""Hostile layers from a bucket, as a user meets them: each fails its own image, and nothing of any is left on the host."""

from __future__ import annotations

from reconciler.image.spec import Limits
from tests.hostile.case import Accepted, Case
from tests.hostile.catalogue import CASES

from .layers import Layer, root
from .test_inspect import EVIL
from .workshop import Workshop


def refused_by_default() -> list[Case]:
    """Of each class one that is refused whatever the manifest says of limits."""
    found = [
        case for case in CASES if not isinstance(case.verdict, Accepted) and case.limits == Limits() and len(case.layers) == 1
    ]
    return [*{case.attack: case for case in reversed(found)}.values()]


def test_hostile_layers_of_every_class_leave_no_volume_no_spool_and_no_process(bucket: Workshop) -> None:
    """One good image among them comes up all the same. Of the long layer only a part has come when it is refused."""
    bucket.image("good", [root("good")], s3=True)
    bad = {case.name.replace(".", "-"): case for case in refused_by_default()}
    for name, case in bad.items():
        bucket.image(name, [Layer(name, *case.bytes_of_layers())], s3=True)

    bucket.image("long", [EVIL], s3=True)

    done = bucket.once("-o", "json", "--jobs", "2").expect(1).json

    failed = {one["name"] for one in done["objects"] if one["kind"] == "Image" and one["phase"] == "Failed"}
    assert failed == {*bad, "long"}
    assert bucket.snapshot_names() == {"good-a"}
    assert len(bucket.volumes) == 1
    bucket.tidy()
