"""Builds under way: the layers of a volume and the stream that writes them to the volume of the pool's driver.

``Layers`` fetches layers and archives, returns their sizes, and drops what the registry had of an unpinned one that is refused.
``Pipelines`` holds one stream for each volume in progress; here, and only here, a volume is a file descriptor and a size. Used by
``machines``. State: the spool, the sources' last answers, and in memory the pipelines. They are rebuilt after a crash: a step
that is resumed starts its stream again from the spool. What builds and decompresses is imported when the first stream starts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import atomic_file
from reconciler.dataclass import asdict, dataclass, field
from reconciler.engine.definitions import Context, Outcome
from reconciler.engine.facts import LayerSeen
from reconciler.errors import (
    DeviceFailed,
    DigestMismatch,
    HostCannot,
    LayerCorrupt,
    LayerRefused,
    ReconcilerError,
    SourceChanged,
    Terminal,
)
from reconciler.host.customizing import Customizing
from reconciler.host.head_requests import Sources
from reconciler.image.source.reading import Fetched, ended
from reconciler.image.source.spool import Spool
from reconciler.image.source.stamp import Head
from reconciler.image.spec import ImageReference, Layer, Limits, Packed, Resolved, S3Options, Source, chain_ids
from reconciler.output import log
from reconciler.pool.driver import Driver, Heartbeat, OpenVolume
from reconciler.settings import Settings

if TYPE_CHECKING:
    from reconciler.image.builder.feed import Fetch
    from reconciler.image.builder.measures import Gap
    from reconciler.image.builder.parent import Build, Milestone, Progress, Report
    from reconciler.image.oci.unpacked import Archives


def layer_input(layer: Layer) -> dict[str, Any]:
    """A layer in a run's input."""
    found: dict[str, Any] = {"url": layer.source.url, "s3": asdict(layer.source.s3), "sha256": layer.sha256}
    found |= {"size": layer.size, "diff_id": layer.diff_id} if layer.diff_id else {}
    found |= {"compression": layer.compression} if layer.compression else {}
    found |= {"others": [asdict(one) for one in layer.others]} if layer.others else {}
    return found | {"learnt": True} if layer.learnt and layer.sha256 else found


def layer_of(value: Mapping[str, Any]) -> Layer:
    about = value.get("learnt", False), value.get("size", 0), value.get("diff_id", "")
    others = tuple(Source(one["url"], S3Options(**one["s3"])) for one in value.get("others", ()))
    return Layer(Source(value["url"], S3Options(**value["s3"])), value["sha256"], *about, others, value.get("compression", ""))


def reference_of(value: Mapping[str, Any]) -> ImageReference:
    """A reference in a run's input (``asdict``)."""
    source = value["source"]
    return ImageReference(Source(source["url"], S3Options(**source["s3"])), value["platform"])


