"""The interface of pool drivers, and the values that it takes and returns.

Called by ``controller`` (observe, machines), ``registry.edits``, ``status`` and ``cli``. A driver keeps no state between calls:
it asks the file system or the kernel each time. The registry keeps the identity that a volume or snapshot had when it was
created, and passes it in again. Implementations: ``pool.file``, ``pool.thin``, and ``pool.memory`` for simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from reconciler.dataclass import dataclass, field
from reconciler.errors import NoSpace, ReconcilerError


class Condition(StrEnum):
    """How an object in the pool compares with the identity that the registry has recorded."""

    INTACT = "intact"
    MISSING = "missing"
    REPLACED = "replaced"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"
    """The object could not be examined: it may exist, and is neither rebuilt nor removed."""


@dataclass(frozen=True, slots=True)
class Space:
    """Space of the pool in bytes. New work must leave ``reserve`` free."""

    total: int
    free: int
    reserve: int

    @property
    def available(self) -> int:
        return max(0, self.free - self.reserve)

    def require_half_of_reserve(self, pool: str) -> None:
        """Raise NoSpace where running work has taken the other half: what it was promised ends at the reserve."""
        if self.free < self.reserve // 2:
            raise NoSpace(
                f"pool {pool}: {self.free} bytes are free, and a volume that is being written may not take the reserve of "
                f"{self.reserve}",
                hint="remove images with --prune, or declare the pool larger, or its reserve smaller",
            )


@dataclass(frozen=True, slots=True)
class VolumeState:
    """A sealed, read-only base. ``size`` is the apparent size, ``used`` the space that it occupies (bytes)."""

    chain: str
    condition: Condition
    path: str
    size: int = 0
    used: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A writable copy of a volume. ``active``: a microVM can open ``path`` now."""

    name: str
    condition: Condition
    path: str
    active: bool
    size: int = 0
    used: int = 0
    detail: str = ""
    identity: str = ""
    """Of what has the name now; empty where nothing has it."""
    made: str = ""
    """The ``content`` of which an interrupted run has made it, where the registry does not have that yet."""
    seed: str = ""
    """The disk of its seed; ``host.seeds`` adds it to what drivers return."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault of a pool as a whole. ``message`` describes it and gives the remedy.

    ``halts``: nothing is created or changed in the pool. ``removes``: objects can still be removed from a halted pool. ``note``:
    nothing is wrong; a new pool would have something that this one lacks.
    """

    reason: str
    message: str
    halts: bool = True
    removes: bool = False
    note: bool = False


@dataclass(frozen=True, slots=True)
class PoolState:
    """The contents of a pool. ``foreign``: objects that reconcile did not create and never touches (path or id, with the reason).

    ``leftovers``: half-built objects of an interrupted run, proved to be ours. ``orphans``: created by reconcile, no longer in
    the registry; they may hold users' data, so only ``adopt`` and ``gc`` decide about them. ``unready``: why the pool must be
    assembled before anything else can be done in it; empty if it need not be.
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
    """Space of the pool's metadata, if that is separate."""
    reachable: bool = True
    """Whether snapshots in the pool can be activated, now or once it is assembled."""

    @property
    def halted(self) -> Trouble | None:
        """The fault that forbids changes in the pool, if there is one."""
        return next((trouble for trouble in self.troubles if trouble.halts), None)


class OpenVolume(Protocol):
    """A volume that is being written: a file descriptor and a size. Leaving the context unsealed discards it."""

    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def room(self) -> int | None:
        """Bytes that may be written before the pool's reserve is reached; None if the file system reports that itself."""
        ...

    def check_space(self) -> None:
        """Raise NoSpace where less than half of the pool's reserve is left, whatever the process that writes it keeps to."""
        ...

    def __enter__(self) -> OpenVolume: ...
    def __exit__(self, *exc: object) -> None: ...

    def seal(self) -> str:
        """Make the volume durable, read-only and visible under its chain. Return its identity for the registry."""
        ...


Heartbeat = Callable[[], None]
"""Called between the pieces of long work, at least every few MiB. It raises (``Stopped``, for example) to end the work."""


def no_heartbeat() -> None:
    """The default: nothing waits for the work, and nothing ends it."""


