"""Many snapshots in one pool transaction: what it costs, how it fails in part, and what a power cut leaves of it."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import PoolUnusable, ReconcilerError, Retryable
from reconciler.pool.driver import BATCH, Condition, PoolState
from reconciler.pool.thin.devmapper import DeviceMapper, DmError
from reconciler.pool.thin.journal import DeviceRow, Role
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.transaction import NewDevice
from tests.pool.contract import made, requests
from tests.support.guest import DISK, Guest, make_disk

from .rig import MIB, A, C, Rig, dmsetup, rig, volume
from .test_killed import content

SIZE = 16 * MIB


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


def transaction_of(thin: Rig) -> int:
    return int(thin.status().split()[3])


def agree(pool: ThinPool) -> bool:
    """Whether the registry's rows are the pool's devices, and no operation is open."""
    rows = {row.id: row.transaction for row in pool.journal.devices().values()}
    return not pool.journal.pending() and rows == {one.id: one.transaction for one in content(pool).devices.values()}


# ------------------------------------------------------------------------------------------------------------ cost


def test_a_full_batch_costs_two_registry_transactions_and_six_kernel_calls_a_snapshot(thin: Rig) -> None:
    """With ``synchronous=FULL`` each transaction of the registry is one fsync; the driver itself makes none."""
    names = [f"s{n}" for n in range(BATCH)]
    with thin.assembled() as pool:
        identity = volume(pool, A)
        before, ioctls, commits = transaction_of(thin), pool.dm.ioctls, counted(pool)
        found = made(pool, A, *names)

        assert pool.dm.ioctls - ioctls <= 6 * BATCH
        assert len(commits) <= 2
        assert transaction_of(thin) == before + 1
        state = pool.observe({A: identity}, found)
        assert all(one.active and one.condition is Condition.INTACT for one in state.snapshots.values())
        assert agree(pool)


def counted(pool: ThinPool) -> list[str]:
    """The COMMIT statements of the registry from now on."""
    journal: Any = pool.journal
    connection: sqlite3.Connection = journal.registry._raw
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    commits: list[str] = []
    connection.set_trace_callback(lambda statement: commits.append(statement) if statement.startswith("COMMIT") else None)
    return commits


def test_snapshots_are_activated_with_four_kernel_calls_each(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        snapshots = made(pool, A, *(f"s{n}" for n in range(40)))
    thin.take_down()
    with thin.assembled() as pool:
        before = pool.dm.ioctls
        assert pool.activate_snapshots(snapshots) == {}
        assert pool.dm.ioctls - before <= 4 * 40
        assert all(one.active for one in pool.observe({}, snapshots).snapshots.values())


def test_assembling_an_assembled_pool_costs_the_same_few_kernel_calls_whatever_it_holds(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        made(pool, A, *(f"s{n}" for n in range(40)))
        before = pool.dm.ioctls
        assert pool.assemble() == ""
        assert pool.dm.ioctls - before <= 20


def test_observing_a_pool_costs_the_same_few_kernel_calls_whatever_it_holds(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        snapshots = made(pool, A, *(f"s{n}" for n in range(40)))
        before = pool.dm.ioctls
        state = pool.observe({}, snapshots)
        assert all(one.active for one in state.snapshots.values())
        assert pool.dm.ioctls - before <= 4
        before = pool.dm.ioctls
        pool.pulse()
        assert pool.dm.ioctls - before <= 1


def test_a_batch_under_way_is_not_observed_as_an_interrupted_operation(thin: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        states: list[PoolState] = []
        observer = threading.Thread(target=lambda: states.append(pool.observe({}, {})))
        send = pool.dm.message

        def message(name: str, text: str, sector: int = 0) -> None:
            send(name, text, sector)
            if text.startswith("create_snap") and observer.ident is None:
                observer.start()
                observer.join(2)

        monkeypatch.setattr(pool.dm, "message", message)
        made(pool, A, "one", "two")
        observer.join()
        assert [one.unready for one in states] == [""]


# -------------------------------------------------------------------------------------------------- failures in part


def create(pool: ThinPool, *wanted: NewDevice, held: tuple[int, ...] = ()) -> list[DeviceRow | ReconcilerError]:
    return pool.transactions.create(pool.transactions.status(), held, wanted)


def copy(name: str, origin: int) -> NewDevice:
    return NewDevice(Role.SNAPSHOT, name, A, SIZE, origin)


def test_an_id_in_use_or_a_missing_origin_fails_that_device_only(thin: Rig) -> None:
    with thin.assembled() as pool:
        base = int(volume(pool, A).split()[0][3:])
        dmsetup("message", thin.name, "0", f"create_thin {base + 2}")
        before = transaction_of(thin)

        results = create(pool, copy("one", base), copy("taken", base), copy("lost", 4711), copy("two", base))

        assert [type(one) for one in results] == [DeviceRow, Retryable, Retryable, DeviceRow]
        assert transaction_of(thin) == before + 1
        assert not pool.journal.pending()
        assert {row.name for row in pool.journal.devices().values() if row.role is not Role.LABEL} == {A, "one", "two"}
        (again,) = create(pool, copy("taken", base))
        assert isinstance(again, DeviceRow)
        assert again.id > base + 4, "with a fresh id"


def test_ids_in_use_are_skipped_and_the_sequence_does_not_jump(thin: Rig) -> None:
    with thin.assembled() as pool:
        base = int(volume(pool, A).split()[0][3:])
        for taken in (base + 1, base + 3, (1 << 24) - 1):
            dmsetup("message", thin.name, "0", f"create_thin {taken}")

        found = made(pool, A, "one", "two", "three")

        assert [int(one.split()[0][3:]) for one in found.values()] == [base + 2, base + 4, base + 5]


def test_a_batch_of_which_nothing_succeeds_leaves_no_trace(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        before = transaction_of(thin)
        assert [type(one) for one in create(pool, copy("a", 4711), copy("b", 4712))] == [Retryable, Retryable]
        assert transaction_of(thin) == before
        assert agree(pool)


def test_another_error_ends_the_batch_and_keeps_what_succeeded(thin: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        before = transaction_of(thin)
        with monkeypatch.context() as patch:
            patch.setattr(DeviceMapper, "message", failing(DeviceMapper.message, at=3))
            found = pool.create_snapshots(requests(A, "a", "b", "c", "d", "e"))

        assert [type(one) for one in found.values()] == [str, str, PoolUnusable, PoolUnusable, PoolUnusable]
        assert transaction_of(thin) == before + 1
        assert agree(pool)
        kept = {name: one for name, one in found.items() if isinstance(one, str)}
        assert made(pool, A, "a", "b", "c", "d", "e").items() >= kept.items()
        assert pool.observe({A: identity}, kept).snapshots["a"].active


def failing(real: Callable[..., None], at: int) -> Callable[..., None]:
    """The message with this number fails with EIO."""
    sent = 0

    def message(dm: DeviceMapper, name: str, text: str, sector: int = 0) -> None:
        nonlocal sent
        sent += 1
        if sent == at:
            raise DmError(5, "message", name, text)
        real(dm, name, text, sector)

    return message


def test_a_name_that_is_taken_fails_its_request_before_anything_is_created(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        dmsetup("create", f"{thin.name}-two", "--table", "0 8 error")
        found = pool.create_snapshots(requests(A, "one", "two", "three"))

        assert [type(one).__name__ for one in found.values()] == ["str", "NameTaken", "str"]
        assert not pool.journal.devices("two")


def test_a_missing_volume_fails_its_request_only(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        found = pool.create_snapshots([*requests(C, "lost"), *requests(A, "one")])

        assert [type(one).__name__ for one in found.values()] == ["Retryable", "str"]


# ---------------------------------------------------------------------------------------------------------- power cuts

NAMES = ("one", "two", "three", "four", "five")
PREPARE = f"""
from tests.kernel.test_batches import *
with Rig(Path({DISK!r}) / sys.argv[1]).assembled() as pool:
    volume(pool, A)
