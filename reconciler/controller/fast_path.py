"""A few images ahead of all others: what a service does at once for those whose manifests have just changed.

Called by ``service`` before a pass over everything, which is what keeps a host level; this only spares those who wait for one of
ten thousand images the look at all the others. It makes what these images want and does nothing else: nothing is removed, no pool
is assembled, and what is doubtful is left to the pass that follows. No state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.controller.backoff import Patience
from reconciler.controller.context import Host
from reconciler.controller.converge import Look, Wish, carry_on, resolve, selected
from reconciler.controller.executor import Ledger, Meanwhile
from reconciler.controller.observe import held, observe, resolutions
from reconciler.controller.summary import outcome
from reconciler.image.spec import Source
from reconciler.model import Desired, Failure, ImageRow, ImageSpec, Key, Kind, Plan, SnapshotRow, Verb, VolumeRow
from reconciler.output.progress import Progress
from reconciler.output.result import Result
from reconciler.planner.goals import chains, resolved_layers
from reconciler.planner.plan import plan
from reconciler.planner.replacement import candidates
from reconciler.planner.unpinned import resolved_digests
from reconciler.registry.marks import suspending
from reconciler.registry.reader import Records

MOST = 100
"""More images than that are no fewer than all."""


def changed(before: Desired, now: Desired) -> frozenset[str]:
    """The images that are declared otherwise than before; none where there is more to it, or there are too many.

    Limits of their own count for all images of a volume, so where any image has some, a few can't be told from the rest.
    """
    if before.pools != now.pools or len({id(image.limits) for image in now.images.values()}) > 1:
        return frozenset()
    names = [name for name, image in now.images.items() if _differs(before.images.get(name), image)]
    return frozenset(names if len(names) <= MOST else ())


def _differs(before: ImageSpec | None, now: ImageSpec) -> bool:
    return before is not now and before != now


MAKING = frozenset((Verb.RESOLVE, Verb.BUILD, Verb.CREATE))
"""What adds something. An image's row is written besides: it is what it says of what has been added."""


def converge(
    host: Host,
    names: Collection[str],
    wish: Wish,
    progress: Progress,
    *,
    stop: threading.Event,
    patience: Patience,
    only: Collection[Verb] | None = None,
    busy: Collection[Key] = (),
    meanwhile: Meanwhile = lambda batch: None,
) -> Result | None:
    """Carry out what these images want; None where that is nothing, or nothing that can be done without looking at the rest.

    Nothing is done where that would take more than ``only`` these verbs (and an image's row, which says what was done), or where
    somebody is ``busy`` with any of it.
    """
    started = time.monotonic()
    few = host.wishing(replace(host.desired, images={name: host.desired.images[name] for name in names}))
    now = look(few, wish)
    if not now.plan.actions or any(action.verb is Verb.ASSEMBLE for action in now.plan.actions):
        return None
    if not within(now.plan, only) or any(action.key in busy for action in now.plan.actions):
        return None
    ledger = Ledger(patience.withheld(now.plan.actions, (), started))

    def see() -> Look:
        """What turns out to need more, once layers are known, is left to the pass that follows."""
        seen = look(few, wish)
        return seen if within(seen.plan, only) else replace(seen, plan=Plan(()))

    with progress:
        now = carry_on(few, now, see, ledger, progress, stop=stop, meanwhile=meanwhile)
    patience.learn(ledger.done.values(), time.monotonic())
    return outcome(few.name, few.desired, now.observed, now.plan, ledger, time.monotonic() - started)


def within(plan: Plan, only: Collection[Verb] | None) -> bool:
    if only is None:
        return True
    return all(action.verb in only or (action.verb is Verb.RECORD and action.kind is Kind.IMAGE) for action in plan.actions)


def look(few: Host, wish: Wish) -> Look:
    """As ``loop.look``, at these images' rows and at what the pools hold of them."""
    desired = suspending(few.desired, few.records.marks(), time.time())
    chosen = selected(desired, wish.selector)
    selection = frozenset(desired.images) if chosen is None else chosen
    resolved = resolutions(desired, lambda sources: resolve(few, sources), selection)
    rows = Few(few.records, desired, resolved_digests(resolved))
    observed = observe(desired, rows, few.drivers, lambda sources: resolved, selection=selection, whole=False)
    observed = replace(observed, holders=held(few.drivers, candidates(desired, observed, selection)))
    return Look(observed, plan(desired, observed, selection=selection))


@dataclass(frozen=True)
class Few:
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
        """A volume that is there was made on its parents, and what is looked at without them would seem to lack them."""
        found: dict[tuple[str, str], VolumeRow] = {}
        while asked:
            rows = self.records.volumes(asked)
            found |= rows
            asked = {row.parent for row in rows.values() if row.parent} - {chain for _, chain in found}
        return found