@dataclass(frozen=True, slots=True)
class Custom:
    """How a new snapshot differs from its volume: a size of its own (bytes, 0 for the volume's), and what ``write`` does.

    ``write`` gets the descriptor of the copy, which nothing else uses and which still has a private name, and raises a
    ReconcilerError to discard it. ``digest`` identifies the result; the end ``READ_ONLY`` makes it read-only for its users.
    """

    digest: str
    size: int = 0
    write: Callable[[int], None] = field(default=lambda _: None, compare=False)


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A snapshot to create: a copy of the sealed volume ``chain``, under ``name``."""

    name: str
    chain: str
    custom: Custom | None = None

    @property
    def content(self) -> str:
        """What the snapshot is made of, as the driver records it until the registry has the snapshot."""
        return content(self.chain, self.custom.digest if self.custom else "")


READ_ONLY = "-ro"


def is_read_only(content: str) -> bool:
    """Whether a snapshot of this content is read-only for its users."""
    return content.endswith(READ_ONLY)


def content(chain: str, custom: str = "") -> str:
    """A chain, and the digest of what a snapshot of it has besides, in one word."""
    return f"{chain}+{custom}" if custom else chain


def chain_and_custom(content: str) -> tuple[str, str]:
    chain, _, custom = content.partition("+")
    return chain, custom


UNKNOWN_CHAIN = "unknown"
"""The chain of a snapshot that an operator has registered, where nothing but what its guest can write shows one."""

BATCH = 64
"""The most snapshots that are created in one pool transaction. A driver splits longer requests."""

Expected = Callable[[], int]


def nothing() -> int:
    """The default lower bound of the bytes that a volume takes."""
    return 0


class Driver(Protocol):
    """The operations on one pool. Every error is a ReconcilerError, and none ends the command: an error costs this pool only."""

    name: str

    @property
    def location(self) -> str:
        """The device, file or directory that its data is in, for messages."""
        ...

    @property
    def shares_blocks(self) -> bool:
        """True if a volume can be a copy-on-write child of another. Then each layer of a chain is a volume of its own."""
        ...

    def observe(self, volumes: Mapping[str, str], snapshots: Mapping[str, str], *, whole: bool = True) -> PoolState:
        """Return the current state. The arguments map chains and snapshot names to the identities that the registry has recorded.

        With ``whole`` false, only these objects are examined, and nothing else in the pool is reported.
        """
        ...

    def space(self) -> Space: ...

    def pulse(self) -> Hashable:
        """Return a value that changes when a device or file of the pool appears, disappears or changes. Cheap; raises nothing."""
        ...

    def assemble(self) -> str:
        """Make the pool usable: create it if it never existed, and settle interrupted operations. Return what was done.

        Content is never changed. Nothing to do is success. Raises PoolUnusable.
        """
        ...

    def create_volume(
        self, chain: str, size: int, parent: str | None, expected: Expected = nothing, heartbeat: Heartbeat = no_heartbeat
    ) -> OpenVolume:
        """Begin a volume of ``size`` bytes, empty or with the content of ``parent``. An unfinished earlier attempt is discarded.

        ``expected`` returns how many bytes the volume will take at least. The driver reserves them until the volume is sealed or
        discarded. Raises NoSpace if they do not fit above the reserve, Retryable without the parent, PoolUnusable.
        """
        ...

    def reading(self, chain: str) -> AbstractContextManager[Path]:
        """Make a sealed volume readable under the path that it yields, for as long as the context lasts."""
        ...

    def remove_volume(self, chain: str) -> None:
        """Remove a volume; absent is success. Raises Busy, PoolUnusable."""
        ...

    def create_snapshot(self, name: str, chain: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None) -> str:
        """Create and activate a writable copy of a sealed volume. Return its identity.

        A snapshot that an interrupted run has created is used, not created again: intents that the driver keeps in the registry
        prove which one it is. Anything else that has the name stays. Raises NoSpace, NameTaken, SnapshotUnrecognised, Busy,
        PoolUnusable, and Retryable without the volume.
        """
        ...

    def copied_bytes(self, chain: str) -> int:
        """How many bytes the creation of a snapshot of this volume copies: 0 where they share blocks, or there is no volume."""
        ...

    def create_snapshots(
        self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat = no_heartbeat
    ) -> Mapping[str, str | ReconcilerError]:
        """Create and activate many snapshots, each as ``create_snapshot`` does. Return each one's identity or error, by name.

        One call takes a constant number of registry transactions and fsyncs a ``BATCH``, whatever the number of snapshots. An
        error of one request does not affect the others; an error of the pool is returned for every request that it stopped. Only
        what ``heartbeat`` raises is raised: snapshots created until then are found again as unrecorded ones. Names are distinct.
        """
        ...

    def activate_snapshots(self, snapshots: Mapping[str, str]) -> Mapping[str, ReconcilerError]:
        """Activate many snapshots (identities by name), each as ``activate_snapshot`` does. Return the errors by name."""
        ...

    def activate_snapshot(self, name: str, identity: str = "") -> None:
        """Make an intact, inactive snapshot (after a reboot, for example) available under its path again. Raises Retryable, Busy.

        ``identity`` selects one if several snapshots have the name.
        """
        ...

    def holders(self, snapshots: Mapping[str, str]) -> Mapping[str, str]:
        """Return the holders of snapshots (given as identities by name) as text. Those without a visible holder are left out."""
        ...

    def replace_snapshot(
        self, name: str, chain: str, identity: str, heartbeat: Heartbeat = no_heartbeat, custom: Custom | None = None
    ) -> str:
        """Create a writable copy of ``chain`` and give it the name of the snapshot that is recorded with ``identity``.

        The name always leads to the complete old or the complete new snapshot. A copy that an interrupted run has already
        switched to is used. Returns the new identity. Raises Busy if the old snapshot is held: it then stays as it is, and
        SnapshotUnrecognised where the name leads to neither.
        """
        ...

    def grow_snapshot(self, name: str, identity: str, size: int) -> str:
        """Give the recorded snapshot ``size`` bytes, in use or not; one that has them is success. Return its identity then.

        Its content is neither read nor written. Raises Retryable where it is missing, SnapshotUnrecognised.
        """
        ...

    def set_aside(self, name: str, identity: str) -> None:
        """Take the name from what has it, which is kept for the operator; absent is success.

        ``identity`` is that of ``SnapshotState``. Raises SnapshotUnrecognised for something else, Busy.
        """
        ...

    def discard_replaced(self, name: str, identity: str) -> None:
        """Remove what had the name before the snapshot that is now recorded with ``identity``. Raises Busy."""
        ...

    def remove_snapshot(self, name: str) -> None:
        """Remove a snapshot; absent is success. Raises Busy if something holds it."""
        ...

    def discard_leftovers(self, volumes: Mapping[str, str], snapshots: Mapping[str, str]) -> tuple[str, ...]:
        """Remove the half-built objects of an interrupted run; return what was removed. Callers hold the registry's lock.

        The arguments are those of ``observe``: a recorded object is no leftover.
        """
        ...

    def is_present(self, name: str, identity: str) -> bool:
        """Return whether a snapshot can be opened under its path now, as far as that can be found out at little cost."""
        ...

    def snapshot_path(self, name: str) -> Path: ...

    def volume_path(self, chain: str) -> Path: ...
