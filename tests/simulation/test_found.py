"""Worlds in which the simulation has found faults of the control loop, each short enough to read."""

from __future__ import annotations

from random import Random

from reconciler.image.spec import GIB, Layer
from reconciler.model import ImageSpec
from tests.simulation.world import Op, Options, PoolFault, World


class Returning(World):
    """An image that goes and comes back while the removals of its snapshots wait for a slot of their pool."""

    def declare(self, random: Random) -> None:
        source = next(iter(self.sources.all))
        layer = Layer(source, self.sources.all[source].digest)
        images = {name: ImageSpec(name, "b", GIB, (layer,), tuple(f"{name}-{n}" for n in range(6))) for name in ("web", "db")}
        self._declare(images)

    def withdraw(self, random: Random) -> None:
        self._declare({name: image for name, image in self.desired.images.items() if name != "web"})


class Replacing(World):
    """The old snapshots of two images in one pool can't be discarded for a while after they were replaced."""

    def declare(self, random: Random) -> None:
        sources = zip(("web", "db"), self.sources.all, strict=False)
        layers = {name: (Layer(source, self.sources.all[source].digest),) for name, source in sources}
        self._declare({name: ImageSpec(name, "a", GIB, one, (f"{name}-0", f"{name}-1")) for name, one in layers.items()})

    def replace(self, random: Random) -> None:
        self.pool_faults["a"] = PoolFault("odd", "discard_replaced")
        self.share_layers(random)


class Damaged(Replacing):
    """Volumes that snapshots were made of are damaged from outside."""

    def damage(self, random: Random) -> None:
        storage = self.pools["a"]
        storage.outside = True
        for one in [one for one in storage.objects.values() if len(one.name) == 64]:
            storage.damage(one.name)
        storage.outside = False
        self._spoil("pool a")


class Moving(World):
    """An image is declared in another pool while its first snapshots are created: the volume in the old pool is unused."""

    def declare(self, random: Random) -> None:
        self._declare_in("a", pinned=True)

    def add_snapshots(self, random: Random) -> None:
        self._declare_in("a", pinned=True, count=3)

    def move(self, random: Random) -> None:
        self._declare_in("b", pinned=True, count=3)

    def rename(self, random: Random) -> None:
        """Another image has the same layer and is unpinned: that its volume is still needed shows once the layer is resolved."""
        self._declare_in("a", pinned=False, name="db", count=3)

    def slow_admission(self, random: Random) -> None:
        self.pool_faults["a"] = PoolFault("slow", "space")
        self._spoil("pool a")

    def _declare_in(self, pool: str, *, pinned: bool, name: str = "web", count: int = 0) -> None:
        source = next(iter(self.sources.all))
        layer = Layer(source, self.sources.all[source].digest if pinned else None)
        self._declare({name: ImageSpec(name, pool, GIB, (layer,), tuple(f"{name}-{n}" for n in range(count)))})


def test_no_volume_is_removed_while_a_snapshot_of_it_is_created() -> None:
    ops = [(0.0, "declare"), (30.0, "slow_admission"), (0.0, "add_snapshots"), (1.0, "move"), (60.0, "heal_pools")]
    for seed in range(4):
        Moving(seed, Options(prune=True, turn=0.2)).run([Op(pause, name, seed) for pause, name in ops])


def test_a_volume_that_one_invocation_has_removed_is_built_again_once_a_layer_that_needs_it_is_resolved() -> None:
    ops = [(0.0, "declare"), (60.0, "rename"), (60.0, "wait")]
    for seed in range(4):
        Moving(seed, Options("once", prune=True)).run([Op(pause, name, seed) for pause, name in ops])


def test_a_replaced_snapshot_that_could_not_be_discarded_goes_later() -> None:
    """The next plan has no replacement any more: what its run has left is discarded with the other leftovers of the pool."""
    for seed in range(2):
        script = [Op(0.0, "declare", 1), Op(60.0, "replace", seed), Op(100.0, "heal_pools", 1), Op(30.0, "wait", 1)]
        Replacing(seed, Options()).run(script)


def test_no_queued_removal_starts_once_the_manifests_have_changed() -> None:
    ops = [(0.0, "declare"), (60.0, "slow_pools"), (1.0, "withdraw"), (50.0, "declare"), (60.0, "wait")]
    for seed in range(6):
        Returning(seed, Options(prune=True, turn=0.2)).run([Op(pause, name, seed) for pause, name in ops])


def test_a_reboot_is_in_the_way_of_every_image() -> None:
    """No image is late a moment after the host has come up, however long it was ready before."""
    ops = [(0.0, "declare"), (130.0, "wait"), (1.0, "reboot"), (0.3, "wait"), (60.0, "wait")]
    for seed in range(3):
        Returning(seed, Options()).run([Op(pause, name, seed) for pause, name in ops])


def test_what_a_rebuild_has_left_is_discarded_by_the_service_that_rebuilt() -> None:
    """The pool was cleaned once when the service began: the damaged volume lay in it until the next restart."""
    ops = [(0.0, "declare"), (60.0, "damage"), (1300.0, "wait"), (1300.0, "wait")]
    for seed in range(3):
        Damaged(seed, Options()).run([Op(pause, name, seed) for pause, name in ops])
