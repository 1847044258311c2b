"""The parent's side of a build's layers: one after the other, into the memory that the builder reads.

Used by ``parent``, which runs ``Feed.run`` in a thread. State: the ring, and the layers that have begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.errors import Stopped
from reconciler.image.builder.protocol import Channel
from reconciler.image.builder.ring import Ring
from reconciler.image.source import reading

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

    ``pinned``: its bytes may turn out not to be the declared ones; a refusal waits for that check.
    """

    name: str
    begin: Callable[[], Fetch]
    pinned: bool = True


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
        self._sent = 0

    def run(self, channel: Channel, begun: Callable[[int], None]) -> tuple[str, ...] | None:
        """Pass the builder each layer as it arrives; return the digests, None where the builder has ended before.

        Raises what went wrong with a layer. ``begun`` is called with the number of each layer.
        """
        digests: list[str] = []
        for number, layer in enumerate(self._layers):
            begun(number)
            fetch = layer.begin()
            self._fetches.append(fetch)
            try:
                whole = self._pass(channel, layer.name, fetch)
            except (BrokenPipeError, ConnectionResetError):
                whole = False
            if not whole:
                _check_rest(layer, fetch)
                return None
            digests.append(fetch.result().digest)
        return tuple(digests)

    def _pass(self, channel: Channel, name: str, fetch: Fetch) -> bool:
        """Hand over one layer; False where the builder reads no more of it."""
        self._begins.append(self.ring.filled)
        channel.send("layer", name=name)
        length = 0
        while space := self.ring.space(reading.PIECE):
            got = fetch.readinto(space)
            if not got:
                self.ended += 1
                self._moved()
                channel.send("end")
                return True
            length += got
            self.ring.fill(got)
            self._sent += 1
            self._moved()
            channel.send("length", length=length)
        return False

    def position(self, layer: int, read: int) -> int:
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

    def close(self) -> None:
        """Let go of the layers."""
        self.ring.close()
        for fetch in self._fetches:
            fetch.close()


def _check_rest(layer: Input, fetch: Fetch) -> None:
    """Bytes that are not the declared ones are seldom a tar either; the digest is then the better error, if it is soon there."""
    until = time.monotonic() + GRACE_SECONDS

    def check() -> None:
        if time.monotonic() > until:
            raise Stopped(f"stopped while the rest of {layer.name} was read")

    if layer.pinned:
        try:
            fetch.result(check)
        except Stopped:
            return
