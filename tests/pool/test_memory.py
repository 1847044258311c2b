"""The pool in memory: it keeps the drivers' contract, and has the faults that a simulation scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from reconciler.errors import NameTaken, PoolUnusable
from reconciler.pool.driver import Condition, Driver
from reconciler.pool.memory import Crash, Fault, Faults, MemoryPool, Step, Storage, crash, delay, fail, hang

from .contract import MIB, SIZE, A, B, Bench, DriverContract, build, made, requests


class MemoryBench(Bench):
    def __init__(self) -> None:
        self.storage = Storage(total=64 * MIB)
        self.stamp = self.storage.stamp

    def driver(self, hook: Callable[[Step], None] = lambda _: None) -> MemoryPool:
        return MemoryPool("default", self.storage, self.reserve, hook=hook, stamp=self.stamp)

    def read(self, driver: Driver, name: str, offset: int, length: int) -> bytes:
        return self.storage.read(name, offset, length)

    def write(self, driver: Driver, name: str, offset: int, data: bytes) -> None:
        self.storage.write(name, offset, data)

    @contextmanager
    def held(self, driver: Driver, name: str) -> Iterator[None]:
        self.storage.held[name] = "process 7 (qemu)"
        yield
        del self.storage.held[name]

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self.storage.read_only = True
        yield
        self.storage.read_only = False

    @contextmanager
    def unreadable(self) -> Iterator[None]:
        self.storage.unreadable = "Input/output error"
        yield
        self.storage.unreadable = ""

    def lose(self, name: str, identity: str) -> None:
        self.storage.lose(name)

    @contextmanager
    def swap(self) -> Iterator[None]:
        ours = self.storage
        self.storage = Storage(stamp=2)
        other = MemoryPool("default", self.storage)
        other.assemble()
        build(other, A)
        made(other, A, "web")
        yield
        self.storage = ours

    def plant(self) -> None:
        self.storage.add_foreign("theirs")

    def reboot(self) -> None:
        self.storage.reboot()

    def killed(self, moment: int, act: Callable[[Driver], object]) -> bool:
        passed = 0

        def hook(step: Step) -> None:
            nonlocal passed
            passed += 1
            if passed == moment:
                raise Crash(*step)

        try:
            act(self.driver(hook))
        except Crash:
            return True
        return False


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


class TestContract(DriverContract):
    pass


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def pool(faults: Faults) -> MemoryPool:
    pool = MemoryPool("default", Storage(), hook=faults)
    pool.assemble()
    return pool


def test_it_is_a_driver(pool: MemoryPool) -> None:
    driver: Driver = pool

    assert driver.name == "default"


def test_a_scripted_error_is_raised_as_often_as_it_is_scripted(pool: MemoryPool, faults: Faults) -> None:
    build(pool, A)
    faults.add(Fault("create_snapshot", "one", times=2, act=fail(PoolUnusable("EIO"))))

    for _ in range(2):
        with pytest.raises(PoolUnusable, match="EIO"):
            pool.create_snapshot("one", A)
    assert pool.create_snapshot("one", A)
    assert pool.create_snapshot("two", A)


def test_a_fault_without_a_number_acts_until_it_is_removed(pool: MemoryPool, faults: Faults) -> None:
    fault = faults.add(Fault("observe", times=0, act=fail(PoolUnusable("EIO"))))
    for _ in range(3):
        with pytest.raises(PoolUnusable):
            pool.observe({}, {})
    faults.remove(fault)

    assert pool.observe({}, {}).volumes == {}


def test_a_batch_returns_a_scripted_error_for_its_request_only(pool: MemoryPool, faults: Faults) -> None:
    build(pool, A)
    pool.storage.occupied.add("two")

    faults.add(Fault("create_snapshot", "one", act=fail(PoolUnusable("EIO"))))
    found = pool.create_snapshots(requests(A, "one", "two", "three"))
    assert [type(one) for one in found.values()] == [PoolUnusable, NameTaken, str]


def test_a_crash_between_two_steps_leaves_what_was_done(pool: MemoryPool, faults: Faults) -> None:
    build(pool, A)
    faults.add(Fault("create_snapshot", "web", "created", act=crash))
    with pytest.raises(Crash):
        pool.create_snapshot("web", A)

    state = MemoryPool("default", pool.storage).observe({}, {})
    assert len(state.leftovers) == 2, "the volume, which nothing records either, and the snapshot"


def test_a_hang_lasts_until_it_is_released_and_holds_up_no_other_call(pool: MemoryPool, faults: Faults) -> None:
    build(pool, A)
    gate = threading.Event()
    faults.add(Fault("create_snapshot", "slow", "created", act=hang(gate)))
    thread = threading.Thread(target=pool.create_snapshot, args=("slow", A))
    thread.start()

    assert pool.create_snapshot("fast", A)
    gate.set()
    thread.join(10)
    assert pool.storage.read("slow", MIB, 1) == b"a"


def test_a_slow_call_takes_the_time_of_the_clock_that_it_is_given(pool: MemoryPool, faults: Faults) -> None:
    slept: list[float] = []
    faults.add(Fault("seal", act=delay(slept.append, 30.0)))
    build(pool, A)

    assert slept == [30.0]


def test_the_steps_of_a_call_are_recorded_in_order(pool: MemoryPool, faults: Faults) -> None:
    build(pool, A)
    del faults.steps[:]
    pool.create_snapshot("web", A)

    assert faults.steps == [Step("create_snapshot", "web", point) for point in ("begin", "created", "active")]


def test_the_same_calls_give_the_same_result() -> None:
    def world() -> tuple[object, ...]:
        pool = MemoryPool("default", Storage())
        pool.assemble()
        found = build(pool, A), made(pool, A, "one", "two")
        return *found, pool.observe({A: found[0]}, found[1]), pool.pulse()

    assert world() == world()


def test_shared_content_takes_space_once(pool: MemoryPool) -> None:
    build(pool, A, data=b"x" * MIB)
    used = pool.space().total - pool.space().free
    made(pool, A, *(f"s{n}" for n in range(10)))
    assert pool.space().total - pool.space().free == used

    pool.storage.write("s0", 4 * MIB, b"new")
    assert pool.space().total - pool.space().free == used + 4096


def test_content_can_be_written_without_a_descriptor(pool: MemoryPool) -> None:
    with pool.create_volume(A, SIZE, None) as volume:
        volume.write(MIB - 2, b"across")
        volume.seal()
    with pool.reading(A) as path, path.open("rb") as file:
        file.seek(MIB - 2)
        assert file.read(6) == b"across"


def test_a_damaged_volume_and_an_orphan_are_reported(pool: MemoryPool) -> None:
    identity = build(pool, A)
    build(pool, B)
    pool.storage.damage(A)
    pool.storage.named(B)[0].orphan = True

    state = pool.observe({A: identity}, {})
    assert state.volumes[A].condition is Condition.DAMAGED
    assert len(state.orphans) == 1
    assert pool.discard_leftovers({A: identity}, {}) == ()
