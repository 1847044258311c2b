"""The machines: volume (downloading, validating, provisioning), snapshot (snapshotting), activation, growth, replacement,
removal, the assembly of a pool, and the fetch of an unpinned layer or of a compressed archive.

``executor`` opens runs of these machines with the inputs that ``run_input`` makes; ``engine`` executes them. No state: builds
under way are in ``pipelines``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.dataclass import asdict
from reconciler.engine.definitions import Context, Machine, Outcome, Run, Step
from reconciler.engine.facts import SnapshotGone, SnapshotGrown, SnapshotMade, VolumeGone, VolumeSealed
from reconciler.errors import NeedsOperator, ReconcilerError
from reconciler.host.pipelines import Hands, Pipelines, VolumePlan, layer_input, layer_of
from reconciler.image.builder import notes
from reconciler.model import Action, Kind, SnapshotRow, Verb, VolumeRow
from reconciler.pool.driver import SnapshotRequest

HOUR = 3600.0


def run_input(action: Action) -> tuple[str, dict[str, Any]]:
    """The machine that carries out an action, and the run's input: plain JSON, all that a resumed run needs."""
    if action.verb is Verb.RESOLVE:
        wanted = {"layer": layer_input(action.layers[0])}
        if action.unpack is None:
            return "layer", wanted
        return "archive", wanted | {"limits": asdict(action.limits), "reference": asdict(action.unpack)}
    if action.verb is Verb.ASSEMBLE:
        return "pool", {"name": action.name}
    common = {"pool": action.pool, "chain": action.chain}
    if action.verb is Verb.ACTIVATE:
        seed = {"image": action.image, "custom": action.custom, "sizes": [0, action.size]} if action.custom else {}
        return "activation", common | {"name": action.name, "identity": action.identity} | seed
    if action.verb is Verb.GROW:
        return "growth", {"pool": action.pool, "name": action.name, "identity": action.identity, "size": action.size}
    if action.verb is Verb.REPLACE:
        return "replacement", common | {"name": action.name, "image": action.image, "identity": action.identity} | _custom(action)
    if action.verb is Verb.REMOVE:
        return "removal", common | {"kind": action.kind.value, "name": action.name}
    if action.kind is Kind.SNAPSHOT:
        aside = {"aside": action.identity} if action.identity else {}
        return "snapshot", common | {"name": action.name, "image": action.image} | aside | _custom(action)
    layers = [layer_input(layer) for layer in action.layers]
    return "volume", common | {
        "parent": action.parent,
        "size": action.size,
        "layers": layers,
        "limits": asdict(action.limits),
        "bytes_per_inode": action.bytes_per_inode,
    }


def _custom(action: Action) -> dict[str, Any]:
    """What a snapshot gets besides its chain: a digest, no content."""
    return {"custom": action.custom, "size": action.size} if action.custom else {}


# ------------------------------------------------------------------------------------------------------ volume


class VolumeMachine:
    """Steps of a volume's run; the states are milestones on one stream."""

    def __init__(self, hands: Hands, pipelines: Pipelines) -> None:
        self._hands = hands
        self._pipelines = pipelines

    def admit(self, context: Context) -> Outcome:
        """The pool can be used; the driver checks space when the volume is begun."""
        self._hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def download(self, context: Context) -> Outcome:
        from reconciler.image.builder.parent import Milestone

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
        from reconciler.image.builder.parent import Milestone

        _, report = self._pipelines.reach(context, Milestone.ACCEPTED)
        noted = notes.of_layers(VolumePlan.of(context.run.input).layers, report.layers)
        return Outcome(data={"layers": [dict(layer) for layer in report.layers]}, message=noted)

    def provision(self, context: Context) -> Outcome:
        from reconciler.image import e2fsck
        from reconciler.image.builder.parent import Milestone

        plan, run = VolumePlan.of(context.run.input), context.run.id
        try:
            pipeline, report = self._pipelines.reach(context, Milestone.WRITTEN)
            checked = e2fsck.check(pipeline.volume.path, proceed=context.check)
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
        driver = hands.driver(wish["pool"])
        if "aside" in wish:
            driver.set_aside(wish["name"], wish["aside"])
        with hands.customizing.editor(context.check, [wish]) as editor:
            custom = hands.customizing.custom(wish, editor)
            return made(wish, driver.create_snapshot(wish["name"], wish["chain"], context.check, custom))

    def one_of(context: Context) -> Outcome | Exception:
        try:
            return make(context)
        except ReconcilerError as error:
            return error

    def make_many(contexts: Sequence[Context]) -> list[Outcome | Exception]:
        if any("aside" in context.run.input for context in contexts):
            return [one_of(context) for context in contexts]
        wishes = [context.run.input for context in contexts]
        with hands.customizing.editor(contexts[0].check, wishes) as editor:
            requests = [SnapshotRequest(wish["name"], wish["chain"], hands.customizing.custom(wish, editor)) for wish in wishes]
            found = hands.driver(wishes[0]["pool"]).create_snapshots(requests, contexts[0].check)
        results = [found[wish["name"]] for wish in wishes]
        return [made(wish, one) if isinstance(one, str) else one for wish, one in zip(wishes, results, strict=True)]

    def made(wish: Mapping[str, Any], identity: str) -> Outcome:
        return Outcome(facts=(SnapshotMade(snapshot_row(wish, identity)),))

    return Machine(
        "snapshot",
        initial="pending",
        steps=(
            Step("pending", admit, "snapshotting", timeout=60, act_many=admit_many),
            Step("snapshotting", make, "ready", timeout=HOUR, act_many=make_many),
        ),
        ends=frozenset({"ready"}),
    )


