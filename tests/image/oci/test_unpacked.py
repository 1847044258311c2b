"""Copies of compressed archives in the spool: made once, within limits and free space, and never of a mix."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from reconciler.errors import DigestMismatch, LayerCorrupt, LayerRefused, NoSpace, PolicyRefused, SourceChanged, Stopped
from reconciler.image import free_space
from reconciler.image.builder.parent import Progress
from reconciler.image.oci.archive import Archive
from reconciler.image.oci.resolve import look_up
from reconciler.image.oci.unpacked import Archives
from reconciler.image.source.s3_client import forget
from reconciler.image.source.spool import Spool
from reconciler.image.spec import MIB, ImageReference, Layer, Limits, Packed, Resolved, Source
from reconciler.policy import force
from reconciler.policy.rules import Policy
from tests.image.oci.test_stored import LAYERS, member
from tests.support import stored
from tests.support.origin import Origin

CONFIG = b'{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [%s]}}'


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive of the older shape: its layers are plain tars."""
    top = tmp_path_factory.mktemp("plain")
    sums = b", ".join(b'"sha256:%s"' % sha256(one).hexdigest().encode() for one in LAYERS)
    return stored.old_docker(LAYERS, CONFIG % sums, top / "old.tar", "web:1").read_bytes()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def spool(tmp_path: Path, stop: threading.Event) -> Iterator[Spool]:
    with Spool(tmp_path / "spool", part_bytes=MIB, stop=stop) as spool:
        yield spool


@pytest.fixture
def archives(spool: Spool, stop: threading.Event) -> Archives:
    return Archives(spool, stop)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin
    forget(origin.source().s3)


def idle(_: Progress) -> None:
    pass


def found(spool: Spool, path: str | Path, source: Source | None = None) -> Resolved | Packed:
    s3 = source.s3 if source else Source("").s3
    return look_up(ImageReference(Source(f"docker-archive:{path}", s3), "linux/amd64"), unpacked=spool.unpacked)


def resolved(spool: Spool, path: str | Path, source: Source | None = None) -> Resolved:
    one = found(spool, path, source)
    assert isinstance(one, Resolved)
    return one


def content(archives: Archives, layer: Layer) -> bytes:
    buffer, data = memoryview(bytearray(MIB)), b""
    with archives.fetch(layer, Limits()) as reading:
        while got := reading.readinto(buffer):
            data += bytes(buffer[:got])
    return data


