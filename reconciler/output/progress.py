"""Where running work reports how far it is: the interface, and an implementation that shows nothing.

Used by ``controller``, ``telemetry`` and ``cli``; ``console`` has the implementations that draw. No state.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what running work reports. ``done`` and ``total`` are bytes; many threads call it."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, *exc: object) -> None: ...
    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None: ...
    def finish(self, key: str, text: str) -> None: ...
    def tick(self) -> None:
        """Some time has passed, and work is still running."""
        ...


class Silent:
    """Shows nothing: for JSON output and ``--progress none``."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        return None

    def finish(self, key: str, text: str) -> None:
        return None

    def tick(self) -> None:
        return None
