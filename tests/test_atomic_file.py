"""Files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler import atomic_file

WRITER = """
import os, sys, time
from pathlib import Path
from reconciler import atomic_file
with atomic_file.draft(Path(sys.argv[1])) as draft:
    os.write(draft.fd, b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


def writer(target: Path) -> subprocess.Popen[str]:
    """A process that has begun to write ``target``."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_written_file_is_private_and_whole(target: Path) -> None:
    atomic_file.write(target, "new")

    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_the_mode_does_not_depend_on_the_umask(target: Path) -> None:
    before = os.umask(0o777)
    try:
        atomic_file.write(target, b"new", mode=0o644)
    finally:
        os.umask(before)

    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_the_old_file_stays_until_the_new_one_is_published(target: Path) -> None:
    target.write_text("old")

    with pytest.raises(ZeroDivisionError), atomic_file.draft(target) as draft:
        os.write(draft.fd, b"half")
        assert target.read_text() == "old"
        raise ZeroDivisionError

    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_an_open_reader_keeps_the_old_content(target: Path) -> None:
    target.write_text("old")
    with target.open() as reader:
        atomic_file.write(target, "new")

        assert reader.read() == "old"


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_replaces_its_leftover(target: Path) -> None:
    target.write_text("old")
    end(writer(target))
    assert target.read_text() == "old"
    assert atomic_file.private(target).read_text() == "half"

    atomic_file.write(target, "new")

    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_second_writer_is_refused_while_the_first_one_writes(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "WAIT_SECONDS", 0.1)
    first = writer(target)
    try:
        with pytest.raises(BlockingIOError, match="another process is writing it"):
            atomic_file.write(target, "second")
        assert atomic_file.private(target).read_text() == "half"
    finally:
        end(first)


def test_a_second_writer_in_the_same_process_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "WAIT_SECONDS", 0.1)
    with atomic_file.draft(target) as draft:
        with pytest.raises(BlockingIOError):
            atomic_file.write(target, "second")
        os.write(draft.fd, b"first")
        draft.publish()

    assert target.read_text() == "first"


def test_a_second_writer_waits_for_the_last_process_that_holds_the_file(target: Path) -> None:
    """A builder whose parent was killed holds the lock for a moment longer."""
    path = atomic_file.private(target)
    fd = atomic_file.create(path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    holder = subprocess.Popen(["sleep", "0.3"], pass_fds=[fd])
    os.close(fd)

    atomic_file.write(target, "new")

    assert holder.wait() == 0
    assert target.read_text() == "new"


SPECIAL: dict[str, Callable[[Path], object]] = {
    "symbolic link": lambda path: path.symlink_to("elsewhere"),
    "dangling symbolic link": lambda path: path.symlink_to("nothing"),
    "fifo": lambda path: os.mkfifo(path),
    "directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_target_that_is_not_a_regular_file_is_refused(target: Path, kind: str) -> None:
    elsewhere = target.with_name("elsewhere")
    elsewhere.write_text("untouched")
    SPECIAL[kind](target)
    before = target.lstat()

    with pytest.raises(FileExistsError, match=f"is a {kind.removeprefix('dangling ')}, not a regular file"):
        atomic_file.write(target, "new")

    assert os.path.samestat(before, target.lstat())
    assert elsewhere.read_text() == "untouched"
    assert {path.name for path in target.parent.iterdir()} == {"elsewhere", target.name}


def test_a_target_that_becomes_special_during_the_write_is_refused(target: Path) -> None:
    with pytest.raises(FileExistsError, match="is a fifo"), atomic_file.draft(target) as draft:
        os.mkfifo(target)
        draft.publish()

    assert stat.S_ISFIFO(target.lstat().st_mode)
    assert not atomic_file.private(target).exists()


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_planted_private_name_is_never_followed(target: Path, kind: str) -> None:
    elsewhere = target.with_name("elsewhere")
    elsewhere.write_text("untouched")
    SPECIAL[kind](atomic_file.private(target))

    with pytest.raises(FileExistsError, match="not a regular file"):
        atomic_file.write(target, "new")

    assert elsewhere.read_text() == "untouched"
    assert not target.exists()


def test_a_planted_link_is_replaced_by_a_writer_that_holds_a_lock_of_its_own(target: Path) -> None:
    elsewhere = target.with_name("elsewhere")
    elsewhere.write_text("untouched")
    atomic_file.private(target).symlink_to("elsewhere")

    with atomic_file.draft(target, lock=False) as draft:
        os.write(draft.fd, b"new")
        draft.publish()

    assert target.read_text() == "new"
    assert elsewhere.read_text() == "untouched"


def test_many_writers_leave_one_whole_file(target: Path) -> None:
    code = "import sys; from pathlib import Path; from reconciler import atomic_file\natomic_file.WAIT_SECONDS = 60\n"
    code += "for _ in range(20): atomic_file.write(Path(sys.argv[1]), sys.argv[2] * 10000, durable=False)"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(target), letter]) for letter in "abcd"]

    assert [process.wait() for process in processes] == [0] * 4
    assert target.read_text() in {letter * 10000 for letter in "abcd"}
    assert list(target.parent.iterdir()) == [target]


def test_owner_and_mode_of_the_old_file_can_be_kept(target: Path) -> None:
    target.write_text("old")
    target.chmod(0o640)

    with atomic_file.draft(target) as draft:
        atomic_file.keep_access(draft.fd, target)
        draft.publish()

    assert stat.S_IMODE(target.stat().st_mode) == 0o640
