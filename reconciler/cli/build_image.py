"""``reconcile build``: one build without a registry, a pool or root.

Called by ``cli``. State: the output that is being written (``build_output``), and a temporary spool for s3:// layers.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from reconciler.cli.build_output import STANDARD_OUTPUT, Wish, opened
from reconciler.dataclass import dataclass, replace
from reconciler.errors import HostCannot, ImageTooSmall, Stopped, UsageError
from reconciler.image import e2fsck
from reconciler.image.builder.feed import Fetch, Input
from reconciler.image.builder.parent import LABEL_BYTES, Build, Identity, Milestone, Progress, Request
from reconciler.image.oci.platform import Platform
from reconciler.image.oci.platform import host as host_platform
from reconciler.image.oci.reference import Reference, is_reference
from reconciler.image.source.spool import Spool
from reconciler.image.source.stamp import stamp
from reconciler.image.spec import MIB, ImageReference, Layer, Limits, Resolved, S3Options, Source, chain_ids
from reconciler.manifests.location import parse_source, resolve
from reconciler.output import console, progress
from reconciler.sizes import parse_size

if TYPE_CHECKING:
    import tempfile

AUTO = 0
"""The size that stands for what the layers need."""

SMALLEST, MARGIN = 16 * MIB, 32 * MIB

_DIGEST = re.compile("[0-9a-f]{64}")


def size(word: str) -> int:
    """``--size``: as in the manifest, or ``auto``. Raises UsageError."""
    if word == "auto":
        return AUTO
    try:
        found = parse_size(word)
    except ValueError as error:
        raise UsageError(f"--size {word}: {error}") from None
    if found % 4096 or found <= 0:
        raise UsageError(f"--size {word}: not a multiple of 4096 bytes", hint="for example 8GiB")
    return found


def mode(word: str) -> int:
    """``--mode``: octal digits. Raises UsageError."""
    if not re.fullmatch("0?[0-7]{3}", word):
        raise UsageError(f"--mode {word}: not a mode", hint="for example 0640")
    return int(word, 8)


def wish(output: Path, size_: str | None, mode_: str | None, force: bool) -> Wish:
    """``--output``, ``--size``, ``--mode`` and ``--force``. Raises UsageError."""
    path = output if output == STANDARD_OUTPUT else output.absolute()
    return Wish(path, None if size_ is None else size(size_), None if mode_ is None else mode(mode_), force)


def source(word: str, endpoint_url: str | None, anonymous: bool) -> Source:
    """A layer as typed: s3://bucket/key, file:///path or a path. Raises UsageError."""
    try:
        url = resolve(parse_source(word), str(Path.cwd()))
    except ValueError as error:
        raise UsageError(f"layer {word!r} {error}") from None
    return Source(url, S3Options(endpoint_url=endpoint_url, anonymous=anonymous) if url.startswith("s3://") else S3Options())


def image(
    words: Sequence[str], digests: Sequence[str], endpoint_url: str | None, anonymous: bool, platform: str
) -> ImageReference | None:
    """The reference that is given instead of layers, if one is. Raises UsageError."""
    if not any(map(is_reference, words)):
        if platform:
            raise UsageError("--platform is given without an image", hint="layers have no platform")
        return None
    if len(words) > 1:
        raise UsageError("an image is given beside other layers", hint="give one image, or layers")
    if digests:
        raise UsageError("--sha256 is given for an image", hint="pin it in its reference: …@sha256:DIGEST")
    return reference(words[0], endpoint_url, anonymous, platform)


def reference(word: str, endpoint_url: str | None, anonymous: bool, platform: str) -> ImageReference:
    """An image as typed. Raises UsageError."""
    try:
        found = Reference.parse(word).resolve(str(Path.cwd()))
    except ValueError as error:  # without the text: it may hold a password
        raise UsageError(f"the image's source {error}") from None
    try:
        wanted = Platform.parse(platform) if platform else host_platform()
    except ValueError as error:
        raise UsageError(f"--platform {platform!r} {error}") from None
    s3 = S3Options(endpoint_url=endpoint_url, anonymous=anonymous) if found.is_s3 else S3Options()
    return ImageReference(Source(str(found), s3), str(wanted))


def resolved(wanted: ImageReference, directory: Callable[[], Path], limits: Limits, stop: threading.Event) -> Resolved:
    """The image's layers. What reads registries and archives is imported for images alone."""
    from reconciler.image.oci import unpacked
    from reconciler.image.oci.resolve import resolve

    return resolve(unpacked.plain(wanted, directory, limits, stop=stop))


