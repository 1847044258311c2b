"""Faults of the control loop that the simulation has to find, each with the invariant that breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from reconciler.controller import queue, scheduler
from reconciler.controller.events import Assessed
from reconciler.controller.executor import Done
from reconciler.controller.queue import Slot
from reconciler.controller.scheduler import Scheduler
from reconciler.controller.withheld import Withheld
from reconciler.host import observe
from reconciler.host.customizing import Customizing
from reconciler.image.custom import CustomSpec, FileSpec
from reconciler.image.spec import GIB, Layer
from reconciler.model import Action, ImageSpec, Key, PoolObserved, ReplacePolicy
from reconciler.pool.driver import Driver
from reconciler.settings import Settings
from tests.simulation import checks
from tests.simulation.world import POOLS, Op, Options, PoolFault, World


class Staged(World):
    """A world with two images, in pools of their own, whose script gives the fault an opportunity."""

    pinned = True

    def declare(self, random: Random) -> None:
        """Both images, each with another source."""
        images = {}
        for name, pool, source in zip(("web", "db"), POOLS, self.sources.all, strict=False):
            layer = Layer(source, self.sources.all[source].digest if self.pinned else None)
            images[name] = ImageSpec(name, pool, GIB, (layer,), tuple(f"{name}-{n}" for n in range(3)))
        self._declare(images)

    def declare_unpinned(self, random: Random) -> None:
        self.pinned = False
        self.declare(random)

    def withdraw(self, random: Random) -> None:
        """One of the images."""
        self._declare({name: image for name, image in self.desired.images.items() if name != "db"})

    def declare_keys(self, random: Random) -> None:
        """The first image's snapshots get a file of the host."""
        file = FileSpec("/etc/key", source=str(self.files[0]))
        custom = {f"web-{n}": CustomSpec(files=(file,), index=n) for n in range(3)}
        self.declare(random)
        web = replace(self.desired.images["web"], custom=custom, replace=ReplacePolicy.RECREATE)
        self._declare({**self.desired.images, "web": web})

    def change_key(self, random: Random) -> None:
        self.files[0].write_text(f"key {self.kernel.now}\n")

    def add_snapshot(self, random: Random) -> None:
        image = self.desired.images["web"]
        self._declare({**self.desired.images, "web": replace(image, snapshots=(*image.snapshots, "web-9"))})

    def hang_a_source(self, random: Random) -> None:
        self.sources.fail(next(iter(self.sources.all)), "hang")

    def slow_a_source(self, random: Random) -> None:
        self.sources.fail(next(iter(self.sources.all)), "slow")

    def drip(self, random: Random) -> None:
        """Four images wait for layers of one endpoint, whose transfers do not end; one of another endpoint comes later."""
        source = next(iter(self.sources.all))
        self.sources.fail(source, "drip")
        layer = Layer(source, self.sources.all[source].digest)
        self._declare({f"a{n}": ImageSpec(f"a{n}", "a", GIB + n * (1 << 20), (layer,), (f"a{n}-0",)) for n in range(5)})

    def declare_elsewhere(self, random: Random) -> None:
        source = next(one for one in self.sources.all if one.endpoint == "z")
        image = ImageSpec("web", "b", GIB, (Layer(source, self.sources.all[source].digest),), ("web-0",))
        self._declare({**self.desired.images, "web": image})

    def declare_one(self, random: Random) -> None:
        self.pinned = False
        self.declare(random)
        self.withdraw(random)

    def lose_a_source(self, random: Random) -> None:
        self.sources.fail(next(iter(self.sources.all)), "missing")

    def break_one_pool(self, random: Random) -> None:
        self.pool_faults["a"] = PoolFault("odd", "observe")
        self._spoil("pool a")


@dataclass(frozen=True)
class Planted:
    """``steps`` are the script: pauses in seconds, and methods of ``Staged``."""

    name: str
    finds: str
    apply: Callable[[pytest.MonkeyPatch], None]
    steps: tuple[tuple[float, str], ...]

    def violation(self, seed: int) -> str:
        """What does not hold in a world with the fault; empty where everything does."""
        try:
            Staged(seed, Options(prune=True, turn=0.2)).run([Op(pause, name, seed) for pause, name in self.steps])
        except checks.Violation as error:
            return str(error)
        return ""


def main_thread_look_up(patch: pytest.MonkeyPatch) -> None:
    """The scheduler's thread asks the sources itself before it starts an assessment."""
    original = Scheduler._begin_assessment

    def begin(self: Scheduler) -> None:
        if self._assessing is None and (self._wanted or self._hinted):
            for image in self.host.desired.images.values():
                for layer in image.layers:
                    if layer.sha256 is None and self.host.sources._ask:
                        with contextlib.suppress(Exception):
                            self.host.sources._ask(layer.source)
        original(self)

    patch.setattr(Scheduler, "_begin_assessment", begin)


