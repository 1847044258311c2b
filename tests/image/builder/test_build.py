"""The builder process and its parent: what a build reports, and what becomes of one that goes wrong."""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import hashlib
import io
import lzma
import mmap
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler import errors
from reconciler.image import e2fsck
from reconciler.image.archive.diff_id import Summed
from reconciler.image.builder import confine, parent, process, protocol, ring
from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Milestone, Request
from reconciler.image.source.reading import Check, Fetched, Progress
from reconciler.image.source.spool import Spool
from reconciler.image.spec import AS_WRITTEN, CUT, MIB, UNMARKED, Layer, Limits, Source, chain_ids
from tests.support import chunked, ext4, lying
from tests.support.origin import eventually

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
    """Builder processes of this one, as directories of /proc; the fork server is none."""
    found = [path for server in children(os.getpid()) for path in children(int(server.name))]
    return [path for path in found if called(path) == protocol.NAME]


def called(process: Path) -> str:
    """The name of a process; empty once it has ended."""
    try:
        return (process / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[Path]:
    return [Path("/proc") / process for process in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
    assert written.summary["used_inodes"] == 12
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


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("length", "hint"), [(1024, UNMARKED), (515, CUT)])
def test_a_tar_that_ends_early_is_its_writers_doing_where_the_digest_is_right(
    length: int, hint: str, declared: bool, bench: Bench
) -> None:
    path = tar(bench.path / "early.tar", a=b"one")
    os.truncate(path, length)  # a header and a block of data, or no padding either: as umoci insert leaves it
    layer = Layer(Source(str(path)), hashlib.sha256(path.read_bytes()).hexdigest() if declared else None)
    request = Request((Input("a", lambda: bench.spool.fetch(layer), declared=layer.declared),), SIZE, bench.request().chain)

    with pytest.raises(errors.LayerCorrupt, match="the tar ends at byte") as refused, Build(request) as build:
        build.wait(Milestone.ACCEPTED, stop=bench.stop)

    assert refused.value.hint == (AS_WRITTEN[hint] if declared else hint)


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
    never = Input("never", Stalled)

    with Build(Request((never,), SIZE, lambda digests: "")) as build:
        os.kill(int(the_builder().name), signal.SIGKILL)
        with pytest.raises(errors.BuilderDied, match="SIGKILL"):
            build.wait(Milestone.ACCEPTED, stop=bench.stop)


@AT_ONCE
def test_a_build_that_is_asked_to_stop_ends_at_once_and_leaves_no_process(bench: Bench) -> None:
    with (
        pytest.raises(errors.Stopped),
        Build(Request((Input("never", Stalled),), SIZE, lambda d: "")) as build,
    ):
        threading.Timer(0.3, bench.stop.set).start()
        build.wait(Milestone.WRITTEN, stop=bench.stop)

    assert not builders()


class Stalled:
    """A download that never goes on: what a dead network looks like."""

    progress = Progress(0, 1000)

    def __init__(self) -> None:
        self._over = threading.Event()

    def readinto(self, buffer: memoryview) -> int:
        self._over.wait()
        raise errors.Stopped("closed")

    def result(self, check: Check = lambda: None) -> Fetched:
        raise AssertionError("it never ends")

    def close(self) -> None:
        self._over.set()


def flawed(monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, lying.__file__, flaw))


@pytest.mark.parametrize(
    ("flaw", "told"),
    [
        ("dies", "SIGABRT"),
        ("hangs", "not answered for 1 s"),
        ("shouts", "an invalid packet"),
        ("claims to be done", "an invalid packet"),
        ("counts wildly", "an invalid packet"),
        ("hangs up", "exit code 0"),
        ("hangs up and stays", "SIGKILL"),
        ("accepts and hangs", "not answered for 1 s"),
        ("floods with progress", "packets of the kind progress"),
        ("floods with totals", "an invalid packet"),
        ("floods with surveys", "more than 0 packets of the kind seen"),
        ("sends descriptors", "packets of the kind progress|Too many references"),
        ("claims more than there is", "an invalid packet"),
        ("goes back", "an invalid packet"),
        ("is ahead", "an invalid packet"),
        ("fails without a shape", "an invalid packet"),
        ("fails without a member", "an invalid packet"),
        ("is too large", "an invalid packet"),
        ("nests", "an invalid packet"),
        ("nests in fields", "an invalid packet"),
        ("is no packet", "an invalid packet"),
        ("is a number", "an invalid packet"),
        ("lacks a measure for no reason", "an invalid packet"),
    ],
)
@AT_ONCE
def test_a_builder_that_dies_hangs_or_lies_fails_its_volume_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, flaw: str, told: str
) -> None:
    flawed(monkeypatch, flaw)
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(process, "LAST_WORDS_SECONDS", 0.2)
    process.start().close()  # with the fork server, which stays
    fd = bench.volume()
    held = descriptors()

    with (
        pytest.raises(errors.BuilderDied, match=told),
        Build(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=fd)) as build,
    ):
        build.wait(Milestone.WRITTEN, stop=bench.stop)
    eventually(lambda: descriptors() <= held)  # a thread that was not waited for may hold the ring for a moment
    os.close(fd)

    assert not builders()
    with pytest.raises(errors.VolumeCorrupt):
        e2fsck.check(bench.path / "volume")


