"""Carries out a plan's actions: in dependency order, independent ones side by side, each as a durable run.

Called by ``loop``. State: the Ledger of one invocation, which says what was tried and what became of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice

from reconciler.controller import machines
from reconciler.controller.context import Host
from reconciler.engine.definitions import Run, Status
from reconciler.model import Action, ImageRow, Key, Kind, Verb, labels
from reconciler.output.progress import Progress
from reconciler.telemetry import tracing

LISTEN_SECONDS = 0.2
"""How long the main thread waits at a time: a signal that comes while it is about to wait is only heard when it wakes."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action. One that is not ``tried`` had to wait for another that failed."""

    action: Action
    ok: bool
    reason: str = ""
    message: str = ""
    tried: bool = True


def approval(action: Action) -> str:
    """What an action is approved by: what is done, and to what."""
    return f"{action.verb} {action.key.path}"


@dataclass
class Ledger:
    """What an invocation has carried out so far, by the action's key; the last word on each."""

    done: dict[Key, Done] = field(default_factory=dict)
    approved: frozenset[str] | None = None
    """What may be carried out, by ``approval``; everything where None."""

    def fresh(self, actions: Collection[Action]) -> tuple[Action, ...]:
        """The actions that can be tried: their object is known, and this invocation has not tried them yet.

        Pools come first, by themselves: what they hold, and so what else is to be done, is only known once they are assembled.
        Replacements come last: by then it is looked at again who uses what is to be replaced.
        """
        failed = {key for key, done in self.done.items() if not done.ok}
        allowed = actions if self.approved is None else [a for a in actions if approval(a) in self.approved]
        fresh = (a for a in allowed if not self._is_done(a) and not failed & set(a.after))
        known = tuple(a for a in fresh if a.chain or a.kind in (Kind.LAYER, Kind.IMAGE, Kind.POOL))
        pools = tuple(a for a in known if a.verb is Verb.ASSEMBLE)
        return pools or tuple(a for a in known if a.verb is not Verb.REPLACE) or known

    def _is_done(self, action: Action) -> bool:
        """A snapshot that was brought back, or has changed hands, may still have to be replaced."""
        done = self.done.get(action.key)
        if done is None or not done.ok:
            return done is not None
        order = (Verb.ACTIVATE, Verb.RECORD, Verb.REPLACE)
        return done.action.verb not in order or action.verb not in order[order.index(done.action.verb) + 1 :]


Meanwhile = Callable[[Collection[Action]], None]
"""What is called again and again, in the main thread, while these actions are carried out."""


def carry_out(
    host: Host,
    actions: Sequence[Action],
    progress: Progress,
    *,
    stop: threading.Event,
    meanwhile: Meanwhile = lambda batch: None,
) -> list[Done]:
    """Carry out actions in their order, independent ones side by side. One that fails takes only those that need it with it."""
    waiting = {action.key: action for action in actions}
    names = labels(waiting)
    done: dict[Key, Done] = {}
    running: dict[Future[Done], Action] = {}
    with ThreadPoolExecutor(host.settings.jobs, "run") as pool:
        while waiting or running:
            unfinished = waiting.keys() | {action.key for action in running.values()}
            ready = (action for action in waiting.values() if unfinished.isdisjoint(action.after))
            # No more than can run: waiting for hundreds of futures at once costs more than many an action does.
            for action in () if stop.is_set() else tuple(islice(ready, host.settings.jobs - len(running))):
                del waiting[action.key]
                blocker = next((done[key] for key in action.after if key in done and not done[key].ok), None)
                if blocker is not None:
                    done[action.key] = dependent(action, blocker)
                else:
                    running[pool.submit(copy_context().run, perform, host, action, names[action.key], progress)] = action
            if running:
                progress.tick()
                meanwhile(actions)
                for future in wait(running, LISTEN_SECONDS, FIRST_COMPLETED).done:
                    done[running.pop(future).key] = future.result()
            elif stop.is_set():
                break
    return list(done.values())


def dependent(action: Action, blocker: Done) -> Done:
    because = f"needs {blocker.action.key}: {blocker.message}"
    return Done(action, False, blocker.reason, because, tried=False)


def perform(host: Host, action: Action, name: str, progress: Progress) -> Done:
    """Carry out one action: an image's row is written at once, everything else is a durable run. ``name`` is for people."""
    label = name + (f" ({', '.join(action.images)})" if action.kind is Kind.VOLUME and action.images else "")
    if action.kind is Kind.IMAGE or action.verb is Verb.RECORD:
        record(host, action)
        return Done(action, True)
    machine, value = machines.run_input(action)
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
    progress.finish(label, run.state if run.status is Status.DONE else f"{run.state}: {run.reason} {run.message}".rstrip())
    return verdict(action, run)


def verdict(action: Action, run: Run) -> Done:
    if run.status is Status.DONE:
        return Done(action, True)
    if run.status is Status.ACTIVE:
        return Done(action, False, "Stopped", "stopped before it was finished; the next run goes on")
    if run.status is Status.NEEDS_OPERATOR:
        hint = "" if "`reconcile retry" in run.message else f"; then: reconcile runs {run.id} --release"
        return Done(action, False, run.reason, f"{run.message}{hint}")
    return Done(action, False, run.reason, run.message)


def record(host: Host, action: Action) -> None:
    if action.verb is Verb.FORGET:
        host.registry.forget_image(action.name)
        return
    if action.kind is Kind.SNAPSHOT:
        host.registry.reassign_snapshot(action.pool, action.name, action.image)
        return
    spec = host.desired.images[action.name]
    host.registry.record_image(ImageRow(spec.name, spec.pool, action.chain, spec.size, spec.retain))
