"""Killed at every moment of a change of the pool: the next run finds out what became of it, and registry and pool agree again.

A moment is before and after each kernel call that changes something, and each commit of the registry. The process that is killed
is a child of the test; the kernel keeps what it was told, as it would after a real SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import PoolUnusable
from reconciler.pool.driver import PoolState
from reconciler.pool.thin.devmapper import DeviceMapper
from reconciler.pool.thin.journal import DeviceRow, State
from reconciler.pool.thin.label import TAIL
from reconciler.pool.thin.pool import ThinPool
from reconciler.registry.writer import Registry

from .rig import LABEL, MIB, A, B, Rig, dmsetup, read, rig, volume, write

CHANGING = ("create", "load", "suspend", "resume", "remove", "rename", "message")
FOREIGN = 77
STRIDE = 4
"""One test tries one moment of so many."""

each_share = pytest.mark.parametrize("first", [3, *(pytest.param(first, marks=pytest.mark.slow) for first in (1, 2, 4))])
"""The first moment that a test tries: one share in the quick tier, the others in the slow one, each as long as that."""


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


class Death:
    """Kills this process at the Nth moment."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def come_nearer(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.come_nearer()
            try:
                return real(*arguments, **options)
            finally:
                self.come_nearer()

        setattr(owner, name, call)


def killed(thin: Rig, moment: int, act: Callable[[ThinPool], object]) -> bool:
    """Do it in a process of its own; whether that came to the moment, and died of it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            death = Death(moment)
            for name in CHANGING:
                death.around(DeviceMapper, name)
            for name in ("journal", "begin_devices"):
                death.around(Registry, name)
            with Registry.open(thin.registry_path) as registry:
                act(thin.driver(registry))
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"moment {moment}: exit {status}"
    return status != 0


@contextmanager
def next_run(thin: Rig, known: dict[str, str]) -> Iterator[tuple[ThinPool, PoolState]]:
    """What every invocation begins with; ``known`` is what the registry's rows remember: chains are 64 characters long."""
    volumes = {name: identity for name, identity in known.items() if len(name) == 64}
    snapshots = {name: identity for name, identity in known.items() if len(name) != 64}
    with thin.pool() as pool:
        pool.discard_leftovers(volumes, snapshots)
        if pool.observe(volumes, snapshots).unready:
            pool.assemble()
            pool.discard_leftovers(volumes, snapshots)
        state = pool.observe(volumes, snapshots)
        assert (state.unready, state.leftovers, state.orphans) == ("", (), ()), state
        assert all(one.note for one in state.troubles), state
        rows = {row.id: row.transaction for row in pool.journal.devices().values()}
        held = {one.id: one.transaction for one in content(pool).devices.values() if one.id != FOREIGN}
        assert rows == held, "the registry and the pool know the same thin devices"
        assert not [name for name in thin.mappings() if "-." in name], "nothing is left active that we work with"
        yield pool, state


def content(pool: ThinPool) -> Any:
    found = pool.assembly.inspect().content
    assert found is not None
    return found


def used(pool: ThinPool) -> int:
    space = pool.space()
    return space.total - space.free


def intrude(thin: Rig) -> None:
    """Somebody else's thin device, made under a transaction id that is not ours."""
    ours = thin.status().split()[3]
    for message in (f"set_transaction_id {ours} 5", f"create_thin {FOREIGN}", f"set_transaction_id 5 {ours}"):
        dmsetup("message", thin.name, "0", message)


def moments(
    first: int, tmp_path: Path, prepare: Callable[[Rig], Any], act: Callable[[ThinPool], object]
) -> Iterator[tuple[Rig, Any]]:
    """A pool that was killed at one moment of its share after the other, until a run is through before it comes."""
    moment = first
    while True:
        directory = tmp_path / str(moment)
        directory.mkdir()
        with rig(directory) as thin:
            before = prepare(thin)
            alive = not killed(thin, moment, act)
            yield thin, before
        if alive:
            break
        moment += STRIDE
    assert moment > STRIDE, "there are many moments"


def made(thin: Rig) -> dict[str, str]:
    """A pool with a base, a snapshot of it that somebody has written to, and somebody else's device."""
    with thin.assembled() as pool:
        intrude(thin)
        known = {A: volume(pool, A, data=b"a" * MIB)}
        known["kept"] = pool.create_snapshot("kept", A)
        write(pool.snapshot_path("kept"), 0, b"mine")
    return known


def unharmed(thin: Rig, pool: ThinPool, known: dict[str, str]) -> None:
    """What was there before is there, as it was."""
    state = pool.observe({A: known[A]}, {"kept": known["kept"]})
    assert not [one for one in (*state.volumes.values(), *state.snapshots.values()) if one.condition.value != "intact"], state
    assert [word.split(" (")[0] for word in state.foreign] == [f"thin id {FOREIGN}"]
    with open(pool.snapshot_path("kept"), "rb") as device:
        assert device.read(8) == b"mineaaaa"