def stale_removal(patch: pytest.MonkeyPatch) -> None:
    """A plan removes and replaces although the manifests have changed since they were read for it."""
    admissible = scheduler.is_admissible
    patch.setattr(scheduler, "is_admissible", lambda action, approved, *, current: admissible(action, approved, current=True))


def lost_wake(patch: pytest.MonkeyPatch) -> None:
    """A change that arrives while an assessment is under way is taken to be part of it."""
    wake = Scheduler.wake

    def lossy(self: Scheduler, named: Collection[str] | None) -> None:
        if self._assessing is None:
            wake(self, named)

    patch.setattr(Scheduler, "wake", lossy)


def filtered_prerequisite(patch: pytest.MonkeyPatch) -> None:
    """A prerequisite that is withheld or not allowed counts as done."""
    admits = Scheduler._admits

    def lenient(self: Scheduler, action: Action, event: Assessed, unmade: Collection[str], out: Collection[Key]) -> bool:
        return admits(self, action, event, unmade, ())

    withheld = Withheld.withheld

    def direct(self: Withheld, *given: Any, **more: Any) -> dict[Key, Done]:
        return {key: done for key, done in withheld(self, *given, **more).items() if done.tried}

    patch.setattr(Scheduler, "_admits", lenient)
    patch.setattr(Withheld, "withheld", direct)


def one_kind_of_download(patch: pytest.MonkeyPatch) -> None:
    """Transfers of one endpoint may take every slot for downloads."""
    before = queue.room

    def room(slot: Slot, running: Collection[Slot], settings: Settings) -> int:
        taken = sum(one[0] == "download" for one in running)
        return settings.downloads - taken if slot[0] == "download" else before(slot, running, settings)

    patch.setattr(scheduler, "room", room)


def escaping_error(patch: pytest.MonkeyPatch) -> None:
    """An unexpected error of one pool ends the whole assessment."""

    def narrow(name: str, driver: Driver, *rest: Mapping[Any, Any], whole: bool, discard: Any) -> PoolObserved:
        if discard is not None:
            discard(name, driver)
        return PoolObserved(name, driver.shares_blocks, driver.observe(*observe.identities(name, *rest), whole=whole))

    patch.setattr(observe, "_pool", narrow)


def stale_files(patch: pytest.MonkeyPatch) -> None:
    """A snapshot gets its files as they are now, and is recorded with the digest that was planned."""
    before = Customizing._declared

    def declared(self: Customizing, wish: Mapping[str, Any]) -> Any:
        with pytest.MonkeyPatch.context() as lenient:
            lenient.setattr(CustomSpec, "digest", lambda *given: wish["custom"])
            return before(self, wish)

    patch.setattr(Customizing, "_declared", declared)


PLANTED = (
    Planted(
        "an assessment-up in the main thread",
        checks.GAP,
        main_thread_look_up,
        ((0, "hang_a_source"), (1, "declare_unpinned"), (20, "add_snapshot"), (60, "wait")),
    ),
    Planted(
        "a removal from a stale plan",
        checks.CURRENT,
        stale_removal,
        (
            (0, "declare"),
            (60, "slow_pools"),
            *(step for gap in (6, 9, 12, 15) * 2 for step in ((60, "withdraw"), (gap, "declare"))),
            (30, "wait"),
        ),
    ),
    Planted(
        "a lost wake",
        checks.ISOLATED,
        lost_wake,
        ((0, "slow_a_source"), (1, "declare_one"), (0.4, "declare"), (130, "wait")),
    ),
    Planted(
        "a filtered prerequisite",
        checks.ORDER,
        filtered_prerequisite,
        ((0, "lose_a_source"), (1, "declare"), (60, "add_snapshot"), (30, "wait")),
    ),
    Planted(
        "slow transfers that take every slot",
        checks.ISOLATED,
        one_kind_of_download,
        ((0, "drip"), (20, "declare_elsewhere"), (200, "wait")),
    ),
    Planted(
        "an error that escapes its object",
        checks.ISOLATED,
        escaping_error,
        ((0, "break_one_pool"), (1, "declare"), (130, "wait")),
    ),
    Planted(
        "files that have changed since the plan",
        checks.CUSTOMIZED,
        stale_files,
        ((0, "declare"), (60, "slow_pools"), (0, "declare_keys"), *((3, "change_key"),) * 30, (60, "wait")),
    ),
)
