"""One reconciler at a time: the lock is held by a process, and dies with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.errors import Exit, HostCannot, LockHeld
from reconciler.registry.lock import lock

HOLD = """
import pathlib, sys
from reconciler.registry.lock import lock
with lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends or it is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_the_error_of_a_second_reconciler_names_the_holder_of_the_lock(tmp_path: Path) -> None:
    with another_process(tmp_path / "lock") as holder:
        with pytest.raises(LockHeld, match=f"process {holder.pid} ") as refused, lock(tmp_path / "lock"):
            pass

        assert str(tmp_path / "lock") in str(refused.value)
        assert refused.value.exit is Exit.LOCKED


def test_the_lock_is_free_once_its_holder_was_killed(tmp_path: Path) -> None:
    with another_process(tmp_path / "lock") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        with lock(tmp_path / "lock"):
            pass


def test_the_lock_excludes_within_a_process_too_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    with lock(path), pytest.raises(LockHeld), lock(path):
        pass
    with lock(path):
        pass

    assert path.read_text() == ""


def test_a_failure_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "lock"):
        _ = 1 / 0
    with lock(tmp_path / "lock"):
        pass


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        try:
            with lock(tmp_path / "lock"):
                pass
        finally:
            child.kill()


def test_a_place_where_no_lock_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HostCannot, match="file"), lock(tmp_path / "file" / "lock"):
        pass
