"""Which actions of a plan may be queued, and what each occupies while it runs. Pure; called by ``scheduler``."""

from __future__ import annotations

from collections.abc import Collection

from reconciler.controller.executor import approval
from reconciler.controller.todo import Slot
from reconciler.model import Action, Kind, Plan, Verb

ADDING = frozenset((Verb.RESOLVE, Verb.BUILD, Verb.CREATE))
"""What only adds. Where a look at some images asks for more than that, all of it waits for the look at everything."""

DESTRUCTIVE = frozenset((Verb.REPLACE, Verb.REMOVE, Verb.FORGET))
"""What needs a plan that is complete for its object, made from the manifests as they are now."""

TOGETHER = frozenset((Verb.CREATE, Verb.ACTIVATE))
"""What is done for many snapshots of a pool in one job."""


def is_admissible(action: Action, approved: Collection[str] | None, *, current: bool) -> bool:
    """Whether the action may be queued. ``current`` says that its plan was made from the manifests as they are now."""
    if approved is not None and approval(action) not in approved:
        return False
    if not (action.chain or action.kind in (Kind.LAYER, Kind.IMAGE, Kind.POOL)):
        return False  # provisional: its layers are not known yet
    if action.verb in DESTRUCTIVE and not current:
        return False
    # Whether a snapshot is in use is seen by the look just before it is replaced, not by the one before its volume was built.
    return action.verb is not Verb.REPLACE or not action.after


def only_adds(plan: Plan) -> bool:
    """Whether a plan only adds something (and records in an image's row what was added)."""
    return all(one.verb in ADDING or (one.verb is Verb.RECORD and one.kind is Kind.IMAGE) for one in plan.actions)


def slot_of(action: Action, local: Collection[str]) -> Slot:
    """What the action occupies while it runs; ``local`` are the digests of the layers that are whole in the spool."""
    if action.kind is Kind.IMAGE or action.verb is Verb.RECORD:
        return "row", ""
    if action.verb is Verb.RESOLVE:
        return "download", ""
    if action.kind is Kind.VOLUME and action.verb in (Verb.BUILD, Verb.REBUILD):
        is_local = all(not layer.source.is_s3 or layer.sha256 in local for layer in action.layers)
        return ("build" if is_local else "download"), ""
    return "pool", action.pool or action.name
