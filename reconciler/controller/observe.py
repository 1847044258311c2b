"""What is there: the registry's rows joined with what the pools hold, and the phase of an image that follows from it.

Called by ``loop`` and ``cli``. Reads and never writes: ``plan`` runs on it without the lock. Keeps no state. What can't be
read is said to be so (``PoolObserved.problem``, ``Resolution.error``) and never taken for absent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from reconciler.errors import ReconcilerError
from reconciler.image.spec import Source
from reconciler.model import (
    Action,
    Desired,
    Failure,
    ImageRow,
    Kind,
    Observed,
    Phase,
    Plan,
    PoolObserved,
    Resolution,
    SnapshotRow,
    Verb,
    VolumeRow,
)
from reconciler.pool.driver import Condition, Driver, SnapshotState

Resolve = Callable[[Sequence[Source]], Mapping[Source, Resolution]]
"""Asks what unpinned sources hold now; this may need the network."""


class Rows(Protocol):
    """What is read of the registry. Volumes are keyed by (pool, chain), snapshots by (pool, name)."""

    def images(self) -> Mapping[str, ImageRow]: ...
    def volumes(self) -> Mapping[tuple[str, str], VolumeRow]: ...
    def snapshots(self) -> Mapping[tuple[str, str], SnapshotRow]: ...
    def failures(self) -> Mapping[tuple[Kind, str], Failure]: ...


def observe(
    desired: Desired,
    registry: Rows,
    drivers: Mapping[str, Driver],
    resolve: Resolve,
    *,
    selection: Collection[str] | None = None,
    whole: bool = True,
) -> Observed:
    """Look at everything once. ``selection`` (names of images) limits whose sources are asked.

    Pools are read whole, or, where the rows are not all that there are, for what these name and nothing else.

    A pool that is declared and has no driver, or whose driver raises, is there with its problem.
    """
    volumes, snapshots = registry.volumes(), registry.snapshots()
    return Observed(
        pools={
            name: _pool(name, drivers.get(name), volumes, snapshots, whole=whole) for name in sorted({*desired.pools, *drivers})
        },
        images=registry.images(),
        volumes=volumes,
        snapshots=snapshots,
        resolutions=resolutions(desired, resolve, selection),
        failures=registry.failures(),
    )


def _pool(
    name: str,
    driver: Driver | None,
    volumes: Mapping[tuple[str, str], VolumeRow],
    snapshots: Mapping[tuple[str, str], SnapshotRow],
    *,
    whole: bool,
) -> PoolObserved:
    if driver is None:
        return PoolObserved(name, False, None, f"this host has no driver for pool {name}")
    try:
        state = driver.observe(*identities(name, volumes, snapshots), whole=whole)
        return PoolObserved(name, driver.shares_blocks, state)
    except (ReconcilerError, OSError) as error:
        return PoolObserved(name, False, None, str(error))


def identities(
    pool: str, volumes: Mapping[tuple[str, str], VolumeRow], snapshots: Mapping[tuple[str, str], SnapshotRow]
) -> tuple[dict[str, str], dict[str, str]]:
    """What the registry remembers of a pool, as its driver wants it: identities by chain, and by snapshot name."""
    return (
        {chain: row.identity for (where, chain), row in volumes.items() if where == pool},
        {name: row.identity for (where, name), row in snapshots.items() if where == pool},
    )


def held(drivers: Mapping[str, Driver], snapshots: Iterable[SnapshotRow]) -> dict[tuple[str, str], str]:
    """Who holds them, by (pool, name); without those that are free."""
    asked: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in snapshots:
        asked[row.pool][row.name] = row.identity
    found: dict[tuple[str, str], str] = {}
    for pool, identities in asked.items():
        try:
            holders = drivers[pool].holders(identities)
        except (ReconcilerError, OSError) as error:
            holders = dict.fromkeys(identities, f"somebody, perhaps: {error}")
        found |= {(pool, name): who for name, who in holders.items()}
    return found


def resolutions(desired: Desired, resolve: Resolve, selection: Collection[str] | None) -> Mapping[Source, Resolution]:
    """What the unpinned sources of the selected images hold now; each one's error where they can't be asked."""
    sources = list(dict.fromkeys(_unpinned(desired, selection)))
    if not sources:
        return {}
    try:
        return resolve(sources)
    except ReconcilerError as error:
        return {source: Resolution(source, error=str(error), reason=error.reason) for source in sources}


def _unpinned(desired: Desired, selection: Collection[str] | None) -> Iterator[Source]:
    for name, image in sorted(desired.images.items()):
        if not image.suspend and (selection is None or name in selection):
            yield from (layer.source for layer in image.layers if layer.sha256 is None)


# ------------------------------------------------------------------------------------------------------ phase

_UNDER_WAY = {
    "downloading": Phase.DOWNLOADING,
    "validating": Phase.VALIDATING,
    "provisioning": Phase.PROVISIONING,
    "snapshotting": Phase.SNAPSHOTTING,
    "replacing": Phase.SNAPSHOTTING,
    "discarding": Phase.SNAPSHOTTING,
    "activating": Phase.SNAPSHOTTING,
    "removing": Phase.REMOVING,
}
"""A pool's assembly says nothing of an image: until it is done that is pending or degraded, as it was before."""
_ORDER = tuple(dict.fromkeys(_UNDER_WAY.values()))
_DRIFT = {Verb.REBUILD, Verb.REPAIR, Verb.ACTIVATE}
_REMOVAL = {Verb.REMOVE, Verb.FORGET}

