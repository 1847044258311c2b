"""Full, read-only and foreign file systems: what can be done is done, the rest is reported without a traceback."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import policy

from .layers import change, noise, root
from .workshop import RECONCILE, Completed, Workshop, tool

pytestmark = pytest.mark.root
BASE = root("base")
READING = (
    ("list",),
    ("list", "snapshots"),
    ("describe", "image/web"),
    ("get", "image/web"),
    ("events",),
    ("runs",),
    ("graph",),
    ("drift",),
    ("plan",),
    ("health",),
    ("verify",),
    ("validate",),
    ("state", "ls"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 96 MiB on a loop device."""
    image, where = tmp_path / "disk.img", tmp_path / "disk"
    where.mkdir()
    image.touch()
    os.truncate(image, 96 << 20)
    subprocess.run([tool("mkfs.ext4"), "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def fill(where: Path) -> None:
    """Until not one block is left."""
    for size in (1 << 20, 4096):
        with (where / f"fill-{size}").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def clear(done: Completed) -> Completed:
    """An answer, or an error in words."""
    assert "Traceback" not in done.stderr, done
    assert "internal error" not in done.stderr, done
    return done


def converged(workshop: Workshop, disk: Path) -> list[str]:
    """Two images in a state directory on the disk; the options that name it."""
    workshop.image("web", [BASE, change("app", {"srv/app": noise(1 << 20)})])
    workshop.image("gone", [BASE, change("other", {"srv/other": noise(4 << 20)})])
    state = ["--state", str(disk / "state")]
    workshop.converge(*state)
    return state


def test_pruning_frees_space_on_a_full_file_system(workshop: Workshop, disk: Path) -> None:
    state = converged(workshop, disk)
    fill(disk)
    (disk / "state/lock").write_bytes(b"")

    clear(workshop.once(*state)).expect(0)
    for words in READING:
        assert clear(workshop.run(*words, *state)).code in (0, 1, 2), words
    workshop.withdraw("gone")
    clear(workshop.once("--prune", *state)).expect(0)

    assert not (disk / "state/pools/default/snapshots/gone-a.ext4").exists()
    for path in disk.glob("fill-*"):
        path.unlink()
    workshop.once("--detailed-exitcode", *state).expect(0)
    assert (disk / "state/reserve").stat().st_blocks * 512 >= 4 << 20, "there is a reserve for the next time"


def test_a_full_file_system_without_a_reserve_is_reported(workshop: Workshop, disk: Path) -> None:
    state = converged(workshop, disk)
    fill(disk)
    (disk / "state/reserve").unlink()
    fill(disk)
    workshop.withdraw("gone")

    done = clear(workshop.once("--prune", *state))
    assert done.code in (1, 69), done
    done.words("full")


@pytest.mark.parametrize("interrupted", [False, True], ids=["at rest", "with the log of a run that was killed"])
def test_reading_verbs_work_on_a_read_only_file_system(workshop: Workshop, disk: Path, interrupted: bool) -> None:
    state = converged(workshop, disk)
    if interrupted:
        running = workshop.start("--interval", "3600", *state)
        running.until((disk / "state/registry.sqlite3-wal").exists, "a log").kill()
        (disk / "state/registry.sqlite3-shm").unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

    for words in READING:
        assert clear(workshop.run(*words, *state)).code in (0, 1, 2), words
    workshop.run("list", *state).expect(0).words("web")
    for words in (("--once",), ("suspend", "image/web"), ("retry", "image/web"), ("state", "rm", "image/gone")):
        done = clear(workshop.run(*words, *state))
        assert done.code in (1, 5, 69), done
    clear(workshop.once(*state)).expect(69)


def test_the_state_directory_of_another_user_is_reported(workshop: Workshop) -> None:
    """Nothing in it can be read: no verb takes that for an empty host. Pytest's own directory is closed to other users."""
    with tempfile.TemporaryDirectory() as where:
        theirs = replace(workshop, root=Path(where))
        theirs.image("web", [BASE])
        theirs.converge()
        subprocess.run(["chmod", "-R", "a+rX", where, theirs.manifests, theirs.layers], check=True)
        theirs.state.chmod(0o700)
        host_file = policy.write(Path(where) / "host.yaml")
        host_file.chmod(0o644)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", RECONCILE]
        for words in (("list",), ("plan",), ("verify",), ("health",), ("--once",), ("suspend", "image/web")):
            ran = subprocess.run(
                [*command, *words],
                capture_output=True,
                text=True,
                env=theirs.environment | {"RECONCILER_HOST_FILE": str(host_file)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                check=False,
            )
            done = clear(Completed(words, ran.returncode, ran.stdout, ran.stderr))
            assert done.code in (1, 69), done
            done.words(str(theirs.state))
            assert "permission denied" in str(done).lower() or "it belongs to user 0" in str(done), done