def identity(uuid: str, label: str) -> Identity:
    """``--uuid`` and ``--label``. Raises UsageError."""
    try:
        chosen = UUID(uuid) if uuid else None
    except ValueError:
        raise UsageError(f"--uuid {uuid}: not a UUID", hint="for example 0b1c…: uuidgen prints one") from None
    if len(label.encode()) > LABEL_BYTES or "\0" in label:
        raise UsageError(f"--label {label}: longer than {LABEL_BYTES} bytes", hint="ext4 has no longer labels")
    return Identity(chosen, label)


@contextmanager
def scratch(output: Path | None = None) -> Iterator[Callable[[], Path]]:
    """Makes a private directory when it is called, beside a file that is to be written; removed at the end."""
    beside = output.parent if output is not None and not output.is_block_device() else None
    with ExitStack() as stack:
        yield lambda: Path(stack.enter_context(_private_directory(beside)))


@contextmanager
def spooling(layers: Sequence[Layer], stop: threading.Event, beside: Path | None = None) -> Iterator[Spool]:
    """A spool in a private directory, which is made where a layer is not a file of this host. Raises UsageError, HostCannot."""
    with ExitStack() as stack:
        needed = any(layer.source.is_remote for layer in layers)
        if beside is not None and not needed and not beside.is_dir():
            raise _unusable(beside, os.strerror(errno.ENOTDIR if beside.exists() else errno.ENOENT))
        directory = stack.enter_context(_private_directory(beside)) if needed else os.devnull
        yield stack.enter_context(Spool(Path(directory), stop=stop))


