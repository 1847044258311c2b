"""Verbs that set or clear marks of an image (suspend, protect, retry), and ``wait``.

A mark is a row of the registry; it wakes a running service. No verb here needs the lock. No state.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.complete import image_names
from reconciler.cli.options import TEXT, options, shared
from reconciler.errors import Exit, Guarded, UsageError
from reconciler.model import Key, Kind
from reconciler.pool.driver import Condition
from reconciler.registry.marks import Mark, What, duration

if TYPE_CHECKING:
    from reconciler.host.context import Host

image = click.argument("object_", metavar="image/NAME", type=TEXT, shell_complete=image_names)
reason = click.option("--reason", type=TEXT, default="", help="Shown with the image: your name and the cause.")

EVENTS = {
    What.PROTECTED: ("Protected", "Unprotected"),
    What.SUSPENDED: ("Suspended", "Resumed"),
    What.RETRY: ("RetryRequested", ""),
}
"""The reasons of the events that setting and clearing a mark record."""


def mark(context: click.Context, word: str, what: What, *, reason: str = "", until: float = 0.0) -> int:
    from reconciler.host import context as host
    from reconciler.output import console

    name = existing(context, word)
    with host.noting(options(context).settings) as registry:
        registry.mark(Mark(name, what, reason, time.time(), until))
        registry.event(Key(Kind.IMAGE, "", name), EVENTS[what][0], reason)
    console.note(f"image/{name} is {what.value}" if what is not What.RETRY else f"image/{name} will be retried now")
    return Exit.OK


def unmark(context: click.Context, word: str, what: What) -> int:
    from reconciler.host import context as host
    from reconciler.output import console

    name = existing(context, word)
    with host.noting(options(context).settings) as registry:
        found = registry.unmark(name, what)
        if found:
            registry.event(Key(Kind.IMAGE, "", name), EVENTS[what][1], "")
    console.note(f"image/{name} is {'no longer' if found else 'not'} {what.value}")
    return Exit.OK if found else Exit.FAILED


def existing(context: click.Context, word: str) -> str:
    """The name of an image that exists. Raises UsageError, ManifestsInvalid."""
    from reconciler.cli import session
    from reconciler.host import context as host
    from reconciler.model import Kind

    name = session.parse_image(word)
    with host.reading(options(context).settings, lenient=True) as ours:
        session.require(ours, Kind.IMAGE, name)
        return name


@click.command()
@shared
@image
@reason
@click.option("--for", "period", metavar="DURATION", help="Resume after this time: 90s, 15m, 2h, 3d.")
@click.pass_context
def suspend(context: click.Context, /, object_: str, reason: str, period: str | None, **_: Any) -> int:
    """Stop all actions on an image until `resume`.

    Nothing of it is built, repaired or removed.
    """
    return mark(context, object_, What.SUSPENDED, reason=reason, until=time.time() + _seconds(period) if period else 0.0)


@click.command()
@shared
@image
@click.pass_context
def resume(context: click.Context, /, object_: str, **_: Any) -> int:
    """Undo `suspend`. An image with `suspend: true` in its manifest stays suspended."""
    return unmark(context, object_, What.SUSPENDED)


@click.command()
@shared
@image
@reason
@click.pass_context
def protect(context: click.Context, /, object_: str, reason: str, **_: Any) -> int:
    """Never prune an image, even if no manifest declares it."""
    return mark(context, object_, What.PROTECTED, reason=reason)


@click.command()
@shared
@image
@click.pass_context
def unprotect(context: click.Context, /, object_: str, **_: Any) -> int:
    """Undo `protect`."""
    return unmark(context, object_, What.PROTECTED)


@click.command(short_help="Retry the failed actions of an image now.")
@shared
@click.argument("object_", metavar="image/NAME", type=TEXT, shell_complete=image_names)
@click.option("--recreate", is_flag=True, help="Of snapshot/NAME: set aside what has its name, and create it again.")
@click.pass_context
def retry(context: click.Context, /, object_: str, recreate: bool, **_: Any) -> int:
    """Retry the failed actions of an image now instead of waiting for the back-off.

    `--recreate snapshot/NAME` sets aside a file or device that is not recognised as the snapshot (SnapshotUnrecognised).
    """
    from reconciler.cli import session
    from reconciler.host import context as host

    if recreate:
        return _recreate(context, object_)
    name = session.parse_image(object_)
    with host.reading(options(context).settings, lenient=True) as ours:
        if _is_suspended(ours, name):
            raise Guarded(f"image/{name} is suspended; it has no actions to retry", hint=f"reconcile resume image/{name}")
    return mark(context, object_, What.RETRY)


def _recreate(context: click.Context, word: str) -> int:
    from reconciler.cli import session
    from reconciler.host import context as host
    from reconciler.output import console

    found, settings = session.parse_object(word), options(context).settings
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


@click.command()
@shared
@image
@click.option(
    "--for", "condition", type=click.Choice(("ready", "gone")), default="ready", show_default=True, help="The condition."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", default=600.0, show_default=True, help="Stop after this time."
)
@click.pass_context
def wait(context: click.Context, /, object_: str, condition: str, timeout: float, **_: Any) -> int:
    """Wait until an image is ready or gone.

    Exits with 6 when the time is up.
    """
    from reconciler.cli import session

    return session.wait(options(context).settings, session.parse_image(object_), condition, timeout)


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
