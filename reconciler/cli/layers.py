"""``inspect`` and ``build``: layers given on the command line. No state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import about_layers, options, shared
from reconciler.cli.signals import Interrupted
from reconciler.errors import Exit, Stopped
from reconciler.manifests.limits import parse as parse_limits


@click.command()
@shared
@click.argument("layer")
@about_layers
@click.pass_context
def inspect(
    context: click.Context, /, layer: str, limits: tuple[str, ...], endpoint_url: str | None, anonymous: bool, **_: Any
) -> int:
    """Check one layer: report its contents, or why it is refused.

    LAYER is s3://bucket/key, a path, or - for standard input.
    """
    from reconciler.cli import inspect_layer
    from reconciler.output import console

    chosen = options(context)
    with Interrupted().installed() as interrupted:
        wanted, limits_ = inspect_layer.source(layer, endpoint_url, anonymous), parse_limits(limits)
        try:
            document = inspect_layer.inspect(wanted, limits_, stop=interrupted.stop)
        except Stopped as stopped:
            console.note(f"error: {stopped.message}", "error")
            return interrupted.exit
    if chosen.json:
        console.document(document)
    else:
        inspect_layer.show(document)
    return Exit.OK if document["verdict"] == "accept" else Exit.FAILED


@click.command()
@shared
@click.argument("layers", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Image file to write.")
@click.option("--size", required=True, metavar="SIZE", help="Size of the file system, e.g. 8GiB.")
@about_layers
@click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How to show progress.")
@click.pass_context
def build(
    context: click.Context,
    /,
    layers: tuple[str, ...],
    output: Path,
    size: str,
    limits: tuple[str, ...],
    endpoint_url: str | None,
    anonymous: bool,
    progress: str,
    **_: Any,
) -> int:
    """Build one ext4 image from tar layers, without root or registry."""
    from reconciler.cli import build_image
    from reconciler.output import console

    chosen = options(context)
    sources = [build_image.source(layer, endpoint_url, anonymous) for layer in layers]
    shown = console.progress("none" if chosen.json else progress)
    with Interrupted().installed() as interrupted, shown:
        limits_, bytes_ = parse_limits(limits), build_image.size(size)
        try:
            built = build_image.build(sources, output.absolute(), bytes_, limits_, chosen.settings, shown, stop=interrupted.stop)
        except Stopped as stopped:
            console.note(f"error: {stopped.message}", "error")
            return interrupted.exit
    if chosen.json:
        console.document(built)
    else:
        build_image.show_built(built)
    return Exit.OK
