"""Threads, waiting and time of the control loop: its only use of ``threading``, queues and clocks that a simulation replaces.

Used by ``scheduler``, ``service``, ``calls``, ``sources`` and ``converge``, which get it with the Host. ``tests/simulation`` has
another implementation, in which one seed decides the order and time passes only while every thread waits. No state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Mailbox(Protocol, Generic[T]):
    """A queue between threads. ``get`` raises ``queue.Empty`` once ``timeout`` seconds have passed."""

    def put(self, item: T) -> None: ...
    def get(self, *, timeout: float | None = None) -> T: ...
    def get_nowait(self) -> T: ...


class Threads:
    """Those of the operating system."""

    def start(self, work: Callable[[], None], name: str) -> None:
        """Begin the work in a daemon thread of its own, with the caller's context."""
        threading.Thread(target=copy_context().run, args=(work,), name=name, daemon=True).start()

    def event(self) -> threading.Event:
        return threading.Event()

    def condition(self) -> threading.Condition:
        return threading.Condition()

    def mailbox(self) -> Mailbox[T]:
        queue: SimpleQueue[T] = SimpleQueue()
        return queue

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def thread_time(self) -> float:
        """Seconds of CPU of the calling thread."""
        return time.thread_time()


THREADS = Threads()
