"""``inspect`` and ``build``: layers given on the command line. No state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import about_layers, options, shared
from reconciler.cli.signals import Interrupted
from reconciler.errors import Exit, Stopped, UsageError
from reconciler.image.spec import Limits
from reconciler.settings import Settings


@click.command()
@shared
@click.argument("source")
@click.option("--platform", default="", metavar="OS/ARCH", help="Platform of an image; by default this host's.")
@about_layers
@click.pass_context
def inspect(
    context: click.Context,
    /,
    source: str,
    platform: str,
    limits: tuple[str, ...],
    endpoint_url: str | None,
    anonymous: bool,
    **_: Any,
) -> int:
    """Check a layer or image: report its contents, or why it is refused.

    SOURCE is s3://bucket/key, a path, - for standard input, or an image: oci://host/repository:tag, oci-layout:PATH,
    oci-archive:PATH, docker-archive:PATH.
    """
    from reconciler.cli import build_image, inspect_image, inspect_layer
    from reconciler.image.oci import unpacked
    from reconciler.image.oci.reference import is_reference
    from reconciler.output import console

    chosen = options(context)
    with Interrupted().installed() as interrupted:
        limits_, of_image = _limits(limits), is_reference(source)
        if platform and not of_image:
            raise UsageError("--platform is given without an image", hint="layers have no platform")
        try:
            if of_image:
                _use_registries(chosen.settings)
                image = build_image.reference(source, endpoint_url, anonymous, platform)
                with build_image.scratch() as directory:
                    found = unpacked.plain(image, directory, limits_, stop=interrupted.stop)
                    document = inspect_image.inspect(found, limits_, stop=interrupted.stop) | {"source": image.source.url}
            else:
                document = inspect_layer.inspect(
                    inspect_layer.source(source, endpoint_url, anonymous), limits_, stop=interrupted.stop
                )
        except Stopped as stopped:
            console.note(f"error: {stopped.message}", "error")
            return interrupted.exit
    if chosen.json:
        console.document(document)
    elif of_image:
        inspect_image.show(document)
    else:
        inspect_layer.show(document)
    return Exit.OK if document["verdict"] == "accept" else Exit.FAILED


@click.command()
@shared
@click.argument("layers", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="File or block device; - for standard output.")
@click.option("--size", metavar="SIZE", help="Size of the file system, e.g. 8GiB, or auto; of a block device all of it.")
@click.option("--platform", default="", metavar="OS/ARCH", help="Platform of an image; by default this host's.")
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
    platform: str,
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
    """Build one ext4 image from tar layers or an OCI image, without root.

    --size auto takes what is needed and a margin. A file is replaced only by a whole image; a block device is written in place.
    """
    from reconciler.image.builder import process

    process.load()
    from reconciler.cli import build_image, build_output
    from reconciler.image.oci.reference import is_reference
    from reconciler.output import console

    chosen, to_pipe = options(context), output == build_output.STANDARD_OUTPUT
    if to_pipe and chosen.json:
        raise UsageError("-o json: standard output takes the image", hint="leave -o json out, or name a file")
    if any(map(is_reference, layers)):
        _use_registries(chosen.settings)
    image, limits_ = build_image.image(layers, digests, endpoint_url, anonymous, platform), _limits(limits)
    given = () if image else tuple(build_image.source(layer, endpoint_url, anonymous) for layer in layers)
    wish = build_image.wish(output, size, mode, force)
    wanted = build_image.Wanted(image, build_image.pinned(given, digests), wish, limits_, build_image.identity(uuid, label))
    shown = console.progress("none" if chosen.json else progress)
    with Interrupted().installed() as interrupted, shown:
        try:
            built = build_image.build_wanted(wanted, shown, stop=interrupted.stop)
        except Stopped as stopped:
            console.note(f"error: {stopped.message}", "error")
            return interrupted.exit
    if chosen.json:
        console.document(built)
    else:
        build_image.show_built(built)
    return Exit.OK


def _limits(words: tuple[str, ...]) -> Limits:
    """``--limit``. What reads their values is imported for those who give any."""
    if not words:
        return Limits()
    from reconciler.manifests.limits import parse

    return parse(words)


def _use_registries(settings: Settings) -> None:
    """Reach registries as the host file has it. What reads that file is imported for images alone."""
    from reconciler.host.own import use_registries

    use_registries(settings)
