"""Archives that are compressed as a whole (``docker save | gzip``): decompressed by a confined builder into a private file.

What is in the file is read as of any other archive. ``Archives`` keeps the files in the spool, by the archives' keys, for images
of manifests; ``plain`` makes one for a command. Called by ``host.pipelines`` and ``cli``. State: the files.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath

from reconciler import atomic_file
from reconciler.dataclass import replace
from reconciler.errors import DigestMismatch, LayerCorrupt, LayerRefused, NeedsOperator, SourceChanged, SourceUnavailable
from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Milestone, Progress, Request
from reconciler.image.free_space import PROMISES
from reconciler.image.oci.archive import Archive, key_of
from reconciler.image.oci.reference import LAYOUT, Reference
from reconciler.image.source.arrival import host_error
from reconciler.image.source.local import LocalFile
from reconciler.image.source.ranges import Ranges
from reconciler.image.source.reading import HEARTBEAT, Check, Origin, Reading, ended
from reconciler.image.source.remote import head_one
from reconciler.image.source.spool import UNPACKED, Spool
from reconciler.image.source.stamp import Head
from reconciler.image.spec import ImageReference, Layer, Limits, Source, chain_ids

Tick = Callable[[Progress], None]
"""Called now and then; raises where the work is to end."""


def plain(wanted: ImageReference, directory: Callable[[], Path], limits: Limits, *, stop: threading.Event) -> ImageReference:
    """The same image, of a decompressed copy in ``directory`` where its archive is compressed; made only then.

    Raises what reading a layer raises: the limits of a layer hold for the archive.
    """
    reference = Reference.parse(wanted.source.url)
    if reference.is_registry or reference.transport == LAYOUT:
        return wanted
    archive = Source(reference.path, wanted.source.s3)
    with Archive(archive, stop.is_set) as held:
        if not held.packed:
            return wanted
    path = directory() / PurePath(reference.path).name.replace(":", "_")

    def begin() -> Reading:
        origin: Origin = Ranges(archive) if archive.is_remote else LocalFile(Layer(archive))
        return Reading(archive.url, origin, stop)

    with _created(path) as fd:
        _decompress(Input(archive.url, begin, pinned=False), fd, limits, stop, lambda _: None, lambda: None)
    return replace(wanted, source=Source(str(replace(reference, path=str(path)))))


class Archives:
    """Decompressed copies in the spool; thread-safe. There is one copy of an archive at most: that of its newest state."""

    def __init__(self, spool: Spool, stop: threading.Event) -> None:
        self._spool = spool
        self._stop = stop
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def unpack(self, archive: Source, limits: Limits, tick: Tick, key: str = "") -> None:
        """Fetch and decompress an archive as it is now, unless there is a copy of that. ``key``: only if it still has this one.

        Raises what reading a layer raises, and SourceChanged.
        """

        def check() -> None:
            tick(Progress())

        try:
            head = head_one(archive, lambda: ended(check))
        except SourceUnavailable:
            check()  # a request that was ended because nothing waits for it is no failure of the source
            raise
        now = key_of(archive, head)
        if key not in ("", now):
            raise SourceChanged(
                f"{archive.url} has changed since its layers were looked up", hint="the next run takes it as it is"
            )
        with self._turn(now, check):
            if self._spool.unpacked(now) is None:
                self._make(archive, head, self._spool.unpacked_path(now), limits, tick)

    def fetch(self, layer: Layer, limits: Limits) -> Reading:
        """As ``Spool.fetch``, of any layer. A copy that is not there is made again."""
        if layer.source.packed is None or (layer.sha256 and self._spool.size(layer.sha256) is not None):
            return self._spool.fetch(layer)
        return Reading(layer.source.url, _Part(self, layer, limits), self._stop)

    def opened(self, layer: Layer, limits: Limits, check: Check) -> tuple[int, bool]:
        """The copy that has a layer, as a descriptor, and whether it was made for it."""
        assert layer.source.packed
        key, archive = layer.source.packed
        made = self._spool.unpacked(key) is None
        if made:
            self.unpack(archive, limits, lambda _: check(), key)
        path = self._spool.unpacked_path(key)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), made
        except FileNotFoundError as error:
            raise SourceChanged(f"{path} was removed before it was read", hint="the next attempt makes it again") from error
        except OSError as error:
            raise host_error(error, path.parent) from error

    def discard(self, layer: Layer) -> None:
        """Remove the copy that has a layer."""
        assert layer.source.packed
        self._spool.unpacked_path(layer.source.packed[0]).unlink(missing_ok=True)

    @contextmanager
    def _turn(self, key: str, check: Check) -> Iterator[None]:
        """One copy of an archive is made at a time."""
        turn = self._turns[key[:32]]
        while not turn.acquire(timeout=HEARTBEAT):
            check()
        try:
            yield
        finally:
            turn.release()

    def _make(self, archive: Source, head: Head, path: Path, limits: Limits, tick: Tick) -> None:
        directory, draft = path.parent, path.with_name(f"{path.name}.part")
        try:
            atomic_file.make_directory(directory)
            for old in directory.glob(f"{path.name[: len(UNPACKED) + 32]}*"):
                old.unlink(missing_ok=True)
            source = Input(archive.url, lambda: self._spool.fetch(Layer(archive), head), pinned=archive.is_remote)
            with _created(draft) as fd:
                space = partial(PROMISES.require_kept, fd, archive.url, directory)
                _decompress(source, fd, limits, self._stop, tick, space)
                os.fsync(fd)  # what is in it is believed without a digest
            draft.replace(path)
        except (LayerCorrupt, LayerRefused) as error:
            if archive.is_remote and self._spool.discard_unpinned(archive, head):
                message = f"{error} - its download was resumed"
                raise SourceChanged(message, hint="the next attempt fetches it from the beginning") from error
            raise
        except OSError as error:
            raise host_error(error, directory) from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        if archive.is_remote:
            self._spool.discard_unpinned(archive, head)


class _Part(Origin):
    """A layer in the decompressed copy of an archive."""

    def __init__(self, archives: Archives, layer: Layer, limits: Limits) -> None:
        assert layer.source.part
        self._archives, self._layer, self._limits = archives, layer, limits
        self._at, self.size = layer.source.part
        self._end = self._at + self.size
        self._fd, self._made = -1, False

    def readinto(self, buffer: memoryview, check: Check) -> int:
        if self._fd < 0:
            self._fd, self._made = self._archives.opened(self._layer, self._limits, check)
        if not (left := self._end - self._at):
            return 0
        try:
            got = os.preadv(self._fd, [buffer[:left]], self._at)
        except OSError as error:
            raise NeedsOperator(f"the spool can't be read: {error.strerror}", hint="check its disk") from error
        if not got:
            raise self._damaged()
        self._at += got
        return got

    def verify(self, digest: str) -> None:
        if digest == self._layer.sha256:
            return
        if not self._made:
            raise self._damaged()
        message = f"{self._layer.source.url} has sha256 {digest}, not the {self._layer.sha256} of its manifest"
        raise DigestMismatch(message, hint="save the image again")

    def _damaged(self) -> SourceChanged:
        """Another process has made the copy, maybe before a power cut: another one proves what is wrong."""
        self._archives.discard(self._layer)
        hint = "it is removed, and the next attempt makes it again"
        return SourceChanged(f"the decompressed copy of {self._layer.source.url} was damaged", hint=hint)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@contextmanager
def _created(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _decompress(
    source: Input, fd: int, limits: Limits, stop: threading.Event, tick: Tick, check_space: Callable[[], None]
) -> None:
    most = limits.max_unpacked_bytes

    def chain(digests: Sequence[str]) -> str:
        return chain_ids(most, digests)[-1]

    request = Request((source,), most, chain, limits, volume=fd, unpack=True, check_space=check_space)
    with Build(request, stop) as build:
        build.wait(Milestone.WRITTEN, stop=stop, tick=tick)
