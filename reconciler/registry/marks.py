"""Marks of images: protected, suspended by hand, undeclared since, to be retried.

Stored in the registry, because a field of the manifest goes when the manifest does. Set by ``cli`` (also beside a running
service) and ``controller``, which applies them before it plans. Frozen values and pure functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum

from reconciler.dataclass import dataclass, replace
from reconciler.model import Desired, SnapshotRow


class What(StrEnum):
    PROTECTED = "protected"
    """Nothing of it is ever pruned."""
    SUSPENDED = "suspended"
    """Nothing of it is built, repaired or removed."""
    UNDECLARED = "undeclared"
    """Since then no manifest has declared it, or those of its snapshots that the reason names (POOL/NAME)."""
    RETRY = "retry"
    """Its failed actions are retried without waiting for the back-off."""


class IntentKind(StrEnum):
    """What is about to happen to the file or device that has a snapshot's name."""

    PUBLISH = "publish"
    """A new one, which is complete, gets the name."""
    SET_ASIDE = "set-aside"
    """It loses the name: `retry --recreate` was given."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Times are seconds since the epoch; ``until`` 0 means for ever."""

    image: str
    what: What
    reason: str = ""
    since: float = 0.0
    until: float = 0.0

    def holds(self, now: float) -> bool:
        return not self.until or now < self.until


Marks = Mapping[tuple[str, What], Mark]


def suspending(desired: Desired, marks: Marks, now: float) -> Desired:
    """The same with what is suspended by hand, or scheduled for later, suspended."""
    held = {image for (image, what), mark in marks.items() if what is What.SUSPENDED and mark.holds(now)}
    stopped = {
        name: replace(image, suspend=True, scheduled="" if image.suspend or name in held else utc(image.not_before))
        for name, image in desired.images.items()
        if name in held or now < image.not_before
    }
    return replace(desired, images={**desired.images, **stopped}) if stopped else desired


def undeclared(desired: Desired, images: Iterable[str], snapshots: Iterable[SnapshotRow], marks: Marks, now: float) -> Marks:
    """The marks with one for each recorded image that is not declared, or has snapshots that are not.

    The time counts anew once more of an image is undeclared than before.
    """
    declared = {(image.pool, name) for image in desired.images.values() for name in image.snapshots}
    rows = [row for row in snapshots if (row.pool, row.name) not in declared]
    gone: dict[str, set[str]] = {name: set() for name in (*images, *(row.image for row in rows)) if name not in desired.images}
    for row in rows:
        if row.image in desired.images:
            gone.setdefault(row.image, set()).add(f"{row.pool}/{row.name}")
    found = {key: mark for key, mark in marks.items() if key[1] is not What.UNDECLARED}
    for name, parts in gone.items():
        before = marks.get((name, What.UNDECLARED))
        since = before.since if before and _includes(before, parts) else now
        found[name, What.UNDECLARED] = Mark(name, What.UNDECLARED, " ".join(sorted(parts)), since)
    return found


def _includes(mark: Mark, parts: AbstractSet[str]) -> bool:
    """Whether all of this was undeclared when the mark was made; no parts, and no reason, is the whole image."""
    return not mark.reason or (bool(parts) and parts <= set(mark.reason.split()))


def grace_ends(marks: Marks, now: float, grace: float) -> dict[str, float]:
    """When the grace period of each image ends that has one, in seconds since the epoch."""
    ends = {image: mark.since + grace for (image, what), mark in marks.items() if what is What.UNDECLARED}
    return {image: end for image, end in ends.items() if now < end}


def utc(seconds: float) -> str:
    """A time, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def spared(marks: Marks, now: float, grace: float) -> dict[str, tuple[str, str]]:
    """Images that are not pruned now, with the reason and the message."""
    found: dict[str, tuple[str, str]] = {}
    for image, end in grace_ends(marks, now, grace).items():
        when = f"pruned in {end - now:.0f} s, at {utc(end)}"
        found[image] = "GracePeriod", f"undeclared; {when} (grace period; --prune-grace 0s ends it)"
    for (image, what), mark in marks.items():
        if what is What.SUSPENDED and mark.holds(now):
            found[image] = "Suspended", f"undeclared; not pruned while it is suspended{because(mark)}"
    for (image, what), mark in marks.items():
        if what is What.PROTECTED and mark.holds(now):
            found[image] = "Protected", f"undeclared; protected{because(mark)}: `reconcile unprotect image/{image}` ends that"
    return found


def next_end(marks: Marks, now: float, grace: float, desired: Desired) -> float:
    """When, in seconds since the epoch, the next mark or ``not_before`` ceases to hold; infinity where none does by itself."""
    ends = [mark.since + grace if mark.what is What.UNDECLARED else mark.until for mark in marks.values()]
    ends += [image.not_before for image in desired.images.values() if image.not_before]
    return min((end for end in ends if end > now), default=math.inf)


def because(mark: Mark) -> str:
    return f" ({mark.reason})" if mark.reason else ""
