"""The builder process and its parent: what a build reports, and what becomes of one that goes wrong."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler import errors
from reconciler.image import e2fsck
from reconciler.image.builder import confine, process
from reconciler.image.builder.parent import Build, Input, Milestone, Request
from reconciler.image.source.arrival import Arrived, Progress
from reconciler.image.source.spool import Spool
from reconciler.image.spec import MIB, Layer, Limits, Source, chain_ids
from tests.support import lying

AT_ONCE = pytest.mark.timeout(60)
"""Ends a test that hangs, or that takes quadratic time; not a measure of speed."""

SIZE = 64 * MIB


def tar(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


@dataclass
class Bench:
    """A place to build in: layers as files, and a volume."""

    path: Path
    spool: Spool
    stop: threading.Event

    def request(self, *layers: Path, volume: int | None = None, limits: Limits | None = None) -> Request:
        inputs = tuple(Input(p.name, lambda p=p: self.spool.fetch(Layer(Source(str(p))))) for p in layers)
        return Request(inputs, SIZE, lambda digests: chain_ids(SIZE, digests)[-1], limits or Limits(), volume)

    def volume(self) -> int:
        fd = os.open(self.path / "volume", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(fd, SIZE)
        return fd


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    stop = threading.Event()
    yield Bench(tmp_path, Spool(tmp_path / "spool", stop=stop), stop)
    stop.set()


def builders() -> list[Path]:
    """Builder processes of this one, as directories of /proc; other children are not ours to count."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    found = [Path("/proc") / process for process in children]
    return [path for path in found if b"reconciler.image.builder.child" in (path / "cmdline").read_bytes()]


def the_builder() -> Path:
    deadline = time.monotonic() + 10
    while not (found := builders()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found[0]


def test_a_build_passes_its_milestones_and_leaves_a_clean_file_system(bench: Bench) -> None:
    layer = tar(bench.path / "one.tar", hello=b"world")
    fd = bench.volume()

    with Build(bench.request(layer, volume=fd)) as build:
        downloaded = build.wait(Milestone.DOWNLOADED, stop=bench.stop)
        accepted = build.wait(Milestone.ACCEPTED, stop=bench.stop)
        written = build.wait(Milestone.WRITTEN, stop=bench.stop)
    os.close(fd)

    assert downloaded.digests == (hashlib.sha256(layer.read_bytes()).hexdigest(),)
    assert accepted.layers[0]["entries"] == 1
    assert written.summary["used_inodes"] == 11
    assert e2fsck.check(bench.path / "volume")
    assert not builders()


def test_a_refused_layer_names_the_layer_the_member_and_the_rule_and_never_becomes_a_file_system(bench: Bench) -> None:
    layer = tar(bench.path / "evil.tar", **{"../etc/passwd": b"root::0:0"})
    fd = bench.volume()

    with pytest.raises(errors.LayerRefused, match=r"evil\.tar") as refused, Build(bench.request(layer, volume=fd)) as build:
        build.wait(Milestone.WRITTEN, stop=bench.stop)
    os.close(fd)

    assert refused.value.member == b"../etc/passwd"
    assert refused.value.rule
    with pytest.raises(errors.VolumeCorrupt):
        e2fsck.check(bench.path / "volume")
    assert not builders()


def test_a_layer_that_is_cut_off_is_corrupt(bench: Bench) -> None:
    layer = tar(bench.path / "cut.tar", big=bytes(100_000))
    layer.write_bytes(layer.read_bytes()[:50_000])

    with pytest.raises(errors.LayerCorrupt), Build(bench.request(layer)) as build:
        build.wait(Milestone.ACCEPTED, stop=bench.stop)


def test_bytes_that_are_not_the_declared_ones_are_said_to_be_so_even_where_they_are_no_tar_either(bench: Bench) -> None:
    path = bench.path / "page.html"
    path.write_bytes(b"<html>this is not the bucket that you are looking for</html>" * 100)
    request = bench.request()
    pinned = Input("page", lambda: bench.spool.fetch(Layer(Source(str(path)), "0" * 64)))
    request = Request((pinned,), SIZE, request.chain)

    with pytest.raises(errors.DigestMismatch), Build(request) as build:
        build.wait(Milestone.ACCEPTED, stop=bench.stop)


def test_layers_that_do_not_fit_are_told_how_much_they_need(bench: Bench) -> None:
    layer = tar(bench.path / "big.tar", big=bytes(SIZE))
    fd = bench.volume()

    with pytest.raises(errors.ImageTooSmall), Build(bench.request(layer, volume=fd)) as build:
        build.wait(Milestone.WRITTEN, stop=bench.stop)
    os.close(fd)


def test_a_builder_that_is_killed_fails_that_build_only_and_says_how_it_died(bench: Bench) -> None:
    layer = bench.path / "pipe.tar"
    os.mkfifo(layer)
    never = Input("never", lambda: Stalled(bench.path))

    with Build(Request((never,), SIZE, lambda digests: "")) as build:
        os.kill(int(the_builder().name), signal.SIGKILL)
        with pytest.raises(errors.BuilderDied, match="SIGKILL"):
            build.wait(Milestone.ACCEPTED, stop=bench.stop)


@AT_ONCE
def test_a_build_that_is_asked_to_stop_ends_at_once_and_leaves_no_process(bench: Bench) -> None:
    with (
        pytest.raises(errors.Stopped),
        Build(Request((Input("never", lambda: Stalled(bench.path)),), SIZE, lambda d: "")) as build,
    ):
        threading.Timer(0.3, bench.stop.set).start()
        build.wait(Milestone.WRITTEN, stop=bench.stop)

    assert not builders()


class Stalled:
    """A download that never goes on: what a dead network looks like."""

    progress = Progress(0, 1000)

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stalled"
        self.path.touch()

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def wait(self, beyond: int, timeout: float) -> Arrived:
        time.sleep(min(timeout, 0.05))
        return Arrived(0, complete=False)

    def result(self) -> None:
        raise AssertionError("it never ends")

    def close(self) -> None:
        return None


def flawed(monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, lying.__file__, flaw))


