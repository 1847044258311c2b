"""The parent's side of a build's layers: one after the other, into the memory that the builder reads.

Used by ``parent``, which runs ``Feed.run`` in a thread. State: the ring, and the layers that have begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.errors import Stopped
from reconciler.image.builder.protocol import Channel
from reconciler.image.builder.ring import Ring
from reconciler.image.source import reading
from reconciler.image.spec import AS_WRITTEN

GRACE_SECONDS = 3.0
"""How long a refused layer's download may still take to show that the bytes were not the declared ones in the first place."""


class Fetch(Protocol):
    """A layer on its way (``source.reading`` has it)."""

    def readinto(self, buffer: memoryview) -> int: ...
    def result(self, check: reading.Check = ...) -> reading.Fetched: ...
    @property
    def progress(self) -> reading.Progress: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Input:
    """One layer of the request. ``begin`` starts or joins its download when its turn has come.

    ``pinned``: its bytes may turn out not to be the declared ones; a refusal waits for that check. ``declared``: the digest of
    its stored bytes is declared. ``diff_id`` is the sum of the decompressed bytes in hex digits; empty where none is declared.
    """

    name: str
    begin: Callable[[], Fetch]
    pinned: bool = True
    declared: bool = False
    diff_id: str = ""


class Feed:
    """``moved`` is called whenever the builder has got something."""

    def __init__(self, layers: Sequence[Input], ring: Ring, moved: Callable[[], None]) -> None:
        self._layers = layers
        self._moved = moved
        self._fetches: list[Fetch] = []
        self._begins: list[int] = []
        self.ring = ring
        self.ended = 0
        """Layers that have been handed over to their last byte."""
        self._compared = 0
        """Layers whose bytes arrived to the last one, and are the declared ones where a digest is declared."""
        self._channel: Channel | None = None
        self._sent = 0
        self._announced = 0
        """How far the builder may read."""
        self._sending = Lock()

    def run(self, channel: Channel, begun: Callable[[int], None]) -> tuple[str, ...] | None:
        """Pass the builder each layer as it arrives; return the digests, None where the builder has ended before.

        Raises what went wrong with a layer. ``begun`` is called with the number of each layer.
        """
        digests: list[str] = []
        self._channel = channel
        for number, layer in enumerate(self._layers):
            begun(number)
            fetch = layer.begin()
            self._fetches.append(fetch)
            try:
                whole = self._pass(channel, layer, fetch)
            except (BrokenPipeError, ConnectionResetError):
                whole = False
            if not whole:
                self._compared += _check_rest(layer, fetch)
                return None
            digests.append(fetch.result().digest)
            self._compared += 1
        return tuple(digests)

    def _pass(self, channel: Channel, layer: Input, fetch: Fetch) -> bool:
        """Hand over one layer; False where the builder reads no more of it."""
        self._begins.append(self.ring.filled)
        channel.send("layer", name=layer.name, diff_id=layer.diff_id)
        while space := self.ring.space(reading.PIECE):
            got = fetch.readinto(space)
            if not got:
                self._announce(ended=True)
                self.ended += 1
                self._moved()
                channel.send("end")
                return True
            self.ring.fill(got)
            self._moved()
            self._announce()
        return False

    def _announce(self, *, ended: bool = False) -> None:
        """Report how far the ring is filled, unless that is little more than before and the builder has something to read.

        Never so often that the channel could be full: then neither side would read any more.
        """
        with self._sending:
            left, more = self._announced - self.ring.read, self.ring.filled - self._announced
            enough = self.ring.returned if left > self.ring.returned else min(reading.PIECE, self.ring.returned)
            if self._channel is not None and more and (ended or not left or more >= enough):
                self._announced += more
                self._sent += 1
                self._channel.send("length", length=self._announced - self._begins[-1])

    def take(self, layer: int, read: int, held: int) -> None:
        """The builder has read so much of a layer, and uses the last ``held`` bytes of the ring before that.

        What was held back is announced before it runs dry. Raises ValueError.
        """
        self.ring.take(self._position(layer, read), held)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._announce()

    def _position(self, layer: int, read: int) -> int:
        """Where in the ring a layer's byte lies. Raises ValueError where the layer has not begun."""
        if not 0 <= layer < len(self._begins) or read < 0:
            raise ValueError(f"progress on layer {layer}")
        return self._begins[layer] + read

    @property
    def occasions(self) -> int:
        """How often the builder has had to report progress: after each message, and whenever it returns memory."""
        return self._sent + self.ended + self.ring.filled // self.ring.returned

    @property
    def layer(self) -> int:
        """The number of the layer that is being handed over."""
        return max(0, len(self._begins) - 1)

    @property
    def progress(self) -> reading.Progress:
        """Of that layer."""
        return self._fetches[-1].progress if self._fetches else reading.Progress(0, None)

    def hint(self, layer: int, given: str) -> str:
        """The builder's hint for an error of a layer, which has no knowledge of the layer's digest."""
        as_written = self._layers[layer].declared and layer < self._compared
        return AS_WRITTEN.get(given, given) if as_written else given

    def close(self) -> None:
        """Let go of the layers."""
        self.ring.close()
        for fetch in self._fetches:
            fetch.close()


def _check_rest(layer: Input, fetch: Fetch) -> bool:
    """Whether the rest has arrived, soon, and is right. Raises what is wrong with it.

    Bytes that are not the declared ones are seldom a tar either; the digest is then the better error.
    """
    until = time.monotonic() + GRACE_SECONDS

    def check() -> None:
        if time.monotonic() > until:
            raise Stopped(f"stopped while the rest of {layer.name} was read")

    if not layer.pinned:
        return False
    try:
        fetch.result(check)
    except Stopped:
        return False
    return True
