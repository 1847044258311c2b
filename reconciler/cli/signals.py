"""SIGINT and SIGTERM: the first one asks running work to stop, the second one ends the command; exit code 130 or 143.

Used by ``cli`` around every verb that may run for long. State: the signal handlers, while ``installed``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.errors import Exit, Stopped


class SecondSignal(KeyboardInterrupt):
    """Ends the command at once, whatever runs."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit = _exit_of(number)


class Interrupted:
    """``stop`` is set by the first SIGINT or SIGTERM; running work checks it and ends at its next boundary."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.signal = 0

    def __call__(self, number: int, frame: object) -> None:
        if self.signal:
            raise SecondSignal(number)
        self.signal = number
        self.stop.set()

    @contextmanager
    def installed(self) -> Iterator[Interrupted]:
        """Handle both signals until the end of the block."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        except Stopped as stopped:
            stopped.exit = self.exit
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def exit(self) -> Exit:
        return _exit_of(self.signal)


def _exit_of(number: int) -> Exit:
    return Exit.SIGTERM if number == signal.SIGTERM else Exit.SIGINT
