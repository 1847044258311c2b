"""What is shown of each image: its ``ImageStatus`` with the times, marks and neighbours that the registry and the plan add.

``read`` observes, plans and computes every status once, with a fixed number of queries; the other functions of ``status``
present what it returns as JSON values. Called by ``status`` and ``cli`` with a Host that is open for reading. No state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from reconciler.controller import assess
from reconciler.dataclass import asdict, dataclass
from reconciler.engine.definitions import Run, Status
from reconciler.host.context import Host
from reconciler.model import ImageRow, Key, Kind, Observed, Plan
from reconciler.planner.claims import stock
from reconciler.planner.goals import volume_name
from reconciler.planner.status import Condition, ImageStatus, Recorded, statuses
from reconciler.registry.lock import holder
from reconciler.registry.marks import Mark, Marks, What, suspending


def at(seconds: float) -> str:
    """A point in time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Images:
    """The status of every image that is declared or recorded, by name, with what it was computed from."""

    host: Host
    observed: Observed
    plan: Plan
    statuses: Mapping[str, ImageStatus]
    marks: Marks

    @cached_property
    def configs(self) -> Mapping[tuple[str, str], str]:
        """The configurations of references, by URL and platform."""
        return self.host.records.image_configs()

    def config(self, image: ImageStatus) -> Any:
        """The whole configuration of an OCI image; None for an image of layers, or before it is resolved."""
        reference = image.spec.reference if image.spec else None
        resolution = self.observed.references.get(reference) if reference else None
        known = resolution.found.config if resolution and resolution.found else ""
        text = known or (self.configs.get((reference.source.url, reference.platform)) if reference else None)
        return json.loads(text) if text else None

    @cached_property
    def last_events(self) -> Mapping[Key, float]:
        return self.host.records.last_events()

    def since(self, image: ImageStatus, condition: Condition) -> float:
        """When something last happened that the condition can follow from; 0 where that is unknown."""
        mark = self.marks.get((image.name, What.SUSPENDED))
        if mark and condition.type == "Suspended":
            return mark.since
        keys = [Key(Kind.IMAGE, "", image.name), *(Key(Kind.SNAPSHOT, row.pool, row.name) for row in image.snapshots)]
        keys += [Key(Kind.VOLUME, image.row.pool, volume_name(image.row.chain))] if image.row and image.row.chain else []
        keys += [key._replace(pool="") for key in keys]
        return max(self.last_events.get(key, 0.0) for key in keys)


def read(host: Host) -> Images:
    """Observe and plan without asking any source, and compute the status of every image."""
    now, marks = assess.assess_offline(host), host.records.marks()
    busy = holder(host.settings.lock)  # without a process that executes it, a run is not under way
    recorded = Recorded(
        runs=under_way(host.records.open_runs(), time.time()) if busy else {},
        suspended=suspensions(marks),
        generations=host.records.generations(),
    )
    scheduled = suspending(host.desired, {}, host.threads.time())  # what is suspended by hand is in `recorded`, with the reason
    found = statuses(scheduled, now.observed, now.plan, recorded)
    return Images(host, now.observed, now.plan, found, marks)


def under_way(runs: Iterable[Run], now: float) -> dict[Key, str]:
    """The states of the runs that the process which holds the lock executes: not of those that wait for their next attempt."""
    return {run.subject: run.state for run in runs if run.status is Status.ACTIVE and not run.waits(now)}


def suspensions(marks: Marks) -> dict[str, str]:
    """Images that are suspended by hand now, with the reason."""
    now = time.time()
    return {name: mark.reason for (name, what), mark in marks.items() if what is What.SUSPENDED and mark.holds(now)}


# -------------------------------------------------------------------------------------------------------- JSON


def resolution_json(images: Images, image: ImageStatus) -> dict[str, Any]:
    """What the image's reference stands for; nothing for an image of layers."""
    reference = image.spec.reference if image.spec else None
    if reference is None:
        return {}
    found = images.observed.references.get(reference)
    resolved = found.found if found else None
    return {
        "source": reference.source.url,
        "platform": reference.platform,
        "digest": resolved.digest if resolved else None,
        "manifest": resolved.manifest if resolved else None,
        "config": images.config(image),
    }


def document(images: Images, image: ImageStatus) -> dict[str, Any]:
    """Everything that ``describe`` adds to an entry of ``list``."""
    failure = image.failure
    return {
        "generation": image.generation,
        "observedGeneration": image.observed_generation,
        "revision": images.host.revision,
        "conditions": conditions_json(images, image),
        "marks": [mark_json(mark) for (name, _), mark in images.marks.items() if name == image.name],
        "failure": asdict(failure) if failure else None,
        "claims": claims_json(images, image),
        "left": [f"{action.verb} {action.kind.lower()}/{action.name}: {action.because}" for action in image.left],
        "sharesVolumesWith": sorted(sharing(images.observed, image.row)) if image.row else [],
    }


def claims_json(images: Images, image: ImageStatus) -> dict[str, int] | None:
    """How its snapshots stand with claims; None where they are not for claims."""
    held = stock(image.spec, images.observed) if image.spec else None
    return held.by_state if held else None


def conditions_json(images: Images, image: ImageStatus) -> list[dict[str, Any]]:
    """As Kubernetes spells them."""
    return [condition_json(one, images.since(image, one)) for one in image.conditions]


def condition_json(one: Condition, since: float) -> dict[str, Any]:
    return {
        "type": one.type,
        "status": str(one.status),
        "reason": one.reason,
        "message": one.message,
        "lastTransitionTime": at(since) if since else None,
    }


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
