"""Sets and clears the marks of images (suspended, protected, retry), and requests that a snapshot is recreated.

Called by ``operate``. A mark is a row of the registry, written without the lock; it wakes a running service. No state.
"""

from __future__ import annotations

import time

from reconciler.cli import session
from reconciler.errors import Exit, Guarded, UsageError
from reconciler.host import context as host
from reconciler.host.context import Host
from reconciler.model import Key, Kind
from reconciler.output import console
from reconciler.pool.driver import Condition
from reconciler.registry.marks import Mark, What
from reconciler.settings import Settings
from reconciler.sizes import parse_duration

EVENTS = {
    What.PROTECTED: ("Protected", "Unprotected"),
    What.SUSPENDED: ("Suspended", "Resumed"),
    What.RETRY: ("RetryRequested", ""),
}
"""The reasons of the events that setting and clearing a mark record."""


def mark(settings: Settings, word: str, what: What, *, reason: str = "", until: float = 0.0) -> int:
    return _record(settings, existing(settings, word), what, reason, until)


def _record(settings: Settings, name: str, what: What, reason: str = "", until: float = 0.0) -> int:
    with host.noting(settings) as registry:
        registry.mark(Mark(name, what, reason, time.time(), until))
        registry.event(Key(Kind.IMAGE, "", name), EVENTS[what][0], reason)
    console.note(f"image/{name} is {what.value}" if what is not What.RETRY else f"image/{name} will be retried now")
    return Exit.OK


def unmark(settings: Settings, word: str, what: What) -> int:
    name = existing(settings, word)
    with host.noting(settings) as registry:
        found = registry.unmark(name, what)
        if found:
            registry.event(Key(Kind.IMAGE, "", name), EVENTS[what][1], "")
    console.note(f"image/{name} is {'no longer' if found else 'not'} {what.value}")
    return Exit.OK if found else Exit.FAILED


def existing(settings: Settings, word: str) -> str:
    """The name of an image that exists. Raises UsageError, ManifestsInvalid."""
    name = session.parse_image(word)
    with host.reading(settings, lenient=True) as ours:
        session.require(ours, Kind.IMAGE, name)
        return name


def suspend(settings: Settings, word: str, reason: str, period: str | None) -> int:
    """Suspend an image, for a period such as ``15m`` where one is given. Raises UsageError."""
    return mark(settings, word, What.SUSPENDED, reason=reason, until=time.time() + _seconds(period) if period else 0.0)


def retry(settings: Settings, word: str) -> int:
    """Request a retry of an image's failed actions. Raises Guarded where it is suspended."""
    name = session.parse_image(word)
    with host.reading(settings, lenient=True) as ours:
        session.require(ours, Kind.IMAGE, name)
        if _is_suspended(ours, name):
            raise Guarded(f"image/{name} is suspended; it has no actions to retry", hint=f"reconcile resume image/{name}")
    return _record(settings, name, What.RETRY)


def recreate(settings: Settings, word: str) -> int:
    found = session.parse_object(word)
    if found.kind is not Kind.SNAPSHOT:
        raise UsageError(f"{word!r} is not a snapshot", hint="write snapshot/NAME")
    with host.reading(settings, lenient=True) as ours:
        session.require(ours, Kind.SNAPSHOT, found.name)
        image, key = _place(ours, found)
        row = ours.records.snapshots().get((key.pool, key.name))
        state = ours.drivers[key.pool].observe({}, {key.name: row.identity if row else ""}, whole=False).snapshots[key.name]
    if state.condition not in (Condition.REPLACED, Condition.DAMAGED):
        raise Guarded(f"snapshot/{key.name} is {state.condition}: there is nothing to set aside", hint="reconcile --once")
    with host.noting(settings) as registry:
        registry.request_aside(key.pool, key.name, state.identity)
        registry.mark(Mark(image, What.RETRY, since=time.time()))
        registry.event(key, "RecreateRequested", f"{state.path} is set aside")
    console.note(f"snapshot/{key.name} will be created again; what has its name is set aside")
    return Exit.OK


def _place(ours: Host, asked: Key) -> tuple[str, Key]:
    """The image of a snapshot, and the snapshot's key with its pool. Raises UsageError where several pools have the name."""
    images = {(one.pool, name): one.name for one in ours.desired.images.values() for name in one.snapshots}
    images = {place: row.image for place, row in ours.records.snapshots().items()} | images
    found = [(pool, image) for (pool, name), image in images.items() if name == asked.name and asked.pool in ("", pool)]
    if len(found) != 1:
        pools = " and ".join(sorted(pool for pool, _ in found)) or "no pool"
        raise UsageError(f"snapshot/{asked.name} is in {pools}", hint="write snapshot/POOL/NAME")
    return found[0][1], Key(Kind.SNAPSHOT, found[0][0], asked.name)


def _is_suspended(ours: Host, name: str) -> bool:
    found, declared = ours.records.marks().get((name, What.SUSPENDED)), ours.desired.images.get(name)
    return bool((found and found.holds(time.time())) or (declared and declared.suspend))


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
