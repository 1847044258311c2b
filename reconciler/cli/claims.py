"""``claim``, ``renew``, ``release`` and ``recycle``: reserve snapshots, and make used ones from the base again. No state."""

from __future__ import annotations

from typing import Any

import click

from reconciler.claim import MOST_WAIT
from reconciler.cli import complete
from reconciler.cli.options import TEXT, Duration, options, shared
from reconciler.errors import Exit, UsageError


@click.command()
@shared
@click.argument("object_", metavar="image/NAME|snapshot/NAME", type=TEXT, shell_complete=complete.claimable)
@click.option(
    "--ttl", metavar="DURATION", help="The claim expires after this time: 90s, 2h, 3d.  [default: the manifest's, or 24h]"
)
@click.option("--holder", type=TEXT, default="", help="Shown with the claim: the job or machine that uses the snapshot.")
@click.option(
    "--wait",
    is_flag=False,
    flag_value=MOST_WAIT,
    default=0.0,
    type=Duration(),
    metavar="[DURATION]",
    help="Wait until a snapshot is ready, up to this time.  [default: 10m if given without a value]",
)
@click.pass_context
def claim(context: click.Context, /, object_: str, ttl: str | None, holder: str, wait: float, **_: Any) -> int:
    """Reserve a ready snapshot, and print its path.

    It is claimed until `release` or until its ttl has passed, and is never given out twice. Exits with 6 if none is ready.
    """
    from reconciler.cli import claiming
    from reconciler.output import console

    chosen = options(context)
    found = claiming.claim(chosen.settings, object_, seconds(ttl), holder, wait)
    if chosen.json:
        console.document(found)
    else:
        console.data(found["path"])
        for one in found.get("findings", ()):
            console.note(f"note: snapshot/{found['snapshot']}: {one['message']}; {one['hint']} [{one['reason']}]")
        console.note(f"claim {found['claim']} of snapshot/{found['snapshot']}, until {found['expires'] or 'it is released'}")
    return Exit.OK


@click.command()
@shared
@click.argument("claim_id", metavar="CLAIM", type=TEXT, shell_complete=complete.claims)
@click.option("--ttl", metavar="DURATION", help="The claim expires after this time from now.  [default: the ttl that it has]")
@click.pass_context
def renew(context: click.Context, /, claim_id: str, ttl: str | None, **_: Any) -> int:
    """Extend a claim: its ttl starts again from now.

    A claim that has expired can't be renewed.
    """
    from reconciler.cli import claiming
    from reconciler.output import console

    chosen = options(context)
    found = claiming.renew(chosen.settings, claim_id, seconds(ttl))
    if chosen.json:
        console.document(found)
    else:
        console.note(f"claim {claim_id} of snapshot/{found['snapshot']}, until {found['expires'] or 'it is released'}")
    return Exit.OK


@click.command()
@shared
@click.argument("claim_id", metavar="CLAIM", type=TEXT, shell_complete=complete.claims)
@click.pass_context
def release(context: click.Context, /, claim_id: str, **_: Any) -> int:
    """End a claim.

    Its snapshot is recycled once it is closed, where its manifest declares that.
    """
    from reconciler.cli import claiming
    from reconciler.output import console

    chosen = options(context)
    found = claiming.release(chosen.settings, claim_id)
    if chosen.json:
        console.document(found)
    else:
        console.note(f"claim {claim_id} is {found['state']}; it was of snapshot/{found['snapshot']}")
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="snapshot/NAME", type=TEXT, shell_complete=complete.snapshot_names)
@click.pass_context
def recycle(context: click.Context, /, object_: str, **_: Any) -> int:
    """Make a snapshot from its base again once it is closed.

    What was written to it is discarded.
    """
    from reconciler.cli import claiming
    from reconciler.output import console

    claiming.recycle(options(context).settings, object_)
    console.note(f"{object_} will be made from its base again")
    return Exit.OK


def seconds(text: str | None) -> float | None:
    """Seconds of a ttl; 0 is for ever. Raises UsageError."""
    from reconciler.sizes import parse_duration

    if text is None or text == "0":
        return None if text is None else 0.0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--ttl: {error}") from None
