"""What is there: the registry's rows joined with what the pools hold.

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
    Desired,
    Failure,
    ImageRow,
    Key,
    Observed,
    PoolObserved,
    Resolution,
    SnapshotRow,
    VolumeRow,
)
from reconciler.pool.driver import Driver

Resolve = Callable[[Sequence[Source]], Mapping[Source, Resolution]]
"""Asks what unpinned sources hold now; this may need the network."""


class Rows(Protocol):
    """What is read of the registry. Volumes are keyed by (pool, chain), snapshots by (pool, name)."""

    def images(self) -> Mapping[str, ImageRow]: ...
    def volumes(self) -> Mapping[tuple[str, str], VolumeRow]: ...
    def snapshots(self) -> Mapping[tuple[str, str], SnapshotRow]: ...
    def failures(self) -> Mapping[Key, Failure]: ...


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
