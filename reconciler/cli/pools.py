"""Verbs that mend thin pools: ``adopt``, ``gc``, ``detach``. No state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reconciler.cli.options import options, shared


def mending(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that mend a thin pool."""
    for option in (
        click.option("--apply", "apply_", is_flag=True, help="Do it. Without this, only say what would be done."),
        click.argument("pool"),
        shared,
    ):
        command = option(command)
    return command


def mend(context: click.Context, act: str, *arguments: Any) -> int:
    from reconciler.cli import session

    chosen = options(context)
    return session.mend(
        chosen.settings, act, context.params["pool"], *arguments, apply=context.params["apply_"], json=chosen.json
    )


@click.command()
@mending
@click.option("--snapshot", "named", multiple=True, metavar="NAME=ID", help="The thin id ID is the snapshot NAME.")
@click.pass_context
def adopt(context: click.Context, /, named: tuple[str, ...], **_: Any) -> int:
    """Make the registry agree with a thin pool that contradicts it."""
    from reconciler.cli import session

    return mend(context, "adopt", session.parse_named(named))


@click.command()
@mending
@click.pass_context
def gc(context: click.Context, /, **_: Any) -> int:
    """Delete what was once made in a thin pool, and nothing knows any more."""
    return mend(context, "gc")


@click.command()
@mending
@click.pass_context
def detach(context: click.Context, /, **_: Any) -> int:
    """Take a thin pool out of the kernel; what it holds stays."""
    return mend(context, "detach")
