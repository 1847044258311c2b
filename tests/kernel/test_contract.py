"""The thin pool on the real kernel keeps the drivers' contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from reconciler.pool.driver import Driver
from reconciler.pool.thin.pool import ThinPool
from reconciler.registry.writer import Registry
from tests.pool.contract import A, Bench, DriverContract, build, made

from .rig import Rig, dmsetup, read, rig, write
from .test_killed import intrude, killed

GARBAGE = b"\xa5" * 4096


class ThinBench(Bench):
    def __init__(self, thin: Rig, stack: ExitStack) -> None:
        self.thin = thin
        self._stack = stack

    def driver(self) -> ThinPool:
        self.thin.reserve = self.reserve
        return self.thin.driver(self._stack.enter_context(Registry.open(self.thin.registry_path)))

    def read(self, driver: Driver, name: str, offset: int, length: int) -> bytes:
        return read(driver.snapshot_path(name), offset, length)

    def write(self, driver: Driver, name: str, offset: int, data: bytes) -> None:
        write(driver.snapshot_path(name), offset, data)

    @contextmanager
    def held(self, driver: Driver, name: str) -> Iterator[None]:
        fd = os.open(driver.snapshot_path(name), os.O_RDWR)
        try:
            yield
        finally:
            os.close(fd)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """As the kernel makes a pool whose metadata it can't write."""
        table = dmsetup("table", self.thin.name).strip()
        assert table.endswith("1 error_if_no_space"), table
        self.becomes(table.removesuffix("1 error_if_no_space") + "2 error_if_no_space read_only")
        yield
        self.becomes(table)

    def becomes(self, table: str) -> None:
        dmsetup("load", self.thin.name, "--table", table)
        dmsetup("suspend", self.thin.name)
        dmsetup("resume", self.thin.name)

    @contextmanager
    def unreadable(self) -> Iterator[None]:
        """The metadata's first block is garbage, and the pool is not active."""
        self.thin.take_down()
        with self.thin.metadata.open("r+b") as file:
            block = file.read(len(GARBAGE))
            self.overwrite(GARBAGE)
            yield
            self.overwrite(block)

    def overwrite(self, block: bytes) -> None:
        with self.thin.metadata.open("r+b") as file:
            file.write(block)

    def lose(self, name: str, identity: str) -> None:
        for mapping in self.thin.mappings() & {f"{self.thin.name}-{name}"}:
            dmsetup("remove", "--retry", mapping)
        dmsetup("message", self.thin.name, "0", f"delete {identity.split()[0].removeprefix('id=')}")

    @contextmanager
    def swap(self) -> Iterator[None]:
        """The disks of another registry's pool, of the same name and with the same objects, are in place of ours."""
        self.thin.take_down()
        ours = self.thin.root
        self.thin.root = ours / "other"
        self.thin.root.mkdir()
        with self.thin.assembled() as other:
            build(other, A)
            made(other, A, "web")
        self.thin.take_down()
        self.exchange(ours)
        self.thin.root = ours
        yield
        self.thin.take_down()
        self.exchange(ours)

    def exchange(self, ours: Path) -> None:
        for name in ("thin.data", "thin.meta"):
            (ours / name).rename(ours / "aside")
            (ours / "other" / name).rename(ours / name)
            (ours / "aside").rename(ours / "other" / name)

    def plant(self) -> None:
        with self.pool():
            intrude(self.thin)

    def reboot(self) -> None:
        self.thin.take_down()

    def killed(self, moment: int, act: Callable[[Driver], object]) -> bool:
        return killed(self.thin, moment, act)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ThinBench]:
    with rig(tmp_path) as thin, ExitStack() as stack:
        yield ThinBench(thin, stack)


@pytest.mark.timeout(300)
class TestContract(DriverContract):
    moments = range(2, 400, 9)
    """``test_killed`` tries them all, change by change."""
