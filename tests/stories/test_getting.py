"""``get`` prints manifests with their status, ``explain`` their fields, ``describe`` the status of an image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from .layers import change, root
from .workshop import Workshop, WorkshopAt


@pytest.fixture
def host(tmp_path: Path, workshop_at: WorkshopAt) -> Workshop:
    workshop = workshop_at(tmp_path)
    limits = {"maxEntries": 1000, "maxUnpackedBytes": "1GiB"}
    hosts = {"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}
    labels = {"team": "no", "release": "1.10"}
    layers = [root("base"), change("app", {"srv/app": b"v1"})]
    workshop.image("web", layers, labels=labels, snapshots=[{"name": "w", "count": 2}], limits=limits, hosts=hosts)
    workshop.once().expect(0)
    return workshop


def test_what_get_prints_is_a_manifest_that_changes_nothing(host: Workshop, tmp_path: Path) -> None:
    printed = host.run("get", "images").stdout + "---\n" + host.run("get", "pools").expect(0).stdout
    host.run("plan", "--detailed-exitcode").expect(0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "all.yaml").write_text(printed)

    host.run("validate", elsewhere).expect(0)
    planned = host.run("plan", "-f", elsewhere, "--detailed-exitcode", "-o", "json").expect(0)

    assert planned.json["actions"] == []
    assert host.run("get", "images", "-f", elsewhere).expect(0).stdout.split("status:")[0] in printed


def test_get_prints_durations_and_paths_that_validate_accepts_elsewhere(tmp_path: Path, workshop_at: WorkshopAt) -> None:
    workshop, elsewhere = workshop_at(tmp_path), tmp_path / "elsewhere"
    (workshop.manifests / "motd").write_text("hello")
    files = [{"path": "/etc/motd", "from": "motd"}]
    workshop.image("runner", [root("base")], snapshots=[{"name": "r", "count": 1, "ttl": "2h", "files": files}])
    elsewhere.mkdir()

    printed = workshop.run("get", "image/runner").expect(0).stdout
    (elsewhere / "all.yaml").write_text(printed)

    host_file = str(workshop.manifests / "motd")
    assert yaml.safe_load(printed)["spec"]["snapshots"] == [
        {"name": "r", "count": 1, "ttl": "2h", "files": [{"path": "/etc/motd", "from": host_file}]}
    ]
    workshop.run("validate", elsewhere).expect(0)
    again = workshop.run("get", "image/runner", "-f", elsewhere).expect(0).stdout
    assert again.split("status:")[0] == printed.split("status:")[0]


def test_get_tells_status_and_conditions(host: Workshop) -> None:
    document = yaml.safe_load(host.run("get", "image/web").expect(0).stdout)

    assert document["metadata"] == {"name": "web", "labels": {"team": "no", "release": "1.10"}, "generation": 1}
    assert document["spec"]["limits"] == {"maxEntries": 1000, "maxUnpackedBytes": "1GiB"}
    status = document["status"]
    assert (status["phase"], status["observedGeneration"]) == ("Ready", 1)
    assert [one["name"] for one in status["snapshots"]] == ["w-0", "w-1"]
    assert {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == "True"
    assert host.run("get", "image/web", "--output", "json").json == document


def test_a_generation_is_a_change_of_what_is_specified(host: Workshop) -> None:
    manifest = host.manifests / "web.yaml"
    manifest.write_text("# a comment\n" + manifest.read_text())
    host.once().expect(0)
    assert host.run("describe", "image/web", "-o", "json").json["observedGeneration"] == 1

    host.image("web", [root("base")], snapshots=["w-0", "w-1"])
    pending = host.run("describe", "image/web", "-o", "json").json
    assert (pending["generation"], pending["observedGeneration"]) == (2, 1)

    host.once().expect(0)
    done = host.run("describe", "image/web", "-o", "json").json
    assert (done["generation"], done["observedGeneration"]) == (2, 2)


def test_describe_tells_the_story_of_an_image(host: Workshop) -> None:
    host.run("suspend", "image/web", "--reason", "disk swap").expect(0)
    host.snapshot("w-0").unlink()
    told = host.run("describe", "image/web").expect(0).stdout

    assert "image/web  Degraded, suspended (SuspendedByHand: disk swap)" in told
    for word in ("declared", "generation    1", "labels        release=1.10, team=no", "LAYERS", "w-1  active", "missing", "RUN"):
        assert word in told, word


def test_what_nobody_declares_can_not_be_got(host: Workshop) -> None:
    assert "there is no image 'ghost'" in host.run("get", "image/ghost").expect(64).stderr
    assert "has no manifest of its own" in host.run("get", "snapshots").expect(64).stderr


def test_explain_tells_what_a_field_is(host: Workshop) -> None:
    assert "image" in host.run("explain").expect(0).stdout

    field = host.run("explain", "image.spec.limits.setuid").expect(0).stdout
    assert "one of: keep, strip, refuse" in field and "default: keep" in field
    listed = host.run("explain", "image.spec.layers").expect(0).stdout
    assert "<[]object>" in listed and "sha256" in listed
    assert "<object>  required" in host.run("explain", "image.metadata").expect(0).stdout
    assert "oci://host/repository:tag" in host.run("explain", "image.spec.source").expect(0).stdout

    assert "did you mean 'layers'" in host.run("explain", "image.spec.layer").expect(64).stderr
    assert "did you mean 'image'" in host.run("explain", "imge").expect(64).stderr
    assert "has no fields" in host.run("explain", "image.spec.suspend.never").expect(64).stderr


def test_list_and_describe_show_what_is_suspended_or_undeclared(host: Workshop) -> None:
    host.run("suspend", "image/web").expect(0)
    host.run("list", "images").expect(0).words("web", "Ready, suspended", "2/2")
    host.run("resume", "image/web").expect(0)
    (host.manifests / "web.yaml").rename(host.manifests / "web.off")

    host.run("list", "images").expect(0).words("Ready, undeclared")
    described = host.run("describe", "image/web").expect(0).stdout
    assert described.startswith("image/web  Ready, undeclared: no manifest declares it; `--prune` removes it\n")


def test_describe_shows_the_digest_to_pin_of_an_unpinned_layer(host: Workshop) -> None:
    manifest = host.manifests / "web.yaml"
    digest = re.findall("[0-9a-f]{64}", manifest.read_text())[0]
    manifest.write_text(manifest.read_text().replace(f"sha256: {digest}", "").replace(digest, "null"))
    host.once().expect(0)

    assert f"declare  sha256: {digest}" in host.run("describe", "image/web").expect(0).stdout
