"""One process of reconcile in a simulated world: a service, or ``--once``. It ends by itself, by a stop, or by being killed.

The Host is the real one; only what it reads of the machine is the world's: manifests, facts, drivers, and the machines that
download and build. What is in memory is lost with the process; registry and pools are the world's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

from reconciler.controller import once
from reconciler.controller.assess import Assessment, Wish
from reconciler.controller.service import Pace, Service, Telling
from reconciler.dataclass import dataclass, field, replace
from reconciler.engine.definitions import Context, Entry, Machine, Outcome, Run
from reconciler.engine.engine import Engine
from reconciler.engine.facts import LayerSeen, VolumeSealed
from reconciler.errors import PoolUnusable
from reconciler.host import machines, pipelines
from reconciler.host.calls import Calls
from reconciler.host.context import Host
from reconciler.host.customizing import Customizing
from reconciler.host.head_requests import Sources
from reconciler.host.pipelines import Hands, layer_of
from reconciler.image.builder.editor import Editor
from reconciler.image.builder.process import Proceed
from reconciler.image.custom import digest_of
from reconciler.image.ext4.edit import Edit
from reconciler.image.source.spool import Spool
from reconciler.model import Desired, HostFacts, VolumeRow
from reconciler.output.progress import Silent
from reconciler.pool.driver import Driver
from reconciler.pool.memory import MemoryPool, Step
from reconciler.pool.memory.storage import PAGE
from reconciler.registry.reader import Records
from reconciler.registry.writer import Registry
from reconciler.settings import Settings
from tests.simulation.threads import Killed, VirtualEvent, VirtualThreads

if TYPE_CHECKING:
    from tests.simulation.world import World

EDITED = 64 * PAGE
"""Where a snapshot has what it was given besides its layers."""


class SimulatedEditor:
    """Instead of a file system's, writes behind the layers what each edit gives a snapshot: what is digested, then its UUID."""

    def edit(self, volume: int, edit: Edit) -> None:
        files = [[one.path.decode(), digest_of(one.content), one.mode, one.uid, one.gid] for one in edit.files]
        text = json.dumps([1, edit.size, edit.unique, files])
        os.pwrite(volume, f"{text}\n{edit.uuid or ''}\n".encode(), EDITED)


class SimulatedCustomizing(Customizing):
    def editor(self, proceed: Proceed, wishes: Iterable[Mapping[str, Any]]) -> AbstractContextManager[Editor | None]:
        return nullcontext(cast(Editor, SimulatedEditor()))


@dataclass(frozen=True)
class SimulatedHost(Host):
    process: Process = field(kw_only=True)

    @cached_property
    def hands(self) -> Hands:
        return replace(super().hands, customizing=SimulatedCustomizing(self.desired))

    def informed(self, on_invalid: str, *, lenient: bool = False) -> Host:
        world = self.process.world
        self.process.point()
        world.log("manifests are read")
        facts = HostFacts("host", {"role": world.role})
        return replace(self, desired=world.desired, faults=world.faults, own_facts=facts)

    def glanced(self, named: Iterable[str]) -> Host | None:
        world, names = self.process.world, [*named]
        if self.faults or world.faults or any(name not in world.desired.images for name in names):
            return None
        world.log(f"of the manifests {', '.join(names)} are read")
        images = {**self.desired.images, **{name: world.desired.images[name] for name in names}}
        return replace(self, desired=replace(self.desired, images=images))

    def remember(self) -> None:
        self.registry.observe_generations({name: image.digest for name, image in self.desired.images.items()})

    @cached_property
    def revision(self) -> str:
        return ""

    @cached_property
    def drivers(self) -> Mapping[str, Driver]:
        return dict(self.process.drivers)

    @cached_property
    def engine(self) -> Engine:
        threads = self.threads
        return Engine(
            self.registry,
            simulated_machines(self),
            stop=self.stop,
            clock=threads.time,
            monotonic=threads.monotonic,
            rng=self.process.random,
            listener=self.process.recorded,
        )


