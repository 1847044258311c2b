"""Names for completion: found in every spelling that the samples and the documents of the tests have."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.manifests.loader import load_paths
from reconciler.manifests.names import declared_names

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "directory", ["manifests", *(f"samples/manifests/{one}" for one in ("debian", "fly-challenge", "oci", "thin"))]
)
def test_the_names_are_those_that_the_loader_finds(directory: str) -> None:
    desired = load_paths([ROOT / directory]).desired
    pools = {pool for pool, spec in desired.pools.items() if spec.where}

    found = list(declared_names(ROOT / directory))

    assert sorted(found) == sorted([*(("Image", name) for name in desired.images), *(("Pool", name) for name in pools)])


@pytest.mark.parametrize(
    "metadata",
    [
        "metadata: {name: web}",
        "metadata: {labels: {name: no}, name: web}",
        "metadata:  # comment\n  labels:\n    team: a\n  name: 'web'",
        'metadata:\n    name: "web"',
    ],
)
def test_a_name_is_found_in_flow_and_block_style(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: reconciler/v1alpha1\n{metadata}\nkind: Image\nspec: {{name: no}}\n---\nx: [\n")

    assert list(declared_names(tmp_path)) == [("Image", "web")]


def test_a_missing_directory_has_no_names(tmp_path: Path) -> None:
    assert not list(declared_names(tmp_path / "gone"))
