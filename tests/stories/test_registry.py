"""Images from registries: the installed command against Debian's docker-registry, with images that other tools have made."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from samples.s3 import S3Server, connect
from tests.support import compare, ext4, oci
from tests.support.oci import PLATFORM, Certificate, DockerRegistry, LyingRegistry, TokenServer, image, index
from tests.support.origin import Answer
from tests.support.policy import PERMISSIVE

from .layers import change, file, noise, root, tar
from .workshop import Workshop, cat, digest, fsck

BASE = root("base", {"etc/one": b"1", "opt/old/a": b"a", "opt/old/b": b"b"})
APP = tar("app", file("etc/.wh.one", b""), file("opt/old/.wh..wh..opq", b""), file("opt/old/c", b"c"), file("srv/app", b"v1"))
WEB = image([BASE.data, APP.data], run={"Env": ["A=1"], "Cmd": ["/bin/sh"], "User": "1000"})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry that everybody may read and write."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return oci.certificate(tmp_path)


def host_file(workshop: Workshop, *plain: str, **registries: Any) -> None:
    """The host file of the story: which registries are asked, and how."""
    path = workshop.root / "host.yaml"
    path.write_text(PERMISSIVE + f"  registries: {json.dumps({'plainHttp': list(plain)} | registries)}\n")
    path.chmod(0o600)
    workshop.env["RECONCILER_HOST_FILE"] = str(path)


def declare(workshop: Workshop, source: str, name: str = "web", **spec: Any) -> None:
    if not (workshop.manifests / "pool.yaml").exists():
        workshop.pool()
    body = {"size": "32MiB", "source": source, "snapshots": [{"name": f"{name}-a"}]}
    workshop.declare(
        name, {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": body | spec}
    )


def laid_out(workshop: Workshop, one: oci.Image = WEB) -> str:
    return f"oci:{oci.layout(workshop.root / 'layout', 'x', one)}:x"


def unpacked(workshop: Workshop, layout: str) -> dict[bytes, compare.Facts]:
    """What umoci makes of an image of a layout."""
    oci.needs("umoci")
    bundle = workshop.root / "bundle"
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    command = ["umoci", "unpack", *rootless, "--image", layout.removeprefix("oci:"), str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    return compare.of_directory(bundle / "rootfs")


def same_tree(workshop: Workshop, layout: str, snapshot: str = "web-a") -> None:
    """The snapshot holds what umoci unpacks; directories that no member describes have no time of their own."""
    found = {name: facts for name, facts in ext4.of_image(workshop.snapshot(snapshot)).items() if name != b"lost+found"}
    ignored = ("data", "mtime") if os.geteuid() == 0 else ("data", "mtime", "uid", "gid", "mode")
    assert compare.differences(unpacked(workshop, layout), found, ignoring=ignored) == []


# ------------------------------------------------------------------------------------------------------ by tag, digest


def test_an_image_is_pulled_by_tag_and_then_by_digest(workshop: Workshop, real: DockerRegistry) -> None:
    """Whiteouts and opaque directories included, it is what umoci unpacks; the digest to pin is printed, and changes nothing."""
    layout = laid_out(workshop)
    source = real.push(layout, "team/web:1")
    host_file(workshop, real.host)
    declare(workshop, source)

    plan = workshop.run("plan", "-o", "json").expect(0).json
    [built] = [one for one in plan["actions"] if one["verb"] == "build"]
    assert built["chain"], "manifests alone give the chain"
    assert [f"sha256:{layer['sha256']}" for layer in built["layers"]] == WEB.layers
    assert built["fetch"] == sum(len(WEB.blobs[one]) for one in WEB.layers)
    assert "to fetch" in workshop.run("plan").stdout

    workshop.converge()
    same_tree(workshop, layout)
    fsck(workshop.snapshot("web-a"))
    [listed] = workshop.run("list", "-o", "json").json["images"]
    assert listed["chain"] == built["chain"]
    assert listed["config"]["config"] == {"Env": ["A=1"], "Cmd": ["/bin/sh"], "User": "1000"}
    assert workshop.run("get", "image/web", "-o", "json").json["status"]["config"] == listed["config"]
    described = workshop.run("describe", "image/web").expect(0)
    described.words(f"declare  source: {source}@{WEB.digest}", "command       /bin/sh")

    declare(workshop, f"{source}@{WEB.digest}")
    [pinned] = workshop.run("list", "-o", "json").json["images"]
    assert pinned == listed, "before a run, too"
    assert workshop.run("get", "image/web", "-o", "json").json["status"]["digest"] == WEB.digest
    workshop.settled()


def test_a_run_that_changes_nothing_asks_nothing_of_digests(workshop: Workshop, real: DockerRegistry) -> None:
    source = real.push(laid_out(workshop), "team/many:1")
    host_file(workshop, real.host)
    for number in range(10):
        declare(workshop, f"{source}@{WEB.digest}", f"web{number}")
    workshop.converge()
    before = len(real.requests())

    workshop.settled()

    assert len(real.requests()) == before
    assert len(workshop.volumes) == 1, "they share one volume"


def test_a_moved_tag_is_a_changed_image(workshop: Workshop, real: DockerRegistry) -> None:
    """It is noticed with one HEAD, planned, and replaces snapshots as the replacePolicy has it."""
    host_file(workshop, real.host)
    declare(workshop, real.push(laid_out(workshop), "team/moving:1"), replacePolicy="Recreate")
    workshop.converge()
    saved = workshop.root / "plan"
    workshop.run("plan", "--out", saved).expect(0)
    other = image([BASE.data, change("app", {"srv/app": b"v2"}).data])
    real.push(laid_out(workshop, other), "team/moving:1")

    workshop.run("apply", saved).expect(5).words("team/moving:1")
    plan = workshop.plan()
    assert {"replace", "build"} <= {one["verb"] for one in plan["actions"]}
    workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v2"
    workshop.settled()
    [moved] = [one for one in workshop.run("events", "-o", "json").json["events"] if one["reason"] == "TagMoved"]
    assert (moved["kind"], moved["name"]) == ("Image", "web")
    assert moved["message"] == f"tag 1 of {real.host}/team/moving moved from {WEB.digest} to {other.digest}"


def test_an_image_outlives_its_registry(workshop: Workshop, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "registry") as registry:
        host_file(workshop, registry.host)
        declare(workshop, registry.push(laid_out(workshop), "team/web:1"))
        workshop.converge()
        before = digest(workshop.snapshot("web-a"))

    workshop.once("--prune").expect(0).words("last known chain", registry.host)

    assert digest(workshop.snapshot("web-a")) == before
    declare(workshop, f"oci://{registry.host}/team/web:2")
    workshop.once().expect(1).words("does not answer", "team/web")
    assert digest(workshop.snapshot("web-a")) == before


def test_pins_can_be_required(workshop: Workshop, real: DockerRegistry) -> None:
    source = real.push(laid_out(workshop), "team/pinned:1")
    host_file(workshop, real.host)
    path = workshop.root / "host.yaml"
    path.write_text(path.read_text() + "  pinned: required\n")
    declare(workshop, source)

    workshop.once().expect(5).words("PolicyRefused", "has no digest")
    declare(workshop, f"{source}@{WEB.digest}")
    workshop.converge()


def test_a_registry_that_is_not_listed_is_refused(workshop: Workshop, real: DockerRegistry) -> None:
    host_file(workshop, real.host, allow=["registry.example"])
    declare(workshop, f"oci://{real.host}/team/web:1")
    before = len(real.requests())

    workshop.once().expect(5).words("PolicyRefused", "policy.registries.allow")

    assert len(real.requests()) == before


def test_an_index_gives_each_platform_its_image(workshop: Workshop, real: DockerRegistry) -> None:
    other = image([root("other").data], platform="linux/arm64")
    source = real.push(laid_out(workshop, index({"linux/arm64": other, PLATFORM: WEB})), "team/index:1")
    host_file(workshop, real.host)
    declare(workshop, source, platform=PLATFORM)
    declare(workshop, source, "arm", platform="linux/arm64")
    declare(workshop, source, "none", platform="linux/s390x")

    done = workshop.once("-o", "json").expect(1)

    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"
    assert cat(workshop.snapshot("arm-a"), "/etc/hostname") == b"other\n"
    done.words("no image for linux/s390x", "linux/amd64, linux/arm64")


# ------------------------------------------------------------------------------------------------------ other tools


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci and buildah keep owners only as root")
def test_an_image_that_umoci_has_made(workshop: Workshop, real: DockerRegistry) -> None:
    oci.needs("umoci")
    layout = workshop.root / "umoci"
    bundle = workshop.root / "made"

    def umoci(*words: str | Path) -> None:
        subprocess.run(["umoci", *map(str, words)], check=True, capture_output=True)

    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:x")
    for number, layer in enumerate((BASE, change("next", {"srv/b": b"b"}))):
        umoci("unpack", "--image", f"{layout}:x", bundle)
        subprocess.run(["tar", "-xf", "-", "-C", str(bundle / "rootfs")], input=layer.data, check=True)
        if number:
            (bundle / "rootfs/etc/one").unlink()
        umoci("repack", "--image", f"{layout}:x", bundle)
        subprocess.run(["rm", "-rf", str(bundle)], check=True)
    host_file(workshop, real.host)
    declare(workshop, real.push(f"oci:{layout}:x", "made/umoci:1"))

    workshop.converge()

    same_tree(workshop, f"oci:{layout}:x")


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci and buildah keep owners only as root")
def test_an_image_that_buildah_has_made(workshop: Workshop, real: DockerRegistry) -> None:
    oci.needs("buildah", "skopeo", "umoci")
    context = workshop.root / "context"
    context.mkdir()
    (context / "root.tar").write_bytes(BASE.data)
    (context / "app").write_bytes(b"v1")
    (context / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCOPY app /srv/app\nENV A=1\nCMD ["/bin/sh"]\n')
    storage = ["--root", str(workshop.root / "storage"), "--runroot", str(workshop.root / "run"), "--storage-driver", "vfs"]
    built = ["buildah", *storage, "bud", "--isolation", "chroot", "--layers", "--format", "docker", "-t", "made", str(context)]
    subprocess.run(built, check=True, capture_output=True)
    pushed = ["buildah", *storage, "push", "--tls-verify=false", "made", f"docker://{real.host}/made/buildah:1"]
    subprocess.run(pushed, check=True, capture_output=True)
    source = f"oci://{real.host}/made/buildah:1"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--insecure-policy", f"docker://{source[6:]}"]
    subprocess.run([*copy, f"oci:{workshop.root / 'copy'}:x"], check=True, capture_output=True)
    host_file(workshop, real.host)
    declare(workshop, source)

    workshop.converge()

    assert workshop.run("list", "-o", "json").json["images"][0]["config"]["config"]["Cmd"] == ["/bin/sh"]
    same_tree(workshop, f"oci:{workshop.root / 'copy'}:x")


# --------------------------------------------------------------------------------------- credentials, TLS, storage


def test_a_private_image_with_htpasswd_over_tls(workshop: Workshop, certificate: Certificate, tmp_path: Path) -> None:
    """The service's way: the host file names the credentials and the authority. Nothing that is kept holds the secret."""
    users = {"ann": "secret-of-ann"}
    with DockerRegistry(tmp_path / "registry", users=users, tls=certificate) as registry:
        source = registry.push(laid_out(workshop), "private/web:1", login="ann:secret-of-ann")
        authority = {registry.host: str(certificate.cert)}
        host_file(workshop, caFiles=authority)
        declare(workshop, source)
        workshop.once().expect(1).words("asks for a user and a password", "policy.registries.authFile")

        file = oci.auth_file(workshop.root / "auth.json", registry.host, "ann", "wrong")
        host_file(workshop, caFiles=authority, authFile=str(file))
        workshop.once().expect(1).words(f"{registry.host} does not allow manifest 1 of {registry.host}/private/web")
        oci.auth_file(file, registry.host, "ann", "secret-of-ann")
        workshop.converge()
        workshop.settled()

    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"
    kept = [path.read_bytes() for path in workshop.state.rglob("*") if path.is_file()]
    assert not any(b"secret-of-ann" in data or b"YW5uOnNlY3JldC1vZi1hbm4" in data for data in kept)


