"""The manifests in force while some have faults: never fewer than before, and none that was not declared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files, last_good
from reconciler.manifests.cache import ManifestCache
from reconciler.model import HostFacts

IMAGE = """apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: {name}}}
spec: {{layers: [{{source: /layers/{layer}.tar}}]}}
"""


def image(name: str, layer: str = "1") -> str:
    return IMAGE.format(name=name, layer=layer)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text(image(name))
    return tmp_path


def layers(found: last_good.InForce) -> dict[str, str]:
    return {name: Path(spec.layers[0].source.url).stem for name, spec in found.desired.images.items()}


def read(tree: Path, last: dict[str, str] | None = None, policy: str = "freeze") -> last_good.InForce:
    return last_good.read(tree, last or {}, host=HostFacts(), policy=policy)


def test_without_a_fault_all_is_as_it_is_written(tree: Path) -> None:
    found = read(tree)

    assert layers(found) == {"a": "1", "b": "1", "c": "1"}
    assert (found.faults, found.frozen) == ((), ())
    assert found.good == {str(tree / f"{name}.yaml"): image(name) for name in "abc"}


@pytest.mark.parametrize("broken", ["kind: Imagine", "a: [", image("b", "2") + "surprise: 1", "\x00"])
def test_a_file_with_a_fault_stays_as_it_was_and_the_others_go_on(tree: Path, broken: str) -> None:
    last = dict(read(tree).good)
    (tree / "a.yaml").write_text(image("a", "2"))
    (tree / "b.yaml").write_text(broken)
    (tree / "c.yaml").unlink()

    found = read(tree, last)

    assert layers(found) == {"a": "2", "b": "1"}
    assert {fault.where.file for fault in found.faults} == {str(tree / "b.yaml")}
    assert found.frozen == (str(tree / "b.yaml"),)
    assert found.good == {str(tree / "a.yaml"): image("a", "2")}, "what is remembered of b stays"


def test_a_new_file_with_a_fault_declares_nothing_and_is_reported(tree: Path) -> None:
    last = dict(read(tree).good)
    (tree / "d.yaml").write_text("kind: Imagine")

    found = read(tree, last)

    assert layers(found) == {"a": "1", "b": "1", "c": "1"}
    assert found.faults
    assert not found.frozen


def test_files_that_contradict_each_other_stay_as_they_were(tree: Path) -> None:
    """One image declared twice: the later file has the fault, and its last good text is used."""
    last = dict(read(tree).good)
    (tree / "c.yaml").write_text(image("a", "9"))

    found = read(tree, last)

    assert layers(found) == {"a": "1", "b": "1", "c": "1"}
    assert "already declared" in found.faults[0].message


def test_where_last_good_texts_contradict_new_files_all_last_good_texts_are_in_force(tree: Path) -> None:
    """b takes the name of c, and c becomes unreadable: b contradicts the last good text of c, so all is as it was."""
    last = dict(read(tree).good)
    (tree / "a.yaml").write_text(image("c", "2"))
    (tree / "c.yaml").write_text("kind: Imagine")

    assert layers(read(tree, last)) == {"a": "1", "b": "1", "c": "1"}


def test_a_directory_that_can_not_be_read_wants_what_it_wanted(tree: Path) -> None:
    last = dict(read(tree).good)
    for path in tree.iterdir():
        path.unlink()
    tree.rmdir()

    found = read(tree, last)

    assert layers(found) == {"a": "1", "b": "1", "c": "1"}
    assert "not taken for an empty one" in found.faults[0].message


def test_an_empty_directory_is_one_that_wants_nothing(tree: Path) -> None:
    """It can be read: what protects from that is the guard on pruning."""
    last = dict(read(tree).good)
    for path in tree.iterdir():
        path.unlink()

    assert layers(read(tree, last)) == {}


def test_a_link_to_a_directory_that_has_gone_hides_nothing(tree: Path, tmp_path: Path) -> None:
    more = tmp_path.with_name(tmp_path.name + "-more")
    more.mkdir()
    (more / "m.yaml").write_text(image("m"))
    (tree / "more").symlink_to(more)
    last = dict(read(tree).good)
    more.rename(more.with_name(more.name + "-moved"))

    assert layers(read(tree, last)) == {"a": "1", "b": "1", "c": "1", "m": "1"}


def test_hold_keeps_everything_as_it_was(tree: Path) -> None:
    last = dict(read(tree).good)
    (tree / "a.yaml").write_text(image("a", "2"))
    (tree / "b.yaml").write_text("kind: Imagine")

    assert layers(read(tree, last, "hold")) == {"a": "1", "b": "1", "c": "1"}


def test_fail_does_nothing_at_all(tree: Path) -> None:
    last = dict(read(tree).good)
    (tree / "b.yaml").write_text("kind: Imagine")

    with pytest.raises(ManifestsInvalid):
        read(tree, last, "fail")


def test_where_nothing_is_remembered_a_directory_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestsInvalid):
        read(tmp_path / "nowhere")


def reread(tree: Path, cached: ManifestCache) -> last_good.InForce:
    return last_good.read(tree, {}, host=HostFacts(), cached=cached)


def test_an_edit_is_seen_however_soon_it_follows_and_whatever_its_size(tree: Path) -> None:
    cached = ManifestCache()
    for number in "23456":
        (tree / "a.yaml").write_text(image("a", number))
        assert layers(reread(tree, cached))["a"] == number


def test_a_file_at_rest_is_not_read_again_until_it_is_written_or_replaced(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RACY_NANOSECONDS", 0)
    cached = ManifestCache()
    first = reread(tree, cached)
    kept = dict(cached.files)
    (tree / "b.yaml").write_text(image("b", "9"))
    (tree / "new").write_text(image("c", "8"))
    (tree / "new").rename(tree / "c.yaml")
    second = reread(tree, cached)

    assert {name for name, file in cached.files.items() if file is kept.get(name)} == {str(tree / "a.yaml")}
    assert layers(second) == {"a": "1", "b": "9", "c": "8"}
    assert second.desired.images["a"] is first.desired.images["a"]


def test_a_file_that_was_written_in_place_and_back_dated_is_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RACY_NANOSECONDS", 0)
    cached = ManifestCache()
    reread(tree, cached)
    status = (tree / "a.yaml").stat()
    (tree / "a.yaml").write_text(image("a", "7"))
    os.utime(tree / "a.yaml", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert layers(reread(tree, cached))["a"] == "7"
