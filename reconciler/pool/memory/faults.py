"""Scripted faults of calls to a pool in memory: errors, hangs, delays and crashes at named steps.

Called by ``pool.memory.driver`` at each step; scripted by simulations. State: the script, and the steps that were passed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from reconciler.dataclass import dataclass, field


class Step(NamedTuple):
    """Where a call is. ``point`` is ``begin``, or what has just happened: ``created``, ``active``, ``inactive``, ``sealed`` …"""

    operation: str
    name: str
    point: str


Hook = Callable[[Step], None]


class Crash(BaseException):
    """The process ends here. Nothing handles it but the simulation."""


@dataclass(slots=True)
class Fault:
    """Acts at the steps that match; an empty ``name`` matches all. It acts ``times`` times; 0: until it is removed."""

    operation: str
    name: str = ""
    point: str = "begin"
    times: int = 1
    act: Callable[[Step], None] = field(kw_only=True)

    def matches(self, step: Step) -> bool:
        return (self.operation, self.point) == (step.operation, step.point) and self.name in ("", step.name)


class Faults:
    """The hook of a ``MemoryPool``: a script of faults, and the ``steps`` that were passed. One script can serve many drivers."""

    def __init__(self) -> None:
        self.pending: list[Fault] = []
        self.steps: list[Step] = []

    def add(self, fault: Fault) -> Fault:
        self.pending.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        with suppress(ValueError):
            self.pending.remove(fault)

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        for fault in [one for one in self.pending if one.matches(step)]:
            if fault.times == 1:
                self.remove(fault)
            fault.times = max(0, fault.times - 1)
            fault.act(step)


class Waitable(Protocol):
    """``threading.Event``, or its replacement in a simulation."""

    def wait(self) -> object: ...


def fail(error: BaseException) -> Callable[[Step], None]:
    """Raise the error at the step."""

    def act(_: Step) -> None:
        raise error

    return act


def crash(step: Step) -> None:
    """End the process at the step."""
    raise Crash(*step)


def hang(until: Waitable) -> Callable[[Step], None]:
    """Hang at the step until the event is set. No lock of the pool is held meanwhile."""

    def act(_: Step) -> None:
        until.wait()

    return act


def delay(sleep: Callable[[float], object], seconds: float) -> Callable[[Step], None]:
    """Take ``seconds`` of the clock that ``sleep`` belongs to."""

    def act(_: Step) -> None:
        sleep(seconds)

    return act


def no_hook(_: Step) -> None:
    """The default: no faults."""
