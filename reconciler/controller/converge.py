"""Wake, settle, observe, plan, run, sleep: the loop that makes a host what its manifests say.

Called by ``cli`` with a Host. ``look`` observes and plans (``plan`` and ``--check`` end there); ``converge`` carries plans out
until the next one is empty or nothing is left to try; ``service`` does so for ever. No state: every pass reads the whole truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.controller import machines
from reconciler.controller.backoff import Patience
from reconciler.controller.context import Host
from reconciler.controller.executor import Ledger, Meanwhile, approval, carry_out
from reconciler.controller.observe import held, identities, observe
from reconciler.controller.summary import outcome
from reconciler.engine.definitions import Status
from reconciler.errors import Guarded, LayerCorrupt, LayerRefused, NotConverged, ReconcilerError
from reconciler.image.source import s3
from reconciler.image.spec import Source
from reconciler.manifests.selectors import Selector
from reconciler.model import Action, Desired, ImageSpec, Key, Kind, Observed, Plan, Resolution, Verb
from reconciler.output import console
from reconciler.output.progress import Progress
from reconciler.output.result import Result
from reconciler.planner.plan import plan
from reconciler.planner.replacement import candidates
from reconciler.registry.marks import Mark, Marks, What, spared, suspending
from reconciler.telemetry import tracing

HISTORY = 10_000
"""How many of the newest events, and of the newest runs, are kept."""


MOST_PRUNED = "50%"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for on top of the manifests. ``selector`` limits the images; nothing is pruned then."""

    prune: bool = False
    selector: str | None = None
    diff: bool = False
    grace: float = 0.0
    """Seconds for which an image that is no longer declared is kept, in case it comes back."""
    most: str = MOST_PRUNED
    """How many of the images one run may prune, or what share of them; a handful always."""
    on_invalid: str = "fail"


@dataclass(frozen=True, slots=True)
class Look:
    """One pass of observing and planning."""

    observed: Observed
    plan: Plan


# ------------------------------------------------------------------------------------------------------- look


def look_offline(host: Host) -> Look:
    """Observe and plan without asking any source: unpinned layers are taken to be what they were when last applied."""
    marks, now = host.records.marks(), time.time()
    desired = suspending(host.desired, marks, now)
    observed = replace(observe(desired, host.records, host.drivers, lambda sources: {}), spared=spared(marks, now, 0.0))
    images = {name: as_applied(image, observed) for name, image in desired.images.items()}
    desired = replace(desired, images=images)
    observed = replace(observed, holders=held(host.drivers, candidates(desired, observed)))
    return Look(observed, plan(desired, observed))


def as_applied(image: ImageSpec, observed: Observed) -> ImageSpec:
    """The image with its unpinned layers pinned to the digests of the chain that its row names, where it has one that fits."""
    row = observed.images.get(image.name)
    top = observed.volumes.get((row.pool, row.chain)) if row and row.chain else None
    if top is None or len(top.digests) != len(image.layers):
        return image
    layers = zip(image.layers, top.digests, strict=True)
    return replace(image, layers=tuple(replace(layer, sha256=layer.sha256 or digest) for layer, digest in layers))


def look(host: Host, wish: Wish) -> Look:
    """Observe and plan; changes nothing. Raises Guarded where the wish is too dangerous to carry out."""
    marks, now = host.records.marks(), time.time()
    desired = suspending(host.desired, marks, now)
    selection = selected(desired, wish.selector)
    observed = observe(desired, host.records, host.drivers, lambda sources: resolve(host, sources), selection=selection)
    observed = replace(
        observed,
        spared=spared(undeclared(desired, observed, marks, now), now, wish.grace),
        holders=held(host.drivers, candidates(desired, observed, selection)),
    )
    prune = wish.prune and not host.faults and not host.relabelled
    if prune:
        guard(desired, observed, wish)
    return Look(observed, plan(desired, observed, prune=prune, selection=selection))


def undeclared(desired: Desired, observed: Observed, marks: Marks, now: float) -> Marks:
    """The marks with one for each image that has just been found to be declared no more."""
    orphans = observed.images.keys() - desired.images.keys()
    new = {(name, What.UNDECLARED): Mark(name, What.UNDECLARED, since=now) for name in orphans}
    return new | {key: mark for key, mark in marks.items() if key[1] is not What.UNDECLARED or key[0] in orphans}


