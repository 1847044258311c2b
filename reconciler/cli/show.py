"""Verbs that show what is declared, what is there, and what happened. No state."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import options, shared
from reconciler.errors import Exit, UsageError


@click.command()
@shared
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, /, paths: tuple[Path, ...], **_: Any) -> int:
    """Check manifests: every fault of every file. Needs no root, registry or network."""
    from reconciler.cli import session

    chosen = options(context)
    return session.show_validity(paths or (chosen.settings.manifests,), json=chosen.json)


@click.command()
def schema() -> int:
    """Print the JSON Schema of manifests, for editors."""
    from reconciler.manifests import schema as json_schema
    from reconciler.output import console

    console.document(json_schema.schema())
    return Exit.OK


@click.command("list")
@shared
@click.argument("kind", required=False)
@click.pass_context
def list_(context: click.Context, /, kind: str | None, **_: Any) -> int:
    """Show images, snapshots, volumes and pools: state, size used, path."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    wanted = session.parse_kind(kind) if kind else None
    with session.looking(chosen.settings) as ours:
        listing = inventory.listing(ours)
    if chosen.json:
        console.document(listing.json(wanted))
    else:
        listing.show(wanted)
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="KIND/NAME")
@click.pass_context
def describe(context: click.Context, /, object_: str, **_: Any) -> int:
    """Tell all that is known of one object: what is declared, what is there, its runs and events."""
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.output import console
    from reconciler.status import describe as story
    from reconciler.status import inventory

    chosen = options(context)
    kind, name = session.parse_object(object_)
    with session.looking(chosen.settings) as ours:
        told = inventory.describe(ours, kind, name)
    if chosen.json:
        console.document(told)
    elif kind is Kind.IMAGE:
        story.show(told)
    else:
        inventory.show_description(told)
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="[KIND/NAME]", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest N events.")
@click.pass_context
def events(context: click.Context, /, object_: str | None, limit: int, **_: Any) -> int:
    """Show what happened, oldest first."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    kind, name = session.parse_object(object_) if object_ else (None, None)
    with session.looking(chosen.settings) as ours:
        found = inventory.events(ours, kind, name, limit)
    if chosen.json:
        console.document({"events": found})
    else:
        inventory.show_events(found)
    return Exit.OK


@click.command()
@shared
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest N runs.")
@click.option("--release", is_flag=True, help="You have looked: let the run RUN, which waits for a person, try again.")
@click.option("--cancel", is_flag=True, help="End the run RUN; what it was for is planned anew.")
@click.pass_context
def runs(context: click.Context, /, run_id: str | None, limit: int, release: bool, cancel: bool, **_: Any) -> int:
    """Show state machine runs, or one run with each of its transitions."""
    from reconciler.cli import session
    from reconciler.controller import context as host
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    if release or cancel:
        if run_id is None or (release and cancel):
            raise UsageError("--release and --cancel are for one run", hint="name it: reconcile runs RUN --release")
        with host.writing(chosen.settings, stop=threading.Event()) as ours:
            inventory.settle(ours, run_id, release=release)
    with session.looking(chosen.settings) as ours:
        found = inventory.runs(ours, run_id, limit)
    if chosen.json:
        console.document({"runs": found})
    else:
        inventory.show_runs(found)
    return Exit.OK


@click.command()
@shared
@click.pass_context
def health(context: click.Context, /, **_: Any) -> int:
    """Look at the host, pools, registry and S3; say what is wrong and what to do."""
    from reconciler.cli import session
    from reconciler.status import health as checks

    chosen = options(context)
    found = checks.health(chosen.settings)
    return session.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.argument("names", nargs=-1)
@click.pass_context
def verify(context: click.Context, /, names: tuple[str, ...], **_: Any) -> int:
    """Cross-check pool, registry and file systems (of the named images, or of all). Reads only."""
    from reconciler.cli import session
    from reconciler.status import health as checks

    chosen = options(context)
    with session.looking(chosen.settings) as ours:
        found = checks.verify(ours, names)
    return session.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.option("--svg", is_flag=True, help="As a picture: reconcile graph --svg > images.svg")
@click.pass_context
def graph(context: click.Context, /, svg: bool, **_: Any) -> int:
    """Draw pools, the volumes that images share, images and snapshots."""
    from dataclasses import asdict

    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.status import graph as drawing
    from reconciler.status import image

    chosen = options(context)
    with session.looking(chosen.settings) as ours:
        found = drawing.nodes(image.read(ours))
    if chosen.json:
        console.document({"nodes": [asdict(node) for node in found]})
    else:
        console.data(drawing.svg(found) if svg else drawing.text(found))
    return Exit.OK
