"""Puts the objects of one invocation together: settings, manifests, registry, drivers, spool, engine.

Called by ``cli``; the one place that chooses a driver for a pool. ``reading`` writes nothing; ``writing`` holds the lock.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler import manifests
from reconciler.errors import HostCannot, ManifestsInvalid
from reconciler.fsm import Engine
from reconciler.image.spool import Spool
from reconciler.lifecycle import Hands, Pipelines, machines
from reconciler.lock import lock
from reconciler.model import Desired, PoolSpec
from reconciler.pool.driver import Driver
from reconciler.pool.file import FilePool
from reconciler.records import Records
from reconciler.settings import Settings

if TYPE_CHECKING:
    from reconciler.registry import Registry


@dataclass(frozen=True)
class Host:
    """What an invocation works with. ``desired`` is as it was read at the beginning; ``faults`` where it could not be."""

    settings: Settings
    desired: Desired
    records: Records
    spool: Spool
    stop: threading.Event
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return socket.gethostname()

    @cached_property
    def drivers(self) -> Mapping[str, Driver]:
        """A driver for each pool that is declared, and for each that the registry remembers."""
        return drivers(self.settings, self.desired, self.records)

    @cached_property
    def registry(self) -> Registry:
        """The transactions that write; imported when the first one is due."""
        from reconciler.registry import Registry

        return Registry.over(self.records)

    @cached_property
    def hands(self) -> Hands:
        return Hands(self.settings, self.drivers, self.spool)

    @cached_property
    def pipelines(self) -> Pipelines:
        return Pipelines(self.hands)

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.registry, machines(self.hands, self.pipelines), stop=self.stop)


def new_schema() -> Iterable[str]:
    """The tables of a registry that is not there yet; only then are they imported."""
    from reconciler.registry import schema

    return schema()


def drivers(settings: Settings, desired: Desired, records: Records) -> dict[str, Driver]:
    """A driver for each pool that has one. Thin pools have none yet: ``observe`` says so, and what is in other pools goes on."""
    known = {pool for pool, _ in (*records.volumes(), *records.snapshots())}
    specs = dict(desired.pools) | {name: PoolSpec(name) for name in known - set(desired.pools)}
    return {name: driver(settings, spec) for name, spec in sorted(specs.items()) if spec.thin is None}


def driver(settings: Settings, spec: PoolSpec) -> Driver:
    return FilePool(spec.name, settings.pool(spec.name), spec.reserve_data_percent)


@contextmanager
def reading(settings: Settings, *, lenient: bool = False) -> Iterator[Host]:
    """For the verbs that only read. ``lenient`` goes on without manifests where they can't be read, and says so in ``faults``."""
    faults: tuple[str, ...] = ()
    try:
        desired = manifests.load(settings.manifests, host_labels=settings.host_labels)
    except ManifestsInvalid as error:
        if not lenient:
            raise
        desired, faults = Desired({}, {}), error.faults
    stop = threading.Event()
    with Records.of(settings.registry, new_schema, read_only=True) as records, Spool(settings.spool, stop=stop) as spool:
        yield Host(settings, desired, records, spool, stop, faults)


@contextmanager
def writing(settings: Settings, *, stop: threading.Event) -> Iterator[Host]:
    """For the verbs that change something. Manifests are read first: where they are invalid nothing is touched.

    Raises ManifestsInvalid, HostCannot, LockHeld.
    """
    desired = manifests.load(settings.manifests, host_labels=settings.host_labels)
    make_state(settings.state)
    with (
        lock(settings.lock),
        Records.of(settings.registry, new_schema) as records,
        Spool(settings.spool, stop=stop) as spool,
    ):
        yield Host(settings, desired, records, spool, stop)


def make_state(state: Path) -> None:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostCannot(f"{state}: {error.strerror}", hint="choose a state directory with --state") from error
