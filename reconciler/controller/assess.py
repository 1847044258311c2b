"""An assessment of a host: what manifests declare against what is there, and the plan that follows.

``assess`` is what ``plan``, ``--check`` and the scheduler use; ``assess_images`` does the same for a few images whose manifests
have changed, so that one of ten thousand does not wait for the others; ``assess_offline`` asks no source. All of them only read,
but for half-built leftovers, which ``assess`` discards where the scheduler asks for it. No state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import Guarded, ReconcilerError
from reconciler.host import claims, references
from reconciler.host.calls import Calls
from reconciler.host.context import Host
from reconciler.host.head_requests import ANSWER_SECONDS, FAILED_SECONDS, Answer
from reconciler.host.label_change import pending_change
from reconciler.host.observe import POOL_SECONDS, held, identities, observe, resolutions
from reconciler.host.references import PENDING
from reconciler.image.source.stamp import Head
from reconciler.image.spec import LAYOUT, Layer, Source
from reconciler.manifests import refusals
from reconciler.manifests.selectors import Selector
from reconciler.model import (
    Desired,
    Failure,
    Finding,
    ImageResolution,
    ImageRow,
    ImageSpec,
    Key,
    Kind,
    Observed,
    Plan,
    Resolution,
    Severity,
    SnapshotRow,
    Verb,
    VolumeRow,
)
from reconciler.output import console
from reconciler.planner.goals import chains, refetched, resolved_layers
from reconciler.planner.inputs import Inputs
from reconciler.planner.plan import plan
from reconciler.planner.references import wanted, with_layers
from reconciler.planner.replacement import candidates
from reconciler.planner.unpinned import resolved_digests
from reconciler.policy import force
from reconciler.pool.driver import Driver
from reconciler.registry.marks import Marks, What, grace_ends, next_end, spared, suspending, undeclared, utc
from reconciler.registry.reader import Records

MOST_PRUNED = "50%"
PRUNE_GRACE = "15m"
"""A checkout that shows another branch for some minutes loses nothing."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for on top of the manifests. ``selector`` limits the images; nothing is pruned then."""

    prune: bool = False
    selector: str | None = None
    diff: bool = False
    grace: float = 0.0
    """Seconds for which an image that is no longer declared is kept, in case it comes back."""
    most: str = MOST_PRUNED
    """How many images and how many snapshots one run may prune, or what share of them; a handful always."""
    on_invalid: str = "fail"
    confirm_labels: bool = False
    """Whether the labels of this host count although they have changed."""
    upgrade_layout: bool = False
    """Whether images of an older layout are rebuilt although nothing else of them differs."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was observed, and the plan.

    ``pending`` is the time (monotonic seconds) until which an answer is still due; the plan lacks what depends on it. None where
    nothing is due.
    """

    observed: Observed
    plan: Plan
    desired: Desired
    pending: float | None = None
    retried: Mapping[str, float] = field(default_factory=dict)
    """Images whose failed actions are to be retried at once, and since when (seconds since the epoch): older failures only."""
    at: float = 0.0
    """When it began, in seconds since the epoch."""
    next_end: float = float("inf")
    """When (monotonic seconds) a suspension or a grace period ends next, or a source that failed is to be asked again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds an assessment waits for pools and for sources before it goes on without them."""

    pools: float = POOL_SECONDS
    sources: float = ANSWER_SECONDS + 1


# ------------------------------------------------------------------------------------------------------- assess


def assess_offline(host: Host, *, calls: Calls | None = None, patience: float = POOL_SECONDS) -> Assessment:
    """Observe and plan without asking any source: unpinned layers are taken to be what they were when last applied.

    A pool that has not answered after ``patience`` seconds is unknown; so is, at once, one that a call of ``calls`` waits for.
    """
    marks, now = host.records.marks(), host.threads.time()
    desired = suspending(host.desired, marks, now)
    resolved = references.offline(host, desired)
    desired = with_layers(desired, resolved)
    seen = observe(desired, host.records, host.drivers, lambda _: {}, calls=calls, patience=patience, seeds=host.seeds)
    refused, kept = refusals.of_images(desired, force.current()), spared(marks, now, 0.0)
    observed = replace(seen, references=resolved, refused=refused, spared=kept, asides=host.records.asides())
    observed = replace(observed, claims=claims.current(host))
    images = {name: as_applied(image, observed) for name, image in desired.images.items()}
    desired = replace(desired, images=images)
    observed = replace(observed, holders=held(host.drivers, candidates(desired, observed)))
    return Assessment(observed, plan(desired, observed), desired)


