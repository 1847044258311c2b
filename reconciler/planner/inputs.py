"""The inputs of a plan: desired and observed state side by side, and how each wanted volume or snapshot differs.

``plan`` makes ``Inputs`` once for each plan, and all of ``planner`` reads it; ``goals`` computes the ``Goal`` values. Frozen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from reconciler.dataclass import dataclass, field
from reconciler.image.custom import Names
from reconciler.image.spec import LAYOUT, Layer, Source
from reconciler.model import Desired, ImageSpec, Observed, Verb
from reconciler.planner import claims
from reconciler.planner.claims import Place
from reconciler.planner.unpinned import resolved_digests
from reconciler.pool.driver import Condition, PoolState, SnapshotState, VolumeState

_UNTOUCHED = (Condition.INTACT, Condition.UNKNOWN)
"""An object that could not be examined may be intact: nothing is done about it."""
_UNRECOGNISED = (Condition.REPLACED, Condition.DAMAGED)
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
    chain: str | None = field(init=False)
    """The whole chain; None until every digest is resolved."""
    volumes: tuple[Wanted, ...] = field(init=False)
    """Parents first: one a layer where the pool shares blocks, the whole chain in one elsewhere."""

    def __post_init__(self) -> None:
        chain = self.chains[-1] if self.chains and len(self.chains) == len(self.layers) else None
        object.__setattr__(self, "chain", chain)
        object.__setattr__(self, "volumes", tuple(self._volumes()))

    @property
    def top(self) -> Place:
        return self.image.pool, self.chain or ""

    def _volumes(self) -> Iterator[Wanted]:
        if self.shares:
            for n, chain in enumerate(self.chains):
                yield Wanted((self.image.pool, chain), self.chains[n - 1] if n else None, self.layers[: n + 1])
        elif self.chain:
            yield Wanted(self.top, None, self.layers)


@dataclass(frozen=True, slots=True)
class Inputs:
    """``owners`` has the image of each declared snapshot; ``digests`` those of unpinned sources that are resolved;
    ``strangers`` what has a snapshot's name and is not the snapshot that was created.

    ``goals`` caches ``goal_of``, and ``keeps`` ``kept``, by the image's name.
    """

    desired: Desired
    observed: Observed
    owners: Mapping[Place, str]
    digests: Mapping[Source, str]
    strangers: Mapping[Place, SnapshotState]
    goals: dict[str, Goal] = field(default_factory=dict)
    keeps: dict[str, claims.Kept] = field(default_factory=dict)

    @classmethod
    def of(cls, desired: Desired, observed: Observed) -> Inputs:
        return cls(desired, observed, _owners(desired), resolved_digests(observed.resolutions), dict(_strangers(observed)))

    def state(self, pool: str) -> PoolState | None:
        found = self.observed.pools.get(pool)
        return found.state if found else None

    def volume_state(self, key: Place) -> VolumeState:
        state = self.state(key[0])
        return (state.volumes.get(key[1]) if state else None) or _no_volume(key)

    def snapshot_state(self, key: Place) -> SnapshotState:
        state = self.state(key[0])
        return (state.snapshots.get(key[1]) if state else None) or _no_snapshot(key)

    def kept(self, image: ImageSpec) -> claims.Kept:
        """What there should be of an image's snapshots."""
        kept = self.keeps.get(image.name)
        if kept is None:
            kept = self.keeps[image.name] = claims.kept(image, self.observed)
        return kept

    def unexamined(self, goal: Goal) -> VolumeState | SnapshotState | None:
        """The first volume or snapshot of a goal whose condition is unknown."""
        state = self.state(goal.image.pool)
        if state is None:
            return None
        volumes = (state.volumes.get(wanted.key[1]) for wanted in goal.volumes)
        snapshots = (state.snapshots.get(name) for name in goal.image.snapshots)
        return next((one for one in itertools.chain(volumes, snapshots) if one and one.condition is Condition.UNKNOWN), None)

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
            return Difference(verb, _broken("snapshot", found) if recorded else self._because_of_set(key))
        if found.made:
            return Difference(verb, "an interrupted run has created it; it is registered")
        return None if recorded or found.condition in _UNTOUCHED else Difference(verb, "not in the registry")

    def _because_of_set(self, key: Place) -> str:
        """Why there should be a snapshot that is not recorded: of a set with ``max`` there are as many as claims require."""
        image = self.desired.images.get(self.owners.get(key, ""))
        known = image is not None and image.name in self.observed.images
        for one in image.sets if image and known else ():
            if one.is_elastic and one.has(key[1]):
                return f"{one.ready} unclaimed snapshots of {one.name} are kept ready"
        return "declared for the first time"

    def custom(self, image: ImageSpec, name: str) -> str:
        """The digest of what a snapshot gets besides its chain: empty for nothing, ``UNKNOWN`` where a file can't be read."""
        spec = image.custom.get(name)
        return spec.digest(Names(name, spec.index, image.name, self.desired.host), self.observed.files) if spec else ""

    def unrecognised(self, key: Place) -> SnapshotState | None:
        """What has a snapshot's name and is not the snapshot that was created; None where nothing has it, or where it is."""
        return self.strangers.get(key)


def _owners(desired: Desired) -> dict[Place, str]:
    """The image of each declared snapshot; of several that declare it, the first by name."""
    owners: dict[Place, str] = {}
    for name, image in sorted(desired.images.items()):
        for snapshot in image.snapshots:
            owners.setdefault((image.pool, snapshot), name)
    return owners


def _strangers(observed: Observed) -> Iterator[tuple[Place, SnapshotState]]:
    for pool, found in observed.pools.items():
        for name, snapshot in found.state.snapshots.items() if found.state else ():
            if snapshot.condition in _UNRECOGNISED:
                yield (pool, name), snapshot


def _no_volume(key: Place) -> VolumeState:
    return VolumeState(key[1], Condition.MISSING, "")


def _no_snapshot(key: Place) -> SnapshotState:
    return SnapshotState(key[1], Condition.MISSING, "", active=False)


def _broken(noun: str, found: VolumeState | SnapshotState) -> str:
    return f"the {noun} {_BROKEN[found.condition]}" + (f": {found.detail}" if found.detail else "")
