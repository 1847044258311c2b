"""The inputs of a plan: desired and observed state side by side, and how each wanted volume or snapshot differs.

``plan`` makes ``Inputs`` once for each plan, and all of ``planner`` reads it; ``goals`` computes the ``Goal`` values. Frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.image.spec import LAYOUT, Layer, Source
from reconciler.model import Desired, ImageSpec, Observed, Verb
from reconciler.planner.unpinned import resolved_digests
from reconciler.pool.driver import Condition, PoolState, SnapshotState, VolumeState

Place = tuple[str, str]
"""(pool, chain) of a volume, (pool, name) of a snapshot."""

_UNTOUCHED = (Condition.INTACT, Condition.UNKNOWN)
"""An object that could not be examined may be intact: nothing is done about it."""
_BROKEN = {Condition.MISSING: "is missing", Condition.REPLACED: "was replaced", Condition.DAMAGED: "is damaged"}


class Difference(NamedTuple):
    """The verb that removes a difference, and why; ``because`` is empty where the image's own difference is the reason."""

    verb: Verb
    because: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One volume: all its layers from the bottom; ``parent`` where only the last of them is new."""

    key: Place
    parent: str | None
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """What one image needs. ``layers`` have their digests as far as they are resolved, ``chains`` are the resolved prefixes.

    ``stale`` is why the last known chain is used instead of the declared one. ``layout`` is that of the chains' ids.
    """

    image: ImageSpec
    layers: tuple[Layer, ...]
    chains: tuple[str, ...]
    shares: bool
    stale: str = ""
    layout: int = LAYOUT

    @property
    def chain(self) -> str | None:
        """The whole chain; None until every digest is resolved."""
        return self.chains[-1] if self.chains and len(self.chains) == len(self.layers) else None

    @property
    def top(self) -> Place:
        return self.image.pool, self.chain or ""

    def volumes(self) -> Iterator[Wanted]:
        """Parents first: one a layer where the pool shares blocks, the whole chain in one elsewhere."""
        if self.shares:
            for n, chain in enumerate(self.chains):
                yield Wanted((self.image.pool, chain), self.chains[n - 1] if n else None, self.layers[: n + 1])
        elif self.chain:
            yield Wanted(self.top, None, self.layers)


@dataclass(frozen=True, slots=True)
class Inputs:
    """``owners`` has the image of each declared snapshot; ``digests`` those of unpinned sources that are resolved.

    ``goals`` caches ``goal_of``, by the image's name.
    """

    desired: Desired
    observed: Observed
    owners: Mapping[Place, str]
    digests: Mapping[Source, str]
    goals: dict[str, Goal] = field(default_factory=dict)

    @classmethod
    def of(cls, desired: Desired, observed: Observed) -> Inputs:
        return cls(desired, observed, _owners(desired), resolved_digests(observed.resolutions))

    def state(self, pool: str) -> PoolState | None:
        found = self.observed.pools.get(pool)
        return found.state if found else None

    def volume_state(self, key: Place) -> VolumeState:
        state = self.state(key[0])
        return state.volumes.get(key[1], _no_volume(key)) if state else _no_volume(key)

    def snapshot_state(self, key: Place) -> SnapshotState:
        state = self.state(key[0])
        return state.snapshots.get(key[1], _no_snapshot(key)) if state else _no_snapshot(key)

    def unexamined(self, goal: Goal) -> VolumeState | SnapshotState | None:
        """The first volume or snapshot of a goal whose condition is unknown."""
        image = goal.image
        found: list[VolumeState | SnapshotState] = [self.volume_state(wanted.key) for wanted in goal.volumes()]
        found += [self.snapshot_state((image.pool, name)) for name in image.snapshots]
        return next((one for one in found if one.condition is Condition.UNKNOWN), None)

    def volume(self, key: Place) -> Difference | None:
        """Of a volume that is wanted; None where it is as it should be."""
        found = self.volume_state(key)
        if key in self.observed.volumes:
            return None if found.condition in _UNTOUCHED else Difference(Verb.REBUILD, _broken("volume", found))
        if found.condition is Condition.UNKNOWN:
            return None
        if found.condition is Condition.MISSING:
            return Difference(Verb.BUILD, "")
        return Difference(Verb.REBUILD, "a volume that is not in the registry exists under its name; its content is unproven")

    def snapshot(self, key: Place) -> Difference | None:
        """Of a snapshot that is wanted. What has its name and is not recognised is left alone, unless it is to be set aside."""
        found, recorded = self.snapshot_state(key), key in self.observed.snapshots
        verb = Verb.REPAIR if recorded else Verb.CREATE
        if self.unrecognised(key):
            asked = key in self.observed.asides
            return Difference(verb, "what has its name is set aside, as `retry --recreate` asks") if asked else None
        if found.condition is Condition.MISSING:
            return Difference(verb, _broken("snapshot", found) if recorded else "declared for the first time")
        if found.made:
            return Difference(verb, "an interrupted run has created it; it is registered")
        return None if recorded or found.condition in _UNTOUCHED else Difference(verb, "not in the registry")

    def unrecognised(self, key: Place) -> SnapshotState | None:
        """What has a snapshot's name and is not the snapshot that was created; None where nothing has it, or where it is."""
        found = self.snapshot_state(key)
        return found if found.condition in (Condition.REPLACED, Condition.DAMAGED) else None


def _owners(desired: Desired) -> dict[Place, str]:
    """The image of each declared snapshot; of several that declare it, the first by name."""
    owners: dict[Place, str] = {}
    for name, image in sorted(desired.images.items()):
        for snapshot in image.snapshots:
            owners.setdefault((image.pool, snapshot), name)
    return owners


def _no_volume(key: Place) -> VolumeState:
    return VolumeState(key[1], Condition.MISSING, "")


def _no_snapshot(key: Place) -> SnapshotState:
    return SnapshotState(key[1], Condition.MISSING, "", active=False)


def _broken(noun: str, found: VolumeState | SnapshotState) -> str:
    return f"the {noun} {_BROKEN[found.condition]}" + (f": {found.detail}" if found.detail else "")
