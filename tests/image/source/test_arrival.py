"""A layer on its way, as its readers see it."""

from __future__ import annotations

import threading
from pathlib import Path

from reconciler.image.source.arrival import Arrival


def test_what_has_arrived_never_becomes_less(tmp_path: Path) -> None:
    """Two workers tell their news in the wrong order: the reader still learns of the last byte, and does not wait for ever."""
    arrival = Arrival(tmp_path / "layer", threading.Event())
    arrival.describe("etag", 200)

    arrival.advance(200)
    arrival.advance(100)

    assert arrival.progress.done == 200
    assert arrival.wait(150, 0.0).length == 200