def test_a_private_image_with_tokens(workshop: Workshop, certificate: Certificate, tmp_path: Path) -> None:
    """The user's way: docker's own file has the credentials. A public image needs none."""
    with (
        TokenServer(certificate, {"ann": "secret"}) as tokens,
        DockerRegistry(tmp_path / "registry", tokens=tokens, bundle=certificate.cert) as registry,
    ):
        layout = laid_out(workshop)
        private = registry.push(layout, "private/web:1", login="ann:secret")
        public = registry.push(layout, "public/web:1", login="ann:secret")
        host_file(workshop, registry.host, allow=[registry.host, urlsplit(tokens.realm).netloc])
        declare(workshop, public, "public")
        declare(workshop, private)
        workshop.once().expect(1).words("private/web")
        assert workshop.snapshot("public-a").exists()

        docker = workshop.root / ".docker"
        docker.mkdir()
        oci.auth_file(docker / "config.json", registry.host, "ann", "secret")
        workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"


def test_blobs_that_are_redirected_to_object_storage(workshop: Workshop, tmp_path: Path) -> None:
    with S3Server() as storage:
        connect(storage.endpoint).create_bucket(Bucket="blobs")
        with DockerRegistry(tmp_path / "registry", s3=storage.endpoint) as registry:
            source = registry.push(laid_out(workshop), "team/web:1")
            host_file(workshop, registry.host)
            declare(workshop, source)
            storage.forget()

            workshop.converge()

            assert [one for one in storage.requests() if one.method == "GET" and "/data" in one.path and one.range]
    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"


