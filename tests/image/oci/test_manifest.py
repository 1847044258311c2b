"""Manifests, indexes and configurations: what is read, and what is refused with which reason."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from reconciler.errors import ImageRefused
from reconciler.image.oci import config, manifest, strict_json
from reconciler.image.oci.manifest import Descriptor, ImageManifest, Index
from reconciler.image.oci.platform import Platform

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": A, "size": 100}


def image(**changes: Any) -> dict[str, Any]:
    layer = {"mediaType": GZIP, "digest": B, "size": 5}
    found = {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": CONFIG, "layers": [layer]} | changes
    return {key: value for key, value in found.items() if value is not ...}


def layer(**changes: Any) -> dict[str, Any]:
    return image(layers=[{"mediaType": GZIP, "digest": B, "size": 5} | changes])


def index(*platforms: str, **changes: Any) -> dict[str, Any]:
    entries = []
    for number, text in enumerate(platforms):
        entry: dict[str, Any] = {"mediaType": manifest.OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 5}
        if text:
            entry["platform"] = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        entries.append(entry)
    return {"schemaVersion": 2, "manifests": entries} | changes


def read(document: object, media_type: str = "") -> ImageManifest | Index:
    return manifest.parse(json.dumps(document).encode(), media_type)


def test_a_manifest_is_read() -> None:
    data = json.dumps(image()).encode()

    found = manifest.parse(data, f"{manifest.OCI_MANIFEST}; charset=utf-8")

    assert isinstance(found, ImageManifest)
    assert found.digest == "sha256:" + sha256(data).hexdigest()
    assert found.config.digest == A
    assert found.layers == (Descriptor(GZIP, B, 5),)
    assert found.layers[0].sha256 == "b" * 64


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ],
)
def test_layers_of_each_type_are_read(media_type: str) -> None:
    assert isinstance(read(layer(mediaType=media_type)), ImageManifest)


def test_dockers_types_are_read() -> None:
    docker = CONFIG | {"mediaType": "application/vnd.docker.container.image.v1+json"}

    assert isinstance(read(image(config=docker, mediaType=manifest.DOCKER_MANIFEST), manifest.DOCKER_MANIFEST), ImageManifest)
    assert isinstance(read(index("linux/amd64", mediaType=manifest.DOCKER_LIST), manifest.DOCKER_LIST), Index)


def test_a_manifest_without_its_media_type_is_read_by_its_fields() -> None:
    assert isinstance(read(image(mediaType=...)), ImageManifest)
    assert isinstance(read(index("linux/amd64")), Index)
    assert isinstance(read(image(mediaType=...), "application/octet-stream"), ImageManifest)


def test_an_index_is_read_and_an_entry_chosen() -> None:
    found = read(index("linux/arm64/v8", "unknown/unknown", "linux/amd64"))

    assert isinstance(found, Index)
    assert found.entries[0].platform == Platform("linux", "arm64", "v8")
    assert found.choose(Platform.parse("linux/amd64")).digest == f"sha256:{2:064x}"
    with pytest.raises(ImageRefused, match=r"no image for linux/s390x.*linux/amd64, linux/arm64/v8"):
        found.choose(Platform.parse("linux/s390x"))


def test_the_name_of_an_entry_of_a_layout_is_read() -> None:
    document = index("")
    document["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "web:v1"}

    found = read(document)

    assert isinstance(found, Index)
    assert found.entries[0].names == ("v1", "web:v1")


REFUSED: list[tuple[str, object, str]] = [
    ("schema 1", {"schemaVersion": 1, "fsLayers": []}, "schema version 1, which is obsolete"),
    ("no version", image(schemaVersion=...), "no schemaVersion"),
    ("version 3", image(schemaVersion=3), "schemaVersion is not 2"),
    ("true is no version", image(schemaVersion=True), "not a whole number"),
    ("both", image(manifests=[]), "read in two ways"),
    ("index without entries", index(), "lists no manifests"),
    ("index called manifest", index("linux/amd64", mediaType=manifest.OCI_MANIFEST), "none of its fields"),
    ("manifest called index", image(mediaType=manifest.OCI_INDEX), "none of its fields"),
    ("foreign media type", image(mediaType="text/plain"), "not the media type of an image"),
    ("too many entries", index(*["linux/amd64"] * 1025), "1025 manifests"),
    ("artifact type", image(artifactType="application/vnd.example.sbom"), "artifact of type application/vnd.example.sbom"),
    ("artifact config", image(config=CONFIG | {"mediaType": "application/vnd.oci.empty.v1+json"}), "artifact of type"),
    ("helm", image(config=CONFIG | {"mediaType": "application/vnd.cncf.helm.config.v1+json"}), "helm.*not an image"),
    ("no layers", image(layers=[]), "has no layers"),
    ("layers missing", image(layers=...), "has no layers"),
    ("layers no list", image(layers={}), "not a list of objects"),
    ("257 layers", image(layers=[{"mediaType": GZIP, "digest": B, "size": 5}] * 257), "257 layers, more than 256"),
    ("urls", layer(urls=["https://elsewhere.example/x"]), "layer 1 is a foreign layer"),
    ("foreign type", layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "foreign layer"),
    ("nondistributable", layer(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "foreign layer"),
    ("encrypted", layer(mediaType=f"{GZIP}+encrypted"), "layer 1 is encrypted"),
    ("attestation", layer(mediaType="application/vnd.in-toto+json"), "not a layer of a root file system"),
    ("negative", layer(size=-1), "size of -1 bytes"),
    ("oversize", layer(size=1 << 60), "size of 1152921504606846976"),
    ("fraction", layer(size=5.0), "size is not a whole number"),
    ("config too large", image(config=CONFIG | {"size": 5 << 20}), "config has a size"),
    ("sha512", layer(digest="sha512:" + "0" * 128), "only sha256 digests"),
    ("short digest", layer(digest="sha256:abc"), "no valid digest"),
    ("digest with a path", layer(digest="sha256:../../etc/passwd"), "no valid digest"),
    ("digest in capitals", layer(digest="sha256:" + "A" * 64), "no valid digest"),
    ("no digest", layer(digest=None), "digest is not a text"),
    ("a list", [], "not a JSON object"),
]


@pytest.mark.parametrize(("document", "why"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED])
def test_what_is_no_image_is_refused_with_its_reason(document: object, why: str) -> None:
    with pytest.raises(ImageRefused, match=why):
        read(document)


def test_a_manifest_that_is_sent_as_another_type_is_refused() -> None:
    with pytest.raises(ImageRefused, match=r"sent as .*index.* calls itself .*manifest"):
        read(image(), manifest.OCI_INDEX)
    with pytest.raises(ImageRefused, match="schema version 1"):
        read(image(), "application/vnd.docker.distribution.manifest.v1+prettyjws")


def test_nesting_is_bounded() -> None:
    manifest.check_nesting(1)
    manifest.check_nesting(2)
    with pytest.raises(ImageRefused, match="deeper than 2"):
        manifest.check_nesting(3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "deeper than 64"),
        (b"[" * 3_000_000, "deeper than 64"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
        (b" " * (5 << 20), "more than 4 MiB"),
        (b'{"a": 1} x', "not JSON"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_json_is_read_in_one_way(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json.parse(data)


def test_brackets_in_texts_do_not_count() -> None:
    assert strict_json.parse(json.dumps({"a": "[" * 1000 + '"\\'}).encode())["a"].startswith("[[")


def test_a_text_without_an_end_is_read_once() -> None:
    """Quadratic time would be hours."""
    with pytest.raises(ValueError, match="not JSON"):
        strict_json.parse(b'{"a": "' + b'\\"' * 2_000_000)


# ------------------------------------------------------------------------------------------------------- config

DOCUMENT: dict[str, Any] = {
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "config": {
        "Env": ["PATH=/usr/bin", "A=b"],
        "Entrypoint": ["/init"],
        "Cmd": None,
        "User": "web:web",
        "WorkingDir": "/srv",
        "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"team": "build"},
        "StopSignal": "SIGTERM",
        "Unheard": {"of": 1},
    },
    "rootfs": {"type": "layers", "diff_ids": [A, B]},
    "history": [{"created_by": "a"}, {"created_by": "b", "empty_layer": True}, {"created_by": "c"}],
}


def test_a_configuration_is_read_and_kept_whole() -> None:
    data = json.dumps(DOCUMENT, indent=3).encode()

    found = config.parse(data, 2)

    assert found.text.encode() == data
    assert found.diff_ids == ("a" * 64, "b" * 64)
    assert found.platform == Platform("linux", "arm64", "v8")
    assert found.runtime == config.Runtime(
        ("PATH=/usr/bin", "A=b"),
        ("/init",),
        (),
        "web:web",
        "/srv",
        ("443/tcp", "80/tcp"),
        ("/data",),
        {"team": "build"},
        "SIGTERM",
    )


def test_a_configuration_without_a_runtime_part_or_platform_is_read() -> None:
    found = config.parse(json.dumps({"rootfs": {"type": "layers", "diff_ids": [A]}}).encode(), 1)

    assert (found.platform, found.runtime) == (None, config.Runtime())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rootfs": {"type": "layers", "diff_ids": [A]}}, "lists 1 layers .*the manifest 2"),
        ({"rootfs": None}, "no rootfs"),
        ({"rootfs": {"type": "zfs", "diff_ids": [A, B]}}, "not made of layers"),
        ({"rootfs": {"type": "layers", "diff_ids": [A, "sha256:1"]}}, "decompressed layer 2"),
        ({"rootfs": {"type": "layers", "diff_ids": [A, "sha512:" + "0" * 128]}}, "only sha256"),
        ({"config": {"Env": "PATH=/bin"}}, "Env is not a list"),
        ({"config": {"Cmd": [1]}}, "Cmd is not a list"),
        ({"config": {"Labels": {"a": 1}}}, "Labels"),
        ({"config": []}, "config is not an object"),
        ({"architecture": 1}, "architecture is not a text"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_damaged_configuration_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ImageRefused, match=why):
        config.parse(json.dumps(DOCUMENT | changes).encode(), 2)
