"""Images in layouts and archives: what real tools wrote is read, built and compared with what umoci unpacks."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import socket
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import DigestMismatch, ImageRefused, PolicyRefused, ReconcilerError, SourceNotFound, SourceUnavailable
from reconciler.image import e2fsck
from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Milestone, Request
from reconciler.image.oci import archive
from reconciler.image.oci.resolve import resolve
from reconciler.image.source.s3_client import forget
from reconciler.image.source.spool import Spool
from reconciler.image.spec import MIB, ImageReference, Resolved, S3Options, Source, chain_ids
from reconciler.policy import force
from reconciler.policy.rules import Policy
from tests.support import compare, ext4, stored
from tests.support.origin import Origin
from tests.support.raw import RawServer

AMD64 = "linux/amd64"
SIZE = 64 * MIB


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.uid, info.gid = len(data), 1_600_000_000, 7, 8
    info.type, info.mode, info.linkname = kind, mode, link
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def directory(name: str, mode: int = 0o755) -> bytes:
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


BASE = b"".join(
    (
        directory("./"),
        directory("etc"),
        member("etc/a", b"one"),
        member("etc/b", b"two" * 5000),
        directory("opt", 0o700),
        member("opt/x", b"x"),
        directory("opt/d"),
        member("opt/d/y", b"y"),
        directory("gone"),
        member("gone/z", b"z"),
        member("l", kind=tarfile.SYMTYPE, link="etc/a", mode=0o777),
        member("setuid", b"s", mode=0o4755),
    )
)
SECOND = b"".join(
    (
        directory("etc"),
        member("etc/.wh.a"),
        directory("opt", 0o711),
        member("opt/.wh..wh..opq"),
        member("opt/z", b"z"),
        member(".wh.gone"),
        member("h", kind=tarfile.LNKTYPE, link="etc/b"),
        member("noise", random.Random(1).randbytes(3 * MIB)),
    )
)
THIRD = b"".join((directory("gone"), member("gone/new", b"n"), member("opt/z", b"zz")))
LAYERS = [layer + bytes(1024) for layer in (BASE, SECOND, THIRD)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the image in each form."""
    top = tmp_path_factory.mktemp("stored")
    layout = stored.umoci_layout(top / "layout", "v1", LAYERS)
    stored.skopeo(f"oci:{layout}:v1", f"oci-archive:{top}/oci.tar:v1")
    stored.skopeo(f"oci:{layout}:v1", f"docker-archive:{top}/docker.tar:web:1")
    for form in ("zstd", "zstd:chunked"):
        stored.skopeo(
            f"oci:{layout}:v1", f"oci:{top}/{form.replace(':', '-')}:v1", "--dest-compress", "--dest-compress-format", form
        )
    stored.docker_layout(layout, top / "new.tar", "v1", "web:1")
    config = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    text = stored.blob(layout, json.loads(stored.blob(layout, config))["config"]["digest"])
    stored.old_docker(LAYERS, text, top / "old.tar", "web:1")
    return top


FORMS = {
    "a layout": "oci-layout:{}/layout:v1",
    "a layout without a name": "oci-layout:{}/layout",
    "layers as zstd": "oci-layout:{}/zstd:v1",
    "layers as zstd:chunked": "oci-layout:{}/zstd-chunked:v1",
    "an OCI archive": "oci-archive:{}/oci.tar:v1",
    "skopeo's docker archive": "docker-archive:{}/docker.tar:web:1",
    "docker save since 25": "docker-archive:{}/new.tar:web:1",
    "the same by its full name": "docker-archive:{}/new.tar:docker.io/library/web:1",
    "the same as an OCI archive": "oci-archive:{}/new.tar",
    "docker save before": "docker-archive:{}/old.tar:web:1",
    "the same without a name": "docker-archive:{}/old.tar",
}


def resolved(url: str, platform: str = AMD64, s3: S3Options | None = None) -> Resolved:
    return resolve(ImageReference(Source(url, s3 or S3Options()), platform))