@dataclass(frozen=True, slots=True)
class Layers:
    """``forget_seen`` drops from the registry which ETags stand for a digest, ``record`` writes what a reference stands for."""

    spool: Spool
    sources: Sources
    archives: Callable[[], Archives]
    forget_seen: Callable[[str], None]
    record: Callable[[ImageReference, Resolved], None]

    def beginning(self, layer: Layer, limits: Limits) -> Callable[[], Fetch]:
        return lambda: self.archives().fetch(layer, limits)

    def stored_size(self, layer: Layer) -> int:
        """Bytes that a layer is stored as; 0 where that is unknown. A source is asked only where nothing else has it."""
        size = self.spool.size(layer.sha256) if layer.sha256 else None
        if size is not None or layer.size:
            return size or layer.size
        head = self.sources.last(layer.source)
        return head.size if head else self.spool.length(layer)

    def download(self, context: Context) -> Outcome:
        """Fetch an unpinned layer, and learn its digest: the step of a layer's run."""
        wanted = layer_of(context.run.input["layer"])
        head = self.sources.last(wanted.source) if wanted.source.is_remote else None
        try:
            got = self._fetched(context, wanted, head)
        except (SourceChanged, Terminal):
            self.sources.forget([wanted.source])
            raise
        seen = LayerSeen(wanted.source, got.etag, got.size, got.digest)
        return Outcome(data={"digest": got.digest}, facts=(seen,))

    def unpack(self, context: Context) -> Outcome:
        """Fetch and decompress an archive, and learn what is in it: the step of its run."""
        from reconciler.image.oci.resolve import look_up

        wish = context.run.input
        archive, reference = layer_of(wish["layer"]).source, reference_of(wish["reference"])
        try:
            self.archives().unpack(archive, Limits(**wish["limits"]), lambda now: tell(context, now))
            found = look_up(reference, unless=lambda: ended(context.check), unpacked=self.spool.unpacked)
        finally:
            self.sources.forget_packed(archive)
        if isinstance(found, Packed):
            raise SourceChanged(f"{archive.url} has changed since it was fetched", hint="the next attempt takes it as it is")
        self.record(reference, found)
        return Outcome(data={"digest": found.digest})

    def _fetched(self, context: Context, wanted: Layer, head: Head | None) -> Fetched:
        with contextlib.closing(self.spool.fetch(wanted, head)) as fetching:

            def tick() -> None:
                context.check()
                context.progress(fetching.progress.done, fetching.progress.total or 0)

            return fetching.result(tick)

    def reconsidered(self, layers: Sequence[Layer], blamed: str, error: ReconcilerError) -> ReconcilerError:
        """What to raise where the layer with the URL ``blamed`` was refused; what was learnt of it is dropped.

        A download that was resumed may be a mix, or damaged where an earlier process left it: the object is blamed only after
        the layer was fetched from its first byte.
        """
        resumed = False
        for layer in layers:
            if layer.source.url != blamed or not layer.source.is_remote or layer.sha256 is None:
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


@dataclass(frozen=True, slots=True)
class Hands:
    """What the machines work with. ``drivers`` by pool name."""

    settings: Settings
    drivers: Mapping[str, Driver]
    layers: Layers
    customizing: Customizing = field(default_factory=lambda: Customizing())

    def driver(self, pool: str) -> Driver:
        if pool not in self.drivers:
            raise HostCannot(f"pool {pool!r} is not declared", hint="declare it again, or remove what it held with --prune")
        return self.drivers[pool]

    def index(self, chain: str) -> Path:
        return self.settings.indexes / f"{chain}.idx"


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """A volume run's input, typed."""

    pool: str
    chain: str
    parent: str | None
    size: int
    layers: tuple[Layer, ...]
    limits: Limits
    bytes_per_inode: int

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> VolumePlan:
        return cls(
            value["pool"],
            value["chain"],
            value["parent"],
            value["size"],
            tuple(layer_of(layer) for layer in value["layers"]),
            Limits(**value["limits"]),
            value.get("bytes_per_inode", 0),
        )

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(layer.sha256 or "" for layer in self.layers)

    def chain_of(self, digests: Sequence[str]) -> str:
        """The chain's id with these digests at its top."""
        whole = (*self.digests[: len(self.layers) - len(digests)], *digests)
        return chain_ids(self.size, whole, self.limits.policy, bytes_per_inode=self.bytes_per_inode)[-1]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One volume in progress: its stream, and the volume that it is written to. ``close`` discards what is not sealed."""

    volume: OpenVolume
    build: Build
    index: atomic_file.Draft | None
    close: Callable[[], None]


class Pipelines:
    """The streams under way, by run. A step finds its run's pipeline here, or starts it (again)."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._open: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        self._noted = False

    def reach(self, context: Context, milestone: Milestone) -> tuple[Pipeline, Report]:
        """Wait until the run's stream has passed the milestone; an error ends the stream and discards the volume."""
        run, plan = context.run.id, VolumePlan.of(context.run.input)
        blamed = ""
        try:
            pipeline = self._of(context, plan)
            try:
                report = pipeline.build.wait(milestone, stop=context.stop, tick=lambda now: tell(context, now))
                self._note(pipeline.build.gaps)
                return pipeline, report
            finally:
                blamed = pipeline.build.blamed
        except (LayerCorrupt, LayerRefused, DigestMismatch) as error:
            self.close(run)
            raise self._hands.layers.reconsidered(plan.layers, blamed, error) from error
        except DeviceFailed as error:
            self.close(run)
            where = self._hands.driver(plan.pool).location
            raise DeviceFailed(f"pool {plan.pool}, on {where}: {error.message}", hint=error.hint) from error
        except BaseException:
            self.close(run)
            raise

    def _note(self, gaps: tuple[Gap, ...]) -> None:
        """A line for what the builders of this host lack, once."""
        if gaps and not self._noted:
            self._noted = True
            missing = "; ".join(map(str, gaps))
            log.write(f"note: the builder process is not fully confined: {missing}", "warning", reason="ConfinementIncomplete")

    def close(self, run: str) -> None:
        """End the run's stream and discard its volume, if there are any left."""
        with self._lock:
            pipeline = self._open.pop(run, None)
        if pipeline is not None:
            pipeline.close()

    def _of(self, context: Context, plan: VolumePlan) -> Pipeline:
        run = context.run.id
        with self._lock:
            found = self._open.get(run)
        if found is None:
            found = start(self._hands, plan, context.check, context.stop)
            with self._lock:
                self._open[run] = found
        return found


