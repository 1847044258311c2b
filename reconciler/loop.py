"""Wake, settle, observe, plan, run, sleep: the loop that makes a host what its manifests say.

Called by ``cli`` with a Host. ``look`` observes and plans (``plan`` and ``--check`` end there); ``converge`` carries plans out
until the next one is empty or nothing is left to try; ``watch`` does so for ever. No state: every pass reads the whole truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler import lifecycle, manifests, report
from reconciler.errors import CommandError, Guarded, NotConverged, ReconcilerError
from reconciler.execute import Ledger, carry_out
from reconciler.host import Host
from reconciler.image import source
from reconciler.image.spec import Source
from reconciler.labels import Selector
from reconciler.model import Desired, ImageSpec, Kind, Observed, Plan, Resolution, Result, Verb
from reconciler.observe import identities, observe
from reconciler.outcome import outcome
from reconciler.plan import plan
from reconciler.watching import Watch

HISTORY = 10_000
"""How many of the newest events, and of the newest runs, are kept."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for on top of the manifests. ``selector`` limits the images; nothing is pruned then."""

    prune: bool = False
    selector: str | None = None
    diff: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """One pass of observing and planning."""

    observed: Observed
    plan: Plan


# ------------------------------------------------------------------------------------------------------- look


def look_offline(host: Host) -> Look:
    """Observe and plan without asking any source: unpinned layers are taken to be what they were when last applied."""
    observed = observe(host.desired, host.records, host.drivers, lambda sources: {})
    images = {name: as_applied(image, observed) for name, image in host.desired.images.items()}
    return Look(observed, plan(replace(host.desired, images=images), observed))


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
    selection = selected(host.desired, wish.selector)
    observed = observe(host.desired, host.records, host.drivers, lambda sources: resolve(host, sources), selection=selection)
    guard(host.desired, observed, wish)
    return Look(observed, plan(host.desired, observed, prune=wish.prune, selection=selection))


def selected(desired: Desired, selector: str | None) -> frozenset[str] | None:
    if selector is None:
        return None
    matches = Selector.parse(selector)
    return frozenset(name for name, image in desired.images.items() if matches(image.labels))


def guard(desired: Desired, observed: Observed, wish: Wish) -> None:
    """An empty set of manifests is far more often a mistake than a wish."""
    if wish.prune and not desired.images and observed.images:
        raise Guarded(
            f"{desired.source} declares no image, and --prune would remove all {len(observed.images)} that this host holds",
            hint="check -f/--manifests; to remove an image, leave at least one other declared",
        )


def resolve(host: Host, sources: Sequence[Source]) -> Mapping[Source, Resolution]:
    """Ask unpinned sources for their ETags, and the registry for the digests that those bytes were seen to have."""
    found: dict[Source, Resolution] = {}
    for one, head in source.head(sources).items():
        if isinstance(head, ReconcilerError):
            found[one] = Resolution(one, error=str(head), reason=head.reason)
        else:
            found[one] = Resolution(one, head.etag, head.size, host.records.digest_seen(one, head.etag, head.size))
    return found


# --------------------------------------------------------------------------------------------------- converge


def converge(host: Host, wish: Wish, progress: report.Progress, *, stop: threading.Event) -> Result:
    """Carry out plans until one is empty, or all that is left has failed. Raises NotConverged when time is up."""
    started = time.monotonic()
    ledger = Ledger()
    with deadline(host.settings.timeout, stop) as expired, progress:
        discard_leftovers(host)
        now = look(host, wish)
        if wish.diff:
            report.note_plan(now.plan)
        while not stop.is_set() and (todo := ledger.fresh(now.plan.actions)):
            for done in carry_out(host, todo, progress, stop=stop):
                ledger.done[done.action.key] = done
            if any(action.verb is Verb.ASSEMBLE for action in todo):
                discard_leftovers(host)
            now = look(host, wish)
        if expired.is_set():
            raise NotConverged(f"not converged within {host.settings.timeout:g} s", hint="run again: it goes on where it stopped")
    if any(pool.state and pool.state.leftovers for pool in now.observed.pools.values()):
        discard_leftovers(host)  # what was busy at the beginning (a builder that outlived its parent) has let go by now
    tidy(host, now.plan)
    if ledger.done:
        host.registry.prune_history(HISTORY)
    return outcome(host.name, host.desired, now.observed, now.plan, ledger, time.monotonic() - started)


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
            host.registry.event(Kind.VOLUME, name, "LeftoverDiscarded", f"half-built, from a run that was cut off: {name}")
    lifecycle.discard_unfinished_indexes(host.settings.indexes)


def tidy(host: Host, left: Plan) -> None:
    """End runs that nothing wants any more; keep layers in the spool only where something is to be built from them."""
    wanted = {action.key for action in left.actions}
    for run in host.records.open_runs():
        if str(run.subject) not in wanted:
            host.engine.cancel(run.id, "no longer wanted")
    keep = {layer.sha256 for action in left.actions for layer in action.layers if layer.sha256}
    if host.settings.spool.exists() and not any(action.verb is Verb.RESOLVE for action in left.actions):
        host.spool.sweep(keep)


# ------------------------------------------------------------------------------------------------------- watch


def watch(host: Host, wish: Wish, progress: report.Progress, *, stop: threading.Event) -> None:
    """Converge now, and again whenever something may have changed, until asked to stop (see ``watching``).

    Manifests that can't be read are complained about and change nothing: what was declared last stays as it is.
    """
    now = host
    watch = Watch(host.settings.manifests, lambda: now.pulse(), stop=stop, resync=host.settings.resync)
    for _ in watch.wakes():
        try:
            now = replace(host, desired=manifests.load(host.settings.manifests, host_labels=host.settings.host_labels))
            report.show_result(converge(now, wish, progress, stop=stop))
        except CommandError as error:
            report.note(f"error: {error}")
        watch.felt()
