"""Archives that are compressed as a whole, from S3 and from disk: fetched once, decompressed into the spool, planned once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support import oci, stored

from .layers import Layer, file, noise, root, tar
from .test_registry import declare
from .workshop import Workshop, WorkshopAt, cat, digest

BASE = root("base", {"etc/one": b"1", "srv/noise": noise(1 << 20)})
APP = tar("app", file("etc/.wh.one", b""), file("srv/app", b"v1"))
NEXT = tar("app", file("srv/app", b"v2"))

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def saved(top: Path, *layers: Layer, form: str = "oci", tag: str = "v1") -> bytes:
    """An archive of an image, as skopeo writes it."""
    oci.needs("umoci", "skopeo")
    top.mkdir(exist_ok=True)
    shutil.rmtree(top / "layout", ignore_errors=True)
    stored.umoci_layout(top / "layout", tag, [one.data for one in layers])
    path = top / "saved.tar"
    path.unlink(missing_ok=True)
    stored.skopeo(f"oci:{top}/layout:{tag}", f"oci-archive:{path}:{tag}" if form == "oci" else f"docker-archive:{path}:web:1")
    return path.read_bytes()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One image as an OCI archive and as docker saves it, and its next version."""
    top = tmp_path_factory.mktemp("saved")
    found = {form: saved(top / form, BASE, APP, form=form) for form in ("oci", "docker")}
    return found | {"next": saved(top / "next", BASE, NEXT)}


def upload(bucket: Workshop, data: bytes, key: str = "web.tar.gz") -> None:
    bucket.upload(f"/layers/{key}", data)


def referring(bucket: Workshop, name: str = "web", key: str = "web.tar.gz", form: str = "oci", **spec: Any) -> None:
    declare(bucket, f"{form}-archive:s3://layers/{key}", name, s3=bucket.s3_options, **spec)


def methods(bucket: Workshop) -> set[str]:
    assert bucket.gate is not None
    return {one.method for one in bucket.gate.requests}


@pytest.mark.parametrize("end", FORMS)
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_one_run_fetches_it_once_and_builds_what_the_plain_archive_gives(
    form: str, end: str, bucket: Workshop, archives: dict[str, bytes]
) -> None:
    packed = FORMS[end](archives[form])
    upload(bucket, packed, f"web.{end}")
    (bucket.manifests / "plain.tar").write_bytes(archives[form])
    referring(bucket, key=f"web.{end}", form=form)
    declare(bucket, f"{form}-archive:plain.tar", "plain")

    bucket.converge()

    assert bucket.gate is not None
    assert bucket.gate.sent(f"web.{end}") < len(packed) + (32 << 10), "its beginning twice, the rest once"
    chains = {one["name"]: one["chain"] for one in bucket.run("list", "-o", "json").json["images"]}
    assert chains["web"] == chains["plain"]
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v1"
    bucket.gate.forget()
    bucket.settled()
    assert methods(bucket) == {"HEAD"}


def test_the_plan_says_what_is_unresolved_until_it_is_fetched(bucket: Workshop, archives: dict[str, bytes]) -> None:
    packed = gzip.compress(archives["oci"])
    upload(bucket, packed)
    referring(bucket)

    said = bucket.run("plan").expect(0).words("compressed as a whole (gzip): unresolved until fetched", "(2 provisional)")

    assert "oci-archive:s3://layers/web.tar.gz" in said.stdout
    [fetch] = [one for one in bucket.plan()["actions"] if one["verb"] == "resolve"]
    assert (fetch["fetch"], fetch["image"]) == (len(packed), None)
    provisional = [(one["verb"], one["kind"]) for one in bucket.plan()["actions"] if one["provisional"]]
    assert provisional == [("build", "Volume"), ("create", "Snapshot")]
    assert not bucket.spool.exists() and not bucket.state.exists()
    bucket.run("describe", "image/web").expect(0).words("Pending")


def test_a_saved_plan_needs_it_fetched_before(bucket: Workshop, archives: dict[str, bytes]) -> None:
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket)
    plan = bucket.root / "plan.json"

    refused = bucket.run("plan", "--out", plan).expect(5).words("unresolved until fetched", "--fetch")
    assert "reconcile pin" not in refused.stderr and not plan.exists()
    bucket.run("plan", "--out", plan, "--fetch").expect(0).words("build", "snapshot/web-a")
    assert not bucket.volumes
    assert bucket.gate is not None
    bucket.gate.forget()
    bucket.run("apply", plan).expect(0)

    assert methods(bucket) == {"HEAD"}
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v1"
    bucket.settled()


