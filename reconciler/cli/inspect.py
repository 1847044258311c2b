"""Verbs that show declared and existing objects, their events and runs, and checks of them. No state."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from reconciler.cli import complete
from reconciler.cli.options import TEXT, logged, options, shared
from reconciler.errors import Exit, UsageError


@click.command()
@shared
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, /, paths: tuple[Path, ...], **_: Any) -> int:
    """Check manifests, and print every fault.

    Needs no root, registry or network.
    """
    from reconciler.cli import session

    chosen = options(context)
    return session.show_validity(paths or (chosen.settings.manifests,), chosen.settings, json=chosen.json)


@click.command()
@logged
@click.argument("what", type=click.Choice(("manifest", "host")), default="manifest")
def schema(what: str, **_: Any) -> int:
    """Print the JSON Schema of manifests or the host file."""
    from reconciler.manifests import json_schema
    from reconciler.output import console

    console.document(json_schema.host_schema() if what == "host" else json_schema.schema())
    return Exit.OK


@click.command("list")
@shared
@click.argument("kind", type=TEXT, required=False, shell_complete=complete.kinds)
@click.pass_context
def list_(context: click.Context, /, kind: str | None, **_: Any) -> int:
    """List images, snapshots, volumes and pools, or claims."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    if kind in ("claim", "claims"):
        from reconciler.cli import claiming

        found = claiming.listed(chosen.settings)
        if chosen.json:
            console.document({"claims": found})
        else:
            rows = [(c["claim"], f"{c['pool']}/{c['snapshot']}", c["state"], c["holder"], c["expires"] or "-") for c in found]
            console.table(("CLAIM", "SNAPSHOT", "STATE", "HOLDER", "EXPIRES"), rows)
        return Exit.OK
    wanted = session.parse_kind(kind) if kind else None
    with session.reading(chosen.settings) as ours:
        listing = inventory.listing(ours)
    if chosen.json:
        console.document(listing.json(wanted))
    else:
        listing.show(wanted)
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="KIND/NAME", type=TEXT, shell_complete=complete.object_names)
@click.pass_context
def describe(context: click.Context, /, object_: str, **_: Any) -> int:
    """Show one object in detail: declaration, state, runs and events."""
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.output import console
    from reconciler.status import describe as image
    from reconciler.status import inventory

    chosen = options(context)
    of = session.parse_object(object_)
    with session.reading(chosen.settings, (of.kind, of.name)) as ours:
        found = inventory.describe(ours, of)
    if chosen.json:
        console.document(found)
    elif of.kind is Kind.IMAGE:
        image.show(found)
    else:
        inventory.show_description(found)
    return Exit.OK


@click.command()
@shared
@click.argument("object_", metavar="[KIND/NAME]", type=TEXT, required=False, shell_complete=complete.object_names)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show the newest N events.")
@click.pass_context
def events(context: click.Context, /, object_: str | None, limit: int, **_: Any) -> int:
    """Show events, oldest first."""
    from reconciler.cli import session
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    of = session.parse_object(object_) if object_ else None
    with session.reading(chosen.settings, *([(of.kind, of.name)] if of else []), past=True) as ours:
        found = inventory.events(ours, of, limit)
    if chosen.json:
        console.document({"events": found})
    else:
        inventory.show_events(found)
    return Exit.OK


@click.command()
@shared
@click.argument("run_id", metavar="[RUN]", type=TEXT, required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show the newest N runs.")
@click.option("--release", is_flag=True, hidden=True, help="Retry run RUN, which is in state needs-operator.")
@click.option("--cancel", is_flag=True, help="Cancel run RUN; the next plan contains its action again.")
@click.pass_context
def runs(context: click.Context, /, run_id: str | None, limit: int, release: bool, cancel: bool, **_: Any) -> int:
    """Show runs, or one run with all its transitions."""
    from reconciler.cli import session
    from reconciler.host import context as host
    from reconciler.output import console
    from reconciler.status import inventory

    chosen = options(context)
    if release or cancel:
        if run_id is None or (release and cancel):
            raise UsageError("--release and --cancel are for one run", hint="name it: reconcile runs RUN --release")
        if release:
            with host.noting(chosen.settings) as registry:
                inventory.release(registry, run_id)
        else:
            with host.writing(chosen.settings, stop=threading.Event()) as ours:
                inventory.cancel(ours, run_id)
    with session.reading(chosen.settings) as ours:
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
    """Check host, pools, registry and S3, and report problems."""
    from reconciler.cli import session
    from reconciler.status import health as checks

    chosen = options(context)
    found = checks.health(chosen.settings)
    return session.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.argument("names", nargs=-1, metavar="[IMAGE]...", type=TEXT, shell_complete=complete.plain_image_names)
@click.pass_context
def verify(context: click.Context, /, names: tuple[str, ...], **_: Any) -> int:
    """Compare registry, pools and file systems.

    Read-only; of the named images, or of all.
    """
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.status import health as checks

    chosen = options(context)
    wanted = [name.removeprefix("image/") for name in names]
    with session.reading(chosen.settings, *((Kind.IMAGE, name) for name in wanted)) as ours:
        found = checks.verify(ours, wanted)
    return session.show_checks(found, json=chosen.json)


@click.command()
@shared
@click.option("--svg", is_flag=True, help="Print an SVG: reconcile graph --svg > images.svg")
@click.pass_context
def graph(context: click.Context, /, svg: bool, **_: Any) -> int:
    """Show the dependency graph of pools, volumes, images and snapshots."""
    from reconciler.cli import session
    from reconciler.dataclass import asdict
    from reconciler.output import console
    from reconciler.status import graph as drawing
    from reconciler.status import image

    chosen = options(context)
    with session.reading(chosen.settings) as ours:
        found = drawing.nodes(image.read(ours))
    if chosen.json:
        console.document({"nodes": [asdict(node) for node in found]})
    else:
        console.data(drawing.svg(found) if svg else drawing.text(found))
    return Exit.OK
