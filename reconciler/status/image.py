"""An image's status: phase, generation, conditions, what is left to do for it, what it shares.

Called by ``inventory`` and ``verbs`` with a Host opened for reading. Derived from what is there now; no state.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from reconciler.controller import converge
from reconciler.controller.context import Host
from reconciler.controller.observe import Phases
from reconciler.model import Action, Failure, ImageRow, Kind, Observed
from reconciler.planner.goals import volume_name
from reconciler.registry.marks import Mark, What
from reconciler.status.conditions import Condition, Facts, conditions


def at(seconds: float) -> str:
    """A point in time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def document(host: Host, now: converge.Look, name: str) -> dict[str, Any]:
    """All of it, for programs."""
    failure, row = failure_of(name, now), now.observed.images.get(name)
    return {
        "generation": generation(host, name),
        "observedGeneration": host.records.generations([name]).get(name, ("", 0))[1],
        "revision": host.revision,
        "conditions": [condition_json(host, now, name, one) for one in conditions_of(host, now, name)],
        "marks": [mark_json(mark) for (image, _), mark in host.records.marks().items() if image == name],
        "failure": asdict(failure) if failure else None,
        "left": [f"{action.verb} {action.kind.lower()}/{action.name}: {action.because}" for action in left_of(now, name)],
        "sharesVolumesWith": sorted(sharing(now.observed, row)) if row else [],
    }


def condition_json(host: Host, now: converge.Look, name: str, one: Condition) -> dict[str, Any]:
    """As Kubernetes spells it; ``lastTransitionTime`` is when something last happened that it can follow from."""
    mark = host.records.marks().get((name, What.SUSPENDED))
    since = mark.since if mark and one.type == "Suspended" else _last_event(host, now, name)
    told = {"type": one.type, "status": str(one.status), "reason": one.reason, "message": one.message}
    return told | {"lastTransitionTime": at(since) if since else None}


def _last_event(host: Host, now: converge.Look, name: str) -> float:
    row = now.observed.images.get(name)
    subjects = [(Kind.IMAGE, name), *((Kind.SNAPSHOT, one.name) for one in now.observed.snapshots.values() if one.image == name)]
    subjects += [(Kind.VOLUME, volume_name(row.chain))] if row and row.chain else []
    newest = (event.at for kind, subject in subjects for event in host.records.events(kind, subject, 1))
    return max(newest, default=0.0)


def phases_of(host: Host, now: converge.Look) -> Phases:
    """Of all images, with the runs that are under way."""
    under_way = {(Kind(run.subject.kind), run.subject.name): run.state for run in host.records.open_runs()}
    return Phases(host.desired, now.observed, now.plan, under_way)


def generation(host: Host, name: str) -> int:
    """How many specifications the image has had, with one that no run has seen yet; 0 where it is not declared."""
    spec = host.desired.images.get(name)
    digest, number = host.records.generations([name]).get(name, ("", 0))
    return 0 if spec is None else number + (spec.digest != digest)


def conditions_of(host: Host, now: converge.Look, name: str) -> tuple[Condition, ...]:
    spec, mark = host.desired.images.get(name), host.records.marks().get((name, What.SUSPENDED))
    stale = (one.message for one in now.plan.findings if one.kind == Kind.IMAGE and one.reason == "LastKnownChain")
    facts = Facts(
        phases_of(host, now).of(name),
        declared=spec is not None,
        suspended=spec is not None and spec.suspend,
        mark=mark if mark and mark.holds(time.time()) else None,
        left=left_of(now, name),
        failure=failure_of(name, now),
        stale=next(stale, ""),
    )
    return conditions(facts)


def left_of(now: converge.Look, image: str) -> list[Action]:
    """What is left to do for an image."""
    return [action for action in now.plan.actions if image in action.images or action.image == image]


def mark_json(mark: Mark) -> dict[str, Any]:
    until = at(mark.until) if mark.until else None
    return {"what": mark.what.value, "reason": mark.reason, "since": at(mark.since), "until": until}


def sharing(observed: Observed, row: ImageRow) -> set[str]:
    """Other images that have a volume of this one's chain, or one below it."""
    mine = _chain_and_below(observed, row)
    others = (one for one in observed.images.values() if one.name != row.name and one.pool == row.pool)
    return {one.name for one in others if one.chain and mine & _chain_and_below(observed, one)}


def _chain_and_below(observed: Observed, row: ImageRow) -> set[str]:
    found, chain = set(), row.chain
    while chain and chain not in found:
        found.add(chain)
        volume = observed.volumes.get((row.pool, chain))
        chain = volume.parent if volume else None
    return found


def failure_of(image: str, now: converge.Look) -> Failure | None:
    """What blocks the image, or how the last try ended of something that is left to do for it."""
    blocked = (failure for failure in now.plan.blocked if failure.name == image)
    tried = (now.observed.failures.get((action.kind, action.name)) for action in left_of(now, image))
    return next(filter(None, (*blocked, *tried)), None)