def test_a_mirror_serves_what_the_registry_would(workshop: Workshop, real: DockerRegistry) -> None:
    real.push(laid_out(workshop), "team/mirrored:1")
    host_file(workshop, real.host, mirrors={"registry.example": [real.host]})
    declare(workshop, "oci://registry.example/team/mirrored:1")

    workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"


# ---------------------------------------------------------------------------------------------------------- faults


def test_a_run_that_is_killed_in_the_middle_of_a_layer_goes_on_from_there(workshop: Workshop) -> None:
    """Through a fresh redirect: the second run asks the registry again, and its storage for the rest only."""
    big = image([root("big", {"srv/noise": noise(6 << 20)}).data])
    hold = threading.Event()
    with LyingRegistry() as registry, LyingRegistry() as storage:
        source = registry.push(big)
        storage.objects, storage.etags = registry.objects, registry.etags
        registry.script = lambda asked: (
            Answer(307, {"Location": f"http://{storage.host}{asked.path}?signed={asked.number}"})
            if big.layers[0] in asked.path
            else None
        )
        storage.script = lambda asked: Answer(
            206,
            {"Content-Range": f"bytes {asked.start}-{len(big.blobs[big.layers[0]]) - 1}/{len(big.blobs[big.layers[0]])}"},
            big.blobs[big.layers[0]][asked.start :],
            cut=4 << 20,
            hold=hold,
        )
        host_file(workshop, registry.host, storage.host)
        declare(workshop, source)
        running = workshop.start("--once")
        running.until(lambda: list(workshop.spool.glob("*.json")) and storage.sent >= 3 << 20, "half of the layer")
        running.kill()
        hold.set()
        storage.script = lambda asked: None
        asked = len(registry.asked)
        storage.asked.clear()

        workshop.converge()

        assert [one.path.rpartition("/")[2] for one in registry.asked[asked:] if "/blobs/" in one.path], "a fresh redirect"
        assert min(one.start or 0 for one in storage.asked) > 1 << 20, "what was there is not fetched again"
    assert digest(workshop.snapshot("web-a"))
    workshop.tidy()


