"""SIGINT and SIGTERM as a wish: running work stops at its next boundary, and the command ends with the signal's exit code.

Used by ``cli`` around everything that may run for long. State: the signal handlers, while ``installed``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.errors import Exit


class Interrupted:
    """The first SIGINT or SIGTERM asks running work to stop at its next boundary; ``stop`` is what that work looks at."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.signal = 0

    def __call__(self, number: int, frame: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self.stop.set()

    @contextmanager
    def installed(self) -> Iterator[Interrupted]:
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def exit(self) -> Exit:
        return Exit.SIGTERM if self.signal == signal.SIGTERM else Exit.SIGINT
