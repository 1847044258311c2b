"""The rows that a thin pool's driver keeps in the registry, and the interface through which it writes them.

The pool and the registry are two stores; neither can commit for the other. Every change of the pool is a pool transaction: the
intents are on disk before the messages, the pool's transaction id advances from N to N + 1 after them, and only then are the rows
done. ``pool.thin.recovery`` settles a pool transaction that a crash interrupted.

The registry implements ``Journal`` (``host.context`` passes it in); ``pool.thin`` uses it. No state here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.pool.driver import is_read_only

COUNTER_BITS = 32
"""A transaction id is ``stamp << 32 | counter``. The stamp is the pool's identity, a random number; every thin
device records the id at which it was created, and so carries the stamp too."""


def stamp_of(transaction: int) -> int:
    """The pool's stamp; 0 if the pool has none."""
    return transaction >> COUNTER_BITS


def counter_of(transaction: int) -> int:
    """The part of a transaction id that counts; messages show it, and never the stamp: that is what a forged pool needs."""
    return transaction & ((1 << COUNTER_BITS) - 1)


def first_transaction(stamp: int) -> int:
    return stamp << COUNTER_BITS | 1


class Role(StrEnum):
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    DRAFT = "draft"
    """A snapshot that is being customized: without a name, and worth nothing until it is a snapshot."""
    LABEL = "label"
    """The device with the block that proves the pool's data (``pool.thin.label``)."""
    ORPHAN = "orphan"
    """Ours, and neither a volume nor a snapshot of the registry: `gc` deletes it."""


class State(StrEnum):
    CREATING = "creating"
    """The pool transaction that creates it is open."""
    HELD = "held"
    """It is in the pool."""
    DELETING = "deleting"
    """The pool transaction that deletes it is open."""


@dataclass(frozen=True, slots=True)
class PoolRow:
    """``transaction`` is the pool's id while no pool transaction is open; 0 until the pool has its stamp.

    ``data_place`` and ``metadata_place`` are the places of its backing (``pool.thin.permission``); empty until they are recorded.
    """

    stamp: int
    transaction: int
    data_place: str = ""
    metadata_place: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A thin device. ``name`` is a volume's chain, a snapshot's name, or a label's random id.

    ``chain`` is what it contains or was created from; of a snapshot, ``driver.content``. ``size`` in bytes (the pool does not
    keep it). ``transaction`` is the id of the pool at the creation. ``mapped`` counts the blocks of a volume that has been sealed
    or a label that has been written, and is 0 for everything else.
    """

    id: int
    role: Role
    name: str
    chain: str
    size: int
    transaction: int
    state: State
    mapped: int = 0

    @property
    def sealed(self) -> bool:
        return self.role is Role.VOLUME and self.mapped > 0

    @property
    def read_only(self) -> bool:
        """Whether its users may only read it. A draft is still written."""
        return self.role is Role.SNAPSHOT and is_read_only(self.chain)

    @property
    def labels(self) -> bool:
        """Whether it is a label that has been written."""
        return self.role is Role.LABEL and self.mapped > 0

    @property
    def identity(self) -> str:
        """The identity in the registry's volume and snapshot rows."""
        return f"id={self.id} tid={self.transaction}"

    def __str__(self) -> str:
        what = self.name[:12] if self.role is Role.VOLUME else self.name
        return f"thin id {self.id} ({self.role.value} {what})".replace(" )", ")")


class Journal(Protocol):
    """One pool's part of the registry. Every write is one transaction, on disk when the method returns."""

    def pool(self) -> PoolRow | None: ...

    def devices(self, name: str | None = None) -> Mapping[int, DeviceRow]:
        """By thin id: all of them, or those of one name."""
        ...

    def last_id(self) -> int:
        """The last thin id that was allocated for this pool; 0 if none was."""
        ...

    def pending(self) -> bool:
        """Whether a pool transaction is open."""
        ...

    def begin(self, rows: Sequence[DeviceRow], taken: Collection[int] = ()) -> tuple[DeviceRow, ...]:
        """Record the intents to create devices, in one write. Each gets an id that was never used before and is not ``taken``."""
        ...

    def write(self, pool: PoolRow | None = None, put: Sequence[DeviceRow] = (), drop: Sequence[int] = ()) -> None:
        """Write all of it, or nothing."""
        ...


@lru_cache(4096)
def identified(identity: str) -> tuple[int, int] | None:
    """Thin id and creating transaction out of ``DeviceRow.identity``; None for anything else. Each pass asks for all of them."""
    fields = dict(word.partition("=")[::2] for word in identity.split())
    try:
        return int(fields["id"]), int(fields["tid"])
    except (KeyError, ValueError):
        return None
