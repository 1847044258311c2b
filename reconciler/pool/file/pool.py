"""The file pool: volumes and snapshots are image files. Needs no root and works on any file system of Linux.

    <root>/volumes/<chain>.ext4       sealed bases, mode 0444, in a directory of mode 0700: images can hold secrets
    <root>/snapshots/<name>.ext4      writable copies, mode 0600: the owner can give others access

Volumes and snapshots are reflinks if the file system can share blocks, else sparse copies. A finished file appears complete or
not at all (``pool.file.directory``), and is recognised by the identity that the registry has recorded (``pool.file.identity``).

Created by ``controller.context``, called through ``pool.driver.Driver``. State: the files. Callers hold the registry's lock.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reconciler import atomic_file
from reconciler.errors import Busy, HostCannot, NoSpace, ReconcilerError, Retryable
from reconciler.pool.driver import (
    Condition,
    Expected,
    Heartbeat,
    PoolState,
    SnapshotRequest,
    SnapshotState,
    Space,
    VolumeState,
    no_heartbeat,
    nothing,
)
from reconciler.pool.file.clone import data_bytes, reflink, shares_blocks, sparse_copy
from reconciler.pool.file.directory import Listing, Shelf, nearest_directory
from reconciler.pool.file.identity import Identity, examine, judge_snapshot, judge_volume
from reconciler.pool.holders import holder, holders

CHAIN = re.compile(r"[0-9a-f]{64}")
SNAPSHOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass
class FilePool:
    """A pool under ``root``, which need not exist yet. New work leaves ``reserve_percent`` of its file system free."""

    name: str
    root: Path
    reserve_percent: int

    @cached_property
    def shares_blocks(self) -> bool:
        """Asked of the file system once, without leaving a trace. Raises HostCannot where nothing may be written."""
        with self._reported("test whether files can share blocks"):
            return shares_blocks(nearest_directory(self.root))

    @property
    def _volumes(self) -> Shelf:
        return Shelf(self.root / "volumes", CHAIN, "volume", 0o700)

    @property
    def _snapshots(self) -> Shelf:
        return Shelf(self.root / "snapshots", SNAPSHOT, "snapshot", 0o755)

    def volume_path(self, chain: str) -> Path:
        return self._volumes.path(chain)

    def snapshot_path(self, name: str) -> Path:
        return self._snapshots.path(name)

    def space(self) -> Space:
        """Of the file system that the pool is on, or would be made on. Raises HostCannot."""
        with self._reported("ask for free space"):
            found = os.statvfs(nearest_directory(self.root))
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        return Space(total, free, reserve=total * self.reserve_percent // 100)

    def pulse(self) -> Hashable:
        return self._volumes.pulse(), self._snapshots.pulse()

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """See ``Driver.observe``. A pool that was never used is empty."""
        with self._reported("read the pool"):
            bases, copies = (self._volumes.scan(), self._snapshots.scan()) if whole else (Listing(), Listing())
            listings = ((self._volumes, bases), (self._snapshots, copies))
            return PoolState(
                space=self.space(),
                volumes={chain: self._volume(chain, volumes.get(chain)) for chain in sorted({*volumes, *bases.finished})},
                snapshots={name: self._snapshot(name, snapshots.get(name)) for name in sorted({*snapshots, *copies.finished})},
                foreign=tuple(shelf.describe(entry) for shelf, listing in listings for entry in listing.foreign),
                leftovers=tuple(str(shelf.directory / entry) for shelf, listing in listings for entry in listing.partial),
            )

    def _volume(self, chain: str, remembered: str | None) -> VolumeState:
        path, found = self._volumes.find(chain)
        condition, detail = judge_volume(remembered, found)
        size, used = (found.identity.size, found.used) if found else (0, 0)
        return VolumeState(chain, condition, path, size, used, detail)

    def _snapshot(self, name: str, remembered: str | None) -> SnapshotState:
        path, found = self._snapshots.find(name)
        condition, detail = judge_snapshot(remembered, found)
        size, used = (found.identity.size, found.used) if found else (0, 0)
        active = found is not None and found.regular
        return SnapshotState(name, condition, path, active, size, used, detail)

    def assemble(self) -> str:
        return ""

    def create_volume(
        self, chain: str, size: int, parent: str | None, expected: Expected = nothing, heartbeat: Heartbeat = no_heartbeat
    ) -> VolumeFile:
        """See ``Driver.create_volume``. Raises NoSpace, HostCannot, and Retryable where the parent is not there."""
        self._admit(0)
        with self._reported(f"begin volume {chain[:12]}"):
            fd = self._volumes.begin(chain)
            with ExitStack() as undo:
                volume = undo.enter_context(VolumeFile(chain, size, fd, self._volumes.partial(chain), self._volumes))
                if parent is not None:
                    self._copy(parent, fd)
                os.ftruncate(fd, size)
                undo.pop_all()
            return volume

    def create_snapshot(self, name: str, chain: str, heartbeat: Heartbeat = no_heartbeat) -> str:
        """See ``Driver.create_snapshot``. A whole snapshot of this very chain that nobody recorded is taken as the one asked for.

        Raises NoSpace, HostCannot, and Retryable where the volume is not there.
        """
        self._admit(0)
        with self._reported(f"create snapshot {name}"):
            if finished := self._finished(name, chain):
                return str(finished)
            fd = self._snapshots.begin(name)
            try:
                self._copy(chain, fd)
                os.fsync(fd)
                if os.path.lexists(self.snapshot_path(name)):
                    self._snapshots.set_aside(name)
                self._snapshots.publish(name)
                return str(Identity.of(fd))
            finally:
                os.close(fd)
                self._snapshots.discard(name)

    def _finished(self, name: str, chain: str) -> Identity | None:
        """The file of a run that was interrupted between giving the file its name and recording it."""
        base, found = examine(self.volume_path(chain)), examine(self.snapshot_path(name))
        if base is None or found is None or not found.regular or found.identity.uuid is None:
            return None
        whole = found.identity.uuid == base.identity.uuid and found.identity.size >= base.identity.size
        return found.identity if whole else None

    def _copy(self, chain: str, target: int) -> None:
        with self._sealed(chain) as source:
            if not reflink(source, target):
                self._admit(data_bytes(source))
                sparse_copy(source, target)

    @contextmanager
    def _sealed(self, chain: str) -> Iterator[int]:
        try:
            fd = os.open(self.volume_path(chain), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            missing = f"volume {chain[:12]} of pool {self.name} is missing"
            raise Retryable(missing, hint="the next run rebuilds it") from None
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def reading(self, chain: str) -> Iterator[Path]:
        yield self.volume_path(chain)

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        """Nothing to do: a file is always active."""

    def create_snapshots(
        self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat = no_heartbeat
    ) -> Mapping[str, str | ReconcilerError]:
        """See ``Driver.create_snapshots``."""
        results: dict[str, str | ReconcilerError] = {}
        for one in requests:
            heartbeat()
            try:
                results[one.name] = self.create_snapshot(one.name, one.chain, heartbeat)
            except ReconcilerError as error:
                results[one.name] = error
        return results

    def activate_snapshots(self, snapshots: Mapping[str, str]) -> Mapping[str, ReconcilerError]:
        """See ``Driver.activate_snapshots``."""
        errors: dict[str, ReconcilerError] = {}
        for name, identity in snapshots.items():
            try:
                self.activate_snapshot(name, identity)
            except ReconcilerError as error:
                errors[name] = error
        return errors

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        with self._reported("list the holders of its snapshots"):
            return holders({name: self.snapshot_path(name) for name in snapshots})

    def replace_snapshot(self, name: str, chain: str, identity: str, heartbeat: Heartbeat = no_heartbeat) -> str:
        """See ``Driver.replace_snapshot``: the new file is renamed over the old one, and has its owner and mode.

        Raises Busy, NoSpace, HostCannot, and Retryable where the volume is not there.
        """
        self._admit(0)
        with self._reported(f"replace snapshot {name}"):
            if finished := self._finished(name, chain):
                return str(finished)
            self._free(self._snapshots, name)
            fd = self._snapshots.begin(name)
            try:
                self._copy(chain, fd)
                self._free(self._snapshots, name)  # copying may have taken a while
                found = examine(self.snapshot_path(name))
                if found and judge_snapshot(identity, found)[0] is Condition.REPLACED:
                    self._snapshots.set_aside(name)
                elif found and found.regular:
                    atomic_file.keep_access(fd, self.snapshot_path(name))
                os.fsync(fd)
                self._snapshots.replace(name)
                return str(Identity.of(fd))
            finally:
                os.close(fd)
                self._snapshots.discard(name)

    def discard_replaced(self, name: str, identity: str) -> None:
        """Nothing to do: the old file was replaced."""

    def remove_volume(self, chain: str) -> None:
        self._remove(self._volumes, chain)

    def remove_snapshot(self, name: str) -> None:
        self._remove(self._snapshots, name)

    def _remove(self, shelf: Shelf, name: str) -> None:
        path = shelf.path(name)
        with self._reported(f"remove {shelf.noun} {name}"):
            if not os.path.lexists(path):
                return
            self._free(shelf, name)
            shelf.remove(name)

    def _free(self, shelf: Shelf, name: str) -> None:
        path = shelf.path(name)
        if path.is_file() and (who := holder(path)):
            raise Busy(f"{shelf.noun} {name} is in use: {path} is held by {who}", hint="stop what uses it, then run again")

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        with self._reported("discard half-built files"):
            partial = [shelf.directory / entry for shelf in (self._volumes, self._snapshots) for entry in shelf.scan().partial]
            for path in partial:
                path.unlink(missing_ok=True)
            return tuple(str(path) for path in partial)

    def _admit(self, need: int) -> None:
        space = self.space()
        if space.free - need < space.reserve:
            wanted = f", {need} more are needed" if need else ""
            raise NoSpace(
                f"pool {self.name}: {space.free} bytes are free, {space.reserve} must stay free{wanted}",
                hint=f"free space on the file system of {self.root}, or lower the pool's reserve",
            )

    def _reported(self, doing: str) -> AbstractContextManager[None]:
        return reported(f"pool {self.name}: can't {doing}", self.root)


@dataclass
class VolumeFile:
    """A volume that is being written. It has a hidden name until it is sealed."""

    chain: str
    size: int
    fd: int
    path: Path
    shelf: Shelf
    room: int | None = None

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)
        self.shelf.discard(self.chain)

    def seal(self) -> str:
        with reported(f"can't seal volume {self.chain[:12]}", self.path):
            os.fchmod(self.fd, 0o444)
            os.fsync(self.fd)
            self.shelf.replace(self.chain)
            self.path = self.shelf.path(self.chain)
            return str(Identity.of(self.fd))


@contextmanager
def reported(what: str, where: Path) -> Iterator[None]:
    """Convert an OSError into an error that names the failed operation and the place."""
    try:
        yield
    except OSError as error:
        message = f"{what}: {error.strerror}" + (f": {error.filename}" if error.filename else "")
        if error.errno in _FULL:
            raise NoSpace(message, hint=f"free space on the file system of {where}") from error
        raise HostCannot(message, hint=f"check owner, permissions and file system of {where}") from error