def simulated_machines(host: SimulatedHost) -> list[Machine]:
    """The real machines, with another download and another builder."""
    steps = Steps(host)
    volume = machines.volume(host.hands, host.pipelines)
    acts = {"pending": steps.admit, "downloading": steps.download, "validating": steps.validate, "provisioning": steps.provision}
    volume = replace(volume, steps=tuple(replace(step, act=acts[step.state]) for step in volume.steps))
    layer = machines.layer(host.hands)
    layer = replace(layer, steps=tuple(replace(step, act=steps.resolve) for step in layer.steps))
    kept = [one for one in machines.machines(host.hands, host.pipelines) if one.name not in ("volume", "layer")]
    return [volume, layer, *kept]


@dataclass(frozen=True)
class Steps:
    host: SimulatedHost

    def admit(self, context: Context) -> Outcome:
        self.host.hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def download(self, context: Context) -> Outcome:
        plan = pipelines.VolumePlan.of(context.run.input)
        for layer in plan.layers if plan.parent is None else plan.layers[-1:]:
            self.host.process.world.sources.fetch(layer, context.check)
            context.progress(1, 1)
        return Outcome(data={"digests": list(plan.digests)})

    def validate(self, context: Context) -> Outcome:
        self.host.process.point()
        context.check()
        for layer in pipelines.VolumePlan.of(context.run.input).layers:
            self.host.process.world.sources.judge(layer)
        return Outcome()

    def provision(self, context: Context) -> Outcome:
        plan, process = pipelines.VolumePlan.of(context.run.input), self.host.process
        driver = self.host.hands.driver(plan.pool)
        with driver.create_volume(plan.chain, plan.size, plan.parent) as volume:
            for number, digest in enumerate(plan.digests):
                if plan.parent is None or number == len(plan.digests) - 1:
                    process.point()
                    context.check()
                    volume.write(number * PAGE, digest.encode())  # type: ignore[attr-defined]
            process.kernel.sleep(process.kernel.random.uniform(0.1, 2.0))
            identity = volume.seal()
        return Outcome(facts=(VolumeSealed(VolumeRow(plan.pool, plan.chain, plan.parent, plan.size, plan.digests, identity)),))

    def resolve(self, context: Context) -> Outcome:
        layer = layer_of(context.run.input["layer"])
        head, digest = self.host.process.world.sources.fetch(layer, context.check)
        return Outcome(data={"digest": digest}, facts=(LayerSeen(layer.source, head.etag, head.size, digest),))


