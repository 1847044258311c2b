"""What every pool driver does, declared for its users (``observe``, ``lifecycle``, ``cli``).

A driver keeps nothing in memory between calls: it asks the file system or the kernel each time. What must be remembered
(which identity a volume or snapshot had when it was made) is kept by the registry and handed in again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Condition(StrEnum):
    """What the pool holds under a name, compared with the identity that the registry remembers."""

    INTACT = "intact"
    MISSING = "missing"
    REPLACED = "replaced"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the pool. ``reserve`` is what new work must leave free."""

    total: int
    free: int
    reserve: int

    @property
    def available(self) -> int:
        return max(0, self.free - self.reserve)


@dataclass(frozen=True, slots=True)
class VolumeState:
    """A sealed, read-only base. ``size`` is apparent, ``used`` what it occupies (bytes)."""

    chain: str
    condition: Condition
    path: str
    size: int = 0
    used: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A writable copy of a volume. ``active`` where a microVM could open ``path`` now."""

    name: str
    condition: Condition
    path: str
    active: bool
    size: int = 0
    used: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a pool as a whole. ``message`` says what, and what to do.

    Where it ``halts``, nothing is made or changed; unless it ``removes``, nothing is removed either.
    """

    reason: str
    message: str
    halts: bool = True
    removes: bool = False


@dataclass(frozen=True, slots=True)
class PoolState:
    """All that a pool holds. ``foreign`` is what is not ours and never touched (path or id, with the reason).

    ``leftovers`` is what is provably ours and belongs to nothing: half-built volumes of a run that was cut off. ``orphans`` were
    made by us too, but may hold what somebody wrote, and nothing knows them any more: a person decides (``adopt``, ``gc``).
    ``unready`` says why the pool must be assembled before anything else can be done in it; empty where it need not be.
    """

    space: Space
    volumes: Mapping[str, VolumeState]
    snapshots: Mapping[str, SnapshotState]
    foreign: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    unready: str = ""
    metadata: Space | None = None
    """Of the pool's own book-keeping, where that is a space of its own."""
    reachable: bool = True
    """Whether what is in it can be activated, now or once it is assembled."""

    @property
    def halted(self) -> Trouble | None:
        """Why nothing in the pool may be changed now, if so."""
        return next((trouble for trouble in self.troubles if trouble.halts), None)


class OpenVolume(Protocol):
    """A volume that is being written: a file descriptor and a size. A context manager; leaving it unsealed discards it."""

    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def room(self) -> int | None:
        """Bytes that may be written before the pool's reserve is reached; None where the file system tells."""
        ...

    def __enter__(self) -> OpenVolume: ...
    def __exit__(self, *exc: object) -> None: ...

    def seal(self) -> str:
        """Make it durable, read-only and visible under its chain; return its identity for the registry."""
        ...


Expected = Callable[[], int]


def nothing() -> int:
    """The least that a volume can be expected to take."""
    return 0


class Driver(Protocol):
    """One pool."""

    name: str

    @property
    def shares_blocks(self) -> bool:
        """True where a volume can be a copy-on-write child of another: then each layer of a chain is a volume of its own."""
        ...

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """What is there now. The arguments map chains and snapshot names to the identities that the registry remembers.

        Where these are not all of them, and the ``whole`` is not asked for, nothing is said of what else is there.
        """
        ...

    def space(self) -> Space: ...

    def pulse(self) -> Hashable:
        """Something that differs once a device or file of the pool has come, gone or changed; cheap, and never an error."""
        ...

    def assemble(self) -> str:
        """Make the pool usable, creating what was never there, and settle what a crash left open; return what was done.

        Content is never changed. Nothing to do is success. Raises HostCannot.
        """
        ...

    def create_volume(self, chain: str, size: int, parent: str | None, expected: Expected = nothing) -> OpenVolume:
        """Begin a volume of ``size`` bytes, empty or with the content of ``parent``; an unfinished earlier try is discarded.

        A pool that is shared with running machines asks ``expected`` how many bytes the volume will take at least, and sets them
        aside until it is sealed or discarded. Raises NoSpace where they don't fit above the reserve, and HostCannot or
        PoolUnusable where the pool can't be used.
        """
        ...

    def reading(self, chain: str) -> AbstractContextManager[Path]:
        """A sealed volume as something that can be opened for reading, for as long as the context lasts."""
        ...

    def remove_volume(self, chain: str) -> None:
        """Remove it; absent is success. Raises Busy."""
        ...

    def create_snapshot(self, name: str, chain: str) -> str:
        """Make and activate a writable copy of a sealed volume; return its identity.

        What already stands under the name and is not a finished snapshot is set aside, never overwritten.
        """
        ...

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        """Bring an intact snapshot that is not active (after a reboot, say) back to its path. Raises Retryable, Busy.

        ``identity`` is what the registry remembers, where several bear the name.
        """
        ...

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        """Who holds these snapshots (identities by name), in words; without those that nobody is seen to hold."""
        ...

    def replace_snapshot(self, name: str, chain: str, identity: str) -> str:
        """Make a writable copy of ``chain`` and give it the name of the snapshot that is remembered by ``identity``.

        Whoever looks under the name sees the whole old or the whole new one. One that was made and switched to by a run that was
        cut off is taken. Returns the new identity. Raises Busy where somebody holds the old one: then it stays as it is.
        """
        ...

    def discard_replaced(self, name: str, identity: str) -> None:
        """Remove what bore the name before the snapshot that is now remembered by ``identity``. Raises Busy."""
        ...

    def remove_snapshot(self, name: str) -> None:
        """Remove it; absent is success. Raises Busy where something holds it."""
        ...

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        """Remove what a cut-off run left half-built; return what was removed. Callers hold the registry's lock.

        The arguments are those of ``observe``: what the registry remembers is no leftover.
        """
        ...

    def snapshot_path(self, name: str) -> Path: ...

    def volume_path(self, chain: str) -> Path: ...
