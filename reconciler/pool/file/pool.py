"""The file pool: volumes and snapshots are image files. Needs no root and works on any file system of Linux.

    <root>/volumes/<chain>.ext4       sealed bases, mode 0444, in a directory of mode 0700: images can hold secrets
    <root>/snapshots/<name>.ext4      writable copies, mode 0600 or as `spec.access` declares, in a directory of mode 0711

Volumes and snapshots are reflinks if the file system can share blocks, else sparse copies. A finished file appears complete or
not at all (``pool.file.directory``), and is recognised by the identity that the registry has recorded (``pool.file.identity``).

Created by ``host.context``, called through ``pool.driver.Driver``. State: the files. Callers hold the registry's lock.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path

from reconciler.dataclass import dataclass, replace
from reconciler.errors import Busy, ReconcilerError, Retryable
from reconciler.pool.access import Access
from reconciler.pool.driver import (
    Condition,
    Custom,
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
from reconciler.pool.file.access import read_only, sharing
from reconciler.pool.file.admission import Admission
from reconciler.pool.file.clone import data_bytes, reflink, sparse_copy
from reconciler.pool.file.directory import Listing, Shelf, nearest_directory
from reconciler.pool.file.failures import UNWRITABLE, reported
from reconciler.pool.file.identity import READ_ONLY, FileState, examine, judge_snapshot, judge_volume
from reconciler.pool.file.intents import Intent, Intents
from reconciler.pool.file.snapshots import WRITING, Snapshots
from reconciler.pool.file.volume import VolumeFile
from reconciler.pool.holders import holder, holders
from reconciler.pool.spec import AccessSpec

CHAIN = re.compile(r"[0-9a-f]{64}")
SNAPSHOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass
class FilePool:
    """A pool under ``root``, which need not exist yet. New work leaves ``reserve_percent`` of its file system free."""

    name: str
    root: Path
    reserve_percent: int
    intents: Intents
    access: AccessSpec | None = None

    _shares: bool | None = None

    @property
    def location(self) -> str:
        return str(self.root)

    @property
    def shares_blocks(self) -> bool:
        """Tested once, without leaving a trace; a guess from the file system's type as long as nothing can be written."""
        if self._shares is not None:
            return self._shares
        with self._reported("test whether files can share blocks"):
            shares, tested = sharing(nearest_directory(self.root))
        if tested:
            self._shares = shares
        return shares

    @cached_property
    def _access(self) -> Access | None:
        return Access.of(self.name, self.access) if self.access else None

    @property
    def _copies(self) -> Snapshots:
        free = partial(self._free, self._snapshots)
        return Snapshots(self.name, self._snapshots, self.intents, self._access, self._admission, self._copy, free)

    @cached_property
    def _admission(self) -> Admission:
        return Admission(self.name, self.root, lambda: self.space())

    @cached_property
    def _volumes(self) -> Shelf:
        return Shelf(self.root / "volumes", CHAIN, "volume", 0o700)

    @cached_property
    def _snapshots(self) -> Shelf:
        return Shelf(self.root / "snapshots", SNAPSHOT, "snapshot", 0o711)

    def volume_path(self, chain: str) -> Path:
        return self._volumes.path(chain)

    def is_present(self, name: str, identity: str) -> bool:
        try:
            return judge_snapshot(identity, examine(self.snapshot_path(name)))[0] is Condition.INTACT
        except OSError:
            return False

    def snapshot_path(self, name: str) -> Path:
        return self._snapshots.path(name)

    def space(self) -> Space:
        """Space of the file system that the pool is on, or would be created on. Raises PoolUnusable."""
        with self._reported("read its free space"):
            found = os.statvfs(nearest_directory(self.root))
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        return Space(total, free, reserve=total * self.reserve_percent // 100)

    def pulse(self) -> Hashable:
        return self._volumes.pulse(), self._snapshots.pulse()

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """See ``Driver.observe``. A pool that was never used is empty."""
        with self._reported("read the pool"):
            bases, copies = (self._volumes.scan(), self._snapshots.scan()) if whole else (Listing(), Listing())
            intents = self.intents.read()
            listings = ((self._volumes, bases), (self._snapshots, copies))
            return PoolState(
                space=self.space(),
                volumes={chain: self._volume(chain, volumes.get(chain)) for chain in sorted({*volumes, *bases.finished})},
                snapshots={
                    name: self._snapshot(name, snapshots.get(name), intents.get(name))
                    for name in sorted({*snapshots, *copies.finished})
                },
                foreign=tuple(shelf.describe(entry) for shelf, listing in listings for entry in listing.foreign),
                leftovers=tuple(str(shelf.directory / entry) for shelf, listing in listings for entry in listing.partial),
                troubles=tuple(filter(None, [read_only(self.name, [shelf.directory for shelf, _ in listings])])),
            )

    def _volume(self, chain: str, recorded: str | None) -> VolumeState:
        try:
            path, found = self._volumes.find(chain)
        except OSError as error:
            return VolumeState(chain, Condition.UNKNOWN, str(self._volumes.path(chain)), detail=_unexamined(error))
        condition, detail = judge_volume(recorded, found)
        size, used = (found.identity.size, found.used) if found else (0, 0)
        return VolumeState(chain, condition, path, size, used, detail)

    def _snapshot(self, name: str, recorded: str | None, intent: Intent | None) -> SnapshotState:
        try:
            path, found = self._snapshots.find(name)
        except OSError as error:
            path, detail = str(self._snapshots.path(name)), _unexamined(error)
            return SnapshotState(name, Condition.UNKNOWN, path, active=False, detail=detail)
        condition, detail = judge_snapshot(recorded, found)
        size, used = (found.identity.size, found.used) if found else (0, 0)
        active = found is not None and found.regular
        if active and found and condition is Condition.INTACT:
            detail = self._inactivity(found, recorded)
            active = not detail
        state = SnapshotState(name, condition, path, active, size, used, detail, identity=str(found.identity) if found else "")
        if condition is Condition.REPLACED and intent and intent.names(found):
            return replace(state, condition=Condition.INTACT, detail="", made=intent.content)
        return state

    def _inactivity(self, found: FileState, recorded: str | None) -> str:
        """How owner, group and mode differ from what is declared; empty where they do not."""
        if recorded and recorded.endswith(READ_ONLY):
            if found.mode & WRITING:
                return "it can be written, and is declared read-only"
            access = replace(self._access, mode=self._access.mode & ~WRITING) if self._access else None
        else:
            access = self._access
        return access.difference(found.uid, found.gid, found.mode) if access else ""

    def assemble(self) -> str:
        return ""

    def create_volume(
        self, chain: str, size: int, parent: str | None, expected: Expected = nothing, heartbeat: Heartbeat = no_heartbeat
    ) -> VolumeFile:
        """See ``Driver.create_volume``."""
        need = expected()
        self._admission.admit(need)
        with self._reported(f"begin volume {chain[:12]}"), ExitStack() as undo:
            fd = self._volumes.begin(chain)
            hidden = self._volumes.partial(chain)
            volume = undo.enter_context(VolumeFile(chain, size, fd, hidden, self._volumes, self._admission))
            volume.room = self._admission.promise(fd, need)
            if parent is not None:
                self._copy(parent, fd, heartbeat)
            os.ftruncate(fd, size)
            undo.pop_all()
            return volume

    def create_snapshot(self, name: str, chain: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None) -> str:
        """See ``Driver.create_snapshot``."""
        found = self.create_snapshots([SnapshotRequest(name, chain, custom)], heartbeat)[name]
        if isinstance(found, ReconcilerError):
            raise found
        return found

    def copied_bytes(self, chain: str) -> int:
        """See ``Driver.copied_bytes``."""
        try:
            return 0 if self.shares_blocks else self.volume_path(chain).stat().st_blocks * 512
        except OSError:
            return 0

    def create_snapshots(
        self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat = no_heartbeat
    ) -> Mapping[str, str | ReconcilerError]:
        """See ``Driver.create_snapshots``. A batch is one transaction of intents, and its names are made durable together."""
        return self._copies.create(requests, heartbeat)

    def _copy(self, chain: str, target: int, heartbeat: Heartbeat) -> None:
        with self._sealed(chain) as source:
            if not reflink(source, target):
                with self._admission.promised(target, data_bytes(source)):
                    sparse_copy(source, target, heartbeat)

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
        """Give the file the declared owner, group and mode. It is active otherwise."""
        self._copies.activate(name, identity)

    def activate_snapshots(self, snapshots: Mapping[str, str]) -> Mapping[str, ReconcilerError]:
        errors: dict[str, ReconcilerError] = {}
        for name, identity in snapshots.items():
            try:
                self._copies.activate(name, identity)
            except ReconcilerError as error:
                errors[name] = error
        return errors

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        with self._reported("list the holders of its snapshots"):
            return holders({name: self.snapshot_path(name) for name in snapshots})

    def replace_snapshot(
        self, name: str, chain: str, identity: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None
    ) -> str:
        """See ``Driver.replace_snapshot``: the new file is renamed over the old one."""
        return self._copies.replace(SnapshotRequest(name, chain, custom), identity, heartbeat)

    def grow_snapshot(self, name: str, identity: str, size: int) -> str:
        return self._copies.grow(name, identity, size)

    def set_aside(self, name: str, identity: str) -> None:
        """See ``Driver.set_aside``: the file is renamed, and left to the operator."""
        self._copies.set_aside(name, identity)

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
            halves = [shelf.directory / entry for shelf in (self._volumes, self._snapshots) for entry in shelf.scan().partial]
            stale = [name for name, one in self.intents.read().items() if not one.names(examine(self.snapshot_path(name)))]
            if stale:
                self.intents.write({}, stale)
            return tuple(str(path) for path in halves if _discarded(path))

    def _reported(self, doing: str) -> AbstractContextManager[None]:
        return reported(f"pool {self.name}: can't {doing}", self.root)


def _discarded(path: Path) -> bool:
    """Remove a half-built file, unless the pool is read-only."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        return False
    return True


def _unexamined(error: OSError) -> str:
    return f"can't be examined: {error.strerror}"