def test_a_file_is_resolved_and_read_from_its_copy(archives: Archives, spool: Spool, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    assert isinstance(found(spool, path), Packed)

    archives.unpack(Source(str(path)), Limits(), idle)

    layers = resolved(spool, path).layers
    assert [content(archives, one) for one in layers] == LAYERS
    assert all(one.source.is_in(spool.whole_layers()) for one in layers)
    assert [one.name for one in spool.directory.iterdir()] == [f"archive-{Archive(Source(str(path))).key}"]


def test_an_object_is_fetched_once_and_only_its_copy_is_left(
    archives: Archives, spool: Spool, plain: bytes, origin: Origin
) -> None:
    source = origin.put(gzip.compress(plain, 1))
    archives.unpack(source, Limits(), idle)
    archives.unpack(source, Limits(), idle)

    assert [start for start, _ in origin.ranges()].count(0) == 1
    assert [one.name[:8] for one in spool.directory.iterdir()] == ["archive-"]
    assert [content(archives, one) for one in resolved(spool, source.url, source).layers] == LAYERS


def test_a_newer_copy_replaces_the_older_one(archives: Archives, spool: Spool, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.tar.gz"
    for level in (1, 9):
        path.write_bytes(gzip.compress(plain, level))
        archives.unpack(Source(str(path)), Limits(), idle)

        assert len(list(spool.directory.iterdir())) == 1


def test_a_copy_that_is_missing_is_made_again_unless_the_archive_is_another(
    archives: Archives, spool: Spool, plain: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    archives.unpack(Source(str(path)), Limits(), idle)
    layers = resolved(spool, path).layers
    spool.sweep(())

    assert content(archives, layers[1]) == LAYERS[1]
    spool.sweep(())
    path.write_bytes(gzip.compress(plain + bytes(512)))
    with pytest.raises(SourceChanged, match="has changed since"):
        content(archives, layers[1])


def test_a_layer_that_the_spool_has_needs_no_archive(archives: Archives, spool: Spool, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    archives.unpack(Source(str(path)), Limits(), idle)
    layer = resolved(spool, path).layers[0]
    spool.sweep(())
    path.unlink()
    (spool.directory / (layer.sha256 or "")).write_bytes(LAYERS[0])

    assert content(archives, layer) == LAYERS[0]


def test_what_is_damaged_since_is_removed_and_what_is_wrong_is_named(
    archives: Archives, spool: Spool, stop: threading.Event, plain: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    archives.unpack(Source(str(path)), Limits(), idle)
    layer = resolved(spool, path).layers[0]
    [copy] = spool.directory.iterdir()
    assert layer.source.part
    with copy.open("r+b") as file:
        file.seek(layer.source.part[0] + 100)
        file.write(b"damaged")

    with pytest.raises(SourceChanged, match="was damaged"):
        content(archives, layer)
    assert not copy.exists()
    assert content(archives, layer) == LAYERS[0]
    spool.sweep(())
    with pytest.raises(DigestMismatch, match="not the"):
        content(archives, Layer(layer.source, "0" * 64))


@pytest.mark.parametrize(
    ("data", "limits", "error"),
    [
        (lambda plain: gzip.compress(plain)[:-100], Limits(), LayerCorrupt),
        (lambda plain: gzip.compress(plain + bytes(64 * MIB)), Limits(max_unpacked_bytes=8 * MIB), LayerRefused),
        (lambda plain: gzip.compress(plain + bytes(64 * MIB)), Limits(max_ratio=2, ratio_floor_bytes=MIB), LayerRefused),
        (lambda _: b"\x1f\x8b notes", Limits(), LayerCorrupt),
    ],
    ids=["cut", "large", "a bomb", "no gzip"],
)
def test_what_is_refused_leaves_nothing_behind(
    data: object, limits: Limits, error: type[Exception], archives: Archives, spool: Spool, plain: bytes, origin: Origin
) -> None:
    assert callable(data)
    source = origin.put(data(plain))

    with pytest.raises(error, match=r"archive s3://"):
        archives.unpack(source, limits, idle)

    assert not list(spool.directory.iterdir())


def test_free_space_that_is_kept_is_not_taken(
    archives: Archives, spool: Spool, plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    monkeypatch.setattr(free_space, "_kept", lambda status: status.f_blocks * status.f_frsize * 2)

    with pytest.raises(NoSpace, match="must stay free"):
        archives.unpack(Source(str(path)), Limits(), idle)
    assert not list(spool.directory.iterdir())


def test_it_ends_when_it_is_not_wanted_any_more(archives: Archives, spool: Spool, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))

    def tick(_: Progress) -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        archives.unpack(Source(str(path)), Limits(), tick)
    assert not list(spool.directory.glob("*"))


def test_several_that_want_one_copy_make_it_once(archives: Archives, spool: Spool, plain: bytes, origin: Origin) -> None:
    source = origin.put(gzip.compress(plain, 1))
    threads = [threading.Thread(target=archives.unpack, args=(source, Limits(), idle)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert [start for start, _ in origin.ranges()].count(0) == 1
    assert len(list(spool.directory.iterdir())) == 1


def test_the_hosts_policy_applies_to_the_archive_and_not_to_its_copy(
    archives: Archives, spool: Spool, plain: bytes, tmp_path: Path
) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for directory in (allowed, other):
        directory.mkdir()
        (directory / "web.tar.gz").write_bytes(gzip.compress(plain))
    force.use(Policy(manifests=str(allowed), limits_files=True))

    archives.unpack(Source(str(allowed / "web.tar.gz")), Limits(), idle)
    assert content(archives, resolved(spool, allowed / "web.tar.gz").layers[0]) == LAYERS[0]
    with pytest.raises(PolicyRefused):
        archives.unpack(Source(str(other / "web.tar.gz")), Limits(), idle)
    with pytest.raises(PolicyRefused):
        found(spool, other / "web.tar.gz")


def test_a_plain_archive_whose_first_name_begins_like_a_compression_is_plain(spool: Spool, tmp_path: Path) -> None:
    sums = b'"sha256:%s"' % sha256(LAYERS[0]).hexdigest().encode()
    path = tmp_path / "plain.tar"
    path.write_bytes(member("BZh9", b"notes") + stored.old_docker(LAYERS[:1], CONFIG % sums, tmp_path / "a", "x").read_bytes())

    assert len(resolved(spool, path).layers) == 1


def test_a_copy_belongs_to_the_user_alone(archives: Archives, spool: Spool, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.tar.gz"
    path.write_bytes(gzip.compress(plain))
    before = os.umask(0)
    try:
        archives.unpack(Source(str(path)), Limits(), idle)
    finally:
        os.umask(before)

    assert [one.stat().st_mode & 0o777 for one in spool.directory.iterdir()] == [0o600]
