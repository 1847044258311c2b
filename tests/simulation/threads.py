"""Threads that run one at a time, in an order that a seed decides; virtual time passes while all of them wait.

Each simulated thread has a thread of the operating system, which waits until it is its turn. Code that runs can be interrupted
where it waits, and at ``point``. ``kill`` ends the threads of one process where they wait, as SIGKILL does.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty
from random import Random
from typing import Any

from reconciler.claim import Moment
from reconciler.host.calls import Threads
from reconciler.pool.memory import Crash

EPOCH = 1_700_000_000.0

BEGIN = 10_000.0
"""When a world begins, in monotonic seconds."""


class Killed(Crash):
    """Raised in a thread whose process was killed."""


class Deadlock(Exception):
    """All threads wait, and no time-out is due."""


class Task:
    """A thread: what it runs, of which process it is, and whether it has run out of time."""

    def __init__(self, work: Callable[[], object], name: str, group: object, began: float) -> None:
        self.work, self.name, self.group, self.began = work, name, group, began
        self.turn = threading.Lock()
        self.turn.acquire()
        self.waits = 0
        self.timed_out = self.killed = self.begun = self.ended = self.waiting = False


class Kernel:
    """Runs tasks. ``died`` gets the errors that end a thread."""

    def __init__(self, random: Random) -> None:
        self.random, self.now = random, BEGIN
        self.died: list[tuple[str, BaseException]] = []
        self.preempt = 0.2
        self.started: Callable[[str], None] = lambda name: None
        self.tasks: set[Task] = set()
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task, int]] = []
        self._count = 0
        self._idle: list[Worker] = []
        self._outside = threading.Lock()
        self._outside.acquire()
        self._error: BaseException | None = None
        self.current: Task | None = None

    boot, booted = 0, 0.0
    """How often the host was started, and when the last time."""

    def moment(self) -> Moment:
        return Moment(EPOCH + self.now, self.now - self.booted, str(self.boot))

    def run(self, work: Callable[[], object]) -> None:
        """Run a script as the first task; return once it has ended and every other task has been killed."""
        main = self.begin(work, "script", None)
        self._ready.remove(main)
        self._hand(main)
        self._outside.acquire()
        for worker in self._idle:
            worker.close()
        if self._error is not None:
            raise self._error

    def begin(self, work: Callable[[], object], name: str, group: object) -> Task:
        task = Task(work, name, group, self.now)
        self.tasks.add(task)
        self._ready.append(task)
        return task

    # ---------------------------------------------------------------------------------------------- used by tasks

    def point(self) -> None:
        """Perhaps let another task run."""
        if self._ready and self.random.random() < self.preempt:
            task = self._me()
            task.waits += 1
            self._ready.append(task)
            self._switch(task)

    def sleep(self, seconds: float) -> None:
        self.block(seconds)

    def block(self, timeout: float | None) -> bool:
        """Wait for ``wake``; False where the time ran out before."""
        task = self._me()
        if task.killed:
            raise Killed(task.name)
        task.waits, task.timed_out = task.waits + 1, False
        if timeout is not None:
            self._count += 1
            heapq.heappush(self._timers, (self.now + max(0.0, timeout), self._count, task, task.waits))
        task.waiting = True
        self._switch(task)
        return not task.timed_out

    def wake(self, task: Task) -> None:
        if task.waiting:
            task.waiting = False
            task.waits += 1
            self._ready.append(task)

    def kill(self, group: object) -> None:
        """End all tasks of a process but the caller, which has to end by itself."""
        for task in sorted((one for one in self.tasks if one.group is group), key=lambda one: (one.began, one.name)):
            task.killed = True
            if task is self.current:
                continue
            if not task.begun:
                self.tasks.discard(task)
                self._ready.remove(task)
            else:
                self.wake(task)

    def alive(self, group: object) -> bool:
        return any(task.group is group for task in self.tasks)

    # ------------------------------------------------------------------------------------------------------ turns

    def _me(self) -> Task:
        assert self.current is not None
        return self.current

    def _switch(self, task: Task) -> None:
        after = self._next()
        if after is not task:
            self._hand(after)
            task.turn.acquire()
        self.current = task
        if task.killed:
            raise Killed(task.name)

    def _next(self) -> Task:
        if self._ready:
            at = self.random.randrange(len(self._ready)) if len(self._ready) > 1 else 0
            return self._ready.pop(at)
        while self._timers:
            when, _, task, waits = heapq.heappop(self._timers)
            if task.waits == waits and not task.ended:
                self.now = max(self.now, when)
                task.waits += 1
                task.timed_out, task.waiting = True, False
                return task
        raise Deadlock(", ".join(sorted(task.name for task in self.tasks)))

    def _hand(self, task: Task) -> None:
        if not task.begun:
            task.begun = True
            worker = self._idle.pop() if self._idle else Worker(self)
            worker.task = task
            self.current = task
            worker.turn.release()
        else:
            task.turn.release()

    def _ended(self, task: Task, worker: Worker, error: BaseException | None) -> None:
        task.ended = True
        self.tasks.discard(task)
        self._idle.append(worker)
        if task.name == "script":
            self._error = error
            self._outside.release()
            return
        if error is not None and not task.killed and not isinstance(error, Killed):
            self.died.append((task.name, error))
        try:
            after = self._next()
        except Deadlock as deadlock:
            self._error = deadlock
            self._outside.release()
        else:
            self._hand(after)


class Worker:
    """A thread of the operating system that runs one task after the other."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self.task = kernel, None
        self.turn = threading.Lock()
        self.turn.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    task: Task | None

    def close(self) -> None:
        self.task = None
        self.turn.release()

    def _run(self) -> None:
        while True:
            self.turn.acquire()
            task = self.task
            if task is None:
                return
            error: BaseException | None = None
            self._kernel.current = task
            try:
                task.work()
            except BaseException as raised:
                error = raised
            self._kernel._ended(task, self, error)
            del task, error


