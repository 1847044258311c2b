"""Layers on their way to the builder: each fetched once for all its readers, and kept until the last one has closed it.

Names in the directory, all others are left alone:
``<sha256>`` a whole layer that was right when it arrived; ``<key>.part`` and ``<key>.json`` an unfinished one (``partial``);
``etag-<hash>`` a link to the whole layer that an unpinned source's key, ETag and length identified;
``archive-<key>`` the decompressed copy of an archive of images (``oci.unpacked``), ``archive-<key>.part`` an unfinished one.
Called by ``controller``. State: the directory; in memory, the open readers, and which of a digest's sources failed or answered.
What transfers is imported with the first layer that is not a file of this host.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock

from reconciler import atomic_file
from reconciler.dataclass import dataclass, replace
from reconciler.errors import ReconcilerError, SourceUnavailable, Stopped, Terminal
from reconciler.image.source.arrival import Arrival, Arriving, Manner, host_error
from reconciler.image.source.local import LocalFile
from reconciler.image.source.partial import BYTES, DRAFT, RECORD, Partial
from reconciler.image.source.reading import HEARTBEAT, Reading
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Layer, Source

_OURS = re.compile(rf"\.?((?:etag-|archive-)?[0-9a-f]{{64}})({re.escape(BYTES)}|{re.escape(RECORD)}|{re.escape(DRAFT)})?")

UNPACKED = "archive-"

ELSEWHERE_SECONDS, ELSEWHERE_TRIES = 10.0, 2
"""The deadline of a source's first answer, and its tries, where another one that has not failed has the layer, too."""

ENDING_SECONDS = 10.0
"""How long a fetch waits for an earlier transfer of the same layer to release its file."""


@dataclass(slots=True)
class Shared:
    """An arrival, where it comes from, and how many hold it."""

    arrival: Arrival
    source: Source
    readers: int = 0


