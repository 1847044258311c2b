"""The work queue: which actions of a plan may be queued, what each occupies while it runs, which are ready, and which is next.

An action is ready once all actions that it comes after have succeeded. Used by ``scheduler``, in its thread only. State: the
actions that wait.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from reconciler.controller.executor import approval
from reconciler.dataclass import replace
from reconciler.model import Action, Key, Kind, Plan, Verb
from reconciler.settings import Settings

BLOCKED_SECONDS = 5.0
"""After so long what is queued and has no slot keeps no assessment waiting."""

Slot = tuple[str, str]
"""What an action needs one of: ``("download", ENDPOINTS)``, ``("build", "")``, ``("pool", NAME)``, ``("row", "")``.

ENDPOINTS are those of the layers that are transferred, with spaces between them.
"""


class Todo:
    """Actions by key. ``slot_of`` gives what an action occupies while it runs."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Action] = {}
        self._blockers: dict[Key, set[Key]] = {}
        self._dependents: defaultdict[Key, set[Key]] = defaultdict(set)
        self._ready: defaultdict[Slot, dict[Key, Action]] = defaultdict(dict)
        self._slots: dict[Key, Slot] = {}
        self._resting: dict[Key, tuple[Action, Slot, float]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def clear(self) -> None:
        """Remove all but what rests: that is kept as long as it is planned (``keep``)."""
        for part in (self._waiting, self._blockers, self._dependents, self._ready, self._slots):
            part.clear()

    def add(self, action: Action, slot: Slot, running: Collection[Key]) -> None:
        """Add an action whose prerequisites were added before, are ``running``, or are done."""
        self.discard(action.key)
        self._resting.pop(action.key, None)
        key, blockers = (
            action.key,
            {one for one in action.after if one in self._waiting or one in self._resting or one in running},
        )
        self._waiting[key], self._slots[key] = action, slot
        if blockers:
            self._blockers[key] = blockers
            for one in blockers:
                self._dependents[one].add(key)
        else:
            self._ready[slot][key] = action

    @property
    def resting(self) -> tuple[Action, ...]:
        """The actions whose runs wait for their next attempt; they occupy no slot."""
        return tuple(action for action, _, _ in self._resting.values())

    def rests(self, action: Action) -> bool:
        found = self._resting.get(action.key)
        return found is not None and replace(found[0], because="", after=()) == replace(action, because="", after=())

    def rest(self, action: Action, slot: Slot, until: float) -> None:
        """Make an action ready again at that time (monotonic seconds); what comes after it goes on waiting."""
        self._resting[action.key] = (action, slot, until)

    def rested(self, now: float) -> None:
        """Make ready the actions whose time has come."""
        for action, slot, until in list(self._resting.values()):
            if until <= now:
                self.add(replace(action, after=()), slot, ())

    def keep(self, keys: Collection[Key]) -> frozenset[str]:
        """Remove what rests and is not among these; return the pools in which its runs may have left something half-done."""
        gone = [action for action, _, _ in self._resting.values() if action.key not in keys]
        self._resting = {key: found for key, found in self._resting.items() if key in keys}
        return frozenset(action.pool for action in gone if action.pool)

    def discard(self, key: Key) -> Action | None:
        """Remove an action; what comes after it goes on waiting for its ``finished``."""
        action = self._waiting.pop(key, None)
        if action is not None:
            self._ready[self._slots.pop(key)].pop(key, None)
            for one in self._blockers.pop(key, ()):
                self._dependents[one].discard(key)
        return action

    def discard_all(self, verbs: Collection[Verb]) -> None:
        """Remove every action with one of these verbs, those that rest included."""
        for action in (*self._waiting.values(), *self.resting):
            if action.verb in verbs:
                self.discard(action.key)
                self._resting.pop(action.key, None)

    def finished(self, key: Key, *, ok: bool) -> Iterator[Action]:
        """An action has ended. Those that needed it become ready, or are removed and returned where it failed."""
        for dependent in sorted(self._dependents.pop(key, ())):
            if not ok:
                action = self.discard(dependent)
                if action is not None:
                    yield action
                    yield from self.finished(dependent, ok=False)
                continue
            blockers = self._blockers[dependent]
            blockers.discard(key)
            if not blockers:
                del self._blockers[dependent]
                self._ready[self._slots[dependent]][dependent] = self._waiting[dependent]

    def slots(self) -> tuple[Slot, ...]:
        """The slots for which an action is ready."""
        return tuple(slot for slot, actions in self._ready.items() if actions)

    def next(self, slot: Slot, busy: Mapping[str, int], most: int = 64) -> Action | None:
        """The ready action of the image with the fewest actions under way (``busy``); the earliest among equals."""
        candidates = [action for action, _ in zip(self._ready[slot].values(), range(most), strict=False)]
        return min(candidates, key=lambda action: busy.get(action.image, 0), default=None)

    def batch(self, slot: Slot, like: Action, most: int, *, same_chain: bool = False) -> list[Action]:
        """Ready actions of the same verb and kind as ``like``, it first; and of the same chain where that is asked for."""
        same = (a for a in self._ready[slot].values() if a.key != like.key and (a.verb, a.kind) == (like.verb, like.kind))
        fitting = (a for a in same if not same_chain or a.chain == like.chain)
        return [like, *(action for action, _ in zip(fitting, range(most - 1), strict=False))]


def images_of(actions: Iterable[Action]) -> Counter[str]:
    """How many of these actions each image has."""
    return Counter(action.image for action in actions)


# --- admission


ADDING = frozenset((Verb.RESOLVE, Verb.BUILD, Verb.CREATE))
"""What only adds. Where an assessment of some images asks for more than that, all of it waits for the full assessment."""

DESTRUCTIVE = frozenset((Verb.REPLACE, Verb.REMOVE, Verb.FORGET))
"""What needs a plan that is complete for its object, made from the manifests as they are now."""

TOGETHER = frozenset((Verb.CREATE, Verb.ACTIVATE))
"""What is done for many snapshots of a pool in one job."""


def is_admissible(action: Action, approved: Collection[str] | None, *, current: bool) -> bool:
    """Whether the action may be queued. ``current`` says that its plan was made from the manifests as they are now."""
    if approved is not None and approval(action) not in approved:
        return False
    if action.provisional:
        return False
    if action.verb in DESTRUCTIVE and not current:
        return False
    # Whether a snapshot is in use is observed just before it is replaced, not before its volume was built.
    return action.verb is not Verb.REPLACE or not action.after


def only_adds(plan: Plan) -> bool:
    """Whether a plan only adds something (and records in an image's row what was added)."""
    recorded = (Verb.RECORD, Kind.IMAGE)
    return all(one.provisional or one.verb in ADDING or (one.verb, one.kind) == recorded for one in plan.actions)


def leftovers(plan: Plan) -> frozenset[str]:
    """Pools that hold a partial result of an interrupted run: discarding it failed, or came before it; it is due again."""
    return frozenset(one.subject.name for one in plan.findings if one.reason == "Leftover")


def slot_of(action: Action, local: Collection[str]) -> Slot:
    """What the action occupies while it runs; ``local`` is what is whole in the spool (``Spool.whole_layers``)."""
    if action.kind is Kind.IMAGE or action.verb is Verb.RECORD:
        return "row", ""
    transferred = action.layers[-1:] if action.parent is not None else action.layers
    sources = [layer.source for layer in transferred if layer.sha256 not in local]
    missing = [source for source in sources if source.is_remote and not source.is_in(local)]
    if action.verb is Verb.RESOLVE or (action.verb in (Verb.BUILD, Verb.REBUILD) and action.kind is Kind.VOLUME and missing):
        return "download", " ".join(sorted({source.endpoint for source in missing}))
    if action.kind is Kind.VOLUME and action.verb in (Verb.BUILD, Verb.REBUILD):
        return "build", ""
    return "pool", action.pool or action.name


def room(slot: Slot, running: Collection[Slot], settings: Settings) -> int:
    """How many more actions may begin in a slot beside those that are ``running``.

    One endpoint has all downloads but one at most: however slow its transfers are, the layers of others get one. Of a single
    download it may have that one.
    """
    same = [one for one in running if one[0] == slot[0]]
    if slot[0] != "download":
        return {"build": settings.jobs, "row": 1}.get(slot[0], max(2, settings.jobs)) - same.count(slot)
    held = Counter(endpoint for _, endpoints in same for endpoint in endpoints.split(" "))
    most = max(held[endpoint] for endpoint in slot[1].split(" "))
    return min(settings.downloads - len(same), max(1, settings.downloads - 1) - most)
