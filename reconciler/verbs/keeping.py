"""``state`` and ``import``: the registry's rows, and the few changes of them that a person may want. No state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reconciler.errors import Exit, UsageError
from reconciler.verbs.options import options, shared


@click.group()
def state() -> None:
    """What the registry knows: look at it, rename an image in it, have it forget one. No pool is touched."""


@state.command()
@shared
@click.pass_context
def ls(context: click.Context, /, **_: Any) -> int:
    """List everything that the registry says exists, with what its pool knows it by."""
    from reconciler import asking, keeping, report

    chosen = options(context)
    with asking.looking(chosen.settings) as ours:
        found = keeping.rows(ours)
    if chosen.json:
        report.document({"rows": found})
    else:
        lines = [(row.kind.lower(), row.name, row.pool, (row.chain or "-")[:12], row.identity or "-") for row in found]
        report.table(("KIND", "NAME", "POOL", "CHAIN", "IDENTITY"), lines)
    return Exit.OK


@state.command()
@shared
@click.argument("old", metavar="image/OLD")
@click.argument("new", metavar="image/NEW")
@click.pass_context
def mv(context: click.Context, /, old: str, new: str, **_: Any) -> int:
    """Give an image the new name that its manifest has: row, marks and snapshots go with it, no data is touched."""
    from reconciler import asking, keeping

    before, after = asking.parse_image(old), asking.parse_image(new)
    return change(context, lambda ours: keeping.move(ours, before, after))


@state.command()
@shared
@click.argument("object_", metavar="image/NAME")
@click.pass_context
def rm(context: click.Context, /, object_: str, **_: Any) -> int:
    """Forget an image that is no longer declared. Its snapshots stay where they are, and are nobody's."""
    from reconciler import asking, keeping

    name = asking.parse_image(object_)
    return change(context, lambda ours: keeping.forget(ours, name))


@click.command("import")
@shared
@click.argument("object_", metavar="snapshot/NAME")
@click.option("--image", required=True, help="The image that declares it.")
@click.pass_context
def import_(context: click.Context, /, object_: str, image: str, **_: Any) -> int:
    """Take over a snapshot's file that stands in a file pool and that nothing knows, whatever chain of ours it was made from."""
    from reconciler import asking, keeping
    from reconciler.model import Kind

    kind, name = asking.parse_object(object_)
    if kind is not Kind.SNAPSHOT:
        raise UsageError(f"{object_!r} is not a snapshot", hint="write snapshot/NAME")
    return change(context, lambda ours: keeping.take_over(ours, name, image.removeprefix("image/")))


def change(context: click.Context, act: Callable[[Any], str]) -> int:
    import threading

    from reconciler import host, report

    chosen = options(context)
    with host.writing(chosen.settings, stop=threading.Event()) as ours:
        message = act(ours)
    if chosen.json:
        report.document({"message": message})
    else:
        report.data(message)
    return Exit.OK
