"""Claims: snapshots that are reserved for a user until released or expired; and the sets of snapshots they are taken from.

Frozen values and the rules of time, used by every package that handles claims: ``manifests`` declares sets, ``registry.claims``
stores claims, ``planner.claims`` decides what they keep, ``host.claims`` gives them out. Imports nothing of ours. No state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol

from reconciler.dataclass import dataclass

DEFAULT_TTL = 24 * 3600.0
"""Seconds that a claim lasts where neither the request nor the manifest has a ttl."""
MOST_WAIT = 600.0
"""Seconds that one request for a claim waits at most."""
MOST_TEXT = 200
"""Characters of a holder or an Idempotency-Key."""


class Recycle(StrEnum):
    """What happens to a snapshot once its claim has ended."""

    NEVER = "Never"
    """It stays as it is, ``Used``, until `reconcile recycle` is given."""
    ON_RELEASE = "OnRelease"
    """It is made from the base again, once nothing holds it open."""


class ClaimState(StrEnum):
    """What is recorded of a claim. Its snapshot can be claimed again only once the claim has ``ended``."""

    CLAIMED = "claimed"
    RELEASED = "released"
    EXPIRED = "expired"
    RECYCLING = "recycling"
    """Released or expired, and `reconcile recycle` was given."""
    ENDED = "ended"
    """The snapshot was made from the base again, or removed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time: seconds since the epoch, and seconds since the boot with this id."""

    wall: float
    elapsed: float
    boot: str

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot_id())


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


Clock = Callable[[], Moment]


class Claimable(Protocol):
    """A snapshot: where it is, and what it was made of."""

    @property
    def pool(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def chain(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """``renewed`` is in seconds since the epoch, ``elapsed`` in seconds since the boot ``boot``; ``ttl`` 0 never expires."""

    id: str
    pool: str
    name: str
    """Of the snapshot."""
    image: str
    chain: str
    holder: str
    uid: int
    ttl: float
    created: float
    renewed: float
    elapsed: float
    boot: str
    ended: float
    state: ClaimState
    request: str = ""
    """The Idempotency-Key of the request; and what it asked for."""
    wish: str = ""

    @classmethod
    def begin(cls, id: str, of: Claimable, uid: int, now: Moment, *, holder: str = "", ttl: float = 0.0) -> Claim:
        """A claim that begins now, of what ``of`` names."""
        place = of.pool, of.name, of.image, of.chain
        return cls(id, *place, holder, uid, ttl, now.wall, now.wall, now.elapsed, now.boot, 0.0, ClaimState.CLAIMED)

    @property
    def expires(self) -> float | None:
        """Seconds since the epoch at which it expires at the earliest; None where it never does."""
        return self.renewed + self.ttl if self.ttl else None

    def left(self, now: Moment) -> float:
        """Seconds until it expires: both clocks have to reach its ttl; after a reboot a full ttl begins."""
        if not self.ttl:
            return float("inf")
        elapsed = now.elapsed - self.elapsed if now.boot == self.boot else now.elapsed
        return max(self.renewed + self.ttl - now.wall, self.ttl - elapsed)

    def at(self, now: Moment) -> ClaimState:
        """Its state at that moment: one that is recorded as claimed may have expired."""
        return ClaimState.EXPIRED if self.state is ClaimState.CLAIMED and self.left(now) <= 0 else self.state

    def __str__(self) -> str:
        return f"claim {self.id}" + (f" of {self.holder}" if self.holder else "")


@dataclass(frozen=True, slots=True)
class SnapshotSet:
    """One entry of an image's ``snapshots``: ``count`` unclaimed snapshots are kept, at most ``most`` in all.

    ``count`` None is a single snapshot without a number. ``ttl`` 0 is the default, and no maximum.
    """

    name: str
    count: int | None = None
    most: int = 1
    ttl: float = 0.0
    recycle: Recycle = Recycle.NEVER

    @property
    def names(self) -> Iterator[str]:
        """Every name that is reserved for it."""
        return iter([self.name]) if self.count is None else (f"{self.name}-{i}" for i in range(self.most))

    def has(self, name: str) -> bool:
        """Whether a name is one of them."""
        if self.count is None:
            return name == self.name
        number = name.removeprefix(f"{self.name}-")
        return number != name and number.isdigit() and number == str(int(number)) and int(number) < self.most

    @property
    def ready(self) -> int:
        """How many unclaimed snapshots are kept."""
        return 1 if self.count is None else self.count

    @property
    def is_elastic(self) -> bool:
        """Whether there are more names than snapshots that are kept ready."""
        return self.most > self.ready

    @property
    def changes(self) -> bool:
        """Whether snapshots of it can be made from the base again, or removed, without a change of the manifest."""
        return self.is_elastic or self.recycle is Recycle.ON_RELEASE


def utc(seconds: float | None) -> str | None:
    """A point in time as RFC 3339 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
