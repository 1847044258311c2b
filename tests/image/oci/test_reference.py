"""The syntax of images' sources."""

from __future__ import annotations

import pytest

from reconciler.image.oci.reference import Reference, is_reference

DIGEST = "sha256:" + "9f86" * 16

REGISTRY = [
    ("oci://registry.example/team/web:1.4", Reference("oci", "registry.example", "team/web", "1.4")),
    ("oci://registry.example/team/web", Reference("oci", "registry.example", "team/web")),
    (f"oci://registry.example/web@{DIGEST}", Reference("oci", "registry.example", "web", "", DIGEST)),
    (f"oci://registry.example/web:1@{DIGEST}", Reference("oci", "registry.example", "web", "1", DIGEST)),
    ("oci://localhost/web:1", Reference("oci", "localhost", "web", "1")),
    ("oci://localhost:5000/a/b/c:1", Reference("oci", "localhost:5000", "a/b/c", "1")),
    ("oci://127.0.0.1:5000/web:1", Reference("oci", "127.0.0.1:5000", "web", "1")),
    ("oci://[::1]:5000/web:1", Reference("oci", "[::1]:5000", "web", "1")),
    ("oci://docker.io/library/debian:12", Reference("oci", "docker.io", "library/debian", "12")),
    ("oci://r.example/a__b/c---d/e.f:_x", Reference("oci", "r.example", "a__b/c---d/e.f", "_x")),
]
STORED = [
    ("oci-layout:build/layout", Reference("oci-layout", path="build/layout")),
    ("oci-layout:/srv/layout/:v1", Reference("oci-layout", path="/srv/layout/", tag="v1")),
    ("oci-archive:web.tar:v1", Reference("oci-archive", path="web.tar", tag="v1")),
    (f"oci-archive:web.tar@{DIGEST}", Reference("oci-archive", path="web.tar", digest=DIGEST)),
    ("docker-archive:/srv/me@home/web.tar", Reference("docker-archive", path="/srv/me@home/web.tar")),
    (
        "docker-archive:web.tar:docker.io/library/web:1",
        Reference("docker-archive", path="web.tar", tag="docker.io/library/web:1"),
    ),
    ("docker-archive:s3://images/web.tar:web:1", Reference("docker-archive", path="s3://images/web.tar", tag="web:1")),
    (
        f"oci-archive:s3://images/web.tar:v1@{DIGEST}",
        Reference("oci-archive", path="s3://images/web.tar", tag="v1", digest=DIGEST),
    ),
]

FAULTS = [
    ("oci://debian", "no registry's host.*oci://docker.io/library/debian"),
    ("oci://debian:12", "no registry's host.*oci://docker.io/library/debian"),
    ("oci://team/web:1", "no registry's host.*oci://docker.io/team/web"),
    ("oci://docker.io/debian", "oci://docker.io/library/debian"),
    ("oci://", "no registry's host"),
    ("oci://registry.example/", "no repository"),
    ("oci://registry.example", "no registry's host"),
    ("oci://registry.example/Web", "capitals"),
    ("oci://registry.example/a//b", "no valid repository"),
    ("oci://registry.example/a/-b", "no valid repository"),
    ("oci://registry.example/../b", "no valid repository"),
    ("oci://registry.example/" + "a" * 256, "255"),
    ("oci://registry.example/web:", "no valid tag"),
    ("oci://registry.example/web:-x", "no valid tag"),
    ("oci://registry.example/web:" + "a" * 129, "no valid tag"),
    ("oci://registry.example/web@sha256:abc", "no valid digest"),
    (f"oci://registry.example/web@{DIGEST.upper()}", "not sha256"),
    ("oci://registry.example/web@sha512:" + "0" * 128, "not sha256"),
    ("oci://user:hunter2@registry.example/web", "credentials"),
    ("oci://registry.example:0/web", "no valid host"),
    ("oci://registry.example:99999/web", "no valid host"),
    ("oci://registry.example:x/web", "no valid host"),
    ("oci://a..b/web", "no valid host"),
    ("oci://registry.example/web:1?x", "no valid tag"),
    ("oci://registry.example/we b", "spaces"),
    ("OCI://registry.example/web", "capitals"),
    ("oci:registry.example/web", "not an image's source"),
    ("docker://registry.example/web", "not an image's source"),
    ("oci-layout:", "no path"),
    ("oci-layout:~/x", "not expanded"),
    ("oci-archive:dir/", "a directory"),
    ("oci-archive:https://host/web.tar", "https://"),
    ("oci-archive:s3://bucket", "no object"),
    ("oci-archive:s3://bucket/", "no object"),
    ("oci-layout:s3://bucket/key", "layout in S3"),
    ("oci-archive:web.tar:", "no valid name"),
    ("oci-archive:web.tar@sha512:" + "0" * 128, "not sha256"),
    ("oci-archive:a\nb", "control"),
]


@pytest.mark.parametrize(("text", "wanted"), REGISTRY + STORED, ids=lambda one: str(one)[:40])
def test_a_reference_is_read_and_written_back(text: str, wanted: Reference) -> None:
    assert is_reference(text)
    assert Reference.parse(text) == wanted
    assert str(wanted) == text
    assert wanted.pinned == ("@sha256" in text)


@pytest.mark.parametrize(("text", "why"), FAULTS, ids=lambda one: str(one)[:40])
def test_a_fault_is_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Reference.parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"])
def test_docker_hub_has_one_name_and_an_api_host(host: str) -> None:
    reference = Reference.parse(f"oci://{host}/library/debian:12")

    assert (reference.host, reference.api_host) == ("docker.io", "registry-1.docker.io")


def test_what_a_registry_is_asked_for() -> None:
    assert Reference.parse("oci://r.example/web").wanted == "latest"
    assert Reference.parse("oci://r.example/web:1").wanted == "1"
    assert Reference.parse("oci://r.example/web:1").at(DIGEST).wanted == DIGEST


def test_a_relative_path_is_made_absolute() -> None:
    assert str(Reference.parse("oci-archive:../web.tar:v1").resolve("/srv/manifests")) == "oci-archive:/srv/web.tar:v1"
    assert str(Reference.parse("oci-archive:s3://b/k:v1").resolve("/srv")) == "oci-archive:s3://b/k:v1"
    assert str(Reference.parse("oci://r.example/web").resolve("/srv")) == "oci://r.example/web"


@pytest.mark.parametrize("text", ["s3://bucket/key", "layer.tar", "file:///x", "/srv/oci-layout:x"])
def test_a_layers_source_is_no_reference(text: str) -> None:
    assert not is_reference(text)