@pytest.mark.parametrize(
    ("flaw", "told"),
    [
        ("dies", "SIGABRT"),
        ("hangs", "sent nothing for 1 s"),
        ("shouts", "an invalid packet"),
        ("claims to be done", "an invalid packet"),
        ("counts wildly", "an invalid packet"),
    ],
)
@AT_ONCE
def test_a_builder_that_dies_hangs_or_lies_fails_its_volume_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, flaw: str, told: str
) -> None:
    flawed(monkeypatch, flaw)
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 1.0)
    fd = bench.volume()

    with (
        pytest.raises(errors.BuilderDied, match=told),
        Build(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=fd)) as build,
    ):
        build.wait(Milestone.WRITTEN, stop=bench.stop)
    os.close(fd)

    with pytest.raises(errors.VolumeCorrupt):
        e2fsck.check(bench.path / "volume")


def test_what_a_builder_says_can_not_move_the_cursor_of_a_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    flawed(monkeypatch, "moves the cursor")
    with Build(bench.request(tar(bench.path / "one.tar", a=b"a"))) as build:
        report = build.wait(Milestone.ACCEPTED, stop=bench.stop)

    assert report.layers[0]["entries"] == "\\x1b[2J\\x1b[H0"


def test_an_index_that_a_builder_forges_is_found_by_another_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    flawed(monkeypatch, "forges its index")
    fd, out = bench.volume(), os.open(bench.path / "index", os.O_RDWR | os.O_CREAT)
    request = replace(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=fd), index_out=out)

    with pytest.raises(errors.BuilderDied, match="index"), Build(request) as build:
        build.wait(Milestone.WRITTEN, stop=bench.stop)
        build.wait(Milestone.CHECKED, stop=bench.stop)
    os.close(fd)
    os.close(out)


def test_nobody_writes_to_a_volume_that_has_been_declared_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a flaw could change it between e2fsck's check and the seal."""
    flawed(monkeypatch, "writes on")
    fd = bench.volume()
    with Build(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=fd)) as build:
        build.wait(Milestone.CHECKED, stop=bench.stop)
        time.sleep(1.5)
        assert os.pread(fd, 8, 1024) != b"too late"
    os.close(fd)


@pytest.mark.root
def test_the_builder_of_root_is_nobody_in_an_empty_directory(bench: Bench) -> None:
    """What reads hostile bytes could not use the host's paths if it wanted to."""
    with Build(Request((Input("never", lambda: Stalled(bench.path)),), SIZE, lambda digests: "")) as build:
        found = the_builder()
        own = "Uid:\t" + "\t".join([str(confine.PRIVATE_UIDS + int(found.name))] * 4)
        deadline = time.monotonic() + 10
        while own not in (found / "status").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)

        assert own in (found / "status").read_text()
        assert not any(Path(found / "root").iterdir())
        assert all("volume" not in os.readlink(fd) for fd in (found / "fd").iterdir())
        build.close()
