"""The layers of machines: fetches them, has their sizes, and drops what was learnt of an unpinned one that is refused.

Called by ``machines``. State: the spool, the last answers of the sources, and the registry's ETags that were seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.controller.sources import Sources
from reconciler.engine.definitions import Context, Outcome
from reconciler.errors import DigestMismatch, ReconcilerError, SourceChanged, Terminal
from reconciler.image.builder.parent import Fetch
from reconciler.image.source.arrival import Fetched
from reconciler.image.source.spool import Spool
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Layer, S3Options, Source
from reconciler.model import LayerSeen


def layer_input(layer: Layer) -> dict[str, Any]:
    """A layer in a run's input."""
    found = {"url": layer.source.url, "s3": asdict(layer.source.s3), "sha256": layer.sha256}
    return found | {"learnt": True} if layer.learnt and layer.sha256 else found


def layer_of(value: Mapping[str, Any]) -> Layer:
    return Layer(Source(value["url"], S3Options(**value["s3"])), value["sha256"], value.get("learnt", False))


@dataclass(frozen=True, slots=True)
class Layers:
    """``forget_seen`` drops from the registry which ETags stand for a digest."""

    spool: Spool
    sources: Sources
    forget_seen: Callable[[str], None]

    def beginning(self, layer: Layer) -> Callable[[], Fetch]:
        return lambda: self.spool.fetch(layer)

    def stored_size(self, layer: Layer) -> int:
        """Bytes that a layer is stored as; 0 where that is unknown. A source is asked only where nothing else has it."""
        size = self.spool.size(layer.sha256) if layer.sha256 else None
        if size is not None:
            return size
        head = self.sources.last(layer.source)
        return head.size if head else self.spool.length(layer.source)

    def download(self, context: Context) -> Outcome:
        """Fetch an unpinned layer, and learn its digest: the step of a layer's run."""
        wanted = layer_of(context.run.input["layer"])
        head = self.sources.last(wanted.source) if wanted.source.is_s3 else None
        try:
            got = self._fetched(context, wanted, head)
        except (SourceChanged, Terminal):
            self.sources.forget([wanted.source])
            raise
        seen = LayerSeen(wanted.source, got.etag, got.size, got.digest)
        return Outcome(data={"digest": got.digest}, facts=(seen,))

    def _fetched(self, context: Context, wanted: Layer, head: Head | None) -> Fetched:
        with contextlib.closing(self.spool.fetch(wanted, head)) as fetching:
            arrived = fetching.wait(0, 0.0)
            while not arrived.complete:
                context.check()
                arrived = fetching.wait(arrived.length, 0.2)
                context.progress(fetching.progress.done, fetching.progress.total or 0)
            return fetching.result()

    def reconsidered(self, layers: Sequence[Layer], blamed: str, error: ReconcilerError) -> ReconcilerError:
        """What to raise where the layer with the URL ``blamed`` was refused; what was learnt of it is dropped.

        A download that was resumed may be a mix, or damaged where an earlier process left it: the object is blamed only after
        the layer was fetched from its first byte.
        """
        resumed = False
        for layer in layers:
            if layer.source.url != blamed or not layer.source.is_s3 or layer.sha256 is None:
                continue
            if layer.learnt:
                self.forget_seen(layer.sha256)
            here = self.spool.was_resumed(layer.sha256)
            if here or layer.learnt:
                self.spool.discard(layer.sha256)
            resumed = resumed or here
        if not resumed or isinstance(error, DigestMismatch):
            return error
        return SourceChanged(f"{error} - its download was resumed", hint="the next attempt fetches it from the beginning")
