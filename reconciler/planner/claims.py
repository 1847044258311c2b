"""What claims keep: which of an image's snapshots there should be, which are made from the base again, and which are too many.

A set keeps ``count`` unclaimed snapshots ready, and never has more than ``max`` in all. A claimed snapshot is in use. One whose
claim has ended is never given out again: it is replaced or removed, by the set's ``recycle``, once nothing holds it open.

Called by ``inputs``, and through them by the rest of ``planner``. Pure: holders of ``candidates`` are observed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reconciler.claim import Claim, ClaimState, Recycle, SnapshotSet
from reconciler.dataclass import dataclass, field
from reconciler.model import Action, Desired, Finding, ImageSpec, Key, Kind, Observed, Severity, SnapshotRow, Verb

Place = tuple[str, str]
"""(pool, chain) of a volume, (pool, name) of a snapshot."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one image: the names of the snapshots that there should be, in the manifest's order."""

    names: tuple[str, ...]
    anew: tuple[SnapshotRow, ...] = ()
    """Those of them that are made from the base again: their claims have ended."""
    surplus: tuple[SnapshotRow, ...] = ()
    """Those whose claims have ended, and which there should not be any more."""
    excess: tuple[SnapshotRow, ...] = ()
    """Unclaimed ones above ``count``, which only ``--prune`` removes: users may have booted them without a claim."""
    waiting: tuple[SnapshotRow, ...] = ()
    """Those whose claims have ended, and which are to be recycled once they are closed."""


@dataclass(frozen=True, slots=True)
class Stock:
    """How the snapshots of one image stand with claims. ``by_state`` is for metrics and lists."""

    ready: int = 0
    """Unclaimed, and never used."""
    claimed: int = 0
    expired: int = 0
    """The claim has expired, and the snapshot is still open."""
    ended: int = 0
    """The claim has ended; the snapshot is recycled or removed once it is closed."""
    used: int = 0
    """The claim has ended; only `reconcile recycle` makes the snapshot from its base again."""
    wanting: int = 0
    """How many more of sets with a ``count`` are to be kept ready."""
    since: float | None = None
    """When the claim ended whose snapshot has waited longest to be recycled; seconds since the epoch."""

    @property
    def by_state(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("ready", "claimed", "expired", "ended", "used", "wanting")}


@dataclass(slots=True)
class _Sorted:
    """The snapshots of one set by what they are for."""

    staying: list[str] = field(default_factory=list)
    free: list[SnapshotRow] = field(default_factory=list)
    ended: list[SnapshotRow] = field(default_factory=list)
    waiting: list[SnapshotRow] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def kept(image: ImageSpec, observed: Observed) -> Kept:
    """What there should be of the image's snapshots, with the claims as they are."""
    sets = sets_of(image)
    if not observed.claims and not any(one.is_elastic for one in sets):
        return Kept(image.snapshots)
    found = [_kept(image, one, observed) for one in sets]
    return Kept(
        tuple(name for one in found for name in one.names),
        tuple(row for one in found for row in one.anew),
        tuple(row for one in found for row in one.surplus),
        tuple(row for one in found for row in one.excess),
        tuple(row for one in found for row in one.waiting),
    )


def sets_of(image: ImageSpec) -> Iterable[SnapshotSet]:
    return image.sets or [SnapshotSet(name) for name in image.snapshots]


def is_recycled(image: ImageSpec, name: str) -> bool:
    """Whether a snapshot is made from the base again once a claim of it has ended."""
    return any(one.recycle is Recycle.ON_RELEASE and one.has(name) for one in image.sets)


def recycles(one: SnapshotSet, claim: Claim) -> bool:
    """Whether the snapshot of a claim that has ended is made from the base again."""
    return claim.state is ClaimState.RECYCLING or one.recycle is Recycle.ON_RELEASE


def stock(image: ImageSpec, observed: Observed) -> Stock | None:
    """None for an image whose snapshots are not for claims: none is claimed or recycled, and all there may be are kept ready."""
    sets = sets_of(image)
    over = [claim for one in sets for name in one.names if (claim := observed.claims.get((image.pool, name)))]
    if not over and not any(one.changes for one in sets):
        return None
    found = [(one, _sorted(image, one, observed)) for one in sets]
    waiting = [row for _, each in found for row in (*each.waiting, *each.ended)]
    claims = [observed.claims[row.pool, row.name] for row in waiting]
    opened = {row.name for _, each in found for row in each.waiting}
    expired = sum(claim.state is ClaimState.EXPIRED and claim.name in opened for claim in claims)
    return Stock(
        ready=sum(len(each.free) for _, each in found),
        claimed=(claimed := sum(claim.state is ClaimState.CLAIMED for claim in over)),
        expired=expired,
        ended=len(waiting) - expired,
        used=len(over) - claimed - len(waiting),
        wanting=sum(max(0, one.ready - len(each.free)) for one, each in found if one.count is not None),
        since=min((claim.ended for claim in claims if claim.ended), default=None),
    )


