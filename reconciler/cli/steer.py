"""Verbs that steer what the next run, or the running service, does with an image: suspend, protect, retry; and waiting for it.

They note something in the registry, which wakes a service; none of them needs the lock. No state.
"""

from __future__ import annotations

import time
from typing import Any

import click

from reconciler.cli.options import options, shared
from reconciler.errors import Exit, Guarded, UsageError
from reconciler.registry.marks import Mark, What, duration

image = click.argument("object_", metavar="image/NAME")
reason = click.option("--reason", default="", help="Shown wherever the image is; say who and why.")


def note(context: click.Context, word: str, what: What, *, reason: str = "", until: float = 0.0) -> int:
    from reconciler.cli import session
    from reconciler.controller import context as host
    from reconciler.output import console

    name = session.parse_image(word)
    with host.noting(options(context).settings) as registry:
        registry.mark(Mark(name, what, reason, time.time(), until))
        registry.event("Image", name, what.value.capitalize(), reason)
    console.note(f"image/{name} is {what.value}" if what is not What.RETRY else f"image/{name} will be tried again")
    return Exit.OK


def unnote(context: click.Context, word: str, what: What) -> int:
    from reconciler.cli import session
    from reconciler.controller import context as host
    from reconciler.output import console

    name = session.parse_image(word)
    with host.noting(options(context).settings) as registry:
        found = registry.unmark(name, what)
        if found:
            registry.event("Image", name, f"Un{what.value}", "")
    console.note(f"image/{name} is {'no longer' if found else 'not'} {what.value}")
    return Exit.OK if found else Exit.FAILED


@click.command()
@shared
@image
@reason
@click.option("--for", "period", metavar="DURATION", help="End by itself after 90s, 15m, 2h, 3d.")
@click.pass_context
def suspend(context: click.Context, /, object_: str, reason: str, period: str | None, **_: Any) -> int:
    """Leave an image alone: nothing of it is built, repaired or removed until `resume`."""
    return note(context, object_, What.SUSPENDED, reason=reason, until=time.time() + _seconds(period) if period else 0.0)


@click.command()
@shared
@image
@click.pass_context
def resume(context: click.Context, /, object_: str, **_: Any) -> int:
    """End what `suspend` began. An image that its manifest suspends stays so."""
    return unnote(context, object_, What.SUSPENDED)


@click.command()
@shared
@image
@reason
@click.pass_context
def protect(context: click.Context, /, object_: str, reason: str, **_: Any) -> int:
    """Never prune an image, whatever becomes of its manifest."""
    return note(context, object_, What.PROTECTED, reason=reason)


@click.command()
@shared
@image
@click.pass_context
def unprotect(context: click.Context, /, object_: str, **_: Any) -> int:
    """End what `protect` began."""
    return unnote(context, object_, What.PROTECTED)


@click.command()
@shared
@image
@click.pass_context
def retry(context: click.Context, /, object_: str, **_: Any) -> int:
    """Have a service try what has failed of an image again now, instead of when its patience ends."""
    from reconciler.cli import session

    name = session.parse_image(object_)
    with session.looking(options(context).settings) as ours:
        mark = ours.records.marks().get((name, What.SUSPENDED))
        declared = ours.desired.images.get(name)
        if (mark and mark.holds(time.time())) or (declared and declared.suspend):
            raise Guarded(f"image/{name} is suspended, so nothing of it is tried", hint=f"reconcile resume image/{name}")
    return note(context, object_, What.RETRY)


@click.command()
@shared
@image
@click.option("--for", "condition", type=click.Choice(("ready", "gone")), default="ready", show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", default=600.0, show_default=True)
@click.pass_context
def wait(context: click.Context, /, object_: str, condition: str, timeout: float, **_: Any) -> int:
    """Wait until an image is what its manifest says, or gone. Exits with 6 when the time is up."""
    from reconciler.cli import session

    return session.wait(options(context).settings, session.parse_image(object_), condition, timeout)


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