def tell(context: Context, now: Progress) -> None:
    context.check()
    context.progress(now.read, now.total or 0)


def start(hands: Hands, plan: VolumePlan, heartbeat: Heartbeat, stop: threading.Event) -> Pipeline:
    """Open the volume and its stream; layers below the parent are not fetched unless the parent's index is lost."""
    from reconciler.image.builder import process

    process.load()  # while the rest is imported, the volume is made, and a source is asked for its layer's size
    from reconciler.image.builder.feed import Input
    from reconciler.image.builder.parent import Build, Request

    driver = hands.driver(plan.pool)
    with contextlib.ExitStack() as stack:
        volume = stack.enter_context(
            driver.create_volume(plan.chain, plan.size, plan.parent, lambda: expected(hands, plan), heartbeat)
        )
        index_in, below = parent_index(hands, plan, stack)
        index = stack.enter_context(writing(hands.index(plan.chain))) if driver.shares_blocks else None
        layers = plan.layers[-1:] if index_in is not None else plan.layers
        request = Request(
            layers=tuple(
                Input(one.source.url, hands.layers.beginning(one, plan.limits), declared=one.declared, diff_id=one.diff_id)
                for one in layers
            ),
            size=plan.size,
            chain=plan.chain_of,
            limits=plan.limits,
            bytes_per_inode=plan.bytes_per_inode,
            volume=volume.fd,
            index_in=index_in,
            index_out=index.fd if index else None,
            replay=below,
            room=volume.room,
            check_space=volume.check_space,
        )
        build = stack.enter_context(Build(request, stop))
        kept = stack.pop_all()
    return Pipeline(volume, build, index, kept.close)


def expected(hands: Hands, plan: VolumePlan) -> int:
    """Bytes that the volume takes at least: those that its new layers are stored as."""
    return sum(map(hands.layers.stored_size, plan.layers[-1:] if plan.parent is not None else plan.layers))


def parent_index(hands: Hands, plan: VolumePlan, stack: contextlib.ExitStack) -> tuple[int | None, int]:
    """The parent's member index as a descriptor; where it is lost, the number of layers to replay instead."""
    if plan.parent is None:
        return None, 0
    try:
        file = stack.enter_context(hands.index(plan.parent).open("rb"))
    except FileNotFoundError:
        return None, len(plan.layers) - 1
    return file.fileno(), 0


@contextlib.contextmanager
def writing(index: Path) -> Iterator[atomic_file.Draft]:
    """An index that is being written; removed at the end unless it was published. The writer's lock excludes other processes."""
    atomic_file.make_directory(index.parent)
    with atomic_file.draft(index, lock=False) as draft:
        yield draft