@pytest.mark.slow
def test_a_fork_server_that_dies_costs_no_later_build(bench: Bench) -> None:
    layer = tar(bench.path / "one.tar", hello=b"world")
    child = process.start()
    server = int((the_builder() / "stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    eventually(lambda: child.running.poll() is not None)
    child.close()
    eventually(lambda: not Path("/proc", str(child.running.pid)).exists())

    fd = bench.volume()
    with Build(bench.request(layer, volume=fd)) as build:
        build.wait(Milestone.WRITTEN, stop=bench.stop)
    os.close(fd)
    assert not builders()


def test_a_fork_server_that_was_never_asked_is_not_waited_for() -> None:
    process.end_server()
    process.load()
    server = process._servers[os.getpid(), process.COMMAND]._running
    os.kill(server.pid, signal.SIGSTOP)

    process.end_server()

    assert server.returncode == -signal.SIGKILL


def test_a_fork_server_finds_packages_that_only_a_pth_file_or_sitecustomize_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts without ``site``, which reads these: where a package is missing it does what ``site`` does."""
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-I", "-S", str(process.START), str(bench.path)))
    layer, fd = tar(bench.path / "one.tar", hello=b"world"), bench.volume()

    with Build(bench.request(layer, volume=fd)) as build:
        build.wait(Milestone.WRITTEN, stop=bench.stop)

    os.close(fd)


@pytest.fixture
def halted() -> Iterator[int]:
    """The fork server of this process, which does nothing until it is continued."""
    process.start().close()
    server = process._servers[os.getpid(), process.COMMAND]._running.pid
    os.kill(server, signal.SIGSTOP)
    yield server
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGCONT)


def stopping(turns: int) -> Callable[[], None]:
    """What a wait calls, and what ends it at the last turn."""
    left = iter(range(turns))

    def proceed() -> None:
        if next(left, None) is None:
            raise errors.Stopped("stopped")

    return proceed


def test_a_fork_server_that_does_not_answer_holds_up_nothing_that_is_stopped(halted: int) -> None:
    held = descriptors()
    with pytest.raises(errors.Stopped):
        process.start(stopping(2))
    assert descriptors() == held

    os.kill(halted, signal.SIGCONT)
    child = process.start()
    eventually(lambda: builders() == [Path("/proc", str(child.running.pid))])  # the other one has not begun
    child.close()


@pytest.mark.slow
def test_a_fork_server_that_does_not_answer_is_replaced(halted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STARTING_SECONDS", 5.0)
    child = process.start()
    child.close()
    assert not Path("/proc", str(halted)).exists()


def test_a_wait_for_the_end_of_a_builder_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that would report the end is halted: as if the kernel could not end it."""
    child = process.start(stopping(0))
    server = int((the_builder() / "stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(process, "KILLED_SECONDS", 0.2)
    with pytest.raises(errors.Stopped):
        child.end()
    monkeypatch.setattr(process, "ENDING_SECONDS", 0.1)
    monkeypatch.setattr(process, "KILLED_SECONDS", 60.0)
    with pytest.raises(errors.BuilderDied, match=f"process {child.running.pid} of the builder has not ended"):
        child.close()
    os.kill(server, signal.SIGCONT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("way", ["write", "map", "grow", "shrink", "unseal"])
def test_a_builder_can_not_change_the_bytes_that_it_is_given(way: str) -> None:
    """The parent fills and hashes them where they lie."""
    memory = ring.Ring()
    memory.space(5)[:] = b"right"
    attempts = {
        "write": lambda: os.pwrite(memory.fd, b"wrong", 0),
        "map": lambda: mmap.mmap(memory.fd, ring.SIZE),
        "grow": lambda: os.ftruncate(memory.fd, 2 * ring.SIZE),
        "shrink": lambda: os.ftruncate(memory.fd, 0),
        "unseal": lambda: fcntl.fcntl(memory.fd, 1033, 0),
    }

    with pytest.raises(OSError, match="not permitted"):
        attempts[way]()

    assert ring.Mapping(os.dup(memory.fd)).view(0, 5) == b"right"
    memory.release()


def test_layers_longer_than_the_ring_arrive_whole_one_after_the_other(bench: Bench) -> None:
    """The second begins somewhere in the ring, and bytes go over its end."""
    contents = [random.Random(n).randbytes(ring.SIZE + 12_345 * n) for n in (1, 2)]
    layers = [tar(bench.path / f"{n}.tar", **{f"f{n}": data}) for n, data in enumerate(contents)]
    fd = bench.volume()
    with Build(bench.request(*layers, volume=fd)) as build:
        report = build.wait(Milestone.CHECKED, stop=bench.stop)
        assert build.progress.read == layers[1].stat().st_size
    os.close(fd)

    assert report.digests == tuple(hashlib.sha256(layer.read_bytes()).hexdigest() for layer in layers)
    for n, data in enumerate(contents):
        out = subprocess.run(["debugfs", "-R", f"cat /f{n}", bench.path / "volume"], capture_output=True, check=True).stdout
        assert out == data


def test_headers_longer_than_the_ring_do_not_wait_for_data_that_waits_to_be_written(bench: Bench) -> None:
    """Data is written from the ring, together with data that follows."""
    data, path = random.Random(1).randbytes(200_000), bench.path / "one.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for number in range(24):
            member = tarfile.TarInfo(f"f{number}")
            member.size = len(data) if number in (0, 23) else 0
            member.pax_headers = {"comment": "x" * 900_000}
            out.addfile(member, io.BytesIO(data))
    assert path.stat().st_size > ring.SIZE
    fd = bench.volume()

    with Build(bench.request(path, volume=fd)) as build:
        build.wait(Milestone.CHECKED, stop=bench.stop)
    os.close(fd)

    for name in ("f0", "f23"):
        out_ = subprocess.run(["debugfs", "-R", f"cat /{name}", bench.path / "volume"], capture_output=True, check=True).stdout
        assert out_ == data


@pytest.mark.slow
def test_what_is_hashed_is_what_is_built_whatever_another_process_writes_meanwhile(bench: Bench) -> None:
    """Through a mapping, which leaves the file's times alone while the page is dirty."""
    path = tar(bench.path / "one.tar", pad=bytes(48 * MIB), evil=b"A" * 4096)
    at = path.read_bytes().index(b"A" * 4096)
    stop = threading.Event()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[at : at + 4096] = b"A" * 4096
        flipping = threading.Thread(target=flip, args=(mapped, at, stop))
        flipping.start()
        for _ in range(5):
            fd = bench.volume()
            with contextlib.suppress(errors.SourceChanged), Build(bench.request(path, volume=fd)) as build:
                digest = build.wait(Milestone.CHECKED, stop=bench.stop).digests[0]
                command = ["debugfs", "-R", "cat /evil", bench.path / "volume"]
                built = subprocess.run(command, capture_output=True, check=True).stdout
                hashed = hashlib.sha256(path.read_bytes()[:at] + built + path.read_bytes()[at + 4096 :]).hexdigest()
                assert digest == hashed
            os.close(fd)
        stop.set()
        flipping.join()


def flip(mapped: mmap.mmap, at: int, stop: threading.Event) -> None:
    while not stop.wait(0.003):
        mapped[at : at + 4096] = b"B" * 4096 if mapped[at : at + 1] == b"A" else b"A" * 4096


@pytest.mark.root
@AT_ONCE
def test_a_builder_that_fills_the_disk_is_ended_before_the_disk_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    flawed(monkeypatch, "fills the disk")
    place = bench.path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", place], check=True)
    try:
        fd, out = bench.volume(), os.open(place / "index", os.O_RDWR | os.O_CREAT)
        request = replace(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=fd), index_out=out)
        with pytest.raises(errors.NoSpace, match="file system has"), Build(request) as build:
            build.wait(Milestone.WRITTEN, stop=bench.stop)
        os.close(fd)
        os.close(out)
    finally:
        subprocess.run(["umount", place], check=True)


@AT_ONCE
def test_a_builder_that_fills_its_pool_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it reports: the pool's free space is checked while it runs, and here it never answers."""
    flawed(monkeypatch, "hangs")
    checks: list[None] = []

    def check_space() -> None:
        checks.append(None)
        if len(checks) == 3:
            raise errors.NoSpace("pool thin: 0 bytes are free")

    request = replace(bench.request(tar(bench.path / "one.tar", a=b"a"), volume=bench.volume()), check_space=check_space)
    with Build(request) as build:
        with pytest.raises(errors.NoSpace, match="pool thin"):
            build.wait(Milestone.WRITTEN, stop=bench.stop)
        adjusted = Path(f"/proc/{build._child.running.pid}/oom_score_adj").read_text()
        assert adjusted == "1000\n", "the kernel ends a builder before anything else"
        build.close()
        assert build._child.running.poll() == -signal.SIGKILL


@AT_ONCE
def test_a_source_that_hangs_does_not_hold_up_the_end_of_its_build(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of a dead file server can't be interrupted."""
    monkeypatch.setattr(parent, "JOIN_SECONDS", 0.1)
    source = Stalled()
    source.close = lambda: None  # type: ignore[method-assign]
    build = Build(Request((Input("dead", lambda: source),), SIZE, lambda digests: ""))
    with build, pytest.raises(errors.Stopped):
        bench.stop.set()
        build.wait(Milestone.WRITTEN, stop=bench.stop)

    assert not builders()
    Stalled.close(source)


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


@pytest.mark.slow
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
    with Build(Request((Input("never", Stalled),), SIZE, lambda digests: "")) as build:
        found = the_builder()
        own = "Uid:\t" + "\t".join([str(confine.PRIVATE_UIDS + int(found.name))] * 4)
        deadline = time.monotonic() + 10
        while own not in (found / "status").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)

        assert own in (found / "status").read_text()
        assert not any(Path(found / "root").iterdir())
        assert all("volume" not in os.readlink(fd) for fd in (found / "fd").iterdir())
        build.close()


def tree_of(bench: Bench, *layers: tuple[bytes, str]) -> set[bytes]:
    """The names in the image of some layers, each with its diff_id."""
    inputs = []
    for number, (data, diff_id) in enumerate(layers):
        path = bench.path / f"{number}.layer"
        path.write_bytes(data)
        inputs.append(Input(path.name, lambda p=path: bench.spool.fetch(Layer(Source(str(p)))), diff_id=diff_id))
    fd = bench.volume()
    try:
        with Build(Request(tuple(inputs), SIZE, lambda digests: chain_ids(SIZE, digests)[-1], volume=fd)) as build:
            build.wait(Milestone.WRITTEN, stop=bench.stop)
    finally:
        os.close(fd)
    assert e2fsck.check(bench.path / "volume")
    return set(ext4.of_image(bench.path / "volume")) - {b".", b"lost+found"}


def test_an_estargz_layer_leaves_none_of_its_own_files(bench: Bench) -> None:
    files = [("a", b"one"), ("b", b"two" * 9000)]
    plain = gzip.compress(b"".join(chunked.entry(*one) for one in files) + bytes(1024))

    for landmark in (chunked.PREFETCH, chunked.NO_PREFETCH, ""):
        assert tree_of(bench, (chunked.estargz(files, landmark), "")) == {b"a", b"b"}
    assert tree_of(bench, (plain, ""), (chunked.estargz([("c", b"")]), "")) == {b"a", b"b", b"c"}
    assert tree_of(bench, (chunked.estargz(files, shift=1), "")) == {b"a", b"b", b"stargz.index.json", b".no.prefetch.landmark"}


def test_a_zstd_chunked_layer_is_read_as_any_other(bench: Bench) -> None:
    assert tree_of(bench, (chunked.zstd_chunked([("a", b"one"), ("b", b"two" * 9000)]), "")) == {b"a", b"b"}


@pytest.mark.slow
def test_a_layer_is_compared_with_its_diff_id(bench: Bench) -> None:
    unpacked = chunked.entry("a", os.urandom(5 << 20)) + bytes(1024)
    right = hashlib.sha256(unpacked).hexdigest()
    wrong = hashlib.sha256(b"other").hexdigest()

    for stored in (unpacked, gzip.compress(unpacked, 1), lzma.compress(unpacked, preset=0), bz2.compress(unpacked, 1)):
        assert tree_of(bench, (stored, right)) == {b"a"}
    with pytest.raises(errors.DigestMismatch, match=rf"1\.layer: .*sha256 {right}, not to {wrong}"):
        tree_of(bench, (gzip.compress(unpacked, 1), right), (gzip.compress(unpacked, 1), wrong))


@pytest.mark.parametrize("threaded", [False, True])
def test_a_diff_id_is_of_the_whole_stream(threaded: bool) -> None:
    chunks = [b"one", b"", os.urandom(1 << 20), b"three"]

    class Chunks:
        def __init__(self) -> None:
            self._left = [chunk for chunk in chunks if chunk]

        def read(self) -> bytes:
            return self._left.pop(0) if self._left else b""

    summed = Summed(Chunks(), threaded=threaded)
    while summed.read():
        pass
    summed.check(hashlib.sha256(b"".join(chunks)).hexdigest())
