"""Carries out one action: as a durable run, or as one transaction where it only writes a row.

Called by ``scheduler`` in a thread of the action's own. State: the Ledger of one invocation, with the result of each action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reconciler.dataclass import dataclass, field
from reconciler.engine.definitions import Run, Status
from reconciler.errors import visible
from reconciler.host.context import Host
from reconciler.model import Action, ImageRow, Key, Kind, Verb
from reconciler.output.progress import Progress
from reconciler.planner.goals import volume_name
from reconciler.planner.reasons import after_retry
from reconciler.telemetry import tracing

TOGETHER_BYTES = 256 << 20
"""Snapshots that copy more than this in all are created one by one: each is there as soon as it is copied."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action. One that is not ``tried`` had to wait for another that failed.

    One with ``again`` has not ended: its run is due again after so many seconds.
    """

    action: Action
    ok: bool
    reason: str = ""
    message: str = ""
    tried: bool = True
    again: float = 0.0


def approval(action: Action) -> str:
    """What an action is approved by: what is done, to what, and with which content."""
    content = [action.chain, action.parent, action.size, action.identity, [layer.sha256 for layer in action.layers]]
    return f"{action.verb} {action.key.path} {content}"


COPYING = frozenset((Verb.BUILD, Verb.REBUILD, Verb.CREATE, Verb.REPAIR, Verb.REPLACE))
"""What begins with a copy of a volume, where it has one to copy."""

REMOVING = (Verb.REMOVE, Verb.FORGET)


def base_of(action: Action) -> Key | None:
    """The volume that has to exist while the action runs: that of a new snapshot, or the parent of a volume that is built."""
    chain = {Kind.VOLUME: action.parent, Kind.SNAPSHOT: action.chain}.get(action.kind)
    return Key(Kind.VOLUME, action.pool, volume_name(chain)) if chain and action.verb in COPYING else None


def opposes(one: Action, other: Action) -> bool:
    """Whether one of two actions removes what the other one creates, changes or copies."""
    if (one.verb in REMOVING) == (other.verb in REMOVING):
        return False
    removal, kept = (one, other) if one.verb in REMOVING else (other, one)
    return removal.key in (kept.key, base_of(kept))


@dataclass
class Ledger:
    """What an invocation has carried out so far, by the action's key; the last result of each."""

    done: dict[Key, Done] = field(default_factory=dict)
    approved: frozenset[str] | None = None
    """What may be carried out, by ``approval``; everything where None."""
    withheld: dict[Key, Done] = field(default_factory=dict)
    """What has failed before and waits for its back-off, with that failure."""

    def result(self, key: Key) -> Done | None:
        return self.withheld.get(key) or self.done.get(key)

    def opposing(self, action: Action) -> list[Key]:
        """The keys of results that removed what the action creates or copies, or created what it removes."""
        keys = {action.key, base_of(action)} & self.done.keys()
        return [key for key in keys if key and opposes(self.done[key].action, action)]

    def is_done(self, action: Action) -> bool:
        """Whether the action was tried.

        A snapshot that was activated, or has changed owners, may still have to grow or to be replaced.
        What was removed may have to be created.
        """
        done = self.done.get(action.key)
        if done is not None and done.action.verb in REMOVING and action.verb not in REMOVING:
            return False
        if done is None or not done.ok:
            return done is not None
        order = (Verb.ACTIVATE, Verb.RECORD, Verb.GROW, Verb.REPLACE)
        return done.action.verb not in order or action.verb not in order[order.index(done.action.verb) + 1 :]


def dependent(action: Action, blocker: Done) -> Done:
    because = f"needs {blocker.action.key}: {blocker.message}"
    return Done(action, False, blocker.reason, because, tried=False)


def perform(host: Host, action: Action, name: str, progress: Progress) -> Done:
    """Carry out one action: an image's row is written at once, everything else is a durable run. ``name`` is for people."""
    label = name + (f" ({', '.join(action.images)})" if action.kind is Kind.VOLUME and action.images else "")
    if action.kind is Kind.IMAGE or action.verb is Verb.RECORD:
        record(host, action)
        return Done(action, True)
    from reconciler.host.machines import run_input

    machine, value = run_input(action)
    run = host.engine.open(machine, action.key, value)
    with tracing.span(f"{action.verb} {action.kind.lower()}", object=run.subject.path, run=run.id) as told:
        try:
            run = host.engine.execute(run.id, lambda now, done, total: progress.update(label, now.state, done, total or None))
        finally:
            host.pipelines.close(run.id)  # stopped between two steps, or unable to record one, it still holds a half-built volume
        if told:
            told.steps(host.records.transitions(run.id))
        if run.status not in (Status.DONE, Status.ACTIVE):
            told.failed(run.reason, run.message)
    done = verdict(action, run, host.threads.time())
    progress.finish(label, ending(run, done))
    return done