def as_applied(image: ImageSpec, observed: Observed) -> ImageSpec:
    """The image with its unpinned layers pinned to the digests of the chain that its row names, where it has one that fits."""
    row = observed.images.get(image.name)
    top = observed.volumes.get((row.pool, row.chain)) if row and row.chain else None
    if top is None or len(top.digests) != len(image.layers):
        return image
    layers = zip(image.layers, top.digests, strict=True)
    pinned = tuple(
        replace(layer, sha256=layer.sha256 or digest, learnt=layer.sha256 is None or layer.learnt) for layer, digest in layers
    )
    return replace(image, layers=pinned)


def assess(host: Host, wish: Wish, *, patience: Patience = Patience(), clean: Collection[str] = ()) -> Assessment:
    """Observe and plan. Raises Guarded where the wish is too dangerous to carry out.

    In the pools that ``clean`` names, what a run that was cut off has left is discarded before: callers hold the lock.
    """
    marks, now, began = host.records.marks(), host.threads.time(), host.threads.monotonic()
    desired = suspending(host.desired, marks, now)
    selection = selected(desired, wish.selector)
    references.look_again(host, desired, retried(marks), now)
    referred = references.resolved(host, wanted(desired, selection), patience.sources)
    desired = with_layers(desired, referred)
    desired = upgrading(desired, wish, selection)
    observed = observe(
        desired,
        host.records,
        host.drivers,
        lambda sources: resolve(host, sources, patience.sources),
        selection=selection,
        calls=host.calls,
        patience=patience.pools,
        discard=dict.fromkeys(clean, lambda pool, driver: discard_leftovers(host, pool, driver)),
        seeds=host.seeds,
    )
    dated = undeclared(desired, observed.images, observed.snapshots.values(), marks, now)
    observed = replace(
        observed,
        references=referred,
        spooled=host.spool.whole_layers() if referred else frozenset(),
        refused=refusals.of_images(desired, force.current()),
        spared=spared(dated, now, wish.grace if wish.prune else 0.0),
        due={} if wish.prune else {image: utc(end) for image, end in grace_ends(dated, now, wish.grace).items()},
        asides=host.records.asides(),
        claims=claims.current(host),
    )
    observed = replace(observed, holders=held(host.drivers, candidates(desired, observed, selection)))
    change = None if wish.confirm_labels else pending_change(host, now, wish.grace)
    prune = wish.prune and not host.faults and not change
    found = plan(desired, observed, prune=prune, selection=selection)
    if prune:
        guard(desired, observed, found, wish.most)
    if change and (wish.prune or found.held):
        found = replace(found, findings=(*found.findings, change.finding()))
    end = min(next_end(dated, now, wish.grace, desired), change.until if change else float("inf"))
    ends = _next_end(observed, began, began + end - now)
    return Assessment(observed, found, desired, _pending(observed, began), retried(marks), now, ends)


def retried(marks: Marks) -> dict[str, float]:
    return {mark.image: mark.since for mark in marks.values() if mark.what is What.RETRY}


def _next_end(observed: Observed, began: float, ends: float) -> float:
    """``ends``, or the time at which a source that could not be asked is due again, if that is earlier."""
    failed = any(found.error and found.reason != PENDING for found in _answers(observed))
    return min(ends, began + FAILED_SECONDS) if failed else ends


def _answers(observed: Observed) -> Iterator[Resolution | ImageResolution]:
    return chain(observed.resolutions.values(), observed.references.values())


def _pending(observed: Observed, began: float) -> float | None:
    """When the last answer that is still due has to be there; None where none is."""
    due = [began + ANSWER_SECONDS for found in _answers(observed) if found.reason == PENDING]
    due += [began + POOL_SECONDS - pool.waited for pool in observed.pools.values() if 0 < pool.waited < POOL_SECONDS]
    return max(due, default=None)


