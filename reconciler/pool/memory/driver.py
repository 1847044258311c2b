"""The driver of a pool in memory. ``reconciler.pool.memory`` explains its use.

Created by simulations and tests, called through ``pool.driver.Driver``. State: a ``Storage``, and what running builds reserve.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from reconciler.dataclass import dataclass, field
from reconciler.errors import Busy, NameTaken, NoSpace, PoolUnusable, ReconcilerError, Retryable
from reconciler.pool.driver import (
    Condition,
    Custom,
    Expected,
    Heartbeat,
    PoolState,
    SnapshotRequest,
    SnapshotState,
    Space,
    Trouble,
    VolumeState,
    no_heartbeat,
    nothing,
)
from reconciler.pool.memory.faults import Hook, Step, no_hook
from reconciler.pool.memory.storage import Object, Storage, is_volume
from reconciler.pool.memory.volume import MemoryVolume, customized, filled


@dataclass
class MemoryPool:
    """A driver over a storage. ``stamp`` is the identity of the pool that the registry has recorded; None takes the storage's."""

    name: str
    storage: Storage
    reserve_percent: int = 0
    shares_blocks: bool = True
    hook: Hook = no_hook
    stamp: int | None = None
    _promised: dict[int, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def location(self) -> str:
        return "memory"

    def __post_init__(self) -> None:
        self.stamp = self.storage.stamp if self.stamp is None else self.stamp

    def _at(self, operation: str, name: str = "", point: str = "begin") -> None:
        self.hook(Step(operation, name, point))

    # ------------------------------------------------------------------------------------------------- inspecting

    def volume_path(self, chain: str) -> Path:
        return Path("/memory", self.name, "volumes", chain)

    def is_present(self, name: str, identity: str) -> bool:
        one = self.storage.by_identity(identity)
        return one is not None and one.active and one.name == name

    def snapshot_path(self, name: str) -> Path:
        return Path("/memory", self.name, "snapshots", name)

    def space(self) -> Space:
        self._at("space")
        self._require_readable()
        return self._space()

    def _space(self) -> Space:
        total = self.storage.total
        return Space(total, max(0, total - self.storage.used()), total * self.reserve_percent // 100)

    def pulse(self) -> Hashable:
        return self.storage.version, self.storage.unreadable

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        self._at("observe")
        self._require_readable()
        with self._lock:
            recorded = {*volumes.values(), *snapshots.values()}
            objects = self.storage.objects.values() if whole else ()
            return PoolState(
                space=self._space(),
                volumes={chain: self._volume(chain, identity) for chain, identity in sorted(volumes.items())},
                snapshots={name: self._snapshot(name, identity) for name, identity in sorted(snapshots.items())},
                foreign=tuple(f"{one}: not created by reconcile" for one in objects if one.foreign),
                leftovers=tuple(str(one) for one in objects if self._is_leftover(one, recorded)),
                orphans=tuple(str(one) for one in objects if one.orphan),
                troubles=self._troubles(),
                unready="" if self.storage.assembled else "not assembled since the host was started",
            )

    def _is_leftover(self, one: Object, recorded: Collection[str]) -> bool:
        ours = not one.foreign and not one.orphan and self.stamp == self.storage.stamp
        return ours and one.identity not in recorded and one.id not in self._promised

    def _troubles(self) -> tuple[Trouble, ...]:
        found = []
        if self.stamp != self.storage.stamp:
            found.append(Trouble("PoolSwapped", f"the storage of pool {self.name} holds another pool"))
        if self.storage.needs_repair:
            found.append(Trouble("PoolCheckRequired", f"pool {self.name} needs a check"))
        if self.storage.read_only:
            found.append(Trouble("PoolReadOnly", f"pool {self.name} is read-only"))
        return tuple(found)

    def _volume(self, chain: str, identity: str) -> VolumeState:
        one = self.storage.by_identity(identity)
        condition, detail = self.storage.judge(one, chain)
        size, used = (one.size, one.used) if one else (0, 0)
        return VolumeState(chain, condition, str(self.volume_path(chain)), size, used, detail)

    def _snapshot(self, name: str, identity: str) -> SnapshotState:
        one = self.storage.by_identity(identity)
        condition, detail = self.storage.judge(one, name)
        size, used = (one.size, one.used) if one else (0, 0)
        active = one is not None and one.active and condition is Condition.INTACT
        detail = detail or ("" if active else "not active")
        found, path = one.identity if one else "", str(self.snapshot_path(name))
        return SnapshotState(name, condition, path, active, size, used, detail, found)

    # -------------------------------------------------------------------------------------------------- assembling

    def assemble(self) -> str:
        self._at("assemble")
        self._require_readable()
        self._require_same_pool()
        if self.storage.assembled:
            return ""
        self.storage.assembled = True
        self._at("assemble", point="assembled")
        return "assembled"

    # ----------------------------------------------------------------------------------------------------- volumes

    def create_volume(
        self, chain: str, size: int, parent: str | None, expected: Expected = nothing, heartbeat: Heartbeat = no_heartbeat
    ) -> MemoryVolume:
        self._at("create_volume", chain)
        aside = expected()
        with self._lock:
            room = self._admit(aside)
            base = self._sealed(parent) if parent else None
            self._discard_unsealed(chain)
            row = self.storage.add(chain, chain, size, dict(base.pages) if base else {})
            self._promised[row.id] = aside
        heartbeat()
        self._at("create_volume", chain, "created")
        return MemoryVolume(size, row, self, room)

    def _discard_unsealed(self, chain: str) -> None:
        for one in self.storage.named(chain):
            if is_volume(one) and not one.sealed and one.id not in self._promised:
                self.storage.drop(one)

    def seal(self, row: Object) -> str:
        """Called by the volume."""
        self._at("seal", row.name)
        self._require_writable()
        with self._lock:
            if row.id not in self.storage.objects:
                raise PoolUnusable(f"pool {self.name}: {row} is missing", hint="see `reconcile health`")
            if self.storage.used() > self.storage.total:
                raise NoSpace(f"pool {self.name}: no space left", hint="declare the pool larger")
            row.sealed = True
            self._promised.pop(row.id, None)
            self.storage.changed()
        self._at("seal", row.name, "sealed")
        return row.identity

    def abandon(self, row: Object) -> None:
        """Called by a discarded volume."""
        with self._lock:
            self._promised.pop(row.id, None)
            if not self.storage.read_only:
                self.storage.drop(row)

    @contextmanager
    def reading(self, chain: str) -> Iterator[Path]:
        self._at("reading", chain)
        self._require_readable()
        base = self._sealed(chain)
        fd = filled(base.pages, base.size)
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def remove_volume(self, chain: str) -> None:
        self._remove("remove_volume", [one for one in self.storage.named(chain) if is_volume(one)], chain)

    # --------------------------------------------------------------------------------------------------- snapshots

    def create_snapshot(self, name: str, chain: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None) -> str:
        wanted = SnapshotRequest(name, chain, custom)
        self._at("create_snapshot", name)
        with self._lock:
            self._admit(0)
            self._require_free_name(name)
            done = self._finished(wanted)
        row = done or self._copy(wanted)
        heartbeat()
        self._at("create_snapshot", name, "created")
        self._activate(row)
        self._at("create_snapshot", name, "active")
        return row.identity

    def copied_bytes(self, chain: str) -> int:
        return 0

    def create_snapshots(
        self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat = no_heartbeat
    ) -> Mapping[str, str | ReconcilerError]:
        results: dict[str, str | ReconcilerError] = {}
        for one in requests:
            heartbeat()
            try:
                results[one.name] = self.create_snapshot(one.name, one.chain, custom=one.custom)
            except ReconcilerError as error:
                results[one.name] = error
        return results

    def _finished(self, wanted: SnapshotRequest) -> Object | None:
        """An unrecorded snapshot of an interrupted run; other snapshots of this name are removed."""
        kept = None
        for one in self._ours(wanted.name):
            if one.chain == wanted.content:
                kept = one
            else:
                self._require_free(one)
                self.storage.drop(one)
        return kept

    def _copy(self, wanted: SnapshotRequest) -> Object:
        base, custom = self._sealed(wanted.chain), wanted.custom
        size, pages = max(base.size, custom.size if custom else 0), dict(base.pages)
        if custom is not None:  # callers don't hold the lock: this may take long
            pages = dict(customized(pages, size, custom.write))
            self._at("customize", wanted.name)
        with self._lock:
            return self.storage.add(wanted.name, wanted.content, size, pages)

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        self._at("activate_snapshot", name)
        self._require_readable()
        self._require_assembled()
        self._require_free_name(name)
        rows = [one for one in self._ours(name) if one.identity == identity] or self._ours(name)
        self._activate(self._present(name, rows[-1] if rows else None))

    def activate_snapshots(self, snapshots: Mapping[str, str]) -> Mapping[str, ReconcilerError]:
        errors: dict[str, ReconcilerError] = {}
        for name, identity in snapshots.items():
            try:
                self.activate_snapshot(name, identity)
            except ReconcilerError as error:
                errors[name] = error
        return errors

    def _activate(self, row: Object) -> None:
        for one in self._ours(row.name):
            one.active = one is row
        self.storage.changed()

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        self._at("holders")
        return {name: self.storage.held[name] for name in snapshots if name in self.storage.held}

    def replace_snapshot(
        self, name: str, chain: str, identity: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None
    ) -> str:
        wanted = SnapshotRequest(name, chain, custom)
        self._at("replace_snapshot", name)
        with self._lock:
            self._admit(0)
            self._require_free_name(name)
            old = next((one for one in self._ours(name) if one.identity == identity), None)
            made = [one for one in self._ours(name) if one.chain == wanted.content and one.id > (old.id if old else 0)]
            if old is not None and old.active:
                self._require_free(old)
        row = made[-1] if made else self._copy(wanted)
        heartbeat()
        self._at("replace_snapshot", name, "created")
        self._activate(row)
        self._at("replace_snapshot", name, "active")
        return row.identity

    def discard_replaced(self, name: str, identity: str) -> None:
        self._at("discard_replaced", name)
        self._require_writable()
        for one in self._ours(name):
            if one.identity != identity:
                self.storage.drop(one)

    def grow_snapshot(self, name: str, identity: str, size: int) -> str:
        self._at("grow_snapshot", name)
        self._require_writable()
        self.storage.grow(self._present(name, next((one for one in self._ours(name) if one.identity == identity), None)), size)
        self._at("grow_snapshot", name, "grown")
        return identity

    def set_aside(self, name: str, identity: str) -> None:
        self._at("set_aside", name)
        self._require_writable()
        one = self.storage.by_identity(identity)
        if one is not None and one.name == name:
            self._require_free(one)
            one.foreign = True
            one.active = False
            self.storage.changed()

    def remove_snapshot(self, name: str) -> None:
        self._remove("remove_snapshot", self._ours(name), name)

    # ---------------------------------------------------------------------------------------------------- removing

    def _remove(self, operation: str, rows: Sequence[Object], name: str) -> None:
        self._at(operation, name)
        if rows:
            self._require_writable()
        for one in rows:
            self._require_free(one)
            one.active = False
            self._at(operation, name, "inactive")
            self.storage.drop(one)
        self._at(operation, name, "removed")

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        self._at("discard_leftovers")
        self._require_readable()
        if self.storage.read_only or not self.storage.assembled or self.stamp != self.storage.stamp:
            return ()
        recorded, gone = {*volumes.values(), *snapshots.values()}, []
        for one in list(self.storage.objects.values()):
            if self._is_leftover(one, recorded) and not (one.active and one.name in snapshots):
                with suppress(Busy):
                    self._require_free(one)
                    self.storage.drop(one)
                    gone.append(f"{one} of pool {self.name}")
        return tuple(gone)

    # ------------------------------------------------------------------------------------------------- small parts

    def _ours(self, name: str) -> list[Object]:
        return [one for one in self.storage.named(name) if not is_volume(one)]

    def _present(self, name: str, one: Object | None) -> Object:
        if one is None:
            raise Retryable(f"snapshot {name} of pool {self.name} is missing", hint="the next run creates it")
        return one

    def _sealed(self, chain: str) -> Object:
        found = [one for one in self.storage.named(chain) if is_volume(one) and one.sealed]
        if not found:
            raise Retryable(f"volume {chain[:12]} of pool {self.name} is missing", hint="the next run rebuilds it")
        return found[-1]

    def _admit(self, expected: int) -> int:
        self._require_writable()
        space = self._space()
        room = space.available - sum(self._promised.values())
        if room < max(expected, 1):
            raise NoSpace(
                f"pool {self.name}: {space.free} bytes are free, {space.reserve} must stay free, {expected} more are needed",
                hint="remove images with --prune, or declare the pool larger",
            )
        return room

    def _require_readable(self) -> None:
        if self.storage.unreadable:
            raise PoolUnusable(f"pool {self.name}: can't read it: {self.storage.unreadable}")

    def _require_assembled(self) -> None:
        if not self.storage.assembled:
            raise PoolUnusable(f"pool {self.name} does not exist", hint="run `reconcile --once`")

    def _require_same_pool(self) -> None:
        if self.stamp != self.storage.stamp:
            raise PoolUnusable(f"the storage of pool {self.name} holds another pool")

    def _require_writable(self) -> None:
        self._require_readable()
        self._require_assembled()
        self._require_same_pool()
        if self.storage.read_only or self.storage.needs_repair:
            raise PoolUnusable(f"pool {self.name} can't be changed now: it is read-only", hint="see `reconcile health`")

    def _require_free(self, one: Object) -> None:
        if one.active and (holder := self.storage.held.get(one.name)):
            raise Busy(f"snapshot {one.name} is in use: held by {holder}", hint="stop what uses it, then run again")

    def _require_free_name(self, name: str) -> None:
        if name in self.storage.occupied:
            raise NameTaken(f"{self.snapshot_path(name)} is a mapping that reconcile did not create", hint="rename the snapshot")
