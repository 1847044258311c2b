"""What earlier invocations have parsed: the same values, for the same input only, and never in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler import atomic_file
from reconciler.errors import ManifestsInvalid
from reconciler.manifests import last_good
from reconciler.manifests.cache import ManifestCache
from reconciler.manifests.host_policy import HostValues
from reconciler.manifests.host_reader import load_host
from reconciler.manifests.last_good import InForce
from reconciler.manifests.stored import DOCUMENTS, HOST, MANIFESTS, Normalized, Parsed, Store
from reconciler.manifests.values import Decoder
from reconciler.model import HostFacts

HOST_A = HostFacts("a", {"role": "web"}, "id-a")
DIGEST = "0" * 64
MANIFEST = f"""\
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {{name: thin}}
spec:
  thin: {{data: {{file: /srv/data, size: 1GiB}}, metadata: {{file: /srv/meta}}}}
  access: {{owner: root, group: kvm, mode: "0660"}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: web, labels: {{team: build, tier: "1"}}}}
spec:
  size: 64MiB
  bytesPerInode: 8KiB
  layers:
    - {{source: s3://images/1.tar, sha256: {DIGEST}}}
    - {{source: layers/2.tar}}
  s3: {{endpointUrl: "http://127.0.0.1:9000", anonymous: true}}
  limits: {{maxEntries: 10, devices: refuse}}
  hosts: {{matchLabels: {{role: web}}}}
  replacePolicy: Recreate
  deletionPolicy: Retain
  snapshots:
    - {{name: plain}}
    - name: ci
      count: 2
      max: 4
      ttl: 90s
      size: 128MiB
      uniqueIds: true
      readOnly: true
      seed: {{nocloud: {{userData: seed/user-data}}}}
      files:
        - {{path: /etc/hostname, content: "{{snapshot}}\\n", mode: "0600", uid: 7}}
        - {{path: /etc/motd, from: files/motd}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: tagged}}
spec: {{source: "oci://registry.example/team/web:1.4", platform: linux/arm64}}
---
apiVersion: v1
kind: ConfigMap
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "all.yaml").write_text(MANIFEST)
    return directory


def read(tree: Path, host: HostFacts = HOST_A) -> tuple[InForce, bool]:
    """What is in force, and whether it was parsed; a run's part is done: the result is kept."""
    store = Store(tree.parent / "parsed", writes=True)
    cached = ManifestCache(store)
    found = last_good.read(tree, {}, host=host, policy="fail", cached=cached)
    store.write()
    return found, bool(cached.parsed)


def test_what_is_read_back_is_what_was_parsed(tree: Path) -> None:
    first, parsed = read(tree)
    second, again = read(tree)

    assert (parsed, again) == (True, False)
    assert second == first
    assert repr(second.desired) == repr(first.desired)
    for name, image in first.desired.images.items():
        now = second.desired.images[name]
        assert now.digest == image.digest
        assert [(one.learnt, one.size, one.others) for one in now.layers] == [(False, 0, ())] * len(image.layers)
    assert [str(note) for note in second.notes] == [str(note) for note in first.notes]
    assert "another API group" in str(second.notes[0])


def test_values_of_every_declared_type_can_be_read() -> None:
    """A field of a new type fails here, not in a run."""
    assert Decoder([]).decode(Parsed, [[], [], []]) == Parsed((), (), ())
    assert Decoder([]).decode(HostValues, [None, {}, None]) == HostValues()


def documents_read(tree: Path) -> tuple[Normalized, bool]:
    """As a verb that only reads has them, and whether it parsed the manifests for that."""
    cached = ManifestCache(Store(tree.parent / "parsed"))
    last_good.read(tree, {}, host=HOST_A, cached=cached)
    found = last_good.documents(cached)
    return found, cached.in_force is not None


def test_documents_are_read_back_as_they_were_parsed(tree: Path) -> None:
    parsed, was_parsed = documents_read(tree)
    read(tree)
    kept, again = documents_read(tree)

    assert (was_parsed, again) == (True, False)
    assert json.dumps(dict(kept.images)) == json.dumps(dict(parsed.images))
    assert json.dumps(dict(kept.pools)) == json.dumps(dict(parsed.pools))
    assert kept.images["web"]["spec"]["snapshots"][1]["ttl"] == "1m30s"
    assert kept.images["web"]["spec"]["layers"][1]["source"] == f"{tree}/layers/2.tar"