@each_share
@pytest.mark.timeout(600)
def test_while_the_pool_is_made(first: int, tmp_path: Path) -> None:
    for thin, _ in moments(first, tmp_path, lambda thin: None, lambda pool: pool.assemble()):
        with next_run(thin, {}) as (pool, state):
            assert state.space.total - state.space.free in (0, LABEL), "the label comes with the next change at the latest"
            volume(pool, A)
            assert used(pool) == LABEL + 65536
        assert read(thin.data, 0, 14) == b"reconcile pool", "the label is in data block 0"


@each_share
@pytest.mark.timeout(600)
def test_while_a_volume_is_made(first: int, tmp_path: Path) -> None:
    for thin, known in moments(first, tmp_path, made, lambda pool: volume(pool, B, parent=A, data=b"b" * MIB, at=2 * MIB)):
        with next_run(thin, known) as (pool, _):
            unharmed(thin, pool, known)
            assert used(pool) == LABEL + MIB + 65536, "no space is lost"
            known[B] = volume(pool, B, parent=A)
        with next_run(thin, known):
            pass


@each_share
@pytest.mark.timeout(600)
def test_while_a_snapshot_is_made(first: int, tmp_path: Path) -> None:
    for thin, known in moments(first, tmp_path, made, lambda pool: pool.create_snapshot("new", A)):
        with next_run(thin, known) as (pool, _):
            unharmed(thin, pool, known)
            known["new"] = pool.create_snapshot("new", A)
        with next_run(thin, known) as (_, state):
            assert state.snapshots["new"].active


@each_share
@pytest.mark.timeout(600)
def test_while_a_snapshot_is_removed(first: int, tmp_path: Path) -> None:
    def prepare(thin: Rig) -> dict[str, str]:
        known = made(thin)
        with thin.pool() as pool:
            pool.create_snapshot("going", A)
            write(pool.snapshot_path("going"), 4 * MIB, b"g" * MIB)
        return known

    for thin, known in moments(first, tmp_path, prepare, lambda pool: pool.remove_snapshot("going")):
        with next_run(thin, known) as (pool, _):
            pool.remove_snapshot("going")
            unharmed(thin, pool, known)
            assert used(pool) == LABEL + MIB + 65536


@each_share
@pytest.mark.timeout(600)
def test_while_a_snapshot_is_replaced(first: int, tmp_path: Path) -> None:
    """Under the name stands the old one or the new one, or for a moment none; never is a name lost to the one that goes."""

    def prepare(thin: Rig) -> dict[str, str]:
        known = made(thin)
        with thin.pool() as pool:
            known[B] = volume(pool, B, parent=A, data=b"b" * MIB, at=4 * MIB)
            known["web"] = pool.create_snapshot("web", A)
            write(pool.snapshot_path("web"), 8 * MIB, b"w" * MIB)
        return known

    def act(pool: ThinPool) -> None:
        old = next(row.identity for row in pool.journal.devices("web").values())
        pool.discard_replaced("web", pool.replace_snapshot("web", B, old))

    for thin, known in moments(first, tmp_path, prepare, act):
        volumes, snapshots = {A: known[A], B: known[B]}, {"kept": known["kept"], "web": known["web"]}
        with thin.pool() as pool:
            before = pool.dm.info("rig-web")
            pool.discard_leftovers(volumes, snapshots)
            if pool.observe(volumes, snapshots).unready:
                pool.assemble()
                pool.discard_leftovers(volumes, snapshots)
            assert pool.dm.info("rig-web") == before, "whatever has the name keeps it until it is replaced"
            known["web"] = pool.replace_snapshot("web", B, known["web"])
            pool.discard_replaced("web", known["web"])
        with next_run(thin, known) as (pool, state):
            assert state.snapshots["web"].active
            assert read(pool.snapshot_path("web"), 4 * MIB, 4) == b"bbbb"
            assert read(pool.snapshot_path("web"), 8 * MIB, 4) == bytes(4)
            unharmed(thin, pool, known)
            assert used(pool) == LABEL + 2 * MIB + 65536, "no space is lost"


@each_share
@pytest.mark.timeout(600)
def test_while_a_volume_is_removed(first: int, tmp_path: Path) -> None:
    def prepare(thin: Rig) -> dict[str, str]:
        known = made(thin)
        with thin.pool() as pool:
            volume(pool, B, parent=A, data=b"b" * MIB, at=4 * MIB)
        return known

    for thin, known in moments(first, tmp_path, prepare, lambda pool: pool.remove_volume(B)):
        with next_run(thin, known) as (pool, _):
            unharmed(thin, pool, known)
            assert used(pool) == LABEL + MIB + 65536


@each_share
@pytest.mark.timeout(600)
def test_while_the_pool_grows(first: int, tmp_path: Path) -> None:
    def prepare(thin: Rig) -> dict[str, str]:
        known = made(thin)
        thin.data_bytes *= 2
        return known

    for thin, known in moments(first, tmp_path, prepare, lambda pool: pool.assemble()):
        with next_run(thin, known) as (pool, state):
            assert state.space.total == thin.data_bytes - TAIL
            unharmed(thin, pool, known)


