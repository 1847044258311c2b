"""The sample repositories under ``manifests/``: all of them are read, so that none can rot."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler import documents
from reconciler.image.spec import GIB, S3Options
from reconciler.manifests import load, load_paths
from reconciler.model import Desired

MANIFESTS = Path(__file__).parent.parent / "manifests"
SAMPLES = sorted(path.name for path in MANIFESTS.iterdir() if path.is_dir())
FILES = sorted(MANIFESTS.rglob("*.yaml"))


def sample(name: str) -> Desired:
    return load_paths([MANIFESTS / name])


def keys(desired: Desired, image: str) -> list[str]:
    return [layer.source.url for layer in desired.images[image].layers]


def test_there_are_samples() -> None:
    assert set(SAMPLES) >= {"fly-challenge", "quickstart", "thin"}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_declares_something_for_any_host(name: str) -> None:
    """A newcomer who points ``-f`` at it gets all that it shows."""
    assert load(MANIFESTS / name).images == sample(name).images != {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_editors_find_the_schema_and_agree(path: Path) -> None:
    """The first line leads to it. One document a file: for any further one editors do not follow that line."""
    modeline = path.read_text().splitlines()[0]
    [document] = yaml.safe_load_all(path.read_text())

    assert (path.parent / modeline.removeprefix("# yaml-language-server: $schema=")).resolve() == MANIFESTS / "schema.json"
    jsonschema.Draft202012Validator(documents.schema()).validate(document)


def test_the_quickstart_is_one_stack_of_images() -> None:
    """Each image stands on the one below, so that a layer is fetched and stored once; nothing is pinned, all is on loopback."""
    desired = sample("quickstart")
    stack = keys(desired, "slim")

    assert (keys(desired, "base"), keys(desired, "python")) == (stack[:1], stack[:2])
    assert {name: image.snapshots for name, image in desired.images.items()} == {
        "base": ("base-a",),
        "python": ("python-a", "python-ci-0", "python-ci-1"),
        "slim": ("slim-a",),
    }
    layers = [layer for image in desired.images.values() for layer in image.layers]
    assert {layer.source.s3 for layer in layers} == {S3Options("http://127.0.0.1:9460", "us-east-1", anonymous=True)}
    assert {layer.sha256 for layer in layers} == {None}
    assert {image.size for image in desired.images.values()} == {GIB}
    assert desired.pools["default"].thin is None


def test_the_challenge_is_declared_as_its_bucket_is() -> None:
    """Fifteen objects, five to a family, public, without digests."""
    desired = sample("fly-challenge")

    assert desired.images.keys() == {"golang", "node", "python"}
    for family, image in desired.images.items():
        assert keys(desired, family) == [f"s3://flyio-platform-hiring-challenge/images/{family}/{n}.tar" for n in range(1, 6)]
        assert {(layer.sha256, layer.source.s3) for layer in image.layers} == {
            (None, S3Options(None, "us-east-1", anonymous=True))
        }
        assert len(image.snapshots) == 2
    assert desired.pools["default"].thin is None


def test_the_thin_sample_has_a_pool_on_files() -> None:
    thin = sample("thin").pools["thin"].thin

    assert thin is not None
    assert thin.data.file and thin.data.size and thin.metadata.file and thin.metadata.size
