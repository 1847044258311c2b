"""e2fsck checks a volume confined, within bounds, and ends when it is no longer wanted: its input may be an attack on it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler import process
from reconciler.errors import BuilderDied, PolicyRefused, Stopped, VolumeCorrupt
from reconciler.image import builder, e2fsck
from reconciler.image.builder import libc, program, seccomp
from reconciler.image.builder.measures import gaps
from reconciler.policy import force
from reconciler.policy.rules import Policy
from tests.support import planted as flaw

pytestmark = pytest.mark.skipif(process.find("e2fsck") is None, reason="needs e2fsprogs")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run([process.find("mke2fs") or "mke2fs", "-q", "-t", "ext4", path], check=True)
    return path


def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, *without: str) -> None:
    """A program in place of e2fsck, which is executed as it would be, ``without`` some measures."""
    if without:
        settings = json.dumps({"targets": {}, "user": 0, "without": without})
        monkeypatch.setattr(builder.process, "COMMAND", (sys.executable, flaw.__file__, settings))
    program = Path("/usr/bin/sh")
    monkeypatch.setattr(process, "find", lambda name: str(program))
    monkeypatch.setattr(e2fsck, "OPTIONS", ("-c", body, "e2fsck"))


def test_a_clean_file_system_is_clean_by_path_and_by_descriptor(image: Path) -> None:
    assert e2fsck.check(image)
    with image.open("rb") as file:
        assert e2fsck.check(Path(f"/proc/self/fd/{file.fileno()}"), (file.fileno(),))


def test_an_error_is_reported_with_the_command_that_shows_all(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(1024 + 0x38)
        file.write(b"\0\0")

    with pytest.raises(VolumeCorrupt, match="e2fsck reported errors") as wrong:
        e2fsck.check(image)

    assert f"e2fsck -fn {image}" in wrong.value.hint
    assert "checker" not in wrong.value.hint


def test_output_is_bounded_and_moves_no_cursor(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, tmp_path, r"while :; do printf '\033[2Jinode\n'; done")

    with pytest.raises(VolumeCorrupt, match=r"reported errors: \\x1b\[2Jinode"):
        e2fsck.check(image)


@pytest.mark.parametrize(("body", "why"), [("kill -9 $$", "code -9"), ("echo no module >&2; exit 1", "no module")])
def test_a_check_that_could_not_run_is_no_damage(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    planted(monkeypatch, tmp_path, body)

    with pytest.raises(BuilderDied, match=f"ended without a verdict: .*{why}"):
        e2fsck.check(image)


def test_a_file_system_that_can_not_be_read_is_damaged(image: Path) -> None:
    image.write_bytes(bytes(8 << 20))

    with pytest.raises(VolumeCorrupt, match="reported errors"):
        e2fsck.check(image)


def test_it_ends_when_it_is_no_longer_wanted(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, tmp_path, "exec >&- 2>&-; while :; do :; done")
    turns: list[None] = []

    def proceed() -> None:
        turns.append(None)
        if len(turns) == 3:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        e2fsck.check(image, proceed=proceed)
    assert not running(str(image))


def test_it_does_not_begin_when_it_is_no_longer_wanted(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert e2fsck.check(image)
    server = builder.process._servers[os.getpid(), builder.process.COMMAND]._running.pid
    planted(monkeypatch, tmp_path, "while :; do :; done")

    def stopped() -> None:
        raise Stopped("stopped")

    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(Stopped):
            e2fsck.check(image, proceed=stopped)
    finally:
        os.kill(server, signal.SIGCONT)
    builder.process.start().close()  # the server has answered all that was asked before
    assert not running(str(image))


def test_a_relative_path_and_a_descriptor_of_any_number_are_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    assert e2fsck.check(Path(image.name))
    with image.open("rb") as file:
        for number in (3, 4, 5, 6, 7, 200):
            fd = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, number)
            try:
                assert e2fsck.check(Path(f"/proc/self/fd/{fd}"), (fd,))
            finally:
                os.close(fd)


def test_it_gets_no_other_descriptors(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = "for n in $(seq 0 300); do [ -e /proc/$$/fd/$n ] && printf '%s ' $n; done; exit 1"
    planted(monkeypatch, tmp_path, each, "seccomp")
    with image.open("rb") as file, pytest.raises(VolumeCorrupt, match=r"reported errors: 0 1 2 2\d\d  ?\("):
        fd = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 200)
        e2fsck.check(image, (fd,))


def test_it_has_a_deadline(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, tmp_path, "while :; do :; done")
    monkeypatch.setattr(e2fsck, "TIMEOUT_SECONDS", 0.5)

    with pytest.raises(VolumeCorrupt, match=r"has not ended after 0\.5 s"):
        e2fsck.check(image)
    assert not running(str(image))


def running(words: str) -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if words in line and "ps -eo" not in line]


def spaces() -> bool:
    """Whether this user may have namespaces of its own."""
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def landlock() -> bool:
    try:
        return libc.landlock_version() > 0
    except OSError:
        return False


@pytest.mark.skipif(not landlock(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    "attempt",
    ["cat {secret}", "echo x >>{secret}", "echo x >{new}", "echo x >>{image}", "ls {directory}", "echo x >/dev/shm/e2fsck"],
)
def test_a_program_that_was_taken_over_reaches_nothing_but_its_volume(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    tried = attempt.format(secret=secret, new=tmp_path / "new", image=image, directory=tmp_path)
    planted(monkeypatch, tmp_path, f"({tried}) && echo reached; echo 'tried it'; exit 1", "seccomp")

    with pytest.raises(VolumeCorrupt) as told:
        e2fsck.check(image)

    assert told.value.message == f"{image}: e2fsck reported errors: tried it"
    assert secret.read_text() == "hunter2\n"
    assert not (tmp_path / "new").exists()


def test_it_reads_its_volume_and_has_no_network(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, tmp_path, 'head -c 77 "$1" | wc -c; exit 1', "seccomp")
    with pytest.raises(VolumeCorrupt, match="reported errors: 77"):
        e2fsck.check(image)
    planted(monkeypatch, tmp_path, "grep -c : /proc/$$/net/dev; exit 1", "seccomp")
    mine = sum(":" in line for line in Path("/proc/self/net/dev").read_text().splitlines())
    with pytest.raises(VolumeCorrupt, match="reported errors: 1" if spaces() or mine == 1 else "reported errors"):
        e2fsck.check(image)


def attempts(root: Path, volume: Path, parent: int) -> dict[str, Callable[[], object]]:
    """What Landlock does not forbid to a process of root, and what it does. Each returns where it worked."""
    call, unix = libc._libc.syscall, socket.socket
    target, other = root / "target", root / "other"
    return {
        "make a program setuid": lambda: target.chmod(0o4755),
        "give a file away": lambda: os.chown(target, 0, 0),
        "change a file's times": lambda: os.utime(target),
        "set an attribute": lambda: os.setxattr(target, "user.x", b"1"),
        "remove an attribute": lambda: os.removexattr(target, "user.there"),
        "link": lambda: os.link(target, other),
        "link symbolically": lambda: other.symlink_to(target),
        "rename": lambda: target.rename(other),
        "unlink": lambda: target.unlink(),
        "make a directory": lambda: other.mkdir(),
        "list a directory": lambda: os.listdir(root),
        "write": lambda: os.open(volume, os.O_RDWR),
        "create": lambda: os.open(other, os.O_RDONLY | os.O_CREAT),
        "open a socket": lambda: unix(socket.AF_UNIX),
        "open a pair of sockets": socket.socketpair,
        "unshare": lambda: libc.unshare(libc.CLONE_NEWUSER),
        "mount": lambda: libc._checked(libc._libc.mount(b"none", b"/", b"tmpfs", 0, None)),
        "trace its parent": lambda: libc._checked(libc._libc.ptrace(16, parent, 0, 0)),
        "signal its parent": lambda: os.kill(parent, 0),
        "signal a group": lambda: os.killpg(0, signal.SIGCONT),
        "slow its parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, 5),
        "bind its parent to a processor": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(0)),
        "read its parent's limits": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
        "change its own limits": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)),
        "load a program into the kernel": lambda: libc._checked(call(321, 0, None, 0)),
        "start io_uring": lambda: libc._checked(call(425, 1, None)),
        "start a process": os.fork,
    }


def outcome(attempt: Callable[[], object]) -> int | str | None:
    try:
        attempt()
    except OSError as error:
        return error.errno
    return "done"


def test_a_program_that_was_taken_over_has_the_system_calls_of_e2fsck_only(image: Path, tmp_path: Path) -> None:
    if missing := program.confinement()["seccomp"]:
        pytest.skip(missing)
    (tmp_path / "target").write_text("#!/bin/true")
    os.setxattr(tmp_path / "target", "user.there", b"1")
    tried, (results, theirs) = attempts(tmp_path, image, os.getpid()), os.pipe()
    before = os.stat(tmp_path / "target")
    child = os.fork()
    if not child:
        try:
            seccomp.prepare_for_program().load()
            found = {name: outcome(attempt) for name, attempt in tried.items()}
            os.write(theirs, json.dumps(found | {"read its volume": outcome(lambda: os.open(image, os.O_RDONLY))}).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(results) as said:
        found = json.load(said)

    assert found.pop("read its volume") == "done"
    assert found == dict.fromkeys(tried, errno.ENOSYS)
    assert os.stat(tmp_path / "target") == before


def test_it_gets_no_volume_where_the_policy_requires_a_measure_that_is_missing(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, tmp_path, "echo executed; exit 1", "seccomp")
    assert [gap.required for gap in gaps(program.confinement()) if gap.measure == "seccomp"] == [True]

    force.use(Policy(requires_confinement=True))
    with pytest.raises(PolicyRefused, match="is not fully confined: seccomp") as refused:
        e2fsck.check(image)
    assert "policy.confinement" in refused.value.hint


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
@pytest.mark.parametrize("options", ["", "bigalloc", "inline_data", "encrypt,casefold", "quota,project", "^metadata_csum,64bit"])
def test_the_filter_leaves_e2fsck_what_it_needs(tmp_path: Path, kind: str, options: str) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(300 << 20)
    features = ["-O", options] if options else []
    made = subprocess.run(
        [process.find("mke2fs") or "mke2fs", "-q", "-t", kind, *features, path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"mke2fs: {made.stderr.decode().strip()}")

    assert e2fsck.check(path)
