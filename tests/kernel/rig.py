"""A thin pool of its own for each test, on loop devices over files in the test's directory; all is taken down afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.image.spec import filesystem_uuid
from reconciler.pool.thin.assembly import Geometry
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.pool.thin.label import head_blocks
from reconciler.pool.thin.pool import ThinPool
from reconciler.registry.writer import Registry

MIB = 1 << 20
BLOCK = 64 << 10
LABEL = head_blocks(BLOCK) * BLOCK
"""Bytes of a new pool that are in use."""
A, B, C = "a" * 64, "b" * 64, "c" * 64


@dataclass(frozen=True)
class Journal:
    """What ``host`` makes of a registry for a pool's driver."""

    name: str
    registry: Registry

    def pool(self) -> PoolRow | None:
        return self.registry.thin_pool(self.name)

    def devices(self, name: str | None = None) -> dict[int, DeviceRow]:
        return self.registry.thin_devices(self.name, name)

    def last_id(self) -> int:
        return self.registry.last_thin_id(self.name)

    def pending(self) -> bool:
        return self.registry.thin_pending(self.name)

    def begin(self, rows: Sequence[DeviceRow], taken: Collection[int] = ()) -> tuple[DeviceRow, ...]:
        return self.registry.begin_devices(self.name, rows, taken)

    def write(self, pool: PoolRow | None = None, put: Sequence[DeviceRow] = (), drop: Sequence[int] = ()) -> None:
        self.registry.journal(self.name, pool, put, drop)


@dataclass
class Rig:
    """``pool()`` is a new driver each time, as each invocation of the command has one."""

    root: Path
    name: str = "rig"
    data_bytes: int = 128 * MIB
    metadata_bytes: int | None = None
    block_size: int = BLOCK
    reserve: int = 0

    @property
    def data(self) -> Path:
        return self.root / "thin.data"

    @property
    def metadata(self) -> Path:
        return self.root / "thin.meta"

    @property
    def registry_path(self) -> Path:
        return self.root / "registry.sqlite3"

    @contextlib.contextmanager
    def pool(self) -> Iterator[ThinPool]:
        with Registry.open(self.registry_path) as registry:
            yield self.driver(registry)

    def driver(self, registry: Registry) -> ThinPool:
        geometry = Geometry(
            Backing(None, str(self.data), self.data_bytes),
            Backing(None, str(self.metadata), self.metadata_bytes),
            self.block_size,
        )
        return ThinPool(self.name, geometry, Journal(self.name, registry), filesystem_uuid, self.reserve, self.reserve)

    @contextlib.contextmanager
    def assembled(self) -> Iterator[ThinPool]:
        with self.pool() as pool:
            pool.assemble()
            yield pool

    # ------------------------------------------------------------------------------------------------ from outside

    def status(self) -> str:
        """What the kernel says of the pool."""
        return dmsetup("status", "--noflush", self.name)

    def mappings(self) -> set[str]:
        return {one for one in mappings() if one == self.name or one.startswith(f"{self.name}-")}

    def take_down(self) -> None:
        """As a reboot would: nothing is active any more, and the files are as they were written."""
        for name in sorted(self.mappings(), key=lambda name: name == self.name):
            dmsetup("remove", "--retry", name)

    def check(self) -> None:
        """The pool's metadata is without fault, as thin_check sees it. The pool must be down."""
        if self.metadata.exists():
            thin_check(self.metadata)


def dmsetup(*words: str) -> str:
    done = subprocess.run(["dmsetup", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"dmsetup {' '.join(words)}: {done.stderr}"
    return done.stdout


def thin_check(metadata: Path) -> None:
    """Through a loop: thin_check insists on direct I/O, which a file in memory has not."""
    device = subprocess.run(["losetup", "--find", "--show", "--read-only", metadata], capture_output=True, text=True, check=True)
    try:
        done = subprocess.run(["thin_check", device.stdout.strip()], capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)
    assert done.returncode == 0, done.stdout + done.stderr


def mappings() -> set[str]:
    said = dmsetup("ls")
    return set() if said.startswith("No devices") else {line.split("\t")[0] for line in said.splitlines()}


@contextlib.contextmanager
def rig(root: Path, **more: object) -> Iterator[Rig]:
    """Taken down and checked at the end."""
    one = Rig(root, **more)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        one.take_down()
    one.check()


def write(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path, offset: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def volume(pool: ThinPool, chain: str, size: int = 16 * MIB, parent: str | None = None, data: bytes = b"", at: int = 0) -> str:
    """A sealed volume with some bytes in it; returns its identity."""
    with pool.create_volume(chain, size, parent) as made:
        os.pwrite(made.fd, data or chain[:1].encode() * 4096, at)
        return made.seal()


def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
