"""Puts the objects of one invocation together: settings, manifests, registry, drivers, spool, engine.

Called by ``cli``; the one place that chooses a driver for a pool. ``reading`` writes nothing; ``writing`` holds the lock.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import LockHeld, ManifestFault, ManifestsInvalid
from reconciler.host.calls import THREADS, Calls, Threads
from reconciler.host.head_requests import Sources
from reconciler.host.moved import record
from reconciler.host.own import put_in_force
from reconciler.host.seeds import Seeds
from reconciler.host.state_directory import make_state
from reconciler.image.source.spool import Spool
from reconciler.image.spec import ImageReference, Resolved, filesystem_uuid
from reconciler.manifests import last_good
from reconciler.manifests.cache import ManifestCache
from reconciler.manifests.faults import Fault, shown
from reconciler.manifests.revision import revision
from reconciler.manifests.stored import Store
from reconciler.model import Desired, HostFacts, PoolSpec
from reconciler.pool.driver import Driver
from reconciler.pool.file.intents import Intent
from reconciler.registry import reserve
from reconciler.registry.database import is_outdated
from reconciler.registry.lock import lock
from reconciler.registry.reader import Records
from reconciler.settings import Settings

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine
    from reconciler.host.pipelines import Hands, Pipelines
    from reconciler.image.oci.unpacked import Archives
    from reconciler.pool.thin.journal import DeviceRow, PoolRow
    from reconciler.registry.writer import Registry


REGISTRY = "registry"
"""Its name among the pulses."""
_ONE = threading.Lock()


@dataclass(frozen=True)
class Host:
    """What an invocation works with. ``desired`` is as it was read at the beginning; ``faults`` where it could not be."""

    settings: Settings
    desired: Desired
    records: Records
    spool: Spool
    stop: threading.Event
    faults: tuple[ManifestFault, ...] = ()
    frozen: tuple[str, ...] = ()
    """Manifest files that have faults, and whose last good text is in force."""
    notes: Sequence[Fault] = ()
    """Documents that are ignored: they belong to other tools."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Of the manifests without fault, by path."""
    cached: ManifestCache = field(default_factory=ManifestCache)
    """Parsed manifests; the passes of a service share it."""
    calls: Calls = field(default_factory=Calls)
    """Blocking calls that have not returned; all invocations of ``assess`` of one process share them."""
    sources: Sources = field(default_factory=lambda: Sources(0.0))
    """The answers of unpinned sources."""

    threads: Threads = THREADS
    """What the control loop starts threads with, waits in and measures time by."""

    own_facts: HostFacts | None = None
    """As they were when the manifests were read; None before."""

    def informed(self, on_invalid: str, *, lenient: bool = False) -> Host:
        """The same with the manifests and the facts of this host read again.

        Raises ManifestsInvalid as ``last_good.read`` does, unless it is lenient.
        """
        settings = self.settings
        last = self.last_good if on_invalid != "fail" else {}
        try:
            own = put_in_force(settings, self.cached.store)
            now = last_good.read(settings.manifests, last, host=own, policy=on_invalid, cached=self.cached)
        except ManifestsInvalid as error:
            if not lenient:
                raise
            return replace(self, desired=Desired({}, {}), faults=error.faults)
        return replace(
            self, desired=now.desired, faults=now.faults, frozen=now.frozen, texts=now.good, notes=now.notes, own_facts=own
        )

    def glanced(self, named: Iterable[str]) -> Host | None:
        """The same with these files read again, as if no other had changed; None where all files have to be read."""
        if self.faults:
            return None
        desired = last_good.read_changed(self.settings.manifests, named, host=self.facts, cached=self.cached)
        return None if desired is None else replace(self, desired=desired)

    def wishing(self, desired: Desired) -> Host:
        """The same, with the same hands, for other images; its pools are those of this one."""
        return replace(self, desired=desired).sharing(self)

    def sharing(self, other: Host) -> Host:
        """This host, with the engine, the drivers and the builds under way of ``other``.

        A pool that is declared otherwise than in ``other`` gets a driver of its own.
        """
        if self.desired.pools != other.desired.pools:
            same = {name for name, spec in self.desired.pools.items() if other.desired.pools.get(name) == spec}
            made = drivers(self)
            kept = {name: driver for name, driver in other.drivers.items() if name in same or name not in self.desired.pools}
            mutable(other.drivers).update({name: driver for name, driver in made.items() if name not in kept})
        for made_once in ("drivers", "registry", "hands", "pipelines", "engine"):
            self.__dict__[made_once] = getattr(other, made_once)
        self.hands.customizing.declare(self.desired)
        return self

    @property
    def last_good(self) -> Mapping[str, str]:
        """The last good text of each manifest. Only who holds the lock writes them, so they are read once."""
        if self.cached.texts is None:
            self.cached.texts = self.records.manifests()
        return self.cached.texts

    def remember(self) -> None:
        """Keep the texts of the manifests without fault for the day when they have one."""
        if self.cached.texts is None:
            self._count(self.desired.images.keys() - self.records.generations().keys())
        if self.texts != self.last_good:
            before = {shown(path) for path, text in self.texts.items() if self.last_good.get(path) != text}
            self._count([name for name, image in self.desired.images.items() if image.where and image.where.file in before])
            self.registry.remember_manifests(self.texts, whole=not self.faults, known=self.last_good)
            self.cached.texts = self.texts if not self.faults else {**self.last_good, **self.texts}

    def _count(self, images: Iterable[str]) -> None:
        """Count the generations of these images."""
        if digests := {name: self.desired.images[name].digest for name in images}:
            self.registry.observe_generations(digests)

    @cached_property
    def revision(self) -> str:
        """Which state of their source the manifests are in."""
        return self.desired.revision or revision(self.settings.manifests, self.texts)

    @cached_property
    def facts(self) -> HostFacts:
        return self.own_facts or put_in_force(self.settings)

    @property
    def name(self) -> str:
        return self.facts.name

    @cached_property
    def drivers(self) -> Mapping[str, Driver]:
        """A driver for each pool that is declared, and for each that the registry remembers."""
        return drivers(self)

    def pulses(self) -> dict[str, Callable[[], Hashable]]:
        """What differs once a pool has changed, or (by others) the registry in a way that matters; each may block."""
        found: dict[str, Callable[[], Hashable]] = {f"pool {name}": driver.pulse for name, driver in self.drivers.items()}
        return found | {REGISTRY: lambda: self.records.change_counts(self.threads.moment())}

    @cached_property
    def registry(self) -> Registry:
        """The transactions that write; imported when the first one is due."""
        from reconciler.registry.writer import Registry

        return Registry.over(self.records)

    @property
    def seeds(self) -> Seeds:
        return Seeds(self.settings.seeds)

    @cached_property
    def hands(self) -> Hands:
        from reconciler.host.customizing import Customizing
        from reconciler.host.pipelines import Hands, Layers

        layers = Layers(
            self.spool, self.sources, self._archives, lambda digest: self.registry.forget_seen(digest), self._record_reference
        )
        return Hands(self.settings, self.drivers, layers, Customizing(self.desired, self.settings.seeds))

    @cached_property
    def archives(self) -> Archives:
        from reconciler.image.oci.unpacked import Archives

        return Archives(self.spool, self.stop)

    def _archives(self) -> Archives:
        """One for all workers: the first that needs it makes it."""
        with _ONE:
            return self.archives

    def _record_reference(self, reference: ImageReference, found: Resolved) -> None:
        before = self.records.recorded([reference]).get(reference)
        record(self.registry, self.desired, reference, before, found)

    @cached_property
    def pipelines(self) -> Pipelines:
        from reconciler.host.pipelines import Pipelines

        return Pipelines(self.hands)

    @cached_property
    def engine(self) -> Engine:
        from reconciler.engine.engine import Engine
        from reconciler.host.machines import machines

        return Engine(self.registry, machines(self.hands, self.pipelines), stop=self.stop)

    def with_engine(self) -> Host:
        """This host. Its engine, which most invocations do not need, is made now: one thread makes it, and workers share it."""
        _ = self.engine
        return self


