"""The machines: volume (downloading, validating, provisioning), snapshot (snapshotting), activation, removal, a pool's assembly,
and an unpinned layer's fetch.

Introduces images to pools: here, and only here, a volume is a file descriptor and a size. ``execute`` opens runs of these
machines with the inputs that ``run_input`` makes from a plan's actions; ``fsm`` executes them. State in memory: the pipelines
of the volumes in progress (``Pipelines``), rebuilt after a crash: a step that is resumed starts its stream again from the spool.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.controller.layers import Layers, layer_input, layer_of
from reconciler.engine.definitions import Context, Machine, Outcome, Run, Step
from reconciler.errors import (
    DigestMismatch,
    HostCannot,
    LayerCorrupt,
    LayerRefused,
    NeedsOperator,
)
from reconciler.image import e2fsck
from reconciler.image.builder.parent import Build, Input, Milestone, Progress, Report, Request
from reconciler.image.spec import Layer, Limits, chain_ids
from reconciler.model import (
    Action,
    Kind,
    SnapshotGone,
    SnapshotMade,
    SnapshotRow,
    Verb,
    VolumeGone,
    VolumeRow,
    VolumeSealed,
)
from reconciler.pool.driver import Driver, Heartbeat, OpenVolume, SnapshotRequest, no_heartbeat
from reconciler.settings import Settings

HOUR = 3600.0


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


# ----------------------------------------------------------------------------------------------------- inputs


def run_input(action: Action) -> tuple[str, dict[str, Any]]:
    """The machine that carries out an action, and the run's input: plain JSON, all that a resumed run needs."""
    if action.verb is Verb.RESOLVE:
        return "layer", {"layer": layer_input(action.layers[0])}
    if action.verb is Verb.ASSEMBLE:
        return "pool", {"name": action.name}
    common = {"pool": action.pool, "chain": action.chain}
    if action.verb is Verb.ACTIVATE:
        return "activation", common | {"name": action.name, "identity": action.identity}
    if action.verb is Verb.REPLACE:
        return "replacement", common | {"name": action.name, "image": action.image, "identity": action.identity}
    if action.verb is Verb.REMOVE:
        return "removal", common | {"kind": action.kind.value, "name": action.name}
    if action.kind is Kind.SNAPSHOT:
        return "snapshot", common | {"name": action.name, "image": action.image}
    layers = [layer_input(layer) for layer in action.layers]
    return "volume", common | {
        "parent": action.parent,
        "size": action.size,
        "layers": layers,
        "limits": asdict(action.limits),
    }


# ------------------------------------------------------------------------------------------------------ volume


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


class VolumeMachine:
    """Steps of a volume's run; the states are milestones on one stream."""

    def __init__(self, hands: Hands, pipelines: Pipelines) -> None:
        self._hands = hands
        self._pipelines = pipelines

    def admit(self, context: Context) -> Outcome:
        """The pool can be used; space is looked at by the driver when the volume is begun."""
        self._hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def download(self, context: Context) -> Outcome:
        _, report = self._pipelines.reach(context, Milestone.DOWNLOADED)
        expected = context.run.input["chain"]
        if report.chain != expected:
            self._pipelines.close(context.run.id)
            raise NeedsOperator(f"the layers make chain {report.chain}, not {expected}", hint="this is a bug: please report it")
        return Outcome(data={"digests": list(report.digests)})

    def downloaded(self, run: Run) -> int:
        """The bytes of its layers that are in the spool."""
        return self._hands.layers.spool.held(VolumePlan.of(run.input).layers)

    def validate(self, context: Context) -> Outcome:
        _, report = self._pipelines.reach(context, Milestone.ACCEPTED)
        return Outcome(data={"layers": [dict(layer) for layer in report.layers]})

    def provision(self, context: Context) -> Outcome:
        plan, run = VolumePlan.of(context.run.input), context.run.id
        try:
            pipeline, report = self._pipelines.reach(context, Milestone.WRITTEN)
            checked = e2fsck.check(pipeline.volume.path)
            pipeline.build.wait(Milestone.CHECKED, stop=context.stop)
            if pipeline.index is not None:
                pipeline.index.publish()
            identity = pipeline.volume.seal()
        finally:
            self._pipelines.close(run)
        row = VolumeRow(plan.pool, plan.chain, plan.parent, plan.size, plan.digests, identity)
        return Outcome(data={"summary": dict(report.summary), "checked": checked}, facts=(VolumeSealed(row),))


def volume(hands: Hands, pipelines: Pipelines) -> Machine:
    steps = VolumeMachine(hands, pipelines)
    return Machine(
        "volume",
        initial="pending",
        steps=(
            Step("pending", steps.admit, "downloading", timeout=60),
            Step("downloading", steps.download, "validating", timeout=12 * HOUR, progress=steps.downloaded),
            Step("validating", steps.validate, "provisioning", timeout=12 * HOUR),
            Step("provisioning", steps.provision, "ready", timeout=12 * HOUR),
        ),
        ends=frozenset({"ready"}),
    )


# ---------------------------------------------------------------------------------------------------- snapshot