"""
CREATE = f"""
import time
from tests.kernel.test_batches import *
left, real = int(sys.argv[2]), DeviceMapper.message
def message(*arguments):
    global left
    if left == 0:
        print("now", flush=True)
        time.sleep(600)
    left -= 1
    real(*arguments)
DeviceMapper.message = message
with Rig(Path({DISK!r}) / sys.argv[1]).assembled() as pool:
    made(pool, A, *NAMES)
    print("now", flush=True)
    time.sleep(600)
"""
SETTLE = f"""
from tests.kernel.test_batches import *
thin = Rig(Path({DISK!r}) / sys.argv[1])
with thin.pool() as pool:
    volumes = {{A: next(row.identity for row in pool.journal.devices(A).values())}}
    pool.assemble()
    assert agree(pool), (pool.journal.devices(), content(pool))
    kept = sum(row.role is Role.SNAPSHOT for row in pool.journal.devices().values())
    found = made(pool, A, *NAMES)
    pool.discard_leftovers(volumes, found)
    state = pool.observe(volumes, found)
    assert all(one.active and one.condition is Condition.INTACT for one in state.snapshots.values()), state
    assert (state.leftovers, state.orphans, state.troubles, state.unready) == ((), (), (), ""), state
    assert agree(pool)
    print(kept)
thin.take_down()
thin.check()
"""


@pytest.mark.reboots
@pytest.mark.timeout(900)
def test_the_power_fails_after_each_message_of_a_batch(tmp_path: Path) -> None:
    """Before each message, the pool's own included, and after the last one: what the pool kept is kept, the rest is dropped."""
    with Guest(make_disk(tmp_path / "disk", 1 << 30)) as guest:
        for sent in range(len(NAMES) + 2):
            where = str(sent)
            guest.run(f"mkdir {DISK}/{where}").check()
            python(guest, PREPARE, where)
            job = guest.start([sys.executable, "-c", CREATE, where, str(sent)])
            guest.until(lambda job=job: "now" in job.stdout or job.poll() is not None, 200, "at the moment")
            assert job.poll() is None, job.stderr
            guest.cut()
            guest.boot()
            assert int(python(guest, SETTLE, where)) == min(sent, len(NAMES))


def python(guest: Guest, script: str, *arguments: str) -> str:
    return guest.run([sys.executable, "-c", script, *arguments], 120).check().stdout
