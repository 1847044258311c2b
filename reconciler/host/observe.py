"""Observed state: the registry's rows joined with what the pools hold.

Called by ``assess``. ``plan`` runs on it without the lock. Each pool is observed in a call of its own: one that hangs or
fails is unknown (``PoolObserved.problem``), which is never the same as empty, and holds up no other. Keeps no state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from reconciler.errors import PolicyRefused, ReconcilerError
from reconciler.host.calls import Call, Calls, Unanswered
from reconciler.host.customizing import examine
from reconciler.host.seeds import Seeds
from reconciler.image.custom import has_seed
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
from reconciler.pool.driver import Driver, PoolState

Resolve = Callable[[Sequence[Source]], Mapping[Source, Resolution]]
"""Asks what unpinned sources hold now; this may need the network."""

POOL_SECONDS = 60.0
"""How long a pool has to answer."""

Discard = Callable[[str, Driver], None]
"""Discards what a run that was cut off has left half-built in a pool."""


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
    calls: Calls | None = None,
    patience: float = POOL_SECONDS,
    discard: Mapping[str, Discard] | None = None,
    seeds: Seeds | None = None,
) -> Observed:
    """Observe everything once. ``selection`` (names of images) limits whose sources are asked.

    Pools are read whole, or, where the rows are not all that there are, for what these name and nothing else. A pool that has no
    driver, whose driver raises, or that has not answered after ``patience`` seconds has a ``problem`` and no state.
    ``discard`` is called for the pools that it names before these are observed. Snapshots without their ``seeds`` are not active.
    """
    volumes, snapshots = registry.volumes(), registry.snapshots()
    rows = [row for row in snapshots.values() if has_seed(row.custom)] if seeds else ()

    def beside(state: PoolState, pool: str) -> PoolState:
        spec = desired.pools.get(pool)
        return seeds.joined(pool, state, rows, spec.access if spec else None) if seeds and rows else state

    work = {
        ("pool", name): partial(_pool, name, driver, volumes, snapshots, beside, whole, (discard or {}).get(name))
        for name, driver in drivers.items()
    }
    answers = (calls or Calls()).gather(work, patience)
    contents = files(desired, calls or Calls(), patience)
    return Observed(
        pools={
            name: _answered(name, answers[("pool", name)])
            if name in drivers
            else PoolObserved(name, False, None, f"this host has no driver for pool {name}")
            for name in sorted({*desired.pools, *drivers})
        },
        images=registry.images(),
        volumes=volumes,
        snapshots=snapshots,
        files={path: found for path, (found, _) in contents.items() if found},
        unreadable={path: why for path, (found, why) in contents.items() if not found},
        resolutions=resolutions(desired, resolve, selection),
        failures=registry.failures(),
    )


def files(desired: Desired, calls: Calls, patience: float) -> Mapping[str, tuple[str, str]]:
    """The digest of each of the host's files that snapshots get; or an empty one, and why it could not be read."""
    paths = {path for image in desired.images.values() for one in image.custom.values() for path in one.sources}
    work = {("file", path): partial(examine, path) for path in sorted(paths)}
    answers = calls.gather(work, patience) if work else {}
    return {path: _examined(path, call) for (_, path), call in answers.items()}


def _examined(path: str, call: Call[tuple[str, str]] | Unanswered) -> tuple[str, str]:
    return ("", f"{path} has not answered for {call.seconds:.0f} s") if isinstance(call, Unanswered) else call.result()


def _answered(name: str, call: Call[PoolObserved] | Unanswered) -> PoolObserved:
    if isinstance(call, Unanswered):
        return PoolObserved(name, False, None, f"pool {name} has not answered for {call.seconds:.0f} s", waited=call.seconds)
    return call.result()


def _pool(
    name: str,
    driver: Driver,
    volumes: Mapping[tuple[str, str], VolumeRow],
    snapshots: Mapping[tuple[str, str], SnapshotRow],
    beside: Callable[[PoolState, str], PoolState],
    whole: bool,
    discard: Discard | None,
) -> PoolObserved:
    """Whatever goes wrong costs this pool only."""
    try:
        if discard is not None:
            discard(name, driver)
        state = driver.observe(*identities(name, volumes, snapshots), whole=whole)
        return PoolObserved(name, driver.shares_blocks, beside(state, name))
    except PolicyRefused as error:
        return PoolObserved(name, False, None, str(error), reason=error.reason)
    except (ReconcilerError, OSError) as error:
        return PoolObserved(name, False, None, str(error))
    except Exception as error:
        return PoolObserved(name, False, None, f"{type(error).__name__}: {error}")


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
        except Exception as error:
            holders = dict.fromkeys(identities, f"an unknown process (the search failed: {error})")
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
