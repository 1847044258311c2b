"""``reconcile build``: one build without a registry, a pool or root.

Called by ``cli``. State: a hidden partial file beside the output while a build runs, and a temporary spool for s3:// layers.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.errors import HostCannot, NoSpace, UsageError
from reconciler.image import e2fsck
from reconciler.image.builder.feed import Fetch, Input
from reconciler.image.builder.parent import Build, Milestone, Progress, Request
from reconciler.image.source.spool import Spool
from reconciler.image.spec import Layer, Limits, S3Options, Source, chain_ids
from reconciler.manifests.location import parse_source, resolve
from reconciler.output import console, progress
from reconciler.settings import Settings
from reconciler.sizes import parse_size


def size(word: str) -> int:
    """``--size``: as in the manifest. Raises UsageError."""
    try:
        found = parse_size(word)
    except ValueError as error:
        raise UsageError(f"--size {word}: {error}") from None
    if found % 4096 or found <= 0:
        raise UsageError(f"--size {word}: not a multiple of 4096 bytes", hint="for example 8GiB")
    return found


def source(word: str, endpoint_url: str | None, anonymous: bool) -> Source:
    """A layer as typed: s3://bucket/key, file:///path or a path. Raises UsageError."""
    try:
        url = resolve(parse_source(word), str(Path.cwd()))
    except ValueError as error:
        raise UsageError(f"layer {word!r} {error}") from None
    return Source(url, S3Options(endpoint_url=endpoint_url, anonymous=anonymous) if url.startswith("s3://") else S3Options())


@contextmanager
def spooling(stop: threading.Event, beside: Path | None = None) -> Iterator[Spool]:
    temporary = tempfile.TemporaryDirectory(prefix=".reconcile-spool-", dir=beside)
    with temporary as directory, Spool(Path(directory), stop=stop) as spool:
        yield spool


def inputs(sources: Sequence[Source], spool: Spool) -> tuple[Input, ...]:
    def begin(layer: Layer) -> Callable[[], Fetch]:
        return lambda: spool.fetch(layer)

    return tuple(Input(one.url, begin(Layer(one))) for one in sources)


# ------------------------------------------------------------------------------------------------------ build


@contextmanager
def partial(output: Path, size: int) -> Iterator[tuple[int, Path]]:
    """A private file beside the output that gets its name when the build has succeeded."""
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(atomic_file.draft(output))
            atomic_file.keep_access(draft.fd, output)
        except OSError as error:
            hint = "name a regular file that no other build writes, in a directory that you may write"
            raise UsageError(f"--output {output}: {error.strerror}", hint=hint) from error
        try:
            os.ftruncate(draft.fd, size)
            yield draft.fd, draft.path
            draft.publish()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpace(f"--output {output}: {error.strerror}", hint=f"free space on {output.parent}") from error
            raise HostCannot(f"--output {output}: {error.strerror}", hint=f"check {output.parent}") from error


def build(
    sources: Sequence[Source],
    output: Path,
    size: int,
    limits: Limits,
    settings: Settings,
    shown: progress.Progress,
    *,
    stop: threading.Event,
) -> dict[str, Any]:
    """Layers to one ext4 image file; what was there under that name is replaced only by a whole new image."""
    started = time.monotonic()

    def tick(now: Progress) -> None:
        shown.update(output.name, "building", now.read, now.total, now.name)

    with partial(output, size) as (fd, path), spooling(stop, output.parent) as spool:
        request = Request(
            inputs(sources, spool), size, lambda digests: chain_ids(size, digests, limits.policy)[-1], limits, volume=fd
        )
        with Build(request) as running:
            found = running.wait(Milestone.WRITTEN, stop=stop, tick=tick)
        checked = e2fsck.check(path)
    return {
        "output": str(output),
        "size": size,
        "chain": found.chain,
        "layers": [{"source": s.url, "sha256": d} for s, d in zip(sources, found.digests, strict=True)],
        "checked": checked,
        "summary": dict(found.summary),
        "totals": list(found.layers),
        "seconds": round(time.monotonic() - started, 3),
    }


def show_built(built: Mapping[str, Any]) -> None:
    console.data(f"{built['output']}: {console.size(built['size'])}, chain {built['chain'][:12]}, {built['seconds']:.1f}s")
    for layer in built["layers"]:
        console.data(f"  {layer['source']}  sha256:{layer['sha256']}")
    if not built["checked"]:
        console.note("note: e2fsck is not installed, so the image is unchecked")
