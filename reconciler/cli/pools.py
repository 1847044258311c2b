"""Verbs that repair thin pools: ``adopt``, ``gc``, ``detach``. No state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reconciler.cli.complete import pool_names
from reconciler.cli.options import TEXT, options, shared


def repairing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that repair a thin pool."""
    for option in (
        click.option("--apply", "apply_", is_flag=True, help="Carry it out. Without this, only show what would change."),
        click.argument("pool", type=TEXT, shell_complete=pool_names),
        shared,
    ):
        command = option(command)
    return command


def repair(context: click.Context, act: str, *arguments: Any) -> int:
    from reconciler.cli import session

    chosen = options(context)
    return session.repair(
        chosen.settings, act, context.params["pool"], *arguments, apply=context.params["apply_"], json=chosen.json
    )


@click.command()
@repairing
@click.option("--snapshot", "named", type=TEXT, multiple=True, metavar="NAME=ID", help="Register thin id ID as snapshot NAME.")
@click.option("--chain", "vouched", type=TEXT, multiple=True, metavar="NAME=CHAIN", help="Chain that snapshot NAME has.")
@click.pass_context
def adopt(context: click.Context, /, named: tuple[str, ...], vouched: tuple[str, ...], **_: Any) -> int:
    """Rebuild the registry's entries for a thin pool from its metadata.

    A snapshot without a row in the registry is of an unknown chain, unless --chain names it: its guest can have written what
    its file system shows.
    """
    from reconciler.cli import session

    return repair(context, "adopt", session.parse_named(named), session.parse_chains(vouched))


@click.command(short_help="Delete orphaned thin devices.")
@repairing
@click.pass_context
def gc(context: click.Context, /, **_: Any) -> int:
    """Delete orphaned thin devices: created by reconcile, no longer in the registry."""
    return repair(context, "gc")


@click.command()
@repairing
@click.pass_context
def detach(context: click.Context, /, **_: Any) -> int:
    """Deactivate a thin pool and its snapshots. Data is kept."""
    return repair(context, "detach")
