"""What an invocation comes to: every object once, with what was done to it, its phase, and the exit code.

Called by ``once``, ``service`` and ``cli`` with finished values. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from reconciler.controller.assess import Assessment
from reconciler.controller.executor import Done, Ledger
from reconciler.dataclass import replace
from reconciler.errors import CommandError, Exit, HostCannot, PolicyRefused, SnapshotInUse
from reconciler.host.context import Host
from reconciler.model import Desired, Kind, Observed, Plan, Verb
from reconciler.output.result import ObjectResult, Reporting, Result
from reconciler.planner.replacement import may_be_kept
from reconciler.planner.status import statuses

SAID = frozenset({"SnapshotInUse", "SnapshotOutdated"})
"""Findings about an object that is as it should be for now, and will not be for ever."""


class Reports(Protocol):
    """Where outcomes go, besides metrics (``fleet.reporter``)."""

    @property
    def state(self) -> Reporting: ...
    def offer(self, host: Host, now: Assessment, result: Result, ended: CommandError | None = None) -> None:
        """Returns at once; the newest outcome counts. ``ended`` is what ended the run before it was done."""


def outcome(host: str, desired: Desired, observed: Observed, plan: Plan, ledger: Ledger, seconds: float) -> Result:
    """Every object once: what was done to it, or that nothing had to be."""
    objects = [acted(done) for done in ledger.done.values() if done.action.kind is not Kind.IMAGE]
    touched = {one.key for one in objects}
    said = {one.subject: (one.reason, one.text) for one in plan.findings if one.reason in SAID}
    kept = [action.key for action in plan.actions if may_be_kept(action)]
    objects += [
        ObjectResult(key.kind, key.name, "none", "Ready", *said.get(key, ("", "")), pool=key.pool)
        for key in (*plan.unchanged, *kept)
        if key.kind is not Kind.IMAGE and key not in touched
    ]
    objects += images(desired, observed, plan, ledger)
    pruned = sum(1 for done in ledger.done.values() if done.ok and done.action.verb in (Verb.REMOVE, Verb.FORGET))
    order = list(Kind)
    objects.sort(key=lambda o: (order.index(o.kind), o.name, o.pool))
    pools = {name: pool.state for name, pool in observed.pools.items()}
    return Result(host, tuple(objects), plan.findings, plan.held, seconds, pruned, pools)


def acted(done: Done) -> ObjectResult:
    verb, key = done.action.verb.value, done.action.key
    if waits(done):
        return ObjectResult(key.kind, key.name, "none", "Ready", done.reason, done.message, pool=key.pool)
    state = "Failed" if not done.ok else "Gone" if done.action.verb is Verb.REMOVE else "Ready"
    return ObjectResult(key.kind, key.name, verb, state, done.reason, done.message, done.ok, changed=done.ok, pool=key.pool)


def waits(done: Done) -> bool:
    """Whether an action is not carried out because its snapshot was claimed since the plan, or needs one that is not."""
    return not done.ok and done.reason == SnapshotInUse.reason


def images(desired: Desired, observed: Observed, plan: Plan, ledger: Ledger) -> list[ObjectResult]:
    blocked = {failure.name: failure for failure in plan.blocked}
    rows = {done.action.name: done for done in ledger.done.values() if done.action.kind is Kind.IMAGE and not waits(done)}
    bad_of: dict[str, Done] = {}
    for done in ledger.done.values():
        for image in () if done.ok or waits(done) else {*done.action.images, done.action.image}:
            bad_of.setdefault(image, done)
    current = statuses(desired, observed, plan)
    found = []
    for name in sorted(desired.images.keys() | rows.keys()):
        row, bad = rows.get(name), bad_of.get(name)
        state = current[name].phase.value if name in current else "Gone"
        one = ObjectResult(Kind.IMAGE, name, row.action.verb.value if row else "none", state, changed=row is not None and row.ok)
        if name in blocked:
            one = replace(one, ok=False, reason=blocked[name].reason, message=blocked[name].message)
        elif bad is not None:
            one = replace(one, ok=False, reason=bad.reason, message=bad.message)
        found.append(one)
    return found


def exit_code(result: Result, *, detailed: bool) -> Exit:
    """Where nothing could be done because this host can't use the pools (no device-mapper, say), that is what the code says."""
    if result.failed:
        reached = any(one.ok for one in result.objects if one.kind is Kind.IMAGE)
        return _failure({one.reason for one in result.objects if not one.ok}, reached=reached)
    return Exit.CHANGED if detailed and result.changed else Exit.OK


def plan_exit_code(plan: Plan, images: Collection[str], *, detailed: bool) -> Exit:
    """The same of a plan that is only shown; ``images`` are those that it is about."""
    if plan.blocked:
        return _failure({one.reason for one in plan.blocked}, reached=not {one.name for one in plan.blocked}.issuperset(images))
    return Exit.CHANGED if detailed and plan.actions else Exit.OK


def _failure(reasons: set[str], *, reached: bool) -> Exit:
    if reasons == {PolicyRefused.reason}:
        return Exit.GUARDED
    return Exit.HOST_CANNOT if reasons <= {"PoolUnavailable", HostCannot.reason} and not reached else Exit.FAILED