@each_share
@pytest.mark.timeout(600)
def test_while_a_snapshot_is_brought_back_after_a_reboot(first: int, tmp_path: Path) -> None:
    def prepare(thin: Rig) -> dict[str, str]:
        known = made(thin)
        thin.take_down()
        return known

    def act(pool: ThinPool) -> None:
        pool.assemble()
        pool.activate_snapshot("kept")

    for thin, known in moments(first, tmp_path, prepare, act):
        with next_run(thin, known) as (pool, state):
            if not state.snapshots["kept"].active:
                pool.activate_snapshot("kept")
            unharmed(thin, pool, known)


# ------------------------------------------------------- cells that need somebody else's hand between the kill and the next run


def killed_after_intent(thin: Rig, act: Callable[[ThinPool], object]) -> DeviceRow:
    """SIGKILL once the intent of a change is on disk, and before the pool has heard of it; that intent."""
    moment = 1
    while True:
        assert killed(thin, moment, act), "it died before it was through"
        with Registry.open(thin.registry_path) as registry:
            rows = registry.thin_devices(thin.name).values()
        if found := [row for row in rows if row.state is not State.HELD]:
            return found[0]
        moment += 1


def transact(thin: Rig, *messages: str, by: int = 0) -> None:
    """What somebody tells the pool under a transaction id of their own, which then is what it was, or is moved ``by`` so many."""
    ours = int(thin.status().split()[3])
    for message in (f"set_transaction_id {ours} 5", *messages, f"set_transaction_id 5 {ours + by}"):
        dmsetup("message", thin.name, "0", message)


def quarantined(thin: Rig, known: dict[str, str], reason: str) -> None:
    """Nothing is changed, what is there can be used, and it is said what to do."""
    before = thin.status().split()[3], mapped(thin)
    with thin.pool() as pool:
        state = pool.observe({A: known[A]}, {"kept": known["kept"]})
        assert state.halted is not None
        assert state.halted.reason == reason
        assert "reconcile adopt rig" in state.halted.message
        assert pool.discard_leftovers({}, {}) == ()
        unharmed(thin, pool, known)
        with pytest.raises(PoolUnusable):
            pool.create_snapshot("other", A)
    assert (thin.status().split()[3], mapped(thin)) == before


def mapped(thin: Rig) -> list[int]:
    """The thin ids that the pool holds."""
    with thin.pool() as pool:
        return sorted(content(pool).devices)


def test_an_id_that_another_tool_took_meanwhile_is_foreign(thin: Rig) -> None:
    """Creating, transaction id N, present, and created under another one: another id is taken."""
    known = made(thin)
    row = killed_after_intent(thin, lambda pool: pool.create_snapshot("new", A))
    assert row.state is State.CREATING
    dmsetup("message", thin.name, "0", f"delete {FOREIGN}")
    transact(thin, f"create_thin {row.id}", f"create_thin {FOREIGN}")
    with thin.pool() as pool:
        pool.assemble()
        assert row.id in content(pool).devices
        assert row.id not in pool.journal.devices()
        pool.discard_leftovers({A: known[A]}, {"kept": known["kept"]})
        known["new"] = pool.create_snapshot("new", A)
        assert known["new"] != row.identity
        state = pool.observe({A: known[A]}, {"kept": known["kept"], "new": known["new"]})
        assert [word.split(" (")[0] for word in state.foreign] == [f"thin id {row.id}", f"thin id {FOREIGN}"]
        assert (state.leftovers, state.orphans, state.unready) == ((), (), "")
        assert state.snapshots["new"].active


def test_an_id_that_is_another_device_now_is_not_deleted(thin: Rig) -> None:
    """Deleting, transaction id N, present, and created under another one: it is somebody else's."""
    known = made(thin)
    with thin.pool() as pool:
        pool.create_snapshot("going", A)
    row = killed_after_intent(thin, lambda pool: pool.remove_snapshot("going"))
    assert row.state is State.DELETING
    transact(thin, f"delete {row.id}", f"create_thin {row.id}")
    with thin.pool() as pool:
        pool.assemble()
        pool.discard_leftovers({A: known[A]}, {"kept": known["kept"]})
        state = pool.observe({A: known[A]}, {"kept": known["kept"]})
        assert [word.split(" (")[0] for word in state.foreign] == [f"thin id {row.id}", f"thin id {FOREIGN}"]
        assert row.id in content(pool).devices
        assert row.id not in pool.journal.devices()
        assert (state.leftovers, state.orphans, state.unready) == ((), (), "")


@pytest.mark.parametrize(("by", "reason"), [(7, "RegistryOutdated"), (-1, "PoolOutdated")])
@pytest.mark.parametrize("change", ["creating", "deleting"])
def test_an_unexpected_transaction_id_halts_the_pool(change: str, by: int, reason: str, thin: Rig) -> None:
    """Killed in the middle of a change, and the pool's id is neither N nor N + 1: a person has to look."""
    known = made(thin)
    with thin.pool() as pool:
        pool.create_snapshot("going", A)
    act = (lambda pool: pool.create_snapshot("new", A)) if change == "creating" else (lambda pool: pool.remove_snapshot("going"))
    assert killed_after_intent(thin, act).state == change
    transact(thin, by=by)

    quarantined(thin, known, reason)