def snapshot(hands: Hands) -> Machine:
    def admit(context: Context) -> Outcome:
        hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def admit_many(contexts: Sequence[Context]) -> list[Outcome | Exception]:
        admit(contexts[0])
        return [Outcome() for _ in contexts]

    def make(context: Context) -> Outcome:
        wish = context.run.input
        return made(wish, hands.driver(wish["pool"]).create_snapshot(wish["name"], wish["chain"], context.check))

    def make_many(contexts: Sequence[Context]) -> list[Outcome | Exception]:
        wishes = [context.run.input for context in contexts]
        requests = [SnapshotRequest(wish["name"], wish["chain"]) for wish in wishes]
        found = hands.driver(wishes[0]["pool"]).create_snapshots(requests, contexts[0].check)
        results = [found[wish["name"]] for wish in wishes]
        return [made(wish, one) if isinstance(one, str) else one for wish, one in zip(wishes, results, strict=True)]

    def made(wish: Mapping[str, Any], identity: str) -> Outcome:
        return Outcome(facts=(SnapshotMade(SnapshotRow(wish["pool"], wish["name"], wish["image"], wish["chain"], identity)),))

    return Machine(
        "snapshot",
        initial="pending",
        steps=(
            Step("pending", admit, "snapshotting", timeout=60, act_many=admit_many),
            Step("snapshotting", make, "ready", timeout=HOUR, act_many=make_many),
        ),
        ends=frozenset({"ready"}),
    )


def activation(hands: Hands) -> Machine:
    """Back under its path after a reboot, or after it was deactivated by hand: no content changes."""

    def activate(context: Context) -> Outcome:
        wish = context.run.input
        hands.driver(wish["pool"]).activate_snapshot(wish["name"], wish.get("identity", ""))
        return Outcome()

    def activate_many(contexts: Sequence[Context]) -> list[Outcome | Exception]:
        wishes = [context.run.input for context in contexts]
        errors = hands.driver(wishes[0]["pool"]).activate_snapshots({wish["name"]: wish.get("identity", "") for wish in wishes})
        return [errors.get(wish["name"]) or Outcome() for wish in wishes]

    steps = (Step("activating", activate, "ready", timeout=HOUR, act_many=activate_many),)
    return Machine("activation", steps, "activating", frozenset({"ready"}))


def replacement(hands: Hands) -> Machine:
    """The new snapshot has the name before the registry knows it, and the old one goes after that.

    Cut off in between, what has the name is the new one: the next run finds it there, and writes it down.
    """

    def admit(context: Context) -> Outcome:
        hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def replace(context: Context) -> Outcome:
        wish = context.run.input
        identity = hands.driver(wish["pool"]).replace_snapshot(wish["name"], wish["chain"], wish["identity"], context.check)
        row = SnapshotRow(wish["pool"], wish["name"], wish["image"], wish["chain"], identity)
        return Outcome({"identity": identity}, (SnapshotMade(row),), f"now of chain {wish['chain'][:12]}")

    def discard(context: Context) -> Outcome:
        wish = context.run.input
        hands.driver(wish["pool"]).discard_replaced(wish["name"], context.run.data["identity"])
        return Outcome()

    steps = (
        Step("pending", admit, "replacing", timeout=60),
        Step("replacing", replace, "discarding", timeout=HOUR),
        Step("discarding", discard, "ready", timeout=HOUR),
    )
    return Machine("replacement", steps, "pending", frozenset({"ready"}))


def pool(hands: Hands) -> Machine:
    def assemble(context: Context) -> Outcome:
        done = hands.driver(context.run.input["name"]).assemble()
        return Outcome(data={"done": done}, message=done)

    steps = (Step("assembling", assemble, "ready", timeout=HOUR),)
    return Machine("pool", steps, "assembling", frozenset({"ready"}))


# ----------------------------------------------------------------------------------------------------- removal


def removal(hands: Hands) -> Machine:
    def remove(context: Context) -> Outcome:
        wish = context.run.input
        driver = hands.driver(wish["pool"])
        if wish["kind"] == Kind.SNAPSHOT:
            driver.remove_snapshot(wish["name"])
            return Outcome(facts=(SnapshotGone(wish["pool"], wish["name"]),))
        driver.remove_volume(wish["chain"])
        hands.index(wish["chain"]).unlink(missing_ok=True)
        return Outcome(facts=(VolumeGone(wish["pool"], wish["chain"]),))

    return Machine(
        "removal", initial="removing", steps=(Step("removing", remove, "gone", timeout=HOUR),), ends=frozenset({"gone"})
    )


# ------------------------------------------------------------------------------------------------------- layer


def layer(hands: Hands) -> Machine:
    def downloaded(run: Run) -> int:
        return hands.layers.spool.held([layer_of(run.input["layer"])])

    steps = (Step("downloading", hands.layers.download, "ready", timeout=12 * HOUR, progress=downloaded),)
    return Machine("layer", steps, "downloading", frozenset({"ready"}))


def machines(hands: Hands, pipelines: Pipelines) -> Sequence[Machine]:
    """All machines, bound to these hands. Whoever has executed a run closes what it may have left in ``pipelines``."""
    copies = snapshot(hands), activation(hands), replacement(hands)
    return (volume(hands, pipelines), *copies, removal(hands), pool(hands), layer(hands))
