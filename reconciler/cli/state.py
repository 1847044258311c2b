"""``state`` and ``import``: list and edit the rows of the registry. No state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from reconciler.cli.complete import image_names, plain_image_names, snapshot_names
from reconciler.cli.options import TEXT, Forwarding, options, shared
from reconciler.errors import Exit, ManifestsInvalid, UsageError


@click.group(cls=Forwarding)
@shared
def state(**_: Any) -> None:
    """List, rename or remove rows of the registry. Pools are not touched."""


@state.command()
@shared
@click.pass_context
def ls(context: click.Context, /, **_: Any) -> int:
    """List the rows of the registry with their identity in the pool."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.registry import edits

    chosen = options(context)
    with session.reading(chosen.settings) as ours:
        found = edits.rows(ours)
    if chosen.json:
        console.document({"rows": found})
    else:
        lines = [(row.kind.lower(), row.name, row.pool, (row.chain or "-")[:12], row.identity or "-") for row in found]
        console.table(("KIND", "NAME", "POOL", "CHAIN", "IDENTITY"), lines)
    return Exit.OK


@state.command()
@shared
@click.argument("old", metavar="image/OLD", type=TEXT, shell_complete=image_names)
@click.argument("new", metavar="image/NEW", type=TEXT, shell_complete=image_names)
@click.pass_context
def mv(context: click.Context, /, old: str, new: str, **_: Any) -> int:
    """Rename an image to the new name in its manifest, with its marks and snapshots. No data is touched."""
    from reconciler.cli import session
    from reconciler.registry import edits

    before, after = session.parse_image(old), session.parse_image(new)
    return change(context, lambda ours: edits.move(ours, before, after))


@state.command()
@shared
@click.argument("object_", metavar="image/NAME", type=TEXT, shell_complete=image_names)
@click.pass_context
def rm(context: click.Context, /, object_: str, **_: Any) -> int:
    """Remove an undeclared image from the registry. Its snapshots stay on disk, unmanaged.

    With volume/[POOL/]NAME, remove a damaged volume of a thin pool: the next run rebuilds it.
    """
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.registry import edits

    key = session.parse_object(object_)
    if key.kind is Kind.VOLUME:
        return change(context, lambda ours: edits.forget_volume(ours, key), lenient=True)
    name = session.parse_image(object_)
    return change(context, lambda ours: edits.forget(ours, name), lenient=True)


@click.command("import")
@shared
@click.argument("objects", metavar="snapshot/NAME...", type=TEXT, nargs=-1, required=True, shell_complete=snapshot_names)
@click.option("--image", type=TEXT, required=True, shell_complete=plain_image_names, help="Image that declares it.")
@click.option(
    "--chain", type=TEXT, default="", help="Chain that it was made from; without it, unknown if the registry has no row of it."
)
@click.pass_context
def import_(context: click.Context, /, objects: Sequence[str], image: str, chain: str, **_: Any) -> int:
    """Register existing snapshot files of a file pool.

    Also in place of those that the registry has: SnapshotUnrecognised.
    """
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.registry import edits

    found = [session.parse_object(word) for word in objects]
    for word, key in zip(objects, found, strict=True):
        if key.kind is not Kind.SNAPSHOT:
            raise UsageError(f"{word!r} is not a snapshot", hint="write snapshot/NAME")
    named = image.removeprefix("image/")
    return change(context, lambda ours: edits.register_snapshots(ours, found, named, chain))


def change(context: click.Context, act: Callable[[Any], str], *, lenient: bool = False) -> int:
    """Carry out an edit. One that is lenient goes on where every invalid manifest has a last valid text."""
    import threading

    from reconciler.cli import faults
    from reconciler.host import context as host
    from reconciler.output import console

    chosen = options(context)
    policy = "freeze" if lenient else "fail"
    with host.writing(chosen.settings, stop=threading.Event(), on_invalid=policy) as ours:
        if {fault.where.file for fault in ours.faults} - {*ours.frozen}:
            raise ManifestsInvalid(ours.faults)
        faults.warn(ours.faults)
        message = act(ours)
    if chosen.json:
        console.document({"message": message})
    else:
        console.data(message)
    return Exit.OK