def perform_all(host: Host, actions: Sequence[Action], names: Mapping[Key, str], progress: Progress) -> Iterator[Done]:
    """Carry out the actions of one job: together where that is possible and none of them takes long, else one by one."""
    if len(actions) > 1 and _is_quick(host, actions):
        yield from perform_many(host, actions, names, progress)
    else:
        yield from (perform(host, action, names[action.key], progress) for action in actions)


def _is_quick(host: Host, actions: Sequence[Action]) -> bool:
    driver = host.drivers[actions[0].pool]
    return sum(driver.copied_bytes(action.chain or "") for action in actions if action.verb is Verb.CREATE) <= TOGETHER_BYTES


def perform_many(host: Host, actions: Sequence[Action], names: Mapping[Key, str], progress: Progress) -> list[Done]:
    """Carry out actions of one kind, verb and pool together. Snapshots only: their machines can act on many at once."""
    from reconciler.host.machines import run_input

    inputs = [run_input(action) for action in actions]
    requests = [(action.key, value) for action, (_, value) in zip(actions, inputs, strict=True)]

    def report(run: Run, done: int, total: int) -> None:
        progress.update(names[run.subject], run.state, done, total or None)

    verb, kind = actions[0].verb, actions[0].kind
    with tracing.span(f"{verb} {kind.lower()}", object=f"{len(actions)} in pool {actions[0].pool}", run="") as span:
        runs = host.engine.execute_many(inputs[0][0], requests, report)
        failed = [run for run in runs if run.status not in (Status.DONE, Status.ACTIVE)]
        if span and failed:
            span.failed(failed[0].reason, f"{len(failed)} of {len(runs)}: {failed[0].message}")
    now = host.threads.time()
    found = [verdict(action, run, now) for action, run in zip(actions, runs, strict=True)]
    for run, done in zip(runs, found, strict=True):
        progress.finish(names[run.subject], ending(run, done))
    return found


def ending(run: Run, done: Done) -> str:
    """How a run has ended, or until when it waits, for progress lines."""
    text = run.state if run.status is Status.DONE else f"{run.state}: {run.reason} {run.message}".rstrip()
    return f"{text}; retried in {done.again:.0f} s" if done.again else text


def perform_rows(host: Host, actions: Sequence[Action]) -> list[Done]:
    """Write the rows of many actions in one transaction."""
    with host.registry.together():
        for action in actions:
            record(host, action)
    return [Done(action, True) for action in actions]


def verdict(action: Action, run: Run, now: float) -> Done:
    if run.status is Status.DONE:
        return Done(action, True)
    if run.status is Status.ACTIVE and (again := run.waits(now)):
        return Done(action, False, run.reason, run.message, again=again)
    if run.status is Status.ACTIVE:
        return Done(action, False, "Stopped", "stopped before it was finished; the next run goes on")
    if run.status is Status.NEEDS_OPERATOR:
        return Done(action, False, run.reason, after_retry(run.message, action.image or next(iter(action.images), "")))
    return Done(action, False, run.reason, run.message)


def record(host: Host, action: Action) -> None:
    if action.verb is Verb.FORGET:
        host.registry.forget_image(action.name)
        return
    if action.kind is Kind.SNAPSHOT:
        host.registry.reassign_snapshot(action.pool, action.name, action.image)
        return
    spec = host.desired.images.get(action.name)
    if spec is None:
        return  # withdrawn meanwhile
    host.registry.record_image(ImageRow(spec.name, spec.pool, action.chain, spec.size, spec.retain))


def failed(action: Action, error: BaseException | None) -> Done:
    """The result of an action whose job ended with an error."""
    reason = getattr(error, "reason", "InternalError")
    return Done(action, False, reason, str(error) if hasattr(error, "reason") else visible(f"{type(error).__name__}: {error}"))
