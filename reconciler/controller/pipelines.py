"""Builds under way: the stream of each volume that is being written, from its layers to the volume of the pool's driver.

Here, and only here, a volume is a file descriptor and a size. Used by ``machines``. State in memory: the pipelines of the volumes
in progress. They are rebuilt after a crash: a step that is resumed starts its stream again from the spool.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.controller.layers import Layers, layer_of
from reconciler.engine.definitions import Context
from reconciler.errors import (
    DigestMismatch,
    HostCannot,
    LayerCorrupt,
    LayerRefused,
)
from reconciler.image.builder.parent import Build, Input, Milestone, Progress, Report, Request
from reconciler.image.spec import Layer, Limits, chain_ids
from reconciler.pool.driver import Driver, Heartbeat, OpenVolume, no_heartbeat
from reconciler.settings import Settings


@dataclass(frozen=True, slots=True)
class Hands:
    """What the machines work with. ``drivers`` by pool name."""

    settings: Settings
    drivers: Mapping[str, Driver]
    layers: Layers

    def driver(self, pool: str) -> Driver:
        if pool not in self.drivers:
            raise HostCannot(f"pool {pool!r} is not declared", hint="declare it again, or remove what it held with --prune")
        return self.drivers[pool]

    def index(self, chain: str) -> Path:
        return self.settings.indexes / f"{chain}.idx"


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """A volume run's input, typed."""

    pool: str
    chain: str
    parent: str | None
    size: int
    layers: tuple[Layer, ...]
    limits: Limits

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> VolumePlan:
        return cls(
            value["pool"],
            value["chain"],
            value["parent"],
            value["size"],
            tuple(layer_of(layer) for layer in value["layers"]),
            Limits(**value["limits"]),
        )

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(layer.sha256 or "" for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One volume in progress: its stream, and the volume that it is written to. ``close`` discards what is not sealed."""

    volume: OpenVolume
    build: Build
    index: atomic_file.Draft | None
    close: Callable[[], None]


class Pipelines:
    """The streams under way, by run. A step finds its run's pipeline here, or starts it (again)."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._open: dict[str, Pipeline] = {}
        self._lock = threading.Lock()

    def reach(self, context: Context, milestone: Milestone) -> tuple[Pipeline, Report]:
        """Wait until the run's stream has passed the milestone; an error ends the stream and discards the volume."""
        run, plan = context.run.id, VolumePlan.of(context.run.input)
        blamed = ""
        try:
            pipeline = self._of(run, plan, context.check)
            try:
                return pipeline, pipeline.build.wait(milestone, stop=context.stop, tick=lambda now: tell(context, now))
            finally:
                blamed = pipeline.build.blamed
        except (LayerCorrupt, LayerRefused, DigestMismatch) as error:
            self.close(run)
            raise self._hands.layers.reconsidered(plan.layers, blamed, error) from error
        except BaseException:
            self.close(run)
            raise

    def close(self, run: str) -> None:
        """End the run's stream and discard its volume, if there are any left."""
        with self._lock:
            pipeline = self._open.pop(run, None)
        if pipeline is not None:
            pipeline.close()

    def _of(self, run: str, plan: VolumePlan, heartbeat: Heartbeat) -> Pipeline:
        with self._lock:
            found = self._open.get(run)
        if found is None:
            found = start(self._hands, plan, heartbeat)
            with self._lock:
                self._open[run] = found
        return found


def tell(context: Context, now: Progress) -> None:
    context.check()
    context.progress(now.read, now.total or 0)


def start(hands: Hands, plan: VolumePlan, heartbeat: Heartbeat = no_heartbeat) -> Pipeline:
    """Open the volume and its stream; layers below the parent are not fetched unless the parent's index is lost."""
    driver = hands.driver(plan.pool)
    with contextlib.ExitStack() as stack:
        volume = stack.enter_context(
            driver.create_volume(plan.chain, plan.size, plan.parent, lambda: expected(hands, plan), heartbeat)
        )
        index_in, below = parent_index(hands, plan, stack)
        index = stack.enter_context(writing(hands.index(plan.chain))) if driver.shares_blocks else None
        layers = plan.layers[-1:] if index_in is not None else plan.layers
        request = Request(
            layers=tuple(Input(layer.source.url, hands.layers.beginning(layer)) for layer in layers),
            size=plan.size,
            chain=lambda digests: chain_ids(
                plan.size, (*plan.digests[: len(plan.layers) - len(layers)], *digests), plan.limits.policy
            )[-1],
            limits=plan.limits,
            volume=volume.fd,
            index_in=index_in,
            index_out=index.fd if index else None,
            replay=below,
            room=volume.room,
        )
        build = stack.enter_context(Build(request))
        kept = stack.pop_all()
    return Pipeline(volume, build, index, kept.close)


def expected(hands: Hands, plan: VolumePlan) -> int:
    """Bytes that the volume takes at least: those that its new layers are stored as."""
    return sum(map(hands.layers.stored_size, plan.layers[-1:] if plan.parent is not None else plan.layers))


def parent_index(hands: Hands, plan: VolumePlan, stack: contextlib.ExitStack) -> tuple[int | None, int]:
    """The parent's member index as a descriptor; where it is lost, the number of layers to replay instead."""
    if plan.parent is None:
        return None, 0
    try:
        file = stack.enter_context(hands.index(plan.parent).open("rb"))
    except FileNotFoundError:
        return None, len(plan.layers) - 1
    return file.fileno(), 0


@contextlib.contextmanager
def writing(index: Path) -> Iterator[atomic_file.Draft]:
    """An index that is being written; removed at the end unless it was published. The writer's lock excludes other processes."""
    atomic_file.make_directory(index.parent)
    with atomic_file.draft(index, lock=False) as draft:
        yield draft


def discard_unfinished_indexes(directory: Path) -> None:
    """Remove what a run that was cut off left: its chain may never be built again. Callers hold the lock."""
    for path in directory.glob(atomic_file.private(directory / "*.idx").name):
        path.unlink(missing_ok=True)
