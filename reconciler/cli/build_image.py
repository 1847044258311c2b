"""``reconcile build``: one build without a registry, a pool or root.

Called by ``cli``. State: the output that is being written (``build_output``), and a temporary spool for s3:// layers.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID

from reconciler.cli.build_output import STANDARD_OUTPUT, Wish, opened
from reconciler.errors import Stopped, UsageError
from reconciler.image import e2fsck
from reconciler.image.builder.feed import Fetch, Input
from reconciler.image.builder.parent import LABEL_BYTES, Build, Identity, Milestone, Progress, Request
from reconciler.image.source.spool import Spool
from reconciler.image.source.stamp import stamp
from reconciler.image.spec import Layer, Limits, S3Options, Source, chain_ids
from reconciler.manifests.location import parse_source, resolve
from reconciler.output import console, progress
from reconciler.sizes import parse_size

_DIGEST = re.compile("[0-9a-f]{64}")


def size(word: str) -> int:
    """``--size``: as in the manifest. Raises UsageError."""
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


def source(word: str, endpoint_url: str | None, anonymous: bool) -> Source:
    """A layer as typed: s3://bucket/key, file:///path or a path. Raises UsageError."""
    try:
        url = resolve(parse_source(word), str(Path.cwd()))
    except ValueError as error:
        raise UsageError(f"layer {word!r} {error}") from None
    return Source(url, S3Options(endpoint_url=endpoint_url, anonymous=anonymous) if url.startswith("s3://") else S3Options())


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
def spooling(stop: threading.Event, beside: Path | None = None) -> Iterator[Spool]:
    temporary = tempfile.TemporaryDirectory(prefix=".reconcile-spool-", dir=beside)
    with temporary as directory, Spool(Path(directory), stop=stop) as spool:
        yield spool


def inputs(layers: Sequence[Layer], spool: Spool) -> tuple[Input, ...]:
    def begin(layer: Layer) -> Callable[[], Fetch]:
        return lambda: spool.fetch(layer)

    return tuple(Input(one.source.url, begin(one)) for one in layers)


def pinned(sources: Sequence[Source], digests: Sequence[str]) -> tuple[Layer, ...]:
    """Layers with their ``--sha256``, one for each or none at all. Raises UsageError."""
    if digests and len(digests) != len(sources):
        message = f"--sha256 is given {len(digests)} times for {len(sources)} layers"
        raise UsageError(message, hint="give one for each layer, in the same order")
    if wrong := next((one for one in digests if not _DIGEST.fullmatch(one)), None):
        raise UsageError(f"--sha256 {wrong}: not 64 hexadecimal digits", hint="as sha256sum prints it")
    return tuple(Layer(one, digest) for one, digest in zip_longest(sources, digests))


# ------------------------------------------------------------------------------------------------------ build


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
    started, name = time.monotonic(), wish.path.name

    def tick(now: Progress) -> None:
        shown.update(name, "building", now.read, now.total, now.name)

    def zeroing(done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped("stopped while the device was zeroed")
        shown.update(name, "zeroing", done, total)

    for layer in layers:
        if not layer.source.is_s3:
            stamp(layer.source.url)  # before a device is touched
            if wish.path.exists() and wish.path.samefile(layer.source.url):
                raise UsageError(f"--output {wish.path} is the layer {layer.source.url}", hint="name another output")
    with opened(wish, zeroing) as target, spooling(stop, target.spool) as spool:
        size = target.size
        request = Request(
            inputs(layers, spool),
            size,
            lambda digests: chain_ids(size, digests, limits.policy)[-1],
            limits,
            volume=target.fd,
            identity=identity,
        )
        with Build(request) as running:
            found = running.wait(Milestone.WRITTEN, stop=stop, tick=tick)
        checked = e2fsck.check(target.path, (target.fd,))
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