def stocks(desired: Desired, observed: Observed) -> dict[str, Stock]:
    """By name of the image, of those whose snapshots are for claims."""
    return {name: found for name, image in desired.images.items() if (found := stock(image, observed))}


def _kept(image: ImageSpec, one: SnapshotSet, observed: Observed) -> Kept:
    found = _sorted(image, one, observed)
    free, room = found.free, one.ready
    if one.is_elastic:
        newest = observed.images[image.name].chain if image.name in observed.images else None
        free = sorted(free, key=lambda row: row.chain != newest)
    excess = [row for row in free[room:] if (row.pool, row.name) not in observed.holders] if one.is_elastic else []
    room = max(0, room - len(free))
    anew = found.ended[: room if one.is_elastic else None]
    new = found.unused[: max(0, room - len(anew))]
    surplus = found.ended[len(anew) :]
    names = {*found.staying, *(row.name for row in (*free, *anew)), *new} - {row.name for row in (*surplus, *excess)}
    declared = tuple(name for name in one.names if name in names)
    return Kept(declared, tuple(anew), tuple(surplus), tuple(excess), tuple(found.waiting))


def _sorted(image: ImageSpec, one: SnapshotSet, observed: Observed) -> _Sorted:
    found = _Sorted()
    for name in one.names:
        place = image.pool, name
        row, claim = observed.snapshots.get(place), observed.claims.get(place)
        if claim and claim.state is ClaimState.CLAIMED:
            found.staying.append(name)
        elif row is None:
            found.unused.append(name)
        elif claim is None:
            found.free.append(row)
        elif not recycles(one, claim):
            found.staying.append(name)
        elif place in observed.holders:
            found.waiting.append(row)
            found.staying.append(name)
        else:
            found.ended.append(row)
    return found


def candidates(image: ImageSpec, observed: Observed) -> Iterator[SnapshotRow]:
    """The snapshots whose holders have to be observed: what may be recycled or removed."""
    found = kept(image, observed)
    places = {(row.pool, row.name) for row in (*found.anew, *found.surplus, *found.excess)}
    yield from (observed.snapshots[place] for place in sorted(places))


def holder(place: Place, observed: Observed) -> str:
    """Who uses a snapshot: a claim, or what holds it open; empty where nothing does."""
    if is_claimed(place, observed):
        return str(observed.claims[place])
    return observed.holders.get(place, "")


def is_claimed(place: Place, observed: Observed) -> bool:
    claim = observed.claims.get(place)
    return claim is not None and claim.state is ClaimState.CLAIMED


def removals(image: ImageSpec, found: Kept, observed: Observed) -> Iterator[Action]:
    """Removals of snapshots that were used and released, and are too many."""
    for row in found.surplus:
        yield Action(
            Verb.REMOVE,
            Kind.SNAPSHOT,
            row.name,
            "its claim has ended, and enough are ready",
            pool=row.pool,
            image=image.name,
            chain=row.chain,
            images=(image.name,),
        )


def findings(image: ImageSpec, found: Kept, observed: Observed) -> Iterator[Finding]:
    """Findings of snapshots whose claims have ended, and which are not recycled now."""
    waiting = {row.name: row for row in found.waiting}
    for one in sets_of(image) if observed.claims else ():
        for name in one.names:
            claim = observed.claims.get((image.pool, name))
            if claim is None or claim.state is ClaimState.CLAIMED:
                continue
            key = Key(Kind.SNAPSHOT, image.pool, name)
            if name in waiting:
                yield _open(key, claim, observed.holders)
            elif not recycles(one, claim):
                message = f"{claim} has ended; it is not given out again"
                yield Finding(
                    Severity.NOTE, key, "SnapshotUsed", message, f"`reconcile recycle {key}` makes it from the base again"
                )


def _open(key: Key, claim: Claim, holders: Mapping[Place, str]) -> Finding:
    who = f"it is in use by {holders[key.pool, key.name]}, and is recycled once it is closed"
    if claim.state is ClaimState.EXPIRED:
        return Finding(Severity.WARNING, key, "ClaimExpired", f"{claim} has expired; {who}")
    return Finding(Severity.NOTE, key, "SnapshotInUse", f"{claim} has ended; {who}")