def with_refetched(host: Host, found: Assessment) -> Assessment:
    """The assessment with a finding for each image that gets a newer layout: how much is fetched again."""
    inputs = Inputs.of(found.desired, found.observed)
    built = {name for action in found.plan.actions if action.kind is Kind.VOLUME for name in action.images}
    images = (found.desired.images[name] for name in sorted(built))
    again = {image.key: layers for image in images if (layers := refetched(image, inputs))}
    heads = host.sources.answers({layer.source for layers in again.values() for layer in layers}) if again else {}
    notes = (refetching(key, layers, heads) for key, layers in again.items())
    return replace(found, plan=replace(found.plan, findings=(*found.plan.findings, *notes)))


def refetching(image: Key, layers: Sequence[Layer], heads: Mapping[Source, Answer | None]) -> Finding:
    sizes = [head.size for layer in layers if isinstance(head := heads.get(layer.source), Head)]
    unknown = len(layers) - len(sizes)
    size = console.size(sum(sizes)) + (f", and {unknown} whose size is unknown" if unknown else "")
    noun = "1 layer is" if len(layers) == 1 else f"{len(layers)} layers are"
    return Finding(Severity.NOTE, image, "LayoutUpgraded", f"gets layout {LAYOUT}: {noun} fetched again ({size})")


def assess_images(host: Host, names: Collection[str], wish: Wish, *, patience: Patience = Patience()) -> Assessment:
    """As ``assess``, for these images: their rows, and what the pools hold of them. Nothing is removed by its plan."""
    few = host.wishing(replace(host.desired, images={name: host.desired.images[name] for name in names}))
    began = host.threads.monotonic()
    desired = suspending(few.desired, few.records.marks(), few.threads.time())
    chosen = selected(desired, wish.selector)
    selection = frozenset(desired.images) if chosen is None else chosen
    referred = references.resolved(few, wanted(desired, selection), patience.sources)
    desired = with_layers(desired, referred)
    desired = upgrading(desired, wish, selection)
    resolved = resolutions(desired, lambda sources: resolve(few, sources, patience.sources), selection)
    rows = RowsOf(few.records, desired, resolved_digests(resolved))
    observed = observe(
        desired,
        rows,
        few.drivers,
        lambda sources: resolved,
        selection=selection,
        whole=False,
        calls=host.calls,
        patience=patience.pools,
        seeds=host.seeds,
    )
    refused = refusals.of_images(desired, force.current())
    observed = replace(observed, claims=claims.current(few))
    holders = held(few.drivers, candidates(desired, observed, selection))
    observed = replace(observed, refused=refused, asides=few.records.asides(), holders=holders, references=referred)
    asked = retried(few.records.marks())
    return Assessment(observed, plan(desired, observed, selection=selection), desired, _pending(observed, began), asked)


@dataclass(frozen=True)
class RowsOf:
    """The registry's rows of a few images (``observe.Rows``): what they have, and what has the names of what they want.

    ``known`` are the digests of unpinned layers.
    """

    records: Records
    desired: Desired
    known: Mapping[Source, str]

    def images(self) -> Mapping[str, ImageRow]:
        return self.records.images(self.desired.images)

    def snapshots(self) -> Mapping[tuple[str, str], SnapshotRow]:
        names = {name for image in self.desired.images.values() for name in image.snapshots}
        return self.records.snapshots(self.desired.images, names)

    def volumes(self) -> Mapping[tuple[str, str], VolumeRow]:
        wanted = {chain for image in self.desired.images.values() for chain in chains(image, resolved_layers(image, self.known))}
        had = {row.chain for row in self.images().values() if row.chain} | {row.chain for row in self.snapshots().values()}
        return self._with_parents(wanted | had)

    def failures(self) -> Mapping[Key, Failure]:
        return {}

    def _with_parents(self, asked: Collection[str]) -> Mapping[tuple[str, str], VolumeRow]:
        """A volume is observed together with its parents: without them they would seem to be missing."""
        found: dict[tuple[str, str], VolumeRow] = {}
        while asked:
            rows = self.records.volumes(asked)
            found |= rows
            asked = {row.parent for row in rows.values() if row.parent} - {chain for _, chain in found}
        return found


MOST_CHANGED = 100
"""Above this number of changed images a full assessment is as fast."""


def changed(before: Desired, now: Desired) -> frozenset[str]:
    """The images whose declaration differs; none where pools differ too, or there are too many.

    Limits of their own count for all images of a volume, so where any image has some, a few can't be planned without the rest.
    """
    if before.pools != now.pools or len({id(image.limits) for image in now.images.values()}) > 1:
        return frozenset()
    names = [name for name, image in now.images.items() if _differs(before.images.get(name), image)]
    return frozenset(names if len(names) <= MOST_CHANGED else ())


