"""Pulls that are killed: from Debian's docker-registry, which redirects to object storage, wherever SIGKILL strikes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.image.source.reading import PIECE
from samples.s3 import S3Server, connect
from tests.support import oci
from tests.support.oci import DockerRegistry, image

from .gate import Gate, Request
from .layers import change, noise, root
from .test_crashes import killed_at
from .test_registry import declare, host_file
from .workshop import Workshop, WorkshopAt

MIB = 1 << 20
SIZES = (5, 3, 4)
WEB = image(
    [
        root("base", {"srv/0": noise(SIZES[0] * MIB, 1)}).data,
        *(change(str(n), {f"srv/{n}": noise(SIZES[n] * MIB, n + 1)}).data for n in (1, 2)),
    ]
)
LAYERS = [digest.removeprefix("sha256:") for digest in WEB.layers]
LENGTHS = {one: len(WEB.blobs[f"sha256:{one}"]) for one in LAYERS}
MOMENTS = 45
"""A whole pull has more moments at which something durable changes."""


@dataclass
class Place:
    """A registry, and the gate before the storage that it redirects to."""

    registry: DockerRegistry
    gate: Gate
    source: str

    def declared(self, workshop: Workshop) -> Workshop:
        host_file(workshop, self.registry.host)
        declare(workshop, self.source, size="64MiB")
        return workshop

    def sent(self, layer: str) -> int:
        """Bytes of a layer that the storage has sent since the last ``forget``."""
        return sum(one.sent for one in self.gets(layer))

    def gets(self, layer: str) -> list[Request]:
        return [one for one in self.gate.requests if one.method == "GET" and one.key == blob(layer)]

    def redirects(self, layer: str) -> int:
        return sum(one.startswith("GET") and layer in one for one in self.registry.requests())


def blob(layer: str) -> str:
    """The key of its bytes in the storage."""
    return f"docker/registry/v2/blobs/sha256/{layer[:2]}/{layer}/data"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The image is pushed past the gate."""
    directory = tmp_path_factory.mktemp("registry")
    layout = oci.layout(directory / "layout", "x", WEB)
    with S3Server() as storage, Gate(storage.endpoint) as gate:
        connect(storage.endpoint).create_bucket(Bucket="blobs")
        with DockerRegistry(directory / "pushed", s3=storage.endpoint) as pushed:
            pushed.push(f"oci:{layout}:x", "team/web:1")
        with DockerRegistry(directory / "pulled", s3=gate.endpoint) as registry:
            yield Place(registry, gate, f"oci://{registry.host}/team/web@{WEB.digest}")


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> dict[str, str]:
    """What a pull that nothing disturbs makes."""
    calm = place.declared(workshop_at(tmp_path_factory.mktemp("calm") / "workshop"))
    calm.converge()
    return calm.holdings()


def kept(workshop: Workshop, layer: str) -> int:
    """Bytes of a layer that need not be fetched again: all of a whole one, those on record of another."""
    if (workshop.spool / layer).exists():
        return LENGTHS[layer]
    try:
        return int(json.loads((workshop.spool / f"{layer}.json").read_text())["proofs"][-1][0])
    except FileNotFoundError:
        return 0


def finishes(place: Place, workshop: Workshop, undisturbed: dict[str, str]) -> None:
    """The next run fetches what is missing, converges, and leaves nothing over; the one after it fetches nothing."""
    sealed = bool(workshop.volumes)
    before = {layer: kept(workshop, layer) for layer in LAYERS}
    place.gate.release()
    place.gate.forget()
    workshop.converge()
    for layer in LAYERS:
        assert place.sent(layer) == (0 if sealed else LENGTHS[layer] - before[layer])
    assert workshop.holdings() == undisturbed
    place.gate.forget()
    workshop.settled()
    assert not any(map(place.gets, LAYERS))


HOW_OFTEN = [4, pytest.param(48, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
"""The quick tier kills a few times, the slow one some dozens."""


@pytest.mark.parametrize("kills", HOW_OFTEN)
def test_a_pull_that_is_killed_at_any_moment_converges(
    kills: int, place: Place, undisturbed: dict[str, str], tmp_path: Path, workshop_at: WorkshopAt
) -> None:
    for moment in random.Random(kills).sample(range(1, MOMENTS), min(kills, MOMENTS - 1)):
        workshop = place.declared(workshop_at(tmp_path / str(moment)))
        assert killed_at(moment, workshop), f"a pull has no moment {moment}"
        finishes(place, workshop, undisturbed)


@pytest.mark.parametrize("kills", HOW_OFTEN)
def test_each_blob_resumes_by_range_through_a_fresh_redirect(
    kills: int, place: Place, undisturbed: dict[str, str], tmp_path: Path, workshop_at: WorkshopAt
) -> None:
    """Killed again and again in the middle of a blob, with and without time for a record of what has come."""
    rng = random.Random(kills)
    killed = resumed = 0
    while killed < kills:
        workshop = place.declared(workshop_at(tmp_path / str(killed)))
        for layer in rng.choices(LAYERS, k=4):
            before = {one: kept(workshop, one) for one in LAYERS}
            if before[layer] == LENGTHS[layer]:
                continue
            redirects = place.redirects(layer)
            _kill_within(place, workshop, layer, rng)
            killed, resumed = killed + 1, resumed + bool(before[layer])
            assert place.gets(layer) and place.redirects(layer) > redirects
            for one in LAYERS:
                assert all(get.first >= before[one] for get in place.gets(one)), "what is on record is not fetched again"
        finishes(place, workshop, undisturbed)
    assert resumed


def _kill_within(place: Place, workshop: Workshop, layer: str, rng: random.Random) -> None:
    """Start a run, and kill it once a random part of the layer has come."""
    before = kept(workshop, layer)
    comes = rng.randrange((LENGTHS[layer] - before) // 8, LENGTHS[layer] - before)
    place.gate.release()
    place.gate.forget()
    place.gate.hold(blob(layer), comes)
    running = workshop.start("--once").until(place.gate.held.is_set, "the middle of the layer")
    if rng.random() < 0.5:
        running.until(lambda: kept(workshop, layer) >= before + comes - PIECE, "a record of all but the last piece")
    running.kill()
