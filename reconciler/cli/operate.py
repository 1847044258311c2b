"""Verbs that set or clear marks of an image (suspend, protect, retry), and ``wait``.

A mark is a row of the registry; it wakes a running service. No verb here needs the lock. ``marking`` carries them out:
it imports the registry, which ``--help`` does without. No state.
"""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.complete import image_names, names_to_retry
from reconciler.cli.options import TEXT, Duration, options, shared

image = click.argument("object_", metavar="image/NAME", type=TEXT, shell_complete=image_names)
reason = click.option("--reason", type=TEXT, default="", help="Shown with the image: your name and the cause.")


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
    from reconciler.cli import marking

    return marking.suspend(options(context).settings, object_, reason, period)


@click.command()
@shared
@image
@click.pass_context
def resume(context: click.Context, /, object_: str, **_: Any) -> int:
    """Undo `suspend`. An image with `suspend: true` in its manifest stays suspended."""
    from reconciler.cli import marking
    from reconciler.registry.marks import What

    return marking.unmark(options(context).settings, object_, What.SUSPENDED)


@click.command()
@shared
@image
@reason
@click.pass_context
def protect(context: click.Context, /, object_: str, reason: str, **_: Any) -> int:
    """Never prune an image, even if no manifest declares it."""
    from reconciler.cli import marking
    from reconciler.registry.marks import What

    return marking.mark(options(context).settings, object_, What.PROTECTED, reason=reason)


@click.command()
@shared
@image
@click.pass_context
def unprotect(context: click.Context, /, object_: str, **_: Any) -> int:
    """Undo `protect`."""
    from reconciler.cli import marking
    from reconciler.registry.marks import What

    return marking.unmark(options(context).settings, object_, What.PROTECTED)


@click.command(short_help="Retry the failed actions of an image now.")
@shared
@click.argument("object_", metavar="image/NAME", type=TEXT, shell_complete=names_to_retry)
@click.option("--recreate", is_flag=True, help="Of snapshot/NAME: set aside what has its name, and create it again.")
@click.pass_context
def retry(context: click.Context, /, object_: str, recreate: bool, **_: Any) -> int:
    """Retry the failed actions of an image now instead of waiting for the back-off.

    `--recreate snapshot/NAME` sets aside a file or device that is not recognised as the snapshot (SnapshotUnrecognised).
    """
    from reconciler.cli import marking

    settings = options(context).settings
    return marking.recreate(settings, object_) if recreate else marking.retry(settings, object_)


@click.command()
@shared
@image
@click.option(
    "--for", "condition", type=click.Choice(("ready", "gone")), default="ready", show_default=True, help="The condition."
)
@click.option("--timeout", type=Duration(), metavar="DURATION", default=600.0, show_default=True, help="Stop after this time.")
@click.pass_context
def wait(context: click.Context, /, object_: str, condition: str, timeout: float, **_: Any) -> int:
    """Wait until an image is ready or gone.

    Exits with 6 when the time is up.
    """
    from reconciler.cli import session

    return session.wait(options(context).settings, session.parse_image(object_), condition, timeout)
