"""Sources of layers that answer, hang, fail, take their time, or answer oddly. State in memory; owned by ``world``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.errors import BuilderDied, DigestMismatch, LayerRefused, SourceNotFound, SourceUnavailable
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Layer, S3Options, Source
from tests.simulation.threads import Kernel, VirtualEvent

MODES = ("hang", "hang", "error", "slow", "odd", "missing", "wrong", "wrong", "broken")

FETCH_SECONDS = 60.0
"""After so long without a byte a download fails, as the real one does."""


@dataclass
class SimulatedSource:
    """``mode`` is empty while it is healthy; ``healed`` is when it became so.

    ``drip``, for scripts: a transfer that brings bytes and does not end.
    """

    source: Source
    version: int = 0
    mode: str = ""
    healed: float = 0.0
    ends: list[VirtualEvent] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.source.url} {self.version}".encode()).hexdigest()

    @property
    def head(self) -> Head:
        return Head(f'"{self.digest[:16]}"', 1000 + self.version)


class SimulatedSources:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        places = [Source(f"s3://bucket/{n}", S3Options(endpoint_url=f"http://{host}")) for n, host in enumerate("xxyyz")]
        places += [Source(f"/layers/{directory}/{n}.tar") for n, directory in enumerate("ppq")]
        self.all = {source: SimulatedSource(source) for source in places}

    def fail(self, source: Source, mode: str) -> None:
        self.heal(source)
        self.all[source].mode = mode

    def heal(self, source: Source) -> None:
        one = self.all[source]
        if one.mode:
            one.mode, one.healed = "", self._kernel.now
            for event in one.ends:
                event.set()
            one.ends.clear()

    def head(self, source: Source) -> Head:
        """What ``Sources`` asks for."""
        one = self.all[source]
        self._kernel.point()
        if one.mode == "hang":
            end = VirtualEvent(self._kernel)
            one.ends.append(end)
            end.wait()
        elif one.mode == "slow":
            self._kernel.sleep(self._kernel.random.uniform(0.5, 14))
        elif one.mode == "error":
            raise SourceUnavailable(f"{source.url} refuses connections")
        elif one.mode == "missing":
            raise SourceNotFound(f"there is no {source.url}")
        elif one.mode == "odd":
            raise KeyError("ETag")
        else:
            self._kernel.sleep(self._kernel.random.uniform(0.0, 0.3))
        return one.head

    def fetch(self, layer: Layer, check: Callable[[], None]) -> tuple[Head, str]:
        """Download a layer: its head and digest. ``check`` raises where the step is to end early."""
        one, left = self.all[layer.source], self._kernel.random.uniform(0.1, 3.0)
        if one.mode == "slow":
            left = self._kernel.random.uniform(5, 40)
        waited = 0.0
        while left > 0 or one.mode in ("hang", "drip"):
            self._kernel.sleep(min(1.0, max(left, 0.2)))
            check()
            waited += 1.0
            left = left if one.mode in ("hang", "drip") else left - 1.0
            if one.mode == "hang" and waited > FETCH_SECONDS:
                raise SourceUnavailable(f"{layer.source.url} has sent nothing for {FETCH_SECONDS:.0f} s")
        if one.mode == "error":
            raise SourceUnavailable(f"{layer.source.url} refuses connections")
        if one.mode == "missing":
            raise SourceNotFound(f"there is no {layer.source.url}")
        if one.mode == "odd":
            raise RuntimeError("a fault of ours")
        if layer.sha256 not in (None, one.digest):
            raise DigestMismatch(f"{layer.source.url} has digest {one.digest[:12]}")
        return one.head, one.digest

    def judge(self, layer: Layer) -> None:
        """What the builder makes of the layer's content: it is refused, or the builder dies."""
        one = self.all[layer.source]
        if one.mode == "wrong":
            raise LayerRefused(f"{layer.source.url} has a member named ..", rule="name-climbs")
        if one.mode == "broken":
            raise BuilderDied("the builder was killed")
