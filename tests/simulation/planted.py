"""Faults of the control loop that the simulation has to find, each with the invariant that breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from reconciler.controller import observe
from reconciler.controller.events import Looked
from reconciler.controller.scheduler import Scheduler
from reconciler.model import Action, Key, PoolObserved
from reconciler.pool.driver import Driver
from tests.simulation import checks


@dataclass(frozen=True)
class Planted:
    name: str
    finds: str
    apply: Callable[[pytest.MonkeyPatch], None]
    steps: Mapping[str, int]
    """How often each step is chosen in a script that looks for it."""
    prune: bool = False


def main_thread_look_up(patch: pytest.MonkeyPatch) -> None:
    """The scheduler's thread asks the sources itself before it starts a look."""
    begin_look = Scheduler._begin_look

    def begin(self: Scheduler) -> None:
        if self._looking is None and (self._wanted or self._hinted):
            for image in self.host.desired.images.values():
                for layer in image.layers:
                    if layer.sha256 is None and self.host.sources._ask:
                        with contextlib.suppress(Exception):
                            self.host.sources._ask(layer.source)
        begin_look(self)

    patch.setattr(Scheduler, "_begin_look", begin)


def stale_removal(patch: pytest.MonkeyPatch) -> None:
    """A plan removes and replaces although the manifests have changed since they were read for it."""
    is_allowed = Scheduler._is_allowed
    patch.setattr(
        Scheduler, "_is_allowed", lambda self, action, event: is_allowed(self, action, replace(event, version=self._version))
    )


def lost_wake(patch: pytest.MonkeyPatch) -> None:
    """A change that arrives while a look is under way is taken to be part of that look."""
    wake = Scheduler.wake

    def lossy(self: Scheduler, named: Collection[str] | None) -> None:
        if self._looking is None:
            wake(self, named)

    patch.setattr(Scheduler, "wake", lossy)


def filtered_prerequisite(patch: pytest.MonkeyPatch) -> None:
    """A prerequisite that is withheld or not allowed counts as done."""
    admits = Scheduler._admits

    def lenient(self: Scheduler, action: Action, event: Looked, unmade: Collection[str], out: Collection[Key]) -> bool:
        return admits(self, action, event, unmade, ())

    patch.setattr(Scheduler, "_admits", lenient)


def escaping_error(patch: pytest.MonkeyPatch) -> None:
    """An unexpected error of one pool ends the whole look."""

    def narrow(name: str, driver: Driver, *rest: Mapping[Any, Any], whole: bool, discard: Any) -> PoolObserved:
        if discard is not None:
            discard(name, driver)
        return PoolObserved(name, driver.shares_blocks, driver.observe(*observe.identities(name, *rest), whole=whole))

    patch.setattr(observe, "_pool", narrow)


PLANTED = (
    Planted("a look-up in the main thread", checks.GAP, main_thread_look_up, {"edit": 2, "break_source": 2, "wait": 1}),
    Planted("a removal from a stale plan", checks.CURRENT, stale_removal, {"flip": 6, "edit": 2, "slow_pools": 2}, prune=True),
    Planted("a lost wake", checks.ISOLATED, lost_wake, {"edit_twice": 2, "wait": 3}),
    Planted(
        "a filtered prerequisite",
        checks.ORDER,
        filtered_prerequisite,
        {"edit": 3, "edit_snapshots": 4, "break_source": 4, "publish": 4},
    ),
    Planted("an error that escapes its object", checks.ISOLATED, escaping_error, {"edit": 3, "break_pool": 1, "wait": 2}),
)
