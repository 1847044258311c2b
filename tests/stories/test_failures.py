"""What goes wrong with one image is told, costs the others nothing, leaves nothing behind, and is mended by mending its cause."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .gate import Gate
from .layers import Layer, change, entry, file, noise, root, tar
from .workshop import BUCKET, Workshop, cat

BASE = root("base")
GOOD = change("good", {"srv/app": b"good"})

Prepare = Callable[[Workshop], None]


def wrong_digest(host: Workshop) -> None:
    host.image("bad", [BASE, GOOD], s3=True)
    host.put(Layer("good", change("good", {"srv/app": b"evil"}).data))


def truncated_layer(host: Workshop) -> None:
    host.image("bad", [BASE, root("big", {"srv/app": noise(50_000)}).truncated()], s3=True)


def truncated_gzip(host: Workshop) -> None:
    host.image("bad", [BASE, root("big", {"srv/app": noise(50_000)}).gzipped().truncated()], s3=True)


def climbing_name(host: Workshop) -> None:
    host.image("bad", [BASE, tar("climb", file("a/../../etc/passwd", b"root"))], s3=True)


def climbing_link(host: Workshop) -> None:
    link = entry("etc/out", b"2", link="../../../../etc")
    host.image("bad", [BASE, tar("link", link, file("etc/out/../../x", b"root"))], s3=True)


def missing_key(host: Workshop) -> None:
    host.image("bad", [BASE, GOOD], s3=True)
    host.upload(f"/{BUCKET}/good.tar", method="DELETE")


def missing_bucket(host: Workshop) -> None:
    host.image("bad", [BASE, GOOD], s3=True)
    path = host.manifests / "bad.yaml"
    path.write_text(path.read_text().replace(f"s3://{BUCKET}/good", "s3://nobodys/good"))


def too_small(host: Workshop) -> None:
    host.image("bad", [BASE, change("huge", {"srv/app": noise(20 << 20)})], s3=True, size="16MiB")


FAILURES: dict[Prepare, tuple[str, str]] = {
    wrong_digest: ("DigestMismatch", "sha256"),
    truncated_layer: ("LayerCorrupt", "big.tar"),
    truncated_gzip: ("LayerCorrupt", "big.gz.tar"),
    climbing_name: ("UnsafeArchive", "climb.tar"),
    climbing_link: ("UnsafeArchive", "link.tar"),
    missing_key: ("SourceNotFound", "good.tar"),
    missing_bucket: ("SourceNotFound", "nobodys"),
    too_small: ("ImageTooSmall", "16"),
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_an_image_that_fails_says_why_and_the_others_go_on(failure: Prepare, bucket: Workshop) -> None:
    """Exit 1, the reason in JSON and in words, the other image ready, nothing left over; the mended image converges."""
    reason, word = FAILURES[failure]
    bucket.image("fine", [BASE, change("fine", {"srv/app": b"fine"})], s3=True)
    failure(bucket)

    done = bucket.once("-o", "json").expect(1)
    told = bucket.once().expect(1).words(reason, word)

    bad = done.object("Image", "bad")
    assert (bad["phase"], bad["reason"]) == ("Failed", reason), done
    assert word in bad["message"]
    assert done.json["failed"] >= 1
    assert "Traceback" not in told.stderr
    assert done.object("Image", "fine")["phase"] == "Ready"
    assert cat(bucket.snapshot("fine-a"), "/srv/app") == b"fine"
    phases = {image["name"]: image["phase"] for image in bucket.run("list", "-o", "json").expect(0).json["images"]}
    assert phases == {"bad": "Failed", "fine": "Ready"}
    partial = [path for path in bucket.state.rglob("*") if path.name.endswith(".partial")]
    assert partial == [], "no half-built volume"

    bucket.upload(f"/{BUCKET}/good.tar", method="DELETE")
    bucket.image("bad", [BASE, GOOD], s3=True)
    bucket.converge()
    assert cat(bucket.snapshot("bad-a"), "/srv/app") == b"good"
    bucket.settled()


def test_an_endpoint_that_is_down_fails_what_needs_it(bucket: Workshop, s3: str) -> None:
    """Nobody answers: the image that needs the endpoint fails until the endpoint is back; one that is there stays Ready."""
    bucket.image("fine", [BASE], s3=True)
    bucket.converge()
    bucket.image("bad", [BASE, GOOD], s3=True, pinned=False)
    assert bucket.gate is not None
    bucket.gate.shut()

    done = bucket.once("-o", "json").expect(1)

    bad = done.object("Image", "bad")
    assert bad["reason"] == "SourceUnavailable", done
    assert bucket.gate.endpoint in bad["message"]
    assert done.object("Image", "fine")["phase"] == "Ready"
    with Gate(s3) as gate:
        bucket.gate = gate
        bucket.image("fine", [BASE], s3=True)
        bucket.image("bad", [BASE, GOOD], s3=True, pinned=False)
        bucket.converge()


def test_a_pool_below_its_reserve_takes_no_new_work(workshop: Workshop) -> None:
    """A reserve that the file system can't keep stops the build with PoolFull; what is there can still be listed."""
    found = os.statvfs(workshop.root)
    if found.f_bavail > found.f_blocks * 0.9:
        pytest.skip("more than 90 per cent of this file system are free: no reserve is too large for it")
    workshop.image("web", [BASE])
    workshop.pool(reserve=90)

    done = workshop.run("--once", "-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolFull"
    assert "reserve" in done.object("Volume")["message"]
    workshop.run("list").expect(0).words("web")
    workshop.run("health").expect(1).words("reserve")
    workshop.pool()
    workshop.converge()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with 32 MiB in all."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.root
@pytest.mark.parametrize("fetched", [False, True], ids=["the image doesn't fit", "the download doesn't fit"])
def test_a_full_file_system_fails_the_image_and_leaves_nothing(small: Path, bucket: Workshop, fetched: bool) -> None:
    """No space: the reason is PoolFull, the half-written volume is gone, and a smaller image takes its place."""
    bucket.image("web", [BASE, change("huge", {"srv/app": noise(40 << 20)})], s3=fetched, size="64MiB")
    state = ["--state", str(small / "state")]

    done = bucket.once("-o", "json", *state).expect(1)

    assert done.object("Image", "web")["reason"] == "PoolFull", done
    bucket.run("list", *state).expect(0).words("web", "Failed")
    assert not [path for path in small.rglob("*") if path.name.endswith((".partial", ".ext4"))]
    bucket.image("web", [BASE, GOOD], s3=fetched)
    bucket.once(*state).expect(0)
    bucket.once("--detailed-exitcode", *state).expect(0)