def _private_directory(beside: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A directory beside the output, else in the system's temporary directory. Raises UsageError, HostCannot."""
    import tempfile

    try:
        return tempfile.TemporaryDirectory(prefix=".reconcile-spool-", dir=beside)
    except OSError as error:
        if beside is not None:
            raise _unusable(beside, error.strerror or "") from error
        raise HostCannot(f"temporary directory: {error.strerror}", hint="set TMPDIR to a directory that you may write") from error


def _unusable(directory: Path, why: str) -> UsageError:
    hint = "name an output in a directory that exists and that you may write"
    return UsageError(f"--output: its directory {directory}: {why}", hint=hint)


def inputs(layers: Sequence[Layer], spool: Spool) -> tuple[Input, ...]:
    def begin(layer: Layer) -> Callable[[], Fetch]:
        return lambda: spool.fetch(layer)

    return tuple(Input(one.source.url, begin(one), declared=one.declared, diff_id=one.diff_id) for one in layers)


def pinned(sources: Sequence[Source], digests: Sequence[str]) -> tuple[Layer, ...]:
    """Layers with their ``--sha256``, one for each or none at all. Raises UsageError."""
    if digests and len(digests) != len(sources):
        message = f"--sha256 is given {len(digests)} times for {len(sources)} layers"
        raise UsageError(message, hint="give one for each layer, in the same order")
    if wrong := next((one for one in digests if not _DIGEST.fullmatch(one)), None):
        raise UsageError(f"--sha256 {wrong}: not 64 hexadecimal digits", hint="as sha256sum prints it")
    return tuple(Layer(one, digest) for one, digest in zip_longest(sources, digests))


# ------------------------------------------------------------------------------------------------------ build


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for: an image, or layers if ``image`` is None."""

    image: ImageReference | None
    layers: tuple[Layer, ...]
    wish: Wish
    limits: Limits
    identity: Identity


def build_wanted(wanted: Wanted, shown: progress.Progress, *, stop: threading.Event) -> dict[str, Any]:
    """Resolve an image, build what is wanted, and describe it. Raises what ``build`` raises."""
    output = wanted.wish.path
    with scratch(None if output == STANDARD_OUTPUT else output) as directory:
        if wanted.image is None:
            return build(wanted.layers, wanted.wish, wanted.limits, wanted.identity, shown, stop=stop)
        found = resolved(wanted.image, directory, wanted.limits, stop)
        built = build(found.layers, wanted.wish, wanted.limits, wanted.identity, shown, stop=stop)
        return built | {"digest": found.digest, "manifest": found.manifest, "config": json.loads(found.config)}


@dataclass(frozen=True, slots=True)
class _Watched:
    """Shows how far a build is, and ends it where it is stopped. Raises Stopped."""

    shown: progress.Progress
    name: str
    stop: threading.Event

    def building(self, now: Progress) -> None:
        self.shown.update(self.name, "building", now.read, now.total, now.name)

    def zeroing(self, done: int, total: int) -> None:
        self._go_on("the device was zeroed")
        self.shown.update(self.name, "zeroing", done, total)

    def checking(self) -> None:
        self._go_on("the image was checked")

    def _go_on(self, meanwhile: str) -> None:
        if self.stop.is_set():
            raise Stopped(f"stopped while {meanwhile}")


def _require_apart(source: Source, output: Path) -> None:
    """Before a device is touched, see that a local layer is there, and is not the output. Raises UsageError, SourceNotFound."""
    if source.is_remote:
        return
    stamp(source.whole)
    if output.exists() and output.samefile(source.whole):
        raise UsageError(f"--output {output} is the layer {source.whole}", hint="name another output")


def build(
    layers: Sequence[Layer],
    wish: Wish,
    limits: Limits,
    identity: Identity,
    shown: progress.Progress,
    *,
    stop: threading.Event,
) -> dict[str, Any]:
    """Layers to one ext4 image. A file of that name is replaced only by a whole new image."""
    started, watched = time.monotonic(), _Watched(shown, wish.path.name, stop)
    for layer in layers:
        _require_apart(layer.source, wish.path)
    with ExitStack() as stack:
        spool = None
        if wish.size == AUTO:
            spool = stack.enter_context(spooling(layers, stop, None if wish.path == STANDARD_OUTPUT else wish.path.parent))
            wish = replace(wish, size=needed(layers, limits, spool, watched.building, stop=stop))
        target = stack.enter_context(opened(wish, watched.zeroing))
        spool = spool or stack.enter_context(spooling(layers, stop, target.spool))
        size = target.size
        request = Request(
            inputs(layers, spool),
            size,
            lambda digests: chain_ids(size, digests, limits.policy)[-1],
            limits,
            volume=target.fd,
            identity=identity,
        )
        with Build(request, stop) as running:
            found = running.wait(Milestone.WRITTEN, stop=stop, tick=watched.building)
        checked = e2fsck.check(target.path, (target.fd,), proceed=watched.checking)
    return {
        "output": str(wish.path),
        "size": size,
        "chain": found.chain,
        "layers": [{"source": one.source.url, "sha256": d} for one, d in zip(layers, found.digests, strict=True)],
        "checked": checked,
        "gaps": [str(gap) for gap in running.gaps],
        "summary": dict(found.summary),
        "totals": list(found.layers),
        "seconds": round(time.monotonic() - started, 3),
    }


def needed(
    layers: Sequence[Layer], limits: Limits, spool: Spool, tick: Callable[[Progress], None], *, stop: threading.Event
) -> int:
    """Bytes that a file system needs for some layers, and a margin: they are checked against one that is too small for anything.

    Layers that are fetched for it stay in the spool. Raises what a build raises.
    """
    request = Request(inputs(layers, spool), SMALLEST, lambda digests: chain_ids(SMALLEST, digests)[-1], limits)
    try:
        with Build(request, stop) as running:
            running.wait(Milestone.WRITTEN, stop=stop, tick=tick)
    except ImageTooSmall as error:
        if not error.needed:
            raise
        return with_margin(error.needed)
    return with_margin(SMALLEST)


def with_margin(size: int) -> int:
    """A size with room to work in, a whole number of MiB."""
    return -(-(size + size // 8 + MARGIN) // MIB) * MIB


def show_built(built: Mapping[str, Any]) -> None:
    """The result, on standard error where the image went to standard output."""
    show = console.note if built["output"] == str(STANDARD_OUTPUT) else console.data
    show(f"{built['output']}: {console.size(built['size'])}, chain {built['chain'][:12]}, {built['seconds']:.1f}s")
    for layer in built["layers"]:
        show(f"  {layer['source']}  sha256:{layer['sha256']}")
    if not built["checked"]:
        console.note("note: e2fsck is not installed, so the image is unchecked")
    show_gaps(built["gaps"])


def show_gaps(gaps: Sequence[str]) -> None:
    """A note for each confinement measure that the builder lacked."""
    for gap in gaps:
        console.note(f"note: the builder process lacks a confinement measure, {gap}")
