"""While one image takes its time, a service goes on with all others: what is committed is made, what is deleted comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from .layers import noise, root
from .workshop import Running, Workshop

BASE = root("base")
MIB = 1 << 20
BIG = root("big", {"srv/big": noise(4 * MIB)})


@pytest.fixture
def service(bucket: Workshop) -> Iterator[Running]:
    """It has made ``web``, and waits for a layer of ``big`` that does not arrive."""
    assert bucket.gate is not None
    bucket.image("web", [BASE])
    service = bucket.start("--prune", "--interval", "3600").until(bucket.snapshot("web-a").exists, "the first image")
    bucket.run("wait", "image/web", "--timeout", "30").expect(0)
    bucket.gate.hold("big.tar", MIB)
    bucket.image("big", [BIG], s3=True)
    service.until(bucket.gate.held.is_set, "the download")
    yield service
    bucket.gate.release()
    service.until(bucket.snapshot("big-a").exists, "the image that took its time", 60)
    service.until(lambda: bucket.run("plan").stdout.startswith("Plan: 0 to change"), "nothing left to do", 60)
    ended = service.signal(signal.SIGTERM).wait()
    assert ended.code == 143
    assert "error" not in ended.stderr
    bucket.settled()


def test_what_is_deleted_comes_back(bucket: Workshop, service: Running) -> None:
    bucket.snapshot("web-a").unlink()
    service.until(bucket.snapshot("web-a").exists, "the snapshot again")
    assert not bucket.snapshot("big-a").exists()


def test_orphans_are_not_deleted_beside_a_service(bucket: Workshop, service: Running) -> None:
    """They are of pools, which the holder of the lock alone changes: nothing is touched, and the service is named."""
    bucket.run("gc", "default", "--apply").expect(75).words(f"process {service.process.pid}", "stop that process")

    assert service.process.poll() is None
    assert bucket.snapshot("web-a").exists()


def test_what_is_committed_is_made_and_stays(bucket: Workshop, service: Running) -> None:
    """The pass that waits for the download knows nothing of it, and must not take it for something to prune."""
    assert bucket.gate is not None
    bucket.image("small", [BASE])
    bucket.image("web", [BASE], snapshots=["web-a", "web-b"])
    service.until(lambda: {"small-a", "web-b"} <= bucket.snapshot_names(), "what was committed")
    assert not bucket.snapshot("big-a").exists()
    before = {name: bucket.snapshot(name).stat().st_ino for name in ("small-a", "web-a", "web-b")}

    bucket.gate.release()
    service.until(bucket.snapshot("big-a").exists, "the image that took its time", 60)
    bucket.run("wait", "image/small", "--timeout", "30").expect(0)
    assert {name: bucket.snapshot(name).stat().st_ino for name in before} == before


def test_what_is_withdrawn_goes_without_waiting_for_the_download(bucket: Workshop, service: Running) -> None:
    assert bucket.gate is not None
    bucket.withdraw("web")
    bucket.image("small", [BASE])
    service.until(bucket.snapshot("small-a").exists, "what was committed")
    service.until(lambda: not bucket.snapshot("web-a").exists(), "what was withdrawn to go", 60)

    assert not bucket.snapshot("big-a").exists(), "the download is still under way"
    assert bucket.snapshot("small-a").exists()
    bucket.gate.release()