class Turns(Silent):
    """Notes when the main thread of ``--once`` turns."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def tick(self) -> None:
        self._process.turned()


class SimulatedService(Service):
    process: Process

    def _wake(self) -> None:
        super()._wake()
        self.process.turned()

    def _assessed(self, now: Assessment) -> None:
        super()._assessed(now)
        self.process.assessments += 1
        self.process.last = now
        self.process.world.checks.assessed(self.process, now)


class Process:
    """``kind`` is ``service`` or ``once``."""

    def __init__(self, world: World, kind: str, wish: Wish, pace: Pace) -> None:
        self.world, self.kind, self.wish, self.pace = world, kind, wish, pace
        self.kernel, self.random = world.kernel, Random(world.random.random())
        self.threads = VirtualThreads(self.kernel, self)
        self.stop: VirtualEvent = VirtualEvent(self.kernel)
        self.began = self.last_turn = self.kernel.now
        self.stopped: float | None = None
        self.ended = self.dead = False
        self.assessments = 0
        self.last: Assessment | None = None
        self.crash_in: int | None = None
        self.changes = self.threads.mailbox()
        self.drivers = {
            name: MemoryPool(name, storage, shares_blocks=name == "a", hook=self._hook(name))
            for name, storage in world.pools.items()
        }
        self.records: Records = world.open_registry(self.threads.time)
        self.service: SimulatedService | None = None
        self.host = self._host()
        self.declared = self.host.desired
        self.threads.start(self._main, "main")

    def _host(self) -> SimulatedHost:
        settings = Settings(Path("/manifests"), self.world.state, jobs=2, host_file=Path("/nowhere"))
        sources = Sources(300.0 if self.kind == "service" else 0.0, ask=self.world.sources.head, threads=self.threads)
        host = SimulatedHost(
            settings,
            Desired({}, {}),
            self.records,
            Spool(settings.spool, stop=self.stop),
            self.stop,
            calls=Calls(threads=self.threads),
            sources=sources,
            threads=self.threads,
            process=self,
        )
        facts = HostFacts("host", {"role": self.world.role})
        return replace(host, desired=self.world.desired, faults=self.world.faults, own_facts=facts)

    def _main(self) -> None:
        try:
            if self.kind == "service":
                self.service = SimulatedService(
                    self.host, self.wish, Turns(self), Telling(), stop=self.stop, watch=self._changes, pace=self.pace
                )
                self.service.process = self
                self.service.run()
                if not self.stop.is_set():
                    self.world.checks.violated("the service ends only when it is stopped", "it returned")
            else:
                once.converge(self.host, self.wish, Turns(self), stop=self.stop)
        except Killed:
            raise
        except Exception as error:
            self.world.checks.raised(self, error)
        finally:
            self.ended = True
        self.world.checks.exited(self)
        self.kill()

    def _changes(self, host: Host, stop: object) -> Iterator[frozenset[str] | None]:
        """As ``manifests.watch.Watch.wakes``: a wake that names files is followed by one that names none."""
        while True:
            named = self.changes.get()
            yield named
            if named is not None:
                self.kernel.sleep(self.kernel.random.uniform(0.3, 1.5))
                yield None

    # ------------------------------------------------------------------------------------------------ for the world

    def request_stop(self) -> None:
        if self.stopped is None:
            self.stopped = self.kernel.now
            self.world.log(f"{self.kind} gets SIGTERM")
            self.stop.set()

    def kill(self) -> None:
        """What it has written stays; what it was about to do does not happen."""
        if not self.dead:
            self.dead = True
            self.records._raw.close()
            self.kernel.kill(self)

    # ------------------------------------------------------------------------------------------------ used in it

    def point(self) -> None:
        self.kernel.point()
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0 and not self.dead:
                self.world.log("the process is killed at a step")
                self.kill()
                raise Killed("at a step")

    def turned(self) -> None:
        self.world.checks.turned(self, self.kernel.now - self.last_turn)
        self.last_turn = self.kernel.now

    def recorded(self, run: Run, entry: Entry) -> None:
        self.world.checks.recorded(run, entry)
        self.point()

    def _hook(self, pool: str) -> Callable[[Step], None]:
        def act(step: Step) -> None:
            if self.dead:
                raise Killed(str(step))
            self.world.checks.passed(self, pool, step)
            self.point()
            fault = self.world.pool_faults.get(pool)
            if fault is not None and (fault.operation in ("", step.operation)) and step.point == "begin":
                self._suffer(fault)

        return act

    def _suffer(self, fault: Any) -> None:
        if fault.mode == "hang":
            end = VirtualEvent(self.kernel)
            fault.ends.append(end)
            end.wait()
        elif fault.mode == "slow":
            self.kernel.sleep(self.kernel.random.uniform(1, 15))
        elif fault.mode == "error":
            raise PoolUnusable("input/output error", hint="see `reconcile health`")
        elif fault.mode == "os":
            raise OSError(5, "Input/output error")
        else:
            raise RuntimeError("a fault of ours")


def second_process(world: World, act: Callable[[Registry], object]) -> None:
    """Another process opens the registry and writes to it, without the lock."""
    records = world.open_registry(lambda: 1_700_000_000.0 + world.kernel.now)
    try:
        act(Registry.over(records))
    finally:
        records.close()