def selected(desired: Desired, selector: str | None) -> frozenset[str] | None:
    if selector is None:
        return None
    matches = Selector.parse(selector)
    return frozenset(name for name, image in desired.images.items() if matches(image.labels))


HANDFUL = 5
"""As many images may always be pruned at once: a share of few is too few."""


def guard(desired: Desired, observed: Observed, wish: Wish) -> None:
    """An empty set of manifests is far more often a mistake than a wish, and so is one that has lost most of what it had."""
    if not desired.images and observed.images:
        raise Guarded(
            f"{desired.source} declares no image, and --prune would remove all {len(observed.images)} that this host holds",
            hint="check -f/--manifests; to remove an image, leave at least one other declared",
        )
    kept = {*desired.images, *observed.spared}
    going = [name for name, row in observed.images.items() if name not in kept and not row.retain]
    most = prunable(wish.most, len(observed.images))
    if len(going) > most:
        raise Guarded(
            f"--prune would remove {len(going)} of {len(observed.images)} images, and {most} are the most that one run may",
            hint=f"look at them with `reconcile plan --prune-max {len(going)} --prune`; --prune-max {len(going)} lets them go",
        )


def prunable(most: str, images: int) -> int:
    """What ``--prune-max`` (a number, or a share as 20%) comes to. Raises ValueError."""
    if most.endswith("%"):
        return max(HANDFUL, images * int(most[:-1]) // 100)
    return int(most)


def resolve(host: Host, sources: Sequence[Source]) -> Mapping[Source, Resolution]:
    """Ask unpinned sources for their ETags, and the registry for the digests that those bytes were seen to have."""
    found: dict[Source, Resolution] = {}
    for one, head in s3.head(sources).items():
        if isinstance(head, ReconcilerError):
            found[one] = Resolution(one, error=str(head), reason=head.reason)
        else:
            found[one] = Resolution(one, head.etag, head.size, host.records.digest_seen(one, head.etag, head.size))
    return found


# --------------------------------------------------------------------------------------------------- converge


def converge(
    host: Host,
    wish: Wish,
    progress: Progress,
    *,
    stop: threading.Event,
    patience: Patience | None = None,
    approved: Callable[[Look], Iterable[Action]] | None = None,
    before_looking: Callable[[], None] = lambda: None,
    meanwhile: Meanwhile = lambda batch: None,
    outdated: Callable[[], bool] = lambda: False,
) -> Result:
    """Carry out plans until one is empty, or all that is left has failed. Raises NotConverged when time is up.

    A service has ``patience`` with what has failed before. ``approved`` is shown the first look, before anything is changed; it
    gives the actions that may be carried out, or raises. Nothing is removed once the manifests are ``outdated``.
    """
    started = time.monotonic()
    ledger = Ledger()
    with tracing.span("pass", revision=host.revision), deadline(host.settings.timeout, stop) as expired, progress:
        if approved is not None:
            ledger.approved = frozenset(map(approval, approved(look(host, wish))))
        discard_leftovers(host)

        def see() -> Look:
            before_looking()
            return look(host, replace(wish, prune=wish.prune and not outdated()))

        now = see()
        if wish.diff:
            console.note_plan(now.plan)
        retries = [mark for mark in host.records.marks().values() if mark.what is What.RETRY]
        release_runs(host, now.plan, {mark.image for mark in retries})
        if patience is not None:
            ledger.done |= patience.withheld(now.plan.actions, {mark.image for mark in retries}, started)
        now = carry_on(host, now, see, ledger, progress, stop=stop, meanwhile=meanwhile)
        if expired.is_set():
            raise NotConverged(f"not converged within {host.settings.timeout:g} s", hint="run again: it goes on where it stopped")
    if patience is not None:
        patience.learn(ledger.done.values(), time.monotonic())
        patience.await_release(time.monotonic(), awaited=any(one.reason == "SnapshotInUse" for one in now.plan.findings))
    if not outdated():  # else there is more than this pass knows of, and the next one comes at once
        clean_up(host, now, patience, retries)
    if host.relabelled:
        console.note("note: the labels of this host have changed since the last run, so nothing is pruned in this one", "warning")
    if host.records.labels() != host.facts.labels:
        host.registry.remember_labels(host.facts.labels)
    if ledger.done:
        host.registry.prune_history(HISTORY)
    return outcome(host.name, host.desired, now.observed, now.plan, ledger, time.monotonic() - started)


def clean_up(host: Host, now: Look, patience: Patience | None, retried: Collection[Mark]) -> None:
    """After a pass: what was begun and is not wanted any more goes."""
    if any(pool.state and pool.state.leftovers for pool in now.observed.pools.values()):
        discard_leftovers(host)  # what was busy at the beginning (a builder that outlived its parent) has let go by now
    if patience is not None:
        patience.forget_all_but(now.plan.actions)
    tidy(host, now.plan)
    note_undeclared(host, retried)


def carry_on(
    host: Host,
    now: Look,
    see: Callable[[], Look],
    ledger: Ledger,
    progress: Progress,
    *,
    stop: threading.Event,
    meanwhile: Meanwhile = lambda batch: None,
) -> Look:
    """Carry out what can be done, look again, and so on, until nothing is left to try; the last look."""
    while not stop.is_set() and (todo := ledger.fresh(now.plan.actions)):
        for done in carry_out(host, todo, progress, stop=stop, meanwhile=meanwhile):
            ledger.done[done.action.key] = done
        if any(action.verb is Verb.ASSEMBLE for action in todo):
            discard_leftovers(host)
        now = see()
    return now


class deadline:
    """Sets ``stop`` when the time is up, and remembers that it was the time."""

    def __init__(self, seconds: float | None, stop: threading.Event) -> None:
        self._expired = threading.Event()
        self._stop = stop
        self._timer = threading.Timer(seconds, self._expire) if seconds else None

    def _expire(self) -> None:
        self._expired.set()
        self._stop.set()

    def __enter__(self) -> threading.Event:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self._expired

    def __exit__(self, *exc: object) -> None:
        if self._timer:
            self._timer.cancel()


def discard_leftovers(host: Host) -> None:
    """What an earlier invocation was cut off from is provably ours, and a resumed run begins its volume again anyway."""
    for pool, driver in host.drivers.items():
        try:
            removed = driver.discard_leftovers(*identities(pool, host.records.volumes(), host.records.snapshots()))
        except ReconcilerError:
            continue  # the pool can't be used: observing it says why
        for name in removed:
            host.registry.event(
                Key(Kind.VOLUME, pool, name), "LeftoverDiscarded", f"half-built, from a run that was cut off: {name}"
            )
    machines.discard_unfinished_indexes(host.settings.indexes)


def release_runs(host: Host, plan: Plan, images: Collection[str]) -> None:
    """Runs in state needs-operator go on where they are for these images, which ``reconcile retry`` named."""
    keys = {action.key for action in plan.actions if not {*action.images, action.image}.isdisjoint(images)}
    for run in host.records.open_runs() if keys else ():
        if run.status is Status.NEEDS_OPERATOR and run.subject in keys:
            host.engine.release(run.id)


def note_undeclared(host: Host, retried: Collection[Mark]) -> None:
    """Remember since when an image is declared no more, and forget it once it is again, or has gone; and what was tried again."""
    if host.faults:
        return
    marks = host.records.marks()
    orphans = host.records.images().keys() - host.desired.images.keys()
    for (name, what), mark in marks.items():
        if (what is What.UNDECLARED and name not in orphans) or mark in retried:
            host.registry.unmark(name, what)
    for name in orphans:
        if (name, What.UNDECLARED) not in marks:
            host.registry.mark(Mark(name, What.UNDECLARED, since=time.time()))


def tidy(host: Host, left: Plan) -> None:
    """End runs that nothing wants any more; keep layers in the spool only where something is to be built from them.

    Of layers that were refused nothing will be: they are not kept for another try, which would come to the same.
    """
    wanted = {action.key for action in left.actions}
    for run in host.records.open_runs():
        if run.subject not in wanted:
            host.engine.cancel(run.id, "no longer wanted")
    failures = host.records.failures()
    refused = {key for key, failure in failures.items() if failure.reason in (LayerRefused.reason, LayerCorrupt.reason)}
    hopeful = [action for action in left.actions if action.key not in refused]
    keep = {layer.sha256 for action in hopeful for layer in action.layers if layer.sha256}
    if host.settings.spool.exists() and not any(action.verb is Verb.RESOLVE for action in left.actions):
        host.spool.sweep(keep)
