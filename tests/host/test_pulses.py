"""Changes of pools and of the registry between assessments."""

from __future__ import annotations

import threading
from pathlib import Path

from reconciler.host import context
from reconciler.host.context import REGISTRY, Host
from reconciler.host.pulses import Pulses
from reconciler.settings import Settings
from tests.support.origin import eventually


def settings(directory: Path) -> Settings:
    (directory / "manifests").mkdir()
    return Settings(directory / "manifests", directory / "state")


def test_a_registry_that_was_busy_when_an_assessment_began_counts_as_changed_until_the_next(tmp_path: Path) -> None:
    with context.writing(settings(tmp_path), stop=threading.Event()) as host:
        pulses = Pulses(seconds=0.0)
        with host.records._lock:  # as a writer does, who waits for another process
            pulses.take(host)
            assert REGISTRY not in pulses.base
            assert not pulses.changed(host), "nobody has looked yet"
        eventually(lambda: pulses.changed(host))
        pulses.take(host)
        for _ in range(3):
            assert not settled(pulses, host)


def settled(pulses: Pulses, host: Host) -> bool:
    """Whether anything has changed, by pulses that have returned."""
    found = pulses.changed(host)
    eventually(lambda: all(call.returned for call in pulses._calls.values()))
    return found or pulses.changed(host)
