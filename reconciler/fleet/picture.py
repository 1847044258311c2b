"""A host as the sink has it, from its last assessment: what is declared, what is there, and what is left to do.

Called by ``reporter`` in a thread of its own. Asks the registry, never a pool or a source. No state.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from reconciler import __version__
from reconciler.controller.assess import Assessment
from reconciler.engine.definitions import Event
from reconciler.errors import CommandError, NotConverged
from reconciler.fleet import rows
from reconciler.fleet.batch import Picture
from reconciler.host import claims
from reconciler.host.context import Host
from reconciler.model import Kind, Plan, Severity
from reconciler.output.result import Result
from reconciler.planner.drift import drifted
from reconciler.planner.replacement import may_be_kept
from reconciler.planner.status import ImageStatus, Phase, Recorded, statuses
from reconciler.pool.driver import Space
from reconciler.status.image import suspensions, under_way
from reconciler.status.inventory import condition, pool_state

TEXT = 500
"""Characters of a message that are reported: what a host costs at the sink has a bound."""


def picture(host: Host, now: Assessment, result: Result, every: float, ended: CommandError | None = None) -> Picture:
    """The host as of that assessment. ``every`` as in ``rows.Host``; ``ended`` is what ended the run before it was done."""
    records = host.records
    recorded = Recorded(under_way(records.open_runs(), time.time()), suspensions(records.marks()))
    found = statuses(now.desired, now.observed, now.plan, recorded)
    states = now.observed.snapshot_state
    snapshots = (
        rows.Snapshot(row.pool, row.name, row.image, row.chain, condition(state), state.active if state else False)
        for row in now.observed.snapshots.values()
        for state in [states(row.pool, row.name)]
    )
    own = (
        rows.Claim(one.id, one.pool, one.name, one.image, one.holder[:TEXT], one.uid, one.state.value, at(one.created))
        for one in claims.current(host).values()
    )
    return Picture(
        _host(host, now, result, found, every, ended),
        {
            "image": tuple(_image(one) for one in found.values()),
            "snapshot": tuple(snapshots),
            "claim": tuple(own),
            "condition": tuple(_conditions(now.plan, found.values())),
            "pool": tuple(_pools(now)),
        },
    )


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _host(
    host: Host, now: Assessment, result: Result, images: Mapping[str, ImageStatus], every: float, ended: CommandError | None
) -> rows.Host:
    chains = "".join(f"{name}={one.chain or ''}\n" for name, one in sorted(images.items()))
    repairs = drifted(now.plan)
    reason, message = _why(host, now, result, images.values(), ended)
    return rows.Host(
        name=host.name,
        labels=dict(host.facts.labels),
        version=__version__,
        every=every,
        revision=host.revision,
        chains=hashlib.sha256(chains.encode()).hexdigest()[:32],
        converged=not reason,
        images=len(images),
        ready=sum(one.phase is Phase.READY for one in images.values()),
        failed=result.failed + _stale(now, images.values()) + _refuses(ended),
        faults=len(host.faults),
        drifted=len(repairs.actions) + len(repairs.findings),
        reason=reason,
        message=message[:TEXT],
    )


def _stale(now: Assessment, images: Iterable[ImageStatus]) -> int:
    """How many images stay at their last known chain. While a source may still answer, which one that is can't be known."""
    return sum(bool(one.stale) for one in images) if now.pending is None else 0


def _refuses(ended: CommandError | None) -> bool:
    """Whether the run failed. One whose time is up goes on with the next."""
    return ended is not None and not isinstance(ended, NotConverged)


def _why(
    host: Host, now: Assessment, result: Result, images: Iterable[ImageStatus], ended: CommandError | None
) -> tuple[str, str]:
    """Why the host has not converged; empty where it has: the next plan is empty, nothing has failed, every image is Ready."""
    if host.faults:
        return "ManifestsInvalid", str(host.faults[0])
    if ended is not None:
        return ended.reason, str(ended)
    for bad in result.objects:
        if not bad.ok:
            return bad.reason or "Failed", f"{bad.key}: {bad.message}"
    for failure in now.plan.blocked:
        return failure.reason, f"{failure.key}: {failure.message}"
    left = [action for action in now.plan.actions if not may_be_kept(action)]
    if left:
        return "Progressing", f"{left[0].verb} {left[0].key}: {left[0].because}"
    if now.pending is not None:
        return "Progressing", "a source has not answered yet"
    for one in images:
        if one.declared and one.phase is not Phase.READY and not one.suspended:
            return one.conditions[0].reason, f"image/{one.name}: {one.conditions[0].message}"
    return "", ""


def _image(one: ImageStatus) -> rows.Image:
    ready = one.conditions[0]
    bad = one.phase is not Phase.READY
    return rows.Image(
        name=one.name,
        pool=one.pool or "",
        phase=one.phase.value,
        reason=ready.reason if bad else "",
        message=ready.message[:TEXT] if bad else "",
        chain=one.chain or "",
        size=one.size,
        ready=len(one.ready & one.wanted),
        wanted=len(one.wanted),
    )


def _conditions(plan: Plan, images: Iterable[ImageStatus]) -> Iterator[rows.Condition]:
    """Findings, and what stalls, drifts or suspends an image; one for each object and reason."""
    found = {}
    for one in plan.findings:
        if one.severity is not Severity.OK:
            key = one.subject.kind.value, one.subject.pool, one.subject.name, one.reason
            found[key] = rows.Condition(*key, one.severity.value, one.text[:TEXT])
    for image in images:
        for held in image.conditions[2:]:
            if held.status:
                key = Kind.IMAGE.value, "", image.name, held.reason
                severity = Severity.ERROR if held.type == "Stalled" else Severity.NOTE
                found.setdefault(key, rows.Condition(*key, severity.value, held.message[:TEXT]))
    yield from found.values()


def _pools(now: Assessment) -> Iterator[rows.Pool]:
    for name, pool in now.observed.pools.items():
        state, message = pool_state(pool)
        data, metadata = (pool.state.space, pool.state.metadata) if pool.state else (None, None)
        yield rows.Pool(name, state, message[:TEXT], *_space(data), *_space(metadata))


def _space(found: Space | None) -> tuple[int, int, int]:
    return (found.total, found.total - found.free, found.available) if found else (0, 0, 0)


def event(one: Event) -> rows.Event:
    return rows.Event(one.seq, at(one.at), one.kind, one.pool, one.name, one.reason, one.message[:TEXT], one.run)