class Spool:
    """A context manager; thread-safe. ``directory`` is made where it is missing. ``stop`` ends every transfer with Stopped."""

    def __init__(
        self,
        directory: Path,
        *,
        connections: int = 4,
        part_bytes: int = 8 << 20,
        checkpoint_seconds: float = 1.0,
        stop: Event | None = None,
    ) -> None:
        self.directory = directory
        self._manner = Manner(connections, part_bytes, checkpoint_seconds)
        self._stop = stop or Event()
        self._lock = Lock()
        self._shared: dict[str, Shared] = {}
        self._resumed: set[str] = set()
        self._failed: dict[str, set[Source]] = {}
        self._answered: dict[str, Source] = {}

    def fetch(self, layer: Layer, head: Head | None = None) -> Reading:
        """Begin to fetch a layer, or join the transfer that is under way; a file of this host is read where it lies.

        ``head`` saves a request for an unpinned layer.
        Raises what fails at once: SourceNotFound, SourceForbidden, SourceUnavailable, SourceChanged, NoSpace, NeedsOperator.
        """
        if not layer.source.is_remote:
            return Reading(layer.source.url, LocalFile(layer, head), self._stop)
        chosen = self._chosen(layer)
        if head is None and (layer.sha256 is None or chosen is not layer):
            head = self._head(chosen)
        key = spool_key(layer, head)
        with self._settled(lambda: self._ending({key}), f"a transfer of {layer.source.url}"):
            shared = self._shared.get(key)
            if shared is None or shared.arrival.over:
                shared = self._shared[key] = Shared(self._begin(key, chosen, head), chosen.source)
            shared.readers += 1
        origin = Arriving(shared.arrival, lambda: self._leave(shared), foreign=shared.source != layer.source)
        return Reading(layer.source.url, origin, self._stop)

    def _chosen(self, layer: Layer) -> Layer:
        """The layer with the first of its sources that has not failed."""
        source = next(iter(self._sources(layer)), layer.source)
        others = tuple(one for one in (layer.source, *layer.others) if one != source)
        return layer if source == layer.source else replace(layer, source=source, others=others)

    def _sources(self, layer: Layer) -> list[Source]:
        """Those that have not failed: the one that has answered, the layer's own one, the others."""
        digest = layer.sha256 or ""
        found = [one for one in (layer.source, *layer.others) if one not in self._failed.get(digest, ())]
        return sorted(found, key=lambda one: one != self._answered.get(digest)) if layer.others else found

    def _failure(self, layer: Layer, error: ReconcilerError) -> ReconcilerError:
        """What to raise where the source of a layer has failed: another attempt helps where there is one that has not."""
        if layer.sha256 is None or not layer.others:
            return error
        self._failed.setdefault(layer.sha256, set()).add(layer.source)
        other = self._untried(layer)
        if other is None:
            self._failed.pop(layer.sha256, None)
            return error
        place = f"{other.url} at {other.s3.endpoint_url}" if other.s3.endpoint_url else other.url
        return SourceUnavailable(error.message, hint=f"the next attempt fetches it from {place}, where another image declares it")

    def _untried(self, layer: Layer) -> Source | None:
        """Another source of the layer, which has not failed."""
        failed = self._failed.get(layer.sha256 or "", ())
        return next((one for one in layer.others if one not in failed), None)

    def _head(self, layer: Layer) -> Head:
        from reconciler.image.source.remote import head_one

        try:
            return head_one(layer.source, self._stop.is_set)
        except (SourceUnavailable, Terminal) as error:
            if self._stop.is_set():
                raise Stopped(f"stopped while {layer.source.url} was asked for") from None
            raise self._failure(layer, error) from error

    def length(self, layer: Layer) -> int:
        """Bytes of a layer, as the first of its sources that answers reports them now; 0 where none does.

        The layer is fetched from there: a source that is silent is not waited for again.
        """
        for source in self._sources(layer):
            with suppress(ReconcilerError):
                size = self._head(Layer(source)).size
                if layer.others:
                    self._answered[layer.sha256 or ""] = source
                return size
        return 0

    @contextmanager
    def _settled(self, ending: Callable[[], Sequence[Arrival]], what: str) -> Iterator[None]:
        """Hold the lock while no arrival of ``ending`` holds its file any more; they are waited for without the lock.

        Raises SourceUnavailable, or Stopped, where one goes on for ``ENDING_SECONDS``.
        """
        until = time.monotonic() + ENDING_SECONDS
        while True:
            with self._lock:
                waiting = ending()
                if not waiting:
                    yield
                    return
            waiting[0].join(min(HEARTBEAT, max(0.0, until - time.monotonic())))
            if time.monotonic() >= until or self._stop.is_set():
                kind = Stopped if self._stop.is_set() else SourceUnavailable
                raise kind(f"{what} has not ended after {ENDING_SECONDS:.0f} s", hint="the next attempt fetches it again")

    def _ending(self, keys: Collection[str]) -> Sequence[Arrival]:
        """Transfers that are over, and whose threads hold their files still. The lock is held."""
        found = [self._shared[key].arrival for key in keys if key in self._shared]
        return [one for one in found if one.over and one.busy]

    def _leave(self, shared: Shared) -> None:
        """A reader lets go. The last one ends a transfer that is still under way; what has arrived stays for the next one."""
        with self._lock:
            shared.readers -= 1
            if not shared.readers:
                shared.arrival.cancel()

    def _begin(self, key: str, layer: Layer, head: Head | None) -> Arrival:
        try:
            atomic_file.make_directory(self.directory)
            whole = self._whole(key)
            if whole is not None:
                return Arrival.whole(whole, head.etag if head else "", self._stop)
            return self._download(key, layer, head)
        except OSError as error:
            raise host_error(error, self.directory) from error

    def _whole(self, key: str) -> Path | None:
        path = self.directory / key
        if path.is_symlink():
            path = self.directory / path.readlink().name
        return path if path.is_file() else None

    def _download(self, key: str, layer: Layer, head: Head | None) -> Arrival:
        from reconciler.image.source.download import Download

        partial = Partial.of(self.directory, key)
        arrival = Arrival(partial.bytes, self._stop)
        manner = self._manner
        if self._untried(layer):
            manner = replace(manner, answer_seconds=ELSEWHERE_SECONDS, tries=ELSEWHERE_TRIES)
        download = Download(layer, head, partial, arrival, manner)
        partial.bytes.touch(0o600)

        def produce() -> str:
            try:
                digest = download.run()
            except (SourceUnavailable, Terminal) as error:
                raise self._failure(layer, error) from error
            self._failed.pop(digest, None)
            self._answered.pop(digest, None)
            if arrival.resumed:
                self._resumed.add(digest)
            self._adopt(arrival, partial, key, digest)
            return digest

        arrival.start(produce)
        return arrival

    def _adopt(self, arrival: Arrival, partial: Partial, key: str, digest: str) -> None:
        """Give a whole layer its name. It is not synced: a reader finds what a power cut did to it."""
        arrival.move(self.directory / digest)
        partial.record.unlink(missing_ok=True)
        if key != digest:
            link = self.directory / key
            link.unlink(missing_ok=True)
            link.symlink_to(digest)

    def size(self, digest: str) -> int | None:
        """Bytes of a layer that is whole on disk."""
        try:
            return (self.directory / digest).stat().st_size
        except OSError:
            return None

    def was_resumed(self, digest: str) -> bool:
        """Whether parts of a layer were fetched at different times."""
        with self._lock:
            shared = self._shared.get(digest)
            return digest in self._resumed or (shared is not None and shared.arrival.resumed)

    def discard_unpinned(self, source: Source, head: Head) -> bool:
        """The same of an unpinned layer. Returns whether parts of it were fetched at different times."""
        key = etag_key(source, head.etag, head.size)
        whole = self._whole(key)
        name = whole.name if whole else key
        resumed = self.was_resumed(name) or self.was_resumed(key)
        self.discard(name)
        return resumed

    def discard(self, digest: str) -> None:
        """Remove what there is of a layer, so that the next fetch begins anew; one that has other readers is left alone."""

        def ending() -> Sequence[Arrival]:
            named = self._named(digest).values()
            return [] if any(one.readers for one in named) else [one.arrival for one in named if one.arrival.busy]

        with self._settled(ending, f"a transfer of the layer {digest}"):
            named = self._named(digest)
            if any(one.readers for one in named.values()):
                return
            for key in named:
                del self._shared[key]
            self._resumed.discard(digest)
            for path in self.directory.iterdir() if self.directory.is_dir() else ():
                match = _OURS.fullmatch(path.name)
                if match and (match[1] == digest or (path.is_symlink() and path.readlink().name == digest)):
                    path.unlink(missing_ok=True)

    def _named(self, digest: str) -> Mapping[str, Shared]:
        return {key: one for key, one in self._shared.items() if digest in (key, one.arrival.path.name)}

    def unpacked(self, key: str) -> Path | None:
        """The decompressed copy of an archive, where there is one."""
        path = self.unpacked_path(key)
        return path if path.is_file() else None

    def unpacked_path(self, key: str) -> Path:
        """Where that copy is, or is to be."""
        return self.directory / f"{UNPACKED}{key}"

    def whole_layers(self) -> frozenset[str]:
        """Digests of the layers, and keys of the decompressed archives, that are whole on disk."""
        try:
            names = (path.name.removeprefix(UNPACKED) for path in self.directory.iterdir())
            return frozenset(name for name in names if len(name) == 64 and _OURS.fullmatch(name))
        except OSError:
            return frozenset()

    def held(self, layers: Iterable[Layer]) -> int:
        """Bytes that the directory has of these layers; of an unpinned one, unfinished downloads of its key."""
        return sum(self._held(layer) for layer in set(layers) if layer.source.is_remote)

    def _held(self, layer: Layer) -> int:
        if layer.sha256 is not None:
            whole, record = self.directory / layer.sha256, Partial.of(self.directory, layer.sha256).load()
            return whole.stat().st_size if whole.is_file() else record.length if record else 0
        found = ((path.stem, Partial.of(self.directory, path.stem).load()) for path in self.directory.glob(f"etag-*{RECORD}"))
        return sum(one.length for key, one in found if one and key == etag_key(layer.source, one.etag, one.size))

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove what is not in use and not named by ``keep`` (digests of layers, ``archive-<key>``); return what was removed."""
        with self._lock:
            # Looked up in this order, so that a file which is renamed in between is spared.
            found = sorted(self.directory.iterdir()) if self.directory.is_dir() else []
            wanted = {*keep, *self._in_use()}
            return tuple(path.name for path in found if self._remove_unless(path, wanted))

    def close(self, timeout: float = 10.0) -> None:
        """End what is under way, and wait until nothing touches the directory any more, for ``timeout`` seconds at most."""
        until = time.monotonic() + timeout
        with self._lock:
            arrivals = [shared.arrival for shared in self._shared.values()]
        for arrival in arrivals:
            arrival.cancel()
        for arrival in arrivals:
            arrival.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _in_use(self) -> set[str]:
        self._shared = {key: shared for key, shared in self._shared.items() if shared.readers or shared.arrival.busy}
        return {*self._shared, *(shared.arrival.path.name for shared in self._shared.values())}

    def _remove_unless(self, path: Path, wanted: set[str]) -> bool:
        match = _OURS.fullmatch(path.name)
        linked = path.readlink().name if path.is_symlink() else ""
        if match is None or match[1] in wanted or linked in wanted:
            return False
        path.unlink(missing_ok=True)
        return True


def spool_key(layer: Layer, head: Head | None) -> str:
    """The key that a transfer is shared by: the digest, or the ETag and length of one key at one endpoint."""
    source = layer.source
    if layer.sha256 is not None:
        return layer.sha256
    assert head is not None
    return etag_key(source, head.etag, head.size)


def etag_key(source: Source, etag: str, size: int) -> str:
    identity = (source.s3.endpoint_url or "", source.url, etag, str(size))
    return "etag-" + sha256("\n".join(identity).encode()).hexdigest()
