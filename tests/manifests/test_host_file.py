"""The host's own file, and the images that its labels select."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import loader
from reconciler.manifests.host_file import load_host
from reconciler.manifests.hosts import bucket
from reconciler.model import HostFacts


def test_a_host_without_a_file_has_no_name_and_no_labels(tmp_path: Path) -> None:
    found = load_host(tmp_path / "host.yaml")

    assert (found.name, found.labels) == (None, {})


def test_a_host_has_a_name_and_labels_of_text(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("name: web-1.example.org\nlabels: {role: web, rack: 07, gpu: no}\n")

    found = load_host(path)

    assert found.name == "web-1.example.org"
    assert found.labels == {"role": "web", "rack": "07", "gpu": "no"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a]", "host.yaml:1:7: name"),
        ("lables: {a: b}", "labels"),
        ("labels: {a: '-'}", "labels.a"),
        ("- a", "not one mapping"),
        ("", "is empty"),
        ("# nothing", "not one mapping"),
        ("a: b\n---\nc: d", "not one mapping"),
        ("a: *b", "host.yaml:1:4"),
    ],
)
def test_a_fault_in_it_is_reported_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(text)

    with pytest.raises(ManifestsInvalid) as caught:
        load_host(path)
    assert message in str(caught.value.faults[0])


def image(name: str, percent: int) -> str:
    head = f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: {name}}}\n"
    return head + f"spec: {{layers: [{{source: /1.tar}}], hosts: {{percent: {percent}}}}}\n"


def test_a_share_of_the_hosts_grows_without_losing_any(tmp_path: Path) -> None:
    """Ten percent are among the twenty, and so on: raising the number is how a canary becomes everybody."""
    hosts = [f"host-{number}" for number in range(1000)]
    chosen = []
    for percent in (0, 10, 20, 50, 100):
        (tmp_path / "i.yaml").write_text(image("web", percent))
        chosen.append({host for host in hosts if loader.load(tmp_path, host=HostFacts(host, {}, host)).images})

    assert [len(found) for found in chosen[::4]] == [0, 1000]
    assert 70 < len(chosen[1]) < 130
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3] < chosen[4]


def test_each_image_draws_its_own_bucket() -> None:
    assert len({bucket("host-1", f"image-{number}") for number in range(100)}) > 50