def _differs(before: ImageSpec | None, now: ImageSpec) -> bool:
    return before is not now and before != now


def discard_leftovers(host: Host, pool: str, driver: Driver) -> None:
    """Discard what an earlier invocation was cut off from: it is provably ours, and a resumed run begins its volume again."""
    for name in driver.discard_leftovers(*identities(pool, host.records.volumes(), host.records.snapshots())):
        message = f"half-built, from a run that was cut off: {name}"
        host.registry.event(Key(Kind.VOLUME, pool, name), "LeftoverDiscarded", message)


def upgrading(desired: Desired, wish: Wish, selection: Collection[str] | None) -> Desired:
    """The same with the images that ``--upgrade-layout`` means."""
    if not wish.upgrade_layout:
        return desired
    return replace(desired, upgraded=frozenset(desired.images if selection is None else selection))


def selected(desired: Desired, selector: str | None) -> frozenset[str] | None:
    if selector is None:
        return None
    matches = Selector.parse(selector)
    return frozenset(name for name, image in desired.images.items() if matches(image.labels))


HANDFUL = 5
"""As many images, and snapshots, may always be pruned at once: a share of few is too few."""


def guard(desired: Desired, observed: Observed, found: Plan, most: str) -> None:
    """An empty set of manifests is far more often a mistake than a wish, and so is one that has lost most of what it had.

    Snapshots count like images: what was written to one can't be made again.
    """
    if not desired.images and observed.images:
        raise Guarded(
            f"{desired.source} declares no image, and --prune would remove all {len(observed.images)} that this host holds",
            hint="check -f/--manifests; to remove an image, leave at least one other declared",
        )
    held = {"images": len(observed.images), "snapshots": len(observed.snapshots)}
    removed = [(one.pool, one.name) for one in found.actions if (one.verb, one.kind) == (Verb.REMOVE, Kind.SNAPSHOT)]
    declared = Inputs.of(desired, observed).owners.keys() if removed else ()
    going = {
        "images": sum(action.verb is Verb.FORGET for action in found.actions),
        "snapshots": sum(place not in declared or place not in observed.claims for place in removed),
    }
    for noun, count in going.items():
        if count > (limit := prunable(most, held[noun])):
            need = max(going.values())
            raise Guarded(
                f"--prune would remove {count} of {held[noun]} {noun}, and {limit} are the most that one run may",
                hint=f"list them with `reconcile plan --prune-max {need} --prune`; --prune-max {need} allows it",
            )


def prunable(most: str, held: int) -> int:
    """What ``--prune-max`` (a number, or a share as 20%) comes to. Raises ValueError."""
    if most.endswith("%"):
        return max(HANDFUL, held * int(most[:-1]) // 100)
    return int(most)


def resolve(host: Host, sources: Sequence[Source], patience: float = ANSWER_SECONDS + 1) -> Mapping[Source, Resolution]:
    """Ask unpinned sources for their ETags, and the registry for the digests that those bytes were seen to have."""
    found: dict[Source, Resolution] = {}
    for one, head in host.sources.answers(sources, patience).items():
        if head is None:
            found[one] = Resolution(one, error="has not answered yet", reason=PENDING)
        elif isinstance(head, ReconcilerError):
            found[one] = Resolution(one, error=str(head), reason=head.reason)
        else:
            digest = host.records.digest_seen(one, head.etag, head.size) or _applied(host, one, head)
            found[one] = Resolution(one, head.etag, head.size, digest)
    return found


def _applied(host: Host, source: Source, head: Head) -> str | None:
    """The digest that an older version recorded for this ETag, where an image was made of it: it is not fetched anew."""
    digest = host.records.digest_seen_in_bucket(source, head.etag, head.size)
    if digest is None:
        return None
    rows, images = host.records.images(), host.desired.images.values()
    for image in images:
        row = rows.get(image.name)
        places = [number for number, layer in enumerate(image.layers) if layer.source == source and layer.sha256 is None]
        if not places or row is None or row.chain is None:
            continue
        volume = host.records.volumes([row.chain]).get((row.pool, row.chain))
        if volume and any(volume.digests[number : number + 1] == (digest,) for number in places):
            return digest
    return None