Running = Mapping[tuple[Kind, str], str]
"""States of the runs under way, by the kind and name of the object."""


def phase(image: str, desired: Desired, observed: Observed, plan: Plan, running: Running | None = None) -> Phase:
    """Of one image; whoever asks for many makes ``Phases`` once."""
    return Phases(desired, observed, plan, running).of(image)


class Phases:
    """What has to be known of all images to tell each one's phase: looked up once, however many there are."""

    def __init__(self, desired: Desired, observed: Observed, plan: Plan, running: Running | None = None) -> None:
        self._desired = desired
        self._observed = observed
        self._running = running or {}
        self._blocked = {failure.name for failure in plan.blocked if failure.kind is Kind.IMAGE}
        self._stale = {one.name for one in plan.findings if one.kind is Kind.IMAGE and one.reason == "LastKnownChain"}
        self._actions: defaultdict[str, list[Action]] = defaultdict(list)
        for action in plan.actions:
            own = {action.name} if action.kind is Kind.IMAGE else set()
            for image in {*action.images, action.image, *own}:
                self._actions[image].append(action)
        self._snapshots: defaultdict[str, list[SnapshotRow]] = defaultdict(list)
        for row in observed.snapshots.values():
            self._snapshots[row.image].append(row)

    def of(self, image: str) -> Phase:
        """Derived from what is left to do for the image, how the last tries of that ended, and the runs under way; never stored.

        The run that is least far decides; then what failed, what has to be repaired, and what is to be made for the first time.
        An image that is no longer declared stays what it is until its removal is more than held.
        """
        mine = self._actions.get(image, [])
        if image not in self._desired.images and any(action.verb in _REMOVAL for action in mine):
            return Phase.REMOVING
        if under_way := [_UNDER_WAY[state] for state in _states(mine, self._running) if state in _UNDER_WAY]:
            return min(under_way, key=_ORDER.index)
        if image in self._blocked or any((action.kind, action.name) in self._observed.failures for action in mine):
            return Phase.FAILED
        if any(action.verb in _DRIFT or _brings_back(action, image, self._observed) for action in mine):
            return Phase.DEGRADED
        # It lives on its last known chain, or is broken and left alone (suspended, or no longer declared).
        if image in self._stale or not all(self._sound(image)):
            return Phase.DEGRADED
        return Phase.PENDING if mine or image not in self._observed.images else Phase.READY

    def _sound(self, image: str) -> Iterator[bool]:
        """Of the image's volume and each of its snapshots: whether the pool has it as it was made, a snapshot under its path."""
        observed, row = self._observed, self._observed.images.get(image)
        volume = observed.volumes.get((row.pool, row.chain)) if row and row.chain else None
        rows: list[VolumeRow | SnapshotRow] = [*self._snapshots.get(image, [])]
        for one in [volume, *rows] if volume else rows:
            found = (
                observed.volume_state(one.pool, one.chain)
                if isinstance(one, VolumeRow)
                else observed.snapshot_state(one.pool, one.name)
            )
            is_idle = isinstance(found, SnapshotState) and not found.active
            yield found is not None and found.condition is Condition.INTACT and not is_idle


def _states(actions: Sequence[Action], running: Running) -> Iterator[str]:
    return (running[action.kind, action.name] for action in actions if (action.kind, action.name) in running)


def _brings_back(action: Action, image: str, observed: Observed) -> bool:
    """Assembles the pool that the image was made in: it has been there before, and is not since a reboot, say."""
    row = observed.images.get(image)
    return action.verb is Verb.ASSEMBLE and row is not None and row.pool == action.name
