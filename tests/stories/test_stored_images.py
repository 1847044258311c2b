"""Images from layouts and archives: the installed command, with what skopeo and umoci have written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import oci, stored

from .layers import file, root, tar
from .test_registry import declare
from .workshop import Workshop, cat

BASE = root("base", {"etc/one": b"1", "opt/old/a": b"a"})
APP = tar("app", file("etc/.wh.one", b""), file("opt/old/.wh..wh..opq", b""), file("srv/app", b"v1"))
NEXT = tar("next", file("srv/app", b"v2"))


@pytest.fixture
def images(workshop: Workshop) -> Path:
    """A layout with two versions of an image, beside the manifests."""
    oci.needs("umoci", "skopeo")
    layout = workshop.manifests / "layout"
    stored.umoci_layout(layout, "v1", [BASE.data, APP.data])
    stored.umoci_layout(layout, "v2", [BASE.data, APP.data, NEXT.data])
    for path in workshop.manifests.glob("v?.*.tar"):
        path.unlink()
    stored.skopeo(f"oci:{layout}:v1", f"oci-archive:{workshop.manifests}/oci.tar:v1")
    stored.skopeo(f"oci:{layout}:v1", f"docker-archive:{workshop.manifests}/docker.tar:web:1")
    return layout


def test_each_form_converges_and_shares_its_volume(workshop: Workshop, images: Path) -> None:
    """An OCI archive has the blobs of its layout: one chain. A docker archive has plain layers."""
    declare(workshop, "oci-layout:layout:v1", "a")
    declare(workshop, "oci-archive:oci.tar:v1", "b")
    declare(workshop, "docker-archive:docker.tar:web:1", "c")

    assert "to fetch" not in workshop.run("plan").expect(0).stdout
    workshop.run("--once", "--detailed-exitcode").expect(2)
    workshop.run("--once", "--detailed-exitcode").expect(0)

    listed = workshop.run("list", "-o", "json").expect(0).json["images"]
    chains = {one["name"]: one["chain"] for one in listed}
    assert chains["a"] == chains["b"] != chains["c"]
    for name in "abc":
        assert cat(workshop.snapshot(f"{name}-a"), "/srv/app") == b"v1"
    assert not list((workshop.state / "spool").glob("*"))


def test_a_pinned_image_stays_and_an_unpinned_one_follows_its_file(workshop: Workshop, images: Path) -> None:
    declare(workshop, "oci-archive:oci.tar", "web", replacePolicy="Recreate")
    workshop.run("--once").expect(0)
    workshop.run("pin", "--check", "--detailed-exitcode").expect(2)
    shutil.copy(workshop.manifests / "oci.tar", workshop.root / "old.tar")
    (workshop.manifests / "oci.tar").unlink()
    stored.skopeo(f"oci:{images}:v2", f"oci-archive:{workshop.manifests}/oci.tar:v2")

    workshop.run("--once", "--detailed-exitcode").expect(2)
    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v2"

    workshop.run("pin").expect(0)
    status = workshop.run("get", "image/web", "-o", "json").expect(0).json["status"]
    assert (status["phase"], f"@{status['digest']}" in status["source"]) == ("Ready", True)
    workshop.run("--once", "--detailed-exitcode").expect(0)
    shutil.copy(workshop.root / "old.tar", workshop.manifests / "oci.tar")
    failed = workshop.run("plan")
    assert "not the declared" in failed.stdout + failed.stderr
    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v2"


def test_one_damaged_archive_costs_its_own_image_only(workshop: Workshop, images: Path) -> None:
    (workshop.manifests / "cut.tar").write_bytes((workshop.manifests / "oci.tar").read_bytes()[:2000])
    declare(workshop, "oci-archive:cut.tar", "bad")
    declare(workshop, "oci-archive:oci.tar", "good")

    told = workshop.run("--once", "-o", "json").expect(1).json

    assert {one["name"]: one["phase"] for one in told["objects"] if one["kind"] == "Image"}["good"] == "Ready"
    assert "ImageRefused" in {one["reason"] for one in told["objects"]}


def test_an_archive_that_turns_bad_fails_its_image_and_keeps_its_snapshots(workshop: Workshop, images: Path) -> None:
    declare(workshop, "oci-archive:oci.tar", "web")
    workshop.run("--once").expect(0)
    archive = workshop.manifests / "oci.tar"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:2000])

    told = workshop.run("--once", "--prune", "-o", "json").expect(1)

    image = told.object("Image", "web")
    assert (image["phase"], image["reason"]) == ("Failed", "ImageRefused")
    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"
    archive.write_bytes(whole)
    workshop.run("--once", "--detailed-exitcode").expect(0)