def drivers(host: Host) -> dict[str, Driver]:
    """A driver for each pool that is declared; of those that no longer are, for the file pools, which need no declaration."""
    known = {pool for pool in host.records.pools() if host.records.thin_pool(pool) is None}
    specs = dict(host.desired.pools) | {name: PoolSpec(name) for name in known - set(host.desired.pools)}
    return {name: driver(host, spec) for name, spec in sorted(specs.items())}


def mutable(drivers: Mapping[str, Driver]) -> dict[str, Driver]:
    """The one mapping of drivers that all of an invocation's objects share."""
    assert isinstance(drivers, dict)
    return drivers


def driver(host: Host, spec: PoolSpec) -> Driver:
    if spec.thin is None:
        from reconciler.pool.file.pool import FilePool

        intents = HostIntents(spec.name, host)
        return FilePool(spec.name, host.settings.pool(spec.name), spec.reserve_data_percent, intents, spec.access)
    from reconciler.pool.thin.assembly import Geometry
    from reconciler.pool.thin.backing import Backing
    from reconciler.pool.thin.pool import ThinPool

    data, metadata = (Backing(one.device, one.file, one.size) for one in (spec.thin.data, spec.thin.metadata))
    geometry = Geometry(data, metadata, spec.thin.block_size, spec.reserve_data_percent)
    journal = HostJournal(spec.name, host)
    reserves = spec.reserve_data_percent, spec.reserve_metadata_percent
    return ThinPool(spec.name, geometry, journal, filesystem_uuid, *reserves, spec.access)