def test_a_changed_archive_between_plan_and_apply_makes_the_plan_stale(bucket: Workshop, archives: dict[str, bytes]) -> None:
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket)
    plan = bucket.root / "plan.json"
    bucket.run("plan", "--out", plan, "--fetch").expect(0)
    upload(bucket, gzip.compress(archives["next"]))

    bucket.run("apply", plan).expect(5).words("stale", "what oci-archive:s3://layers/web.tar.gz")
    assert not bucket.volumes


@pytest.mark.parametrize("policy", ["Keep", "Recreate"])
def test_a_changed_archive_is_a_changed_image(policy: str, bucket: Workshop, archives: dict[str, bytes]) -> None:
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket, replacePolicy=policy)
    bucket.converge()
    before = digest(bucket.snapshot("web-a"))
    upload(bucket, gzip.compress(archives["next"]))

    planned = bucket.plan("--prune")["actions"]
    assert {one["verb"] for one in planned} == {"resolve", "build"} | ({"replace"} if policy == "Recreate" else set())
    bucket.converge("--prune")

    assert (digest(bucket.snapshot("web-a")) == before) == (policy == "Keep")
    assert cat(bucket.snapshot("web-a"), "/srv/app") == (b"v1" if policy == "Keep" else b"v2")
    bucket.run("events").expect(0).words("TagMoved")
    assert bucket.plan()["actions"] == []


def test_the_images_of_one_archive_fetch_it_once(bucket: Workshop, tmp_path: Path) -> None:
    layout, entries = tmp_path / "layout", []
    for name, layer in (("v1", APP), ("v2", NEXT)):
        oci.layout(layout, name, oci.image([BASE.data, layer.data]))
        entries += json.loads((layout / "index.json").read_text())["manifests"]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    packed = gzip.compress(stored.pack(layout, tmp_path / "both.tar").read_bytes())
    upload(bucket, packed)
    for name in ("v1", "v2"):
        declare(bucket, f"oci-archive:s3://layers/web.tar.gz:{name}", name, s3=bucket.s3_options)

    assert [one["fetch"] for one in bucket.plan()["actions"] if one["verb"] == "resolve"] == [len(packed), None]
    bucket.converge()

    assert bucket.gate is not None
    assert bucket.gate.sent("web.tar.gz") < len(packed) + (128 << 10)
    assert [cat(bucket.snapshot(f"{name}-a"), "/srv/app") for name in ("v1", "v2")] == [b"v1", b"v2"]
    bucket.settled()


def test_a_volume_that_is_lost_is_built_from_a_copy_that_is_fetched_again(bucket: Workshop, archives: dict[str, bytes]) -> None:
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket)
    bucket.converge()
    [volume] = bucket.volumes
    before = digest(volume)
    volume.unlink()

    [build] = bucket.plan()["actions"]
    assert (build["verb"], build["fetch"] > 0) == ("rebuild", True)
    bucket.converge()

    assert digest(volume) == before
    bucket.settled()


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: gzip.compress(data)[:-2000],
    "damaged": lambda data: gzip.compress(data)[:5000] + b"\0" * 64 + gzip.compress(data)[5064:],
    "no archive": lambda _: gzip.compress(b"notes " * 500),
    "no image": lambda _: gzip.compress(root("other").data),
    "twice": lambda data: gzip.compress(gzip.compress(data)),
    "a bomb": lambda data: gzip.compress(data + bytes(8 << 20)),
}


@pytest.mark.parametrize("fault", CORRUPT)
def test_a_corrupt_archive_costs_its_own_image_only(fault: str, bucket: Workshop, archives: dict[str, bytes]) -> None:
    """Images that were made of its earlier state stay what they are, and what is right again is taken."""
    upload(bucket, gzip.compress(archives["oci"]))
    limits = {"maxUnpackedBytes": "4MiB"}
    referring(bucket, replacePolicy="Recreate", limits=limits)
    bucket.converge()
    before = digest(bucket.snapshot("web-a"))
    upload(bucket, CORRUPT[fault](archives["oci"]))
    bucket.image("other", [root("base")])

    told = bucket.once("-o", "json", "--prune").expect(1)

    assert told.object("Image", "other")["phase"] == "Ready"
    [failed] = [one for one in told.json["objects"] if one["kind"] == "Image" and one["phase"] in ("Failed", "Degraded")]
    assert (failed["name"], "web.tar.gz" in failed["message"]) == ("web", True), failed
    assert failed["reason"] in ("LayerCorrupt", "UnsafeArchive", "ImageRefused")
    assert digest(bucket.snapshot("web-a")) == before
    assert not list(bucket.spool.glob("*.part"))
    upload(bucket, gzip.compress(archives["next"]))
    bucket.run("retry", "image/web")
    bucket.converge()
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v2"
    bucket.settled()