def built(found: Resolved, directory: Path) -> compare.Tree:
    """The tree of an image's file system."""
    volume, stop = directory / "volume", threading.Event()
    fd = os.open(volume, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.ftruncate(fd, SIZE)
    with Spool(directory / "spool", part_bytes=MIB, stop=stop) as spool:
        inputs = tuple(Input(one.source.url, lambda one=one: spool.fetch(one), diff_id=one.diff_id) for one in found.layers)
        with Build(Request(inputs, SIZE, lambda digests: chain_ids(SIZE, digests)[-1], volume=fd)) as build:
            report = build.wait(Milestone.WRITTEN, stop=stop)
    os.close(fd)
    assert report.digests == tuple(one.sha256 for one in found.layers)
    assert e2fsck.check(volume)
    return {name: facts for name, facts in ext4.of_image(volume).items() if name != b"lost+found"}


@pytest.fixture(scope="module")
def umoci(made: Path) -> compare.Tree:
    if os.geteuid() != 0:
        pytest.skip("umoci unpacks owners as root only")
    return stored.umoci_tree(made / "layout", "v1", made / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_tree_that_umoci_unpacks(form: str, made: Path, tmp_path: Path, umoci: compare.Tree) -> None:
    found = resolved(FORMS[form].format(made))

    tree = built(found, tmp_path)

    assert compare.differences(umoci, tree, ignoring=("data",)) == []
    assert {b"etc/b", b"h", b"opt/z", b"gone/new"} <= tree.keys()
    assert not {b"etc/a", b"opt/x", b"opt/d", b"gone/z"} & tree.keys()
    assert json.loads(found.config)["config"]["Entrypoint"] == ["/init"]


def test_the_digest_is_what_pins_each_form(made: Path) -> None:
    """That of the manifest; of an older docker archive that of the configuration, which docker calls the image's id."""
    by_manifest = {resolved(FORMS[form].format(made)).digest for form in ("a layout", "an OCI archive", "docker save since 25")}
    by_config = {resolved(FORMS[form].format(made)).digest for form in ("skopeo's docker archive", "docker save before")}

    assert (len(by_manifest), len(by_config)) == (1, 1)
    for url in (f"oci-layout:{made}/layout:v1@{by_manifest.pop()}", f"docker-archive:{made}/old.tar@{by_config.pop()}"):
        assert resolved(url).layers
    with pytest.raises(DigestMismatch, match="not the declared"):
        resolved(f"oci-archive:{made}/oci.tar@sha256:{'0' * 64}")


ORDERS: dict[str, Callable[[Any], Any]] = {
    "sorted": sorted,
    "layers first": lambda names: sorted(names, key=lambda name: not name.startswith("blobs/")),
    "layers last": lambda names: sorted(names, key=lambda name: name.startswith("blobs/")),
    "shuffled": lambda names: random.Random(7).sample(sorted(names), len(names)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_members_come_in_any_order(order: str, made: Path, tmp_path: Path) -> None:
    packed = stored.pack(made / "layout", tmp_path / "a.tar", ORDERS[order])

    assert resolved(f"oci-archive:{packed}:v1").digest == resolved(f"oci-layout:{made}/layout").digest


def test_layers_of_older_archives_may_be_links_to_each_other(made: Path, tmp_path: Path) -> None:
    text = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(LAYERS[0]).hexdigest()}"] * 2},
        }
    ).encode()
    path = stored.old_docker([LAYERS[0], b""], text, tmp_path / "linked.tar", "web:1", links={1: 0})

    found = resolved(f"docker-archive:{path}:web:1")

    assert found.layers[0] == found.layers[1]
    assert found.layers[0].size == len(LAYERS[0])


# ----------------------------------------------------------------------------------------------------- platforms


def two_platforms(made: Path, target: Path, *, nested: bool) -> Path:
    """A layout of an image for two platforms, as entries of its index or in an index of their own."""
    shutil.copytree(made / "layout", target)
    index = json.loads((target / "index.json").read_text())
    entry = index["manifests"][0]
    manifest = json.loads(stored.blob(target, entry["digest"]))
    config = json.loads(stored.blob(target, manifest["config"]["digest"])) | {"architecture": "arm64"}

    def added(document: object) -> dict[str, Any]:
        data = json.dumps(document).encode()
        (target / "blobs/sha256" / sha256(data).hexdigest()).write_bytes(data)
        return {"digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}

    arm = added(manifest | {"config": manifest["config"] | added(config)})
    entries = [
        {"mediaType": entry["mediaType"], **arm, "platform": {"os": "linux", "architecture": "arm64"}},
        {key: entry[key] for key in ("mediaType", "digest", "size")} | {"platform": {"os": "linux", "architecture": "amd64"}},
        {"mediaType": entry["mediaType"], **arm, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    if nested:
        inner = added({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
        named = {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
        entries = [{"mediaType": "application/vnd.oci.image.index.v1+json", **inner, **named}]
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return target


@pytest.mark.parametrize("nested", [True, False])
def test_an_image_for_several_platforms(nested: bool, made: Path, tmp_path: Path) -> None:
    url = f"oci-layout:{two_platforms(made, tmp_path / 'two', nested=nested)}" + (":v1" if nested else "")

    amd64, arm64 = resolved(url), resolved(url, "linux/arm64")

    assert amd64.manifest == resolved(f"oci-layout:{made}/layout").digest
    assert arm64.manifest != amd64.manifest
    assert json.loads(arm64.config)["architecture"] == "arm64"
    assert (amd64.digest == arm64.digest) == nested
    with pytest.raises(ImageRefused, match=r"no image for linux/s390x.*linux/amd64, linux/arm64"):
        resolved(url, "linux/s390x")


def test_an_image_for_another_platform_is_refused(made: Path) -> None:
    with pytest.raises(ImageRefused, match=r"is for linux/amd64, not for linux/arm64.*set platform: linux/amd64"):
        resolved(f"oci-layout:{made}/layout", "linux/arm64")


def test_of_several_images_one_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "layout", tmp_path / "layout")
    layout = stored.umoci_layout(tmp_path / "layout", "v2", LAYERS[:1])

    assert resolved(f"oci-layout:{layout}:v1").digest != resolved(f"oci-layout:{layout}:v2").digest
    with pytest.raises(ImageRefused, match=r"several images.*v1, v2"):
        resolved(f"oci-layout:{layout}")
    with pytest.raises(ImageRefused, match=r"no image v3.*v1, v2"):
        resolved(f"oci-layout:{layout}:v3")
    with pytest.raises(ImageRefused, match=r"no image v3.*web:1"):
        resolved(f"docker-archive:{made}/old.tar:v3")


# --------------------------------------------------------------------------------------------------------- faults


def refused(url: str, why: str, kind: type[ReconcilerError] = ImageRefused) -> None:
    with pytest.raises(kind, match=why) as caught:
        resolved(url)
    assert caught.value.hint


def needed(layout: Path) -> list[Path]:
    """Every blob of a layout's only image."""
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = json.loads(stored.blob(layout, entry["digest"]))
    return [layout / stored.path(one) for one in (entry, manifest["config"], *manifest["layers"])]


def test_a_blob_that_is_a_link_out_of_the_layout_is_refused(made: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    shutil.copytree(made / "layout", layout)
    for blob in needed(layout):
        outside = tmp_path / blob.name
        blob.rename(outside)
        blob.symlink_to(outside)
        refused(f"oci-layout:{layout}", "leads out of the layout")
        blob.unlink()
        outside.rename(blob)
    (layout / "blobs").rename(tmp_path / "blobs")
    (layout / "blobs").symlink_to("../blobs")
    refused(f"oci-layout:{layout}", "leads out of the layout")
    (layout / "blobs").unlink()
    (tmp_path / "blobs").rename(layout / "store")
    (layout / "blobs").symlink_to("store")
    assert resolved(f"oci-layout:{layout}").layers


def test_blobs_that_are_not_what_their_names_say(made: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    shutil.copytree(made / "layout", layout)
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = json.loads(stored.blob(layout, entry["digest"]))
    for descriptor, why in (
        (manifest["layers"][0], "has .* bytes; its manifest has"),
        (manifest["config"], "more than|has .* bytes"),
    ):
        path = layout / stored.path(descriptor)
        data = path.read_bytes()
        path.write_bytes(data + b"x")
        with pytest.raises((ImageRefused, DigestMismatch), match=why):
            resolved(f"oci-layout:{layout}")
        path.unlink()
        refused(f"oci-layout:{layout}", "has no file blobs/sha256")
        path.write_bytes(data)
    changed = bytearray(stored.blob(layout, manifest["config"]["digest"]))
    changed[-3] ^= 1
    (layout / stored.path(manifest["config"])).write_bytes(bytes(changed))
    refused(f"oci-layout:{layout}", "the configuration .* with the digest", DigestMismatch)


def test_a_layer_that_is_not_what_its_name_says_is_noticed_when_it_is_read(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "oci.tar"
    found = resolved(f"oci-archive:{shutil.copy(made / 'oci.tar', path)}")
    start, _ = found.layers[0].source.part or (0, 0)
    with path.open("r+b") as file:
        file.seek(start + 20)
        file.write(b"\xff")

    with pytest.raises(DigestMismatch, match="not the declared"):
        built(resolved(f"oci-archive:{path}"), tmp_path)


def test_what_is_no_layout_or_archive_is_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").write_text("notes " * 200)
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(gzip.compress((made / "oci.tar").read_bytes()))
    cut = tmp_path / "cut.tar"
    cut.write_bytes((made / "oci.tar").read_bytes()[:-12_000])
    os.mkfifo(tmp_path / "fifo")

    refused(f"oci-layout:{tmp_path}/absent", "no directory", SourceNotFound)
    refused(f"oci-layout:{made}/oci.tar", "no directory", SourceNotFound)
    refused(f"oci-layout:{tmp_path}/empty", "not an OCI layout")
    refused(f"oci-archive:{made}/old.tar", r"not an OCI layout")
    refused(f"docker-archive:{tmp_path}/notes", "refused as an archive")
    refused(f"oci-archive:{tmp_path}/absent.tar", "no file", SourceNotFound)
    refused(f"oci-archive:{tmp_path}/fifo", "not a regular file", SourceNotFound)
    refused(f"oci-archive:{tmp_path}", "not a regular file", SourceNotFound)
    refused(f"oci-archive:{packed}", r"compressed as a whole \(gzip\)")
    refused(f"oci-archive:{cut}", "refused as an archive")


def tar_of(path: Path, *members: bytes) -> Path:
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


def test_ambiguous_archives_are_refused(tmp_path: Path) -> None:
    mark = member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    twice = tar_of(tmp_path / "twice.tar", mark, member("index.json", b"{}"), member("./index.json", b"{}"))
    link = member("manifest.json", kind=tarfile.SYMTYPE, link="../../etc/passwd")
    circle = [member("manifest.json", kind=tarfile.SYMTYPE, link="b"), member("b", kind=tarfile.SYMTYPE, link="manifest.json")]

    refused(f"oci-archive:{twice}", "index.json twice")
    refused(f"docker-archive:{tar_of(tmp_path / 'link.tar', link)}", "leads out of it")
    refused(f"docker-archive:{tar_of(tmp_path / 'circle.tar', *circle)}", "in a circle")
    refused(f"docker-archive:{tar_of(tmp_path / 'list.tar', member('manifest.json', b'{}'))}", "manifest.json .* is refused")
    large = member("manifest.json", b" " * (5 * MIB))
    refused(f"docker-archive:{tar_of(tmp_path / 'large.tar', large)}", "more than")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LIMITS", archive.Limits(max_entries=10))

    refused(f"docker-archive:{tar_of(tmp_path / 'many.tar', *(member(str(n)) for n in range(11)))}", "more than 10 members")


def test_a_compressed_layer_of_an_older_archive_is_refused(made: Path, tmp_path: Path) -> None:
    text = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}).encode()
    path = stored.old_docker([gzip.compress(LAYERS[0])], text, tmp_path / "packed.tar", "web:1")

    refused(f"docker-archive:{path}", "is compressed, and nothing")


def test_the_hosts_policy_applies_to_paths(made: Path, tmp_path: Path) -> None:
    force.use(Policy(manifests=str(tmp_path), limits_files=True))
    for url in (f"oci-layout:{made}/layout", f"oci-archive:{made}/oci.tar", f"docker-archive:{made}/old.tar"):
        refused(url, "refused by this host's policy", PolicyRefused)
    force.use(Policy(manifests=str(tmp_path), limits_files=True, file_sources=(str(made),)))
    for form in FORMS.values():
        assert resolved(form.format(made)).layers


# ------------------------------------------------------------------------------------------------------------ S3


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin
    forget(origin.source().s3)


@pytest.mark.parametrize("name", ["oci.tar", "docker.tar", "new.tar", "old.tar"])
def test_an_archive_in_s3_is_read_by_ranges(name: str, made: Path, tmp_path: Path, origin: Origin) -> None:
    data = (made / name).read_bytes()
    source = origin.put(data, f"images/{name}")
    transport = "oci-archive" if name == "oci.tar" else "docker-archive"

    found = resolved(f"{transport}:s3://images/{name}", s3=source.s3)

    assert origin.sent < 400_000 < len(data)
    assert len(origin.gets()) < 40
    local = resolved(f"{transport}:{made}/{name}")
    assert (found.digest, found.config) == (local.digest, local.config)
    assert [one.sha256 for one in found.layers] == [one.sha256 for one in local.layers]
    asked = len(origin.asked)
    assert resolved(f"{transport}:s3://images/{name}", s3=source.s3) == found
    assert [one.method for one in origin.asked[asked:]] == ["HEAD"]
    assert built(found, tmp_path).keys() == built(local, tmp_path).keys()


def test_from_so_many_requests_on_an_archive_in_s3_is_read_in_one_piece(
    made: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_REQUESTS", 2)
    monkeypatch.setattr(archive, "WINDOW", 512)
    source = origin.put((made / "oci.tar").read_bytes(), "images/oci.tar")

    found = resolved("oci-archive:s3://images/oci.tar", s3=source.s3)

    assert found.digest == resolved(f"oci-archive:{made}/oci.tar").digest
    assert max((one.stop or 0) - (one.start or 0) for one in origin.gets()) > MIB


@pytest.mark.parametrize("most", [256, 0], ids=["ranges", "stream"])
def test_an_archive_in_s3_that_drips_ends_at_one_deadline(made: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Each answer begins at once, and its rate is above the minimum."""
    data = (made / "oci.tar").read_bytes()

    def dripping(connection: socket.socket, over: threading.Event) -> None:
        head = connection.recv(1 << 16)
        if head.startswith(b"HEAD"):
            connection.sendall(f'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: {len(data)}\r\n\r\n'.encode())
            return
        found = re.search(rb"bytes=(\d+)-(\d+)", head)
        assert found
        first, last = int(found[1]), int(found[2])
        sizes = f"Content-Length: {last + 1 - first}\r\nContent-Range: bytes {first}-{last}/{len(data)}"
        connection.sendall(f'HTTP/1.1 206 Partial Content\r\nETag: "e"\r\n{sizes}\r\n\r\n'.encode())
        for at in range(first, last + 1, 16):
            connection.sendall(data[at : min(at + 16, last + 1)])
            if over.wait(0.01):
                return

    monkeypatch.setattr(archive, "WALK_SECONDS", 1.0)
    monkeypatch.setattr(archive, "MOST_REQUESTS", most)
    with RawServer(dripping) as server:
        s3 = server.source().s3
        with pytest.raises(SourceUnavailable, match=r"could not be read as an archive in 1 s"):
            resolved("oci-archive:s3://images/oci.tar", s3=s3)
        assert server.accepted < 10
    forget(s3)


def test_an_archive_that_is_replaced_meanwhile_is_no_mix(made: Path, origin: Origin) -> None:
    source = origin.put((made / "oci.tar").read_bytes(), "images/oci.tar")

    def replacing(asked: Any) -> None:
        if asked.method == "GET" and asked.number == 2:
            origin.put((made / "old.tar").read_bytes(), "images/oci.tar")

    origin.script = replacing
    with pytest.raises(ReconcilerError, match="was replaced"):
        resolved("oci-archive:s3://images/oci.tar", s3=source.s3)


def test_a_part_of_a_file_ends_where_it_says(made: Path, tmp_path: Path) -> None:
    found = resolved(f"oci-archive:{made}/oci.tar")

    with Spool(tmp_path / "spool") as spool, spool.fetch(found.layers[0]) as reading:
        assert reading.result().size == found.layers[0].size
    assert stat.S_ISREG((made / "oci.tar").stat().st_mode)
