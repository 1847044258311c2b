"""Blocking calls in daemon threads, each with a deadline, at most one for each resource; and the threads and the clock they use.

A call that can't be interrupted (stat on a dead mount, an ioctl on a suspended device, a server that never answers) holds its
resource and nothing else: until it returns, no second call on that resource begins. Used by ``observe``, ``head_requests``,
``context`` and the control loop. ``tests/simulation`` replaces ``Threads``: one seed decides the order, and time passes only
while every thread waits. State: the calls that have not returned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Generic, NoReturn, Protocol, TypeVar

from reconciler.claim import Moment
from reconciler.dataclass import dataclass, field
from reconciler.errors import HostCannot

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


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

    def moment(self) -> Moment:
        """The time by which claims expire."""
        return Moment.now()

    def thread_time(self) -> float:
        """Seconds of CPU of the calling thread."""
        return time.thread_time()


THREADS = Threads()


# --- calls


@dataclass(eq=False)
class Call(Generic[T]):
    """One call under way or returned. ``began`` is monotonic seconds; ``late`` says that somebody has gone on without it."""

    resource: Hashable
    began: float
    late: bool = False
    returning: threading.Event = field(default_factory=threading.Event)
    _value: list[T] = field(default_factory=list)
    _error: BaseException | None = None

    @property
    def returned(self) -> bool:
        return self.returning.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for it to return, up to so many seconds; whether it has."""
        return self.returning.wait(max(0.0, seconds))

    def result(self) -> T:
        """What it returned. Raises what it raised; only for calls that have returned."""
        if self._error is not None:
            raise self._error
        return self._value[0]

    def run(self, work: Callable[[], T]) -> None:
        """Do the work and keep what it returns or raises; ``returning`` is set by the caller, once it has let the resource go."""
        try:
            self._value.append(work())
        except BaseException as error:
            self._error = error


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A call that has not returned after so many ``seconds``."""

    seconds: float


def _refuse(error: RuntimeError) -> NoReturn:
    raise HostCannot(str(error), hint="raise the limits of tasks: TasksMax of the unit, ulimit -u") from error


class Calls:
    """Starts calls. ``on_late_return`` is called, in the call's thread, where a caller has gone on without its result."""

    def __init__(self, *, on_late_return: Callable[[], None] = lambda: None, threads: Threads = THREADS) -> None:
        self.on_late_return = on_late_return
        self._out: dict[Hashable, Call[object]] = {}
        self._lock = threading.Lock()
        self._threads = threads

    def begin(self, resource: Hashable, work: Callable[[], T]) -> Call[T] | None:
        """Start a call on a resource; None where the last one has not returned."""
        call: Call[T] = Call(resource, self._threads.monotonic(), returning=self._threads.event())
        with self._lock:
            if resource in self._out:
                return None
            self._out[resource] = call  # type: ignore[assignment]

        def body(work: Callable[[], T] = work) -> None:
            call.run(work)
            with self._lock:  # before anybody learns of the result: the next call on the resource may begin at once
                del self._out[resource]
                late = call.late
            call.returning.set()
            if late:
                self.on_late_return()

        try:
            self._threads.start(body, str(resource))
        except RuntimeError as error:
            body(partial(_refuse, error))
        return call

    def out(self, resource: Hashable) -> Call[object] | None:
        """The call on a resource that has not returned."""
        return self._out.get(resource)

    def all_out(self) -> list[Call[object]]:
        """Every call that has not returned, the oldest first."""
        with self._lock:
            return sorted(self._out.values(), key=lambda call: call.began)

    def gather(self, work: Mapping[K, Callable[[], T]], patience: float) -> dict[K, Call[T] | Unanswered]:
        """Start a call for each resource and wait for all of them, up to ``patience`` seconds together.

        A resource whose last call has not returned is not waited for.
        """
        begun = {resource: self.begin(resource, one) for resource, one in work.items()}
        until = self._threads.monotonic() + patience
        found: dict[K, Call[T] | Unanswered] = {}
        for resource, call in begun.items():
            if call is not None and call.wait(until - self._threads.monotonic()):
                found[resource] = call
            else:
                with self._lock:
                    out = self._out.get(resource)
                    if out is not None:
                        out.late = True
                if out is None and call is not None and call.wait(0.1):  # it returned at the last moment
                    found[resource] = call
                    continue
                found[resource] = Unanswered(self._threads.monotonic() - out.began if out else patience)
        return found
