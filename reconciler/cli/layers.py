"""``inspect`` and ``build``: layers given on the command line. No state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import about_layers, options, shared
from reconciler.cli.signals import Interrupted
from reconciler.errors import Exit, Stopped, UsageError


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
    from reconciler.manifests.limits import parse as parse_limits
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
@click.option("--output", required=True, type=click.Path(path_type=Path), help="File or block device; - for standard output.")
@click.option("--size", metavar="SIZE", help="Size of the file system, e.g. 8GiB; of a block device all of it.")
@click.option("--sha256", "digests", multiple=True, metavar="DIGEST", help="SHA-256 of a layer; one for each, in their order.")
@click.option("--label", default="", help="Label of the file system, at most 16 bytes.")
@click.option("--uuid", default="", help="UUID of the file system; by default it follows from layers and size.")
@click.option("--mode", metavar="MODE", help="Mode of the image file, e.g. 0640; by default the old file's, else 0600.")
@click.option("--force", is_flag=True, help="Overwrite a block device that holds something.")
@about_layers
@click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How to show progress.")
@click.pass_context
def build(
    context: click.Context,
    /,
    layers: tuple[str, ...],
    output: Path,
    size: str | None,
    digests: tuple[str, ...],
    label: str,
    uuid: str,
    mode: str | None,
    force: bool,
    limits: tuple[str, ...],
    endpoint_url: str | None,
    anonymous: bool,
    progress: str,
    **_: Any,
) -> int:
    """Build one ext4 image from tar layers, without root or registry.

    A file is replaced only by a whole image; a block device is written in place.
    """
    from reconciler.cli import build_image, build_output
    from reconciler.manifests.limits import parse as parse_limits
    from reconciler.output import console

    chosen, to_pipe = options(context), output == build_output.STANDARD_OUTPUT
    if to_pipe and chosen.json:
        raise UsageError("-o json: standard output takes the image", hint="leave -o json out, or name a file")
    sources = [build_image.source(layer, endpoint_url, anonymous) for layer in layers]
    wish = build_output.Wish(
        output if to_pipe else output.absolute(),
        build_image.size(size) if size is not None else None,
        build_image.mode(mode) if mode is not None else None,
        force,
    )
    shown = console.progress("none" if chosen.json else progress)
    with Interrupted().installed() as interrupted, shown:
        try:
            built = build_image.build(
                build_image.pinned(sources, digests),
                wish,
                parse_limits(limits),
                build_image.identity(uuid, label),
                shown,
                stop=interrupted.stop,
            )
        except Stopped as stopped:
            console.note(f"error: {stopped.message}", "error")
            return interrupted.exit
    if chosen.json:
        console.document(built)
    else:
        build_image.show_built(built)
    return Exit.OK
