"""``state`` and ``import``: the registry's rows, and the few changes of them that a person may want. No state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reconciler.cli.options import options, shared
from reconciler.errors import Exit, UsageError


@click.group()
def state() -> None:
    """What the registry knows: look at it, rename an image in it, have it forget one. No pool is touched."""


@state.command()
@shared
@click.pass_context
def ls(context: click.Context, /, **_: Any) -> int:
    """List everything that the registry says exists, with what its pool knows it by."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.registry import edits

    chosen = options(context)
    with session.looking(chosen.settings) as ours:
        found = edits.rows(ours)
    if chosen.json:
        console.document({"rows": found})
    else:
        lines = [(row.kind.lower(), row.name, row.pool, (row.chain or "-")[:12], row.identity or "-") for row in found]
        console.table(("KIND", "NAME", "POOL", "CHAIN", "IDENTITY"), lines)
    return Exit.OK


@state.command()
@shared
@click.argument("old", metavar="image/OLD")
@click.argument("new", metavar="image/NEW")
@click.pass_context
def mv(context: click.Context, /, old: str, new: str, **_: Any) -> int:
    """Give an image the new name that its manifest has: row, marks and snapshots go with it, no data is touched."""
    from reconciler.cli import session
    from reconciler.registry import edits

    before, after = session.parse_image(old), session.parse_image(new)
    return change(context, lambda ours: edits.move(ours, before, after))


@state.command()
@shared
@click.argument("object_", metavar="image/NAME")
@click.pass_context
def rm(context: click.Context, /, object_: str, **_: Any) -> int:
    """Forget an image that is no longer declared. Its snapshots stay where they are, and are nobody's."""
    from reconciler.cli import session
    from reconciler.registry import edits

    name = session.parse_image(object_)
    return change(context, lambda ours: edits.forget(ours, name))


@click.command("import")
@shared
@click.argument("object_", metavar="snapshot/NAME")
@click.option("--image", required=True, help="The image that declares it.")
@click.pass_context
def import_(context: click.Context, /, object_: str, image: str, **_: Any) -> int:
    """Take over a snapshot's file that stands in a file pool and that nothing knows, whatever chain of ours it was made from."""
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.registry import edits

    kind, name = session.parse_object(object_)
    if kind is not Kind.SNAPSHOT:
        raise UsageError(f"{object_!r} is not a snapshot", hint="write snapshot/NAME")
    return change(context, lambda ours: edits.take_over(ours, name, image.removeprefix("image/")))


def change(context: click.Context, act: Callable[[Any], str]) -> int:
    import threading

    from reconciler.controller import context as host
    from reconciler.output import console

    chosen = options(context)
    with host.writing(chosen.settings, stop=threading.Event()) as ours:
        message = act(ours)
    if chosen.json:
        console.document({"message": message})
    else:
        console.data(message)
    return Exit.OK
