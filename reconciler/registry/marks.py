"""Marks of images: protected, suspended by hand, undeclared since, to be retried.

Stored in the registry, because a field of the manifest goes when the manifest does. Set by ``cli`` (also beside a running
service) and ``controller``, which applies them before it plans. Frozen values and pure functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.model import Desired

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_duration = re.compile(r"([0-9]+)([smhd])").match


class What(StrEnum):
    PROTECTED = "protected"
    """Nothing of it is ever pruned."""
    SUSPENDED = "suspended"
    """Nothing of it is built, repaired or removed."""
    UNDECLARED = "undeclared"
    """No manifest has declared it since then."""
    RETRY = "retry"
    """Its failed actions are retried without waiting for the back-off."""


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


def duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``1h30m`` or ``2d``. Raises ValueError."""
    at, total = 0, 0
    while at < len(text) and (part := _duration(text[at:])):
        total += int(part[1]) * SECONDS[part[2]]
        at += part.end()
    if not total or at < len(text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 1h30m or 2d")
    return float(total)


def suspending(desired: Desired, marks: Marks, now: float) -> Desired:
    """The same with what is suspended by hand suspended."""
    held = {image: mark for (image, what), mark in marks.items() if what is What.SUSPENDED and mark.holds(now)}
    if not held.keys() & desired.images.keys():
        return desired
    images = {name: replace(image, suspend=image.suspend or name in held) for name, image in desired.images.items()}
    return replace(desired, images=images)


def spared(marks: Marks, now: float, grace: float) -> dict[str, tuple[str, str]]:
    """Images that are not pruned now, with the reason and the message."""
    found: dict[str, tuple[str, str]] = {}
    for (image, what), mark in marks.items():
        if what is What.UNDECLARED and now < mark.since + grace:
            left = mark.since + grace - now
            found[image] = "GracePeriod", f"undeclared; pruned in {left:.0f} s (grace period)"
        elif what is What.SUSPENDED and mark.holds(now):
            found[image] = "Suspended", f"undeclared; not pruned while it is suspended{because(mark)}"
    for (image, what), mark in marks.items():
        if what is What.PROTECTED and mark.holds(now):
            found[image] = "Protected", f"undeclared; protected{because(mark)}: `reconcile unprotect image/{image}` ends that"
    return found


def next_end(marks: Marks, now: float, grace: float) -> float:
    """When, in seconds since the epoch, the next of them ceases to hold; infinity where none does by itself."""
    ends = [mark.since + grace if mark.what is What.UNDECLARED else mark.until for mark in marks.values()]
    return min((end for end in ends if end > now), default=math.inf)


def because(mark: Mark) -> str:
    return f" ({mark.reason})" if mark.reason else ""
