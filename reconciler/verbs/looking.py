"""Verbs that show what is declared, what is there, and what happened. No state."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from reconciler.errors import Exit, UsageError
from reconciler.verbs.options import options, shared


@click.command()
@shared
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, /, paths: tuple[Path, ...], **_: Any) -> int:
    """Check manifests: every fault of every file. Needs no root, registry or network."""
    from reconciler import asking

    chosen = options(context)
    return asking.show_validity(paths or (chosen.settings.manifests,), json=chosen.json)


@click.command()
def schema() -> int:
    """Print the JSON Schema of manifests, for editors."""
    from reconciler import documents, report

    report.document(documents.schema())
    return Exit.OK


@click.command("list")
@shared
@click.argument("kind", required=False)
@click.pass_context
def list_(context: click.Context, /, kind: str | None, **_: Any) -> int:
    """Show images, snapshots, volumes and pools: state, size used, path."""
    from reconciler import asking, inventory, report

    chosen = options(context)
    wanted = asking.parse_kind(kind) if kind else None
    with asking.looking(chosen.settings) as ours:
        listing = inventory.listing(ours)
    if chosen.json:
        report.document(listing.json(wanted))
    else:
        listing.show(wanted)
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="KIND/NAME")
@click.pass_context
def describe(context: click.Context, /, object_: str, **_: Any) -> int:
    """Tell all that is known of one object: what is declared, what is there, its runs and events."""
    from reconciler import asking, inventory, report, story
    from reconciler.model import Kind

    chosen = options(context)
    kind, name = asking.parse_object(object_)
    with asking.looking(chosen.settings) as ours:
        told = inventory.describe(ours, kind, name)
    if chosen.json:
        report.document(told)
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
    from reconciler import asking, inventory, report

    chosen = options(context)
    kind, name = asking.parse_object(object_) if object_ else (None, None)
    with asking.looking(chosen.settings) as ours:
        found = inventory.events(ours, kind, name, limit)
    if chosen.json:
        report.document({"events": found})
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
    from reconciler import asking, host, inventory, report

    chosen = options(context)
    if release or cancel:
        if run_id is None or (release and cancel):
            raise UsageError("--release and --cancel are for one run", hint="name it: reconcile runs RUN --release")
        with host.writing(chosen.settings, stop=threading.Event()) as ours:
            inventory.settle(ours, run_id, release=release)
    with asking.looking(chosen.settings) as ours:
        found = inventory.runs(ours, run_id, limit)
    if chosen.json:
        report.document({"runs": found})
    else:
        inventory.show_runs(found)
    return Exit.OK


@click.command()
@shared
@click.pass_context
def health(context: click.Context, /, **_: Any) -> int:
    """Look at the host, pools, registry and S3; say what is wrong and what to do."""
    from reconciler import asking, checks

    chosen = options(context)
    found = checks.health(chosen.settings)
    return asking.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.argument("names", nargs=-1)
@click.pass_context
def verify(context: click.Context, /, names: tuple[str, ...], **_: Any) -> int:
    """Cross-check pool, registry and file systems (of the named images, or of all). Reads only."""
    from reconciler import asking, checks

    chosen = options(context)
    with asking.looking(chosen.settings) as ours:
        found = checks.verify(ours, names)
    return asking.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.option("--svg", is_flag=True, help="As a picture: reconcile graph --svg > images.svg")
@click.pass_context
def graph(context: click.Context, /, svg: bool, **_: Any) -> int:
    """Draw pools, the volumes that images share, images and snapshots."""
    from dataclasses import asdict

    from reconciler import asking, loop, report
    from reconciler import graph as drawing

    chosen = options(context)
    with asking.looking(chosen.settings) as ours:
        found = drawing.nodes(ours.desired, loop.look_offline(ours))
    if chosen.json:
        report.document({"nodes": [asdict(node) for node in found]})
    else:
        report.data(drawing.svg(found) if svg else drawing.text(found))
    return Exit.OK
