"""The file pool keeps the drivers' contract, on the file system that the tests run on."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.pool.driver import Driver
from reconciler.pool.file.pool import FilePool
from tests.pool.contract import A, Bench, DriverContract, build, made
from tests.support.intents import KeptIntents
from tests.support.sleeper import sleeper

NOBODY = 65534
STEPS = ("fsync", "link", "rename", "replace", "unlink", "ftruncate", "fchmod")
"""Calls of ``os`` before and after which a process is killed."""


class FileBench(Bench):
    def __init__(self, root: Path) -> None:
        self.root = root

    def driver(self) -> FilePool:
        return FilePool("default", self.root, self.reserve, KeptIntents(self.root.with_name("intents.json")))

    def read(self, driver: Driver, name: str, offset: int, length: int) -> bytes:
        with driver.snapshot_path(name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, driver: Driver, name: str, offset: int, data: bytes) -> None:
        with driver.snapshot_path(name).open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    @contextmanager
    def held(self, driver: Driver, name: str) -> Iterator[None]:
        with driver.snapshot_path(name).open("rb") as file, sleeper(file):
            file.close()
            yield

    @contextmanager
    def read_only(self) -> Iterator[None]:
        with self.modes(0o555), self.without_privileges():
            yield

    @contextmanager
    def unreadable(self) -> Iterator[None]:
        with self.modes(0o000), self.without_privileges():
            yield

    @contextmanager
    def modes(self, mode: int) -> Iterator[None]:
        directories = [self.root / "snapshots", self.root / "volumes", self.root]
        before = [(one, one.stat().st_mode) for one in directories]
        for one in directories:
            one.chmod(mode)
        yield
        for one, was in reversed(before):
            one.chmod(was)

    @contextmanager
    def without_privileges(self) -> Iterator[None]:
        """As a user whom permissions bind."""
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    def lose(self, name: str, identity: str) -> None:
        driver = self.driver()
        (driver.volume_path(name) if len(name) == 64 else driver.snapshot_path(name)).unlink()

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Files of the same names with the same bytes in them: other inodes."""
        ours = self.root.rename(self.root.with_name("ours"))
        other = FilePool("default", self.root, 0, KeptIntents())
        build(other, A)
        made(other, A, "web")
        yield
        shutil.rmtree(self.root)
        ours.rename(self.root)

    def plant(self) -> None:
        (self.root / "snapshots").mkdir(parents=True)
        (self.root / "snapshots" / "notes.txt").write_text("theirs")

    def reboot(self) -> None:
        """Files stay what they are."""

    def killed(self, moment: int, act: Callable[[Driver], object]) -> bool:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                die_at(moment)
                act(self.driver())
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL), f"moment {moment}: exit {status}"
        return status != 0


def die_at(moment: int) -> None:
    """Kill this process at the moment with this number: before or after one of ``STEPS``."""
    left = moment

    def come_nearer() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            come_nearer()
            try:
                return real(*arguments, **options)
            finally:
                come_nearer()

        return call

    for name in STEPS:
        setattr(os, name, around(getattr(os, name)))


@pytest.fixture
def bench() -> Iterator[FileBench]:
    """In a directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="pool-contract-") as directory:
        Path(directory).chmod(0o755)
        yield FileBench(Path(directory) / "pool")


class TestContract(DriverContract):
    moments = range(1, 200)