def test_a_run_that_is_cut_off_before_its_documents_are_written_leaves_all_of_it_to_the_next(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = atomic_file.write

    def cut_off(path: Path, *args: Any, **options: Any) -> None:
        if path.name == DOCUMENTS:
            raise KeyboardInterrupt
        write(path, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic_file, "write", cut_off)
        read(tree)

    _, parsed = read(tree)
    assert parsed
    assert not documents_read(tree)[1]


@pytest.mark.parametrize("left", [b"", b"reconciler/parsed-1 0 0\n{}"], ids=["missing", "damaged"])
def test_documents_are_parsed_where_they_were_not_kept(tree: Path, left: bytes) -> None:
    expected, _ = documents_read(tree)
    read(tree)
    path = tree.parent / "parsed" / DOCUMENTS
    path.unlink()
    if left:
        path.write_bytes(left)

    assert documents_read(tree) == (expected, True)


def edited(tree: Path) -> HostFacts:
    (tree / "all.yaml").write_text(MANIFEST.replace("maxEntries: 10", "maxEntries: 11"))
    return HOST_A


def commented(tree: Path) -> HostFacts:
    """The values stay, their positions do not."""
    (tree / "all.yaml").write_text("# new\n" + MANIFEST)
    return HOST_A


def renamed(tree: Path) -> HostFacts:
    (tree / "all.yaml").rename(tree / "other.yaml")
    return HOST_A


def added(tree: Path) -> HostFacts:
    (tree / "more.yaml").write_text(MANIFEST.split("---\n")[2].replace("tagged", "more"))
    return HOST_A


def labelled(tree: Path) -> HostFacts:
    return HostFacts("a", {"role": "db"}, "id-a")


@pytest.mark.parametrize("change", [edited, commented, renamed, added, labelled], ids=lambda one: one.__name__)
def test_whatever_else_is_read_is_parsed(tree: Path, change: Callable[[Path], HostFacts]) -> None:
    read(tree)
    host = change(tree)
    found, parsed = read(tree, host)

    assert parsed
    assert found == last_good.read(tree, {}, host=host)
    assert read(tree, host) == (found, False)


def test_relative_sources_start_from_the_working_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "elsewhere" / "manifests").symlink_to(tree)
    found = []
    for directory in (tree.parent, tree.parent / "elsewhere"):
        monkeypatch.chdir(directory)
        cached = ManifestCache(store := Store(tree.parent / "parsed", writes=True))
        found.append(last_good.read(Path("manifests"), {}, host=HOST_A, cached=cached).desired)
        store.write()

    assert [one.images["web"].layers[1].source.url for one in found] == [
        f"{tree}/layers/2.tar",
        f"{tree.parent}/elsewhere/manifests/layers/2.tar",
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def other_value(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"67108864", b"67108865"))


def other_file(path: Path) -> None:
    path.write_bytes(b"\x80\x00 not ours")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def shared(path: Path) -> None:
    path.chmod(0o666)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, other_value, other_file, fifo, shared, directory], ids=lambda one: one.__name__)
def test_a_damaged_file_is_as_good_as_none(tree: Path, damage: Callable[[Path], None]) -> None:
    first, _ = read(tree)
    damage(tree.parent / "parsed" / MANIFESTS)

    assert read(tree) == (first, True)


def test_nothing_is_kept_while_there_is_a_fault(tree: Path) -> None:
    """Each fault has its line and column whatever was read before."""
    read(tree)
    before = (tree.parent / "parsed" / MANIFESTS).read_bytes()
    (tree / "bad.yaml").write_text(MANIFEST.split("---\n")[2].replace("tagged", "web"))
    told = []
    for _ in range(2):
        with pytest.raises(ManifestsInvalid) as caught:
            read(tree)
        told.append([str(fault) for fault in caught.value.faults])

    assert told[0] == told[1]
    assert "bad.yaml:3:18" in told[0][0]
    assert (tree.parent / "parsed" / MANIFESTS).read_bytes() == before


def test_the_host_file_is_parsed_once(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(
        "name: web-1\nlabels: {role: web}\npolicy:\n  fileSources: [/srv]\n  pinned: required\n  confinement: best-effort\n"
        "  endpoints: {allow: ['10.0.0.0/8', '[::1]:9000', 'minio.internal:9000'], private: refuse, credentials: []}\n"
        "  registries: {allow: [a.example], mirrors: {docker.io: [m.example/x]}, caFiles: {a.example: /etc/ca.pem}}\n"
        "  pools: {devices: ['/dev/disk/by-id/*']}\n"
    )
    plain = load_host(path)
    store = Store(tmp_path / "parsed", writes=True)
    assert load_host(path, store) == plain
    store.write()

    assert (tmp_path / "parsed" / HOST).exists()
    assert load_host(path, Store(tmp_path / "parsed")) == plain
    path.write_text("name: web-2\n")
    assert load_host(path, Store(tmp_path / "parsed")).name == "web-2"


def test_a_host_file_that_others_can_write_is_refused_although_its_content_is_known(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text("name: a\n")
    store = Store(tmp_path / "parsed", writes=True)
    load_host(path, store)
    store.write()
    path.chmod(0o666)

    with pytest.raises(ManifestsInvalid, match="can be written by others"):
        load_host(path, Store(tmp_path / "parsed"))


def test_verbs_that_only_read_write_nothing(tree: Path) -> None:
    store = Store(tree.parent / "parsed")
    last_good.read(tree, {}, host=HOST_A, cached=ManifestCache(store))
    store.write()

    assert not (tree.parent / "parsed").exists()


def test_what_can_not_be_looked_for_is_not_there(tmp_path: Path) -> None:
    """Another user's state directory, say, that can be read and its results not."""
    store = Store(tmp_path / ("n" * 300))

    assert not store.is_used(MANIFESTS)
    assert store.read(Parsed, MANIFESTS, "key") is None