@dataclass(frozen=True)
class HostIntents:
    """A file pool's part of the registry (``pool.file.intents``)."""

    name: str
    host: Host

    def read(self) -> Mapping[str, Intent]:
        return self.host.records.intents(self.name)

    def write(self, put: Mapping[str, Intent], drop: Collection[str] = ()) -> None:
        self.host.registry.write_intents(self.name, put, drop)


@dataclass(frozen=True)
class HostJournal:
    """A thin pool's part of the registry (``pool.thin.journal.Journal``)."""

    name: str
    host: Host

    def pool(self) -> PoolRow | None:
        return self.host.records.thin_pool(self.name)

    def devices(self, name: str | None = None) -> Mapping[int, DeviceRow]:
        return self.host.records.thin_devices(self.name, name)

    def last_id(self) -> int:
        return self.host.records.last_thin_id(self.name)

    def pending(self) -> bool:
        return self.host.records.thin_pending(self.name)

    def begin(self, rows: Sequence[DeviceRow], taken: Collection[int] = ()) -> tuple[DeviceRow, ...]:
        return self.host.registry.begin_devices(self.name, rows, taken)

    def write(self, pool: PoolRow | None = None, put: Sequence[DeviceRow] = (), drop: Sequence[int] = ()) -> None:
        self.host.registry.journal(self.name, pool, put, drop)


@contextmanager
def reading(settings: Settings, *, lenient: bool = False, cached: ManifestCache | None = None) -> Iterator[Host]:
    """For the verbs that only read. ``lenient`` goes on where manifests can't be read, with the last good ones in their place.

    ``faults`` then says what is wrong. ``cached`` is shared by repeated calls. Raises ManifestsInvalid
    where it is not lenient, and HostCannot.
    """
    stop, once = threading.Event(), cached is None
    cached = cached or ManifestCache(Store(settings.parsed))
    with Records.of(settings.registry, read_only=True) as records, Spool(settings.spool, stop=stop) as spool:
        sources = Sources(settings.resync, known_images=records.resolved)
        host = Host(settings, Desired({}, {}), records, spool, stop, cached=cached, sources=sources)
        cached.texts = None  # another process writes them
        host = host.informed("freeze" if lenient else "fail", lenient=lenient)
        if once:
            gc.freeze()  # as in ``writing``
        yield host


@contextmanager
def writing(settings: Settings, *, stop: threading.Event, on_invalid: str = "fail") -> Iterator[Host]:
    """For the verbs that change something. Manifests are read first: where they are invalid nothing is touched.

    Raises ManifestsInvalid, HostCannot, LockHeld.
    """
    store = Store(settings.parsed, writes=True)
    cached = ManifestCache(store)
    early = own = None
    if on_invalid == "fail":
        own = put_in_force(settings, store)
        early = last_good.read(settings.manifests, {}, host=own, policy="fail", cached=cached)
    make_state(settings.state)
    with (
        lock(settings.lock),
        spare(settings.reserve),
        Records.of(settings.registry) as records,
        Spool(settings.spool, stop=stop) as spool,
    ):
        sources = Sources(settings.resync, known_images=records.resolved)
        if early is not None:
            host = Host(settings, early.desired, records, spool, stop, texts=early.good, notes=early.notes, cached=cached)
            host = replace(host, sources=sources, own_facts=own)
        else:
            host = Host(settings, Desired({}, {}), records, spool, stop, cached=cached, sources=sources).informed(on_invalid)
        host.remember()
        store.write()
        cached.store = None  # a service parses what changes, and compares with what it has parsed
        gc.freeze()  # what the manifests declare stays: a collector that walks it frees nothing, for a tenth of the time
        yield host


@contextmanager
def noting(settings: Settings) -> Iterator[Registry]:
    """For the verbs that only note something of an image. No lock: they may be given beside a service, which is woken by it.

    Only a registry of an older schema takes the lock, to migrate it. Raises LockHeld where a service of an older version has it.
    """
    from reconciler.registry.writer import Registry

    make_state(settings.state)
    with ExitStack() as stack:
        if is_outdated(settings.registry):
            stack.enter_context(migrating(settings.lock))
        yield Registry.over(stack.enter_context(Records.of(settings.registry)))


@contextmanager
def migrating(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
        except LockHeld as held:
            hint = "it is of an older version: restart it, so that this version migrates the registry"
            raise LockHeld(held.message, hint=hint) from None
        yield


@contextmanager
def spare(path: Path) -> Iterator[None]:
    """Keep the emergency reserve, or give it to the registry where the file system is full."""
    reserve.settle(path)
    try:
        yield
    finally:
        reserve.settle(path)
