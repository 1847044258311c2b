"""Layers on their way to the builder: each fetched once for all its readers, and kept until the last one has closed it.

Names in the directory, all others are left alone:
``<sha256>`` a whole layer that was right when it arrived; ``<key>.part`` and ``<key>.json`` an unfinished one (``partial``);
``etag-<hash>`` a link to the whole layer that an unpinned source's key, ETag and length identified.
Called by ``controller``. State: the directory; in memory, the open readers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock

from reconciler import atomic_file
from reconciler.errors import ReconcilerError, SourceUnavailable, Stopped
from reconciler.image.source.arrival import Arrival, Arriving, host_error
from reconciler.image.source.download import Download, Manner
from reconciler.image.source.local import LocalFile
from reconciler.image.source.partial import BYTES, DRAFT, RECORD, Partial
from reconciler.image.source.reading import Reading
from reconciler.image.source.s3 import head_one
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Layer, Source

_OURS = re.compile(rf"\.?((?:etag-)?[0-9a-f]{{64}})({re.escape(BYTES)}|{re.escape(RECORD)}|{re.escape(DRAFT)})?")


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

    def fetch(self, layer: Layer, head: Head | None = None) -> Reading:
        """Begin to fetch a layer, or join the transfer that is under way; a file of this host is read where it lies.

        ``head`` saves a request for an unpinned layer.
        Raises what fails at once: SourceNotFound, SourceForbidden, SourceUnavailable, SourceChanged, NoSpace, NeedsOperator.
        """
        if not layer.source.is_s3:
            return Reading(layer.source.url, LocalFile(layer, head), self._stop)
        if layer.sha256 is None and head is None:
            head = self._head(layer.source)
        key = spool_key(layer, head)
        with self._lock:
            shared = self._usable(key)
            if shared is None:
                shared = self._shared[key] = Shared(self._begin(key, layer, head), layer.source)
            shared.readers += 1
        origin = Arriving(shared.arrival, lambda: self._leave(shared), foreign=shared.source != layer.source)
        return Reading(layer.source.url, origin, self._stop)

    def _head(self, source: Source) -> Head:
        try:
            return head_one(source, self._stop.is_set)
        except SourceUnavailable:
            if self._stop.is_set():
                raise Stopped(f"stopped while {source.url} was asked for") from None
            raise

    def length(self, source: Source) -> int:
        """Bytes of an object or file, as its source reports them now; 0 where it doesn't."""
        try:
            return self._head(source).size
        except ReconcilerError:
            return 0

    def _usable(self, key: str) -> Shared | None:
        shared = self._shared.get(key)
        if shared is None or not shared.arrival.over:
            return shared
        shared.arrival.join()
        return None

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
        partial = Partial.of(self.directory, key)
        arrival = Arrival(partial.bytes, self._stop)
        download = Download(layer, head, partial, arrival, self._manner)
        partial.bytes.touch(0o600)

        def produce() -> str:
            digest = download.run()
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

    def discard(self, digest: str) -> None:
        """Remove what there is of a layer, so that the next fetch begins anew; one that has other readers is left alone."""
        with self._lock:
            named = {key: one for key, one in self._shared.items() if digest in (key, one.arrival.path.name)}
            if any(one.readers for one in named.values()):
                return
            for key, one in named.items():
                one.arrival.join()
                del self._shared[key]
            self._resumed.discard(digest)
            for path in self.directory.iterdir() if self.directory.is_dir() else ():
                match = _OURS.fullmatch(path.name)
                if match and (match[1] == digest or (path.is_symlink() and path.readlink().name == digest)):
                    path.unlink(missing_ok=True)

    def whole_layers(self) -> frozenset[str]:
        """Digests of the layers that are whole on disk."""
        try:
            return frozenset(
                path.name for path in self.directory.iterdir() if len(path.name) == 64 and _OURS.fullmatch(path.name)
            )
        except OSError:
            return frozenset()

    def held(self, layers: Iterable[Layer]) -> int:
        """Bytes that the directory has of these layers; of an unpinned one, unfinished downloads of its key."""
        return sum(self._held(layer) for layer in set(layers) if layer.source.is_s3)

    def _held(self, layer: Layer) -> int:
        if layer.sha256 is not None:
            whole, record = self.directory / layer.sha256, Partial.of(self.directory, layer.sha256).load()
            return whole.stat().st_size if whole.is_file() else record.length if record else 0
        found = ((path.stem, Partial.of(self.directory, path.stem).load()) for path in self.directory.glob(f"etag-*{RECORD}"))
        return sum(one.length for key, one in found if one and key == etag_key(layer.source, one.etag, one.size))

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove what is not in use and not named by ``keep`` (digests of layers); return the names of what was removed."""
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
