"""``reconcile pin``: the digests of now, written into manifests.

References are resolved as a plan resolves them. An unpinned layer or a compressed archive is read once, and nothing of it is
kept. No state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import options, shared
from reconciler.cli.signals import Interrupted
from reconciler.dataclass import dataclass
from reconciler.errors import Exit, ReconcilerError, Stopped

if TYPE_CHECKING:
    from reconciler.image.spec import ImageReference, Layer
    from reconciler.manifests.files import ManifestFile
    from reconciler.manifests.pin import Unpinned


@click.command()
@shared
@click.option("--check", is_flag=True, help="Show the digests, and change no file.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if a digest was written or, with --check, is missing.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def pin(context: click.Context, /, paths: tuple[Path, ...], check: bool, detailed_exitcode: bool, **_: Any) -> int:
    """Write current digests into manifests: of tags and unpinned layers.

    Every other byte of a file stays. A layer without sha256 is read once.
    """
    from reconciler.cli.main import complain
    from reconciler.host.own import put_in_force
    from reconciler.manifests import loader
    from reconciler.manifests.files import ManifestFile, read_paths
    from reconciler.output import console

    chosen = options(context)
    named = paths or (chosen.settings.manifests,)
    put_in_force(chosen.settings)
    loader.load_paths(named)  # every fault first
    found: list[Result] = []
    with Interrupted().installed() as interrupted:
        for file in read_paths(named):
            if isinstance(file, ManifestFile):
                found += pinned_file(file, interrupted.stop, check=check)
    if chosen.json:
        console.document({"pins": [one.document() for one in found]})
    else:
        for one in found:
            console.data(one.line())
    failed = [one.error for one in found if one.error is not None]
    for error in failed:
        complain(error, Exit.FAILED)
    if failed:
        return Exit.FAILED
    return Exit.CHANGED if found and detailed_exitcode else Exit.OK


@dataclass(frozen=True, slots=True)
class Result:
    """One source: its digest in hex digits, or why it has none."""

    of: Unpinned
    digest: str = ""
    error: ReconcilerError | None = None

    def document(self) -> dict[str, Any]:
        where = {"file": self.of.where.file, "line": self.of.where.line, "column": self.of.where.column}
        found = {**where, "image": self.of.image, "layer": self.of.layer, "source": self.of.text}
        failure = {"reason": self.error.reason, "message": self.error.message} if self.error else None
        return found | {"digest": f"sha256:{self.digest}" if self.digest else None, "error": failure}

    def line(self) -> str:
        outcome = f"not pinned: {self.error.reason}" if self.error else f"sha256:{self.digest}"
        return f"{self.of.where.file}:{self.of.where.line}  image/{self.of.image}  {self.of.text}  {outcome}"


def pinned_file(file: ManifestFile, stop: threading.Event, *, check: bool) -> Iterator[Result]:
    """Pin the sources of one file, unless ``check``. A source that fails leaves the others to be pinned. Raises Stopped."""
    from reconciler.manifests import pin as pinning

    results = [_result(one, stop) for one in pinning.unpinned(file)]
    pins = [pinning.Pin(one.of, one.digest) for one in results if one.digest]
    if pins:
        text = pinning.pinned(file, pins)
        if not check:
            pinning.write(file, text)
    yield from results


def _result(one: Unpinned, stop: threading.Event) -> Result:
    try:
        return Result(one, _now(one.source, stop))
    except Stopped:
        raise
    except ReconcilerError as error:
        return Result(one, error=error)


def _now(source: Layer | ImageReference, stop: threading.Event) -> str:
    """The digest that a source has now, in hex digits."""
    from reconciler.cli.build_image import scratch
    from reconciler.cli.inspect_layer import origin
    from reconciler.image.oci import unpacked
    from reconciler.image.oci.resolve import resolve
    from reconciler.image.source.reading import Reading
    from reconciler.image.spec import ImageReference, Limits

    if isinstance(source, ImageReference):
        with scratch() as directory:
            plain = unpacked.plain(source, directory, Limits(), stop=stop)
            return resolve(plain, unless=stop.is_set).digest.removeprefix("sha256:")
    with Reading(source.source.url, origin(source.source), stop) as reading:
        return reading.result().digest