def test_a_registry_that_fails_costs_its_own_images_only(workshop: Workshop, real: DockerRegistry) -> None:
    good = real.push(laid_out(workshop), "team/good:1")
    with LyingRegistry() as liar:
        other = image([BASE.data, change("other", {"srv/other": b"1"}).data])
        bad, gone = liar.push(other), other.layers[1]
        liar.script = lambda asked: oci.error(404, "BLOB_UNKNOWN") if gone in asked.path else None
        host_file(workshop, real.host, liar.host)
        declare(workshop, bad, "bad", size="64MiB")
        declare(workshop, good)

        workshop.once().expect(1).words(f"there is no blob {gone} of {liar.host}/team/web", "push the image again")

        assert cat(workshop.snapshot("web-a"), "/srv/app") == b"v1"
        liar.script = lambda asked: None
        workshop.converge()


def test_a_layer_that_unpacks_to_other_bytes_than_its_configuration_names_is_refused(workshop: Workshop) -> None:
    with LyingRegistry() as liar:
        host_file(workshop, liar.host)
        declare(workshop, liar.push(image([BASE.data], diff_ids=[f"sha256:{'a' * 64}"])))

        workshop.once().expect(1).words("DigestMismatch", "diff_id")

    assert not workshop.volumes


def test_what_a_build_leaves_out_and_a_wrong_media_type_are_notes(workshop: Workshop) -> None:
    """Of an image that is made all the same: in the run's events, in `describe`, and in `inspect`."""
    about, data = file("srv/f", b"x")
    about.pax_headers = {"SCHILY.acl.access": "user::rw-,user:nobody-here:rwx,group::r--,mask::rwx,other::---"}
    listed = tar("listed", (about, data)).data
    right = image([BASE.data, listed])
    layers = json.loads(right.manifest)["layers"]
    layers[1]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    with LyingRegistry() as registry:
        source = registry.push(image([BASE.data, listed], layers=layers))
        host_file(workshop, registry.host)
        declare(workshop, source)

        workshop.converge()
        shown = workshop.run("inspect", source).expect(0)

    notes = ("its bytes are gzip, its media type is for zstd", "ACL entries dropped: 1 (the image has no user:nobody-here)")
    shown.words(*notes)
    for command in (["events"], ["describe", "image/web"]):
        workshop.run(*command).expect(0).words("layer 2: ", *notes)
    workshop.settled()


def test_a_wrong_manifest_is_reported_with_its_place(workshop: Workshop) -> None:
    declare(workshop, "oci://alpine")
    workshop.run("validate").expect(4).words("oci://docker.io/library/alpine")
    declare(workshop, "oci://registry.example/a:1", layers=[{"source": "a.tar"}])
    workshop.run("validate").expect(4).words("has a source and layers")
    declare(workshop, "oci://registry.example/a:1", platform="linux")
    workshop.run("validate").expect(4).words("os/architecture")