def snapshot_row(wish: Mapping[str, Any], identity: str) -> SnapshotRow:
    custom, size = wish.get("custom", ""), wish.get("size", 0)
    return SnapshotRow(wish["pool"], wish["name"], wish["image"], wish["chain"], identity, custom, size)


def activation(hands: Hands) -> Machine:
    """Back under its path after a reboot, or after it was deactivated by hand: no content changes."""

    def activate(context: Context) -> Outcome:
        wish = context.run.input
        hands.driver(wish["pool"]).activate_snapshot(wish["name"], wish.get("identity", ""))
        return seeded(wish)

    def seeded(wish: Mapping[str, Any]) -> Outcome:
        hands.customizing.seed(wish)
        return Outcome()

    def seeded_or_error(wish: Mapping[str, Any]) -> Outcome | Exception:
        try:
            return seeded(wish)
        except ReconcilerError as error:
            return error

    def activate_many(contexts: Sequence[Context]) -> list[Outcome | Exception]:
        wishes = [context.run.input for context in contexts]
        errors = hands.driver(wishes[0]["pool"]).activate_snapshots({wish["name"]: wish.get("identity", "") for wish in wishes})
        return [errors.get(wish["name"]) or seeded_or_error(wish) for wish in wishes]

    steps = (Step("activating", activate, "ready", timeout=HOUR, act_many=activate_many),)
    return Machine("activation", steps, "activating", frozenset({"ready"}))


def growth(hands: Hands) -> Machine:
    """A larger device or file, in use or not; its content does not change, the file system in it included."""

    def grow(context: Context) -> Outcome:
        wish = context.run.input
        identity = hands.driver(wish["pool"]).grow_snapshot(wish["name"], wish["identity"], wish["size"])
        fact = SnapshotGrown(wish["pool"], wish["name"], identity, wish["size"])
        return Outcome(facts=(fact,), message=f"{wish['size']} bytes")

    steps = (Step("growing", grow, "ready", timeout=HOUR),)
    return Machine("growth", steps, "growing", frozenset({"ready"}))


def replacement(hands: Hands) -> Machine:
    """The new snapshot has the name before the registry records it, and the old one goes after that.

    The driver's intents in the registry prove which of both has the name after an interruption.
    """

    def admit(context: Context) -> Outcome:
        hands.driver(context.run.input["pool"]).space()
        return Outcome()

    def replace(context: Context) -> Outcome:
        wish = context.run.input
        with hands.customizing.editor(context.check, [wish]) as editor:
            custom, driver = hands.customizing.custom(wish, editor), hands.driver(wish["pool"])
            identity = driver.replace_snapshot(wish["name"], wish["chain"], wish["identity"], context.check, custom)
        row = snapshot_row(wish, identity)
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


def archive(hands: Hands) -> Machine:
    steps = (Step("downloading", hands.layers.unpack, "ready", timeout=12 * HOUR),)
    return Machine("archive", steps, "downloading", frozenset({"ready"}))


def machines(hands: Hands, pipelines: Pipelines) -> Sequence[Machine]:
    """All machines, bound to these hands. Whoever has executed a run closes what it may have left in ``pipelines``."""
    copies = snapshot(hands), activation(hands), growth(hands), replacement(hands)
    return (volume(hands, pipelines), *copies, removal(hands), pool(hands), layer(hands), archive(hands))