def test_a_bucket_that_cannot_be_asked_leaves_the_image_as_it_is(bucket: Workshop, archives: dict[str, bytes]) -> None:
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket)
    bucket.converge()
    assert bucket.gate is not None
    bucket.gate.shut()

    bucket.once("--prune").expect(0).words("last known chain")
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v1"


def test_a_download_that_was_killed_goes_on_where_it_was(bucket: Workshop, tmp_path: Path) -> None:
    packed = gzip.compress(saved(tmp_path / "big", root("big", {"srv/big": noise(6 << 20)}), APP))
    upload(bucket, packed)
    referring(bucket)
    assert bucket.gate is not None
    bucket.gate.hold("web.tar.gz", 4 << 20)
    running = bucket.start("--once").until(lambda: list(bucket.spool.glob("*.json")), "a record of the download")
    running.kill()
    bucket.gate.release()
    bucket.gate.forget()

    bucket.converge()

    assert bucket.gate.sent("web.tar.gz") < len(packed) - (1 << 20)
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v1"
    bucket.settled()


@pytest.mark.parametrize(
    "stride", [17, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])], ids=["some", "all"]
)
def test_killed_at_any_moment(stride: int, tmp_path: Path, workshop_at: WorkshopAt, archives: dict[str, bytes]) -> None:
    """Of a file: its reading is part of the same run."""

    def made(name: str) -> Workshop:
        workshop = workshop_at(tmp_path / name)
        (workshop.manifests / "web.tar.gz").write_bytes(gzip.compress(archives["oci"]))
        declare(workshop, "oci-archive:web.tar.gz", "web")
        return workshop

    calm = made("calm")
    calm.converge()
    moment = stride
    while True:
        workshop = made(str(moment))
        if workshop.start("--once", die_at=moment).wait().code != -signal.SIGKILL:
            break
        workshop.converge()
        assert workshop.holdings() == calm.holdings(), f"killed at moment {moment}"
        workshop.settled()
        moment += stride
    assert moment > 3 * stride


def test_a_file_is_noticed_when_it_changes_and_pinned_by_pin(workshop: Workshop, archives: dict[str, bytes]) -> None:
    path = workshop.manifests / "web.tar.xz"
    path.write_bytes(lzma.compress(archives["docker"]))
    declare(workshop, "docker-archive:web.tar.xz", "web", replacePolicy="Recreate")
    workshop.run("plan").expect(0).words("compressed as a whole (xz): unresolved until decompressed")
    workshop.converge()
    workshop.settled()
    workshop.run("pin", "--check", "--detailed-exitcode").expect(2)

    path.write_bytes(lzma.compress(archives["oci"]))
    declare(workshop, "oci-archive:web.tar.xz", "web", replacePolicy="Recreate")
    workshop.converge()
    workshop.run("pin").expect(0)
    workshop.converge()
    status = workshop.run("get", "image/web", "-o", "json").expect(0).json["status"]
    assert (status["phase"], f"@{status['digest']}" in status["source"]) == ("Ready", True)
    assert status["config"]["config"]["Entrypoint"] == ["/init"]
    path.write_bytes(lzma.compress(archives["next"]))

    workshop.once("-o", "json").expect(1).words("not the declared")
    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"


def test_a_damaged_copy_is_made_again(bucket: Workshop, archives: dict[str, bytes]) -> None:
    """A power cut after `--fetch` may leave other bytes than were written."""
    upload(bucket, gzip.compress(archives["oci"]))
    referring(bucket)
    bucket.run("plan", "--out", bucket.root / "plan.json", "--fetch").expect(0)
    [copy] = bucket.spool.glob("archive-*")
    data = copy.read_bytes()
    at = data.index(b"\x1f\x8b")
    copy.write_bytes(data[: at + 2000] + bytes(1000) + data[at + 3000 :])

    bucket.converge()

    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v1"
    bucket.settled()