class VirtualEvent(threading.Event):
    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel, self._waiters = kernel, []

    _waiters: list[Task]

    def set(self) -> None:
        super().set()
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            self._kernel.wake(task)

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            me = self._kernel._me()
            self._waiters.append(me)
            try:
                self._kernel.block(timeout)
            finally:
                if me in self._waiters:
                    self._waiters.remove(me)
        return self.is_set()


class VirtualCondition:
    """Its lock is not needed: no other task runs until this one waits."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._waiters = kernel, []

    _waiters: list[Task]

    def __enter__(self) -> VirtualCondition:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def wait(self, timeout: float | None = None) -> bool:
        me = self._kernel._me()
        self._waiters.append(me)
        try:
            return self._kernel.block(timeout)
        finally:
            if me in self._waiters:
                self._waiters.remove(me)

    def notify_all(self) -> None:
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            self._kernel.wake(task)


class VirtualMailbox:
    def __init__(self, kernel: Kernel) -> None:
        self._items: deque[Any] = deque()
        self._there = VirtualCondition(kernel)

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._there.notify_all()

    def get(self, *, timeout: float | None = None) -> Any:
        if not self._items:
            self._there.wait(timeout)
        while not self._items and timeout is None:
            self._there.wait(None)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self._items:
            raise Empty
        return self._items.popleft()


class VirtualThreads(Threads):
    """``Threads`` of one process (``group``)."""

    def __init__(self, kernel: Kernel, group: object) -> None:
        self.kernel, self.group = kernel, group

    def start(self, work: Callable[[], None], name: str) -> None:
        context = copy_context()
        self.kernel.started(name)
        self.kernel.begin(lambda: context.run(work), name, self.group)

    def event(self) -> VirtualEvent:
        return VirtualEvent(self.kernel)

    def condition(self) -> Any:
        return VirtualCondition(self.kernel)

    def mailbox(self) -> Any:
        return VirtualMailbox(self.kernel)

    def monotonic(self) -> float:
        return self.kernel.now

    def time(self) -> float:
        return EPOCH + self.kernel.now

    def moment(self) -> Moment:
        return self.kernel.moment()

    def thread_time(self) -> float:
        return 0.0
