"""The behaviour that every pool driver has, as one suite. A driver's tests subclass ``DriverContract`` and provide a ``Bench``.

A bench is one pool and the hand of whatever is outside of it: guests, operators, the host, the power. ``pool()`` is a driver of a
new process each time. Chains are A, B and C.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from reconciler.errors import Busy, CommandError, FileRefused, NoSpace, PoolUnusable, ReconcilerError, Retryable, Stopped
from reconciler.pool.driver import Condition, Custom, Driver, PoolState, SnapshotRequest

MIB = 1 << 20
SIZE = 8 * MIB
A, B, C = "a" * 64, "b" * 64, "c" * 64


class Bench(ABC):
    """One pool. ``reserve`` is the percentage of it that drivers made from now on leave free."""

    reserve: int = 0

    @abstractmethod
    def driver(self) -> Driver:
        """A driver, as the next process has it."""

    @contextmanager
    def pool(self) -> Iterator[Driver]:
        """The driver of the next process, after its first step: assembling what is not ready."""
        driver = self.driver()
        if driver.observe({}, {}).unready:
            driver.assemble()
        yield driver

    @abstractmethod
    def read(self, driver: Driver, name: str, offset: int, length: int) -> bytes:
        """What a snapshot's user reads."""

    @abstractmethod
    def write(self, driver: Driver, name: str, offset: int, data: bytes) -> None: ...

    @abstractmethod
    def held(self, driver: Driver, name: str) -> AbstractContextManager[object]:
        """A process uses a snapshot."""

    @abstractmethod
    def read_only(self) -> AbstractContextManager[object]:
        """The pool can be read and not changed."""

    @abstractmethod
    def unreadable(self) -> AbstractContextManager[object]:
        """The pool can't be read at all."""

    @abstractmethod
    def lose(self, name: str, identity: str) -> None:
        """A volume or a snapshot disappears."""

    @abstractmethod
    def swap(self) -> AbstractContextManager[object]:
        """Another pool, with objects of the same names, takes this one's place."""

    @abstractmethod
    def plant(self) -> None:
        """Another tool puts an object into the pool."""

    @abstractmethod
    def reboot(self) -> None: ...

    @abstractmethod
    def killed(self, moment: int, act: Callable[[Driver], object]) -> bool:
        """Do it in a process that is killed at a moment; False if it ended before that."""


def build(driver: Driver, chain: str, parent: str | None = None, data: bytes = b"") -> str:
    """A sealed volume that holds its chain's letter, or ``data``, at 1 MiB."""
    with driver.create_volume(chain, SIZE, parent) as volume:
        os.pwrite(volume.fd, superblock(chain), 1024)
        os.pwrite(volume.fd, data or chain[:1].encode() * 4096, MIB)
        return volume.seal()


def superblock(chain: str) -> bytes:
    """What makes a file recognisable: magic and UUID of an ext4 file system."""
    block = bytearray(1024)
    block[0x38:0x3A], block[0x68:0x78] = b"\x53\xef", bytes.fromhex(chain[:32])
    return bytes(block)


def requests(chain: str, *names: str) -> list[SnapshotRequest]:
    return [SnapshotRequest(name, chain) for name in names]


def custom(digest: str, data: bytes) -> Custom:
    """Twice the volume's size, and ``data`` at 1 MiB."""
    return Custom(digest, 2 * SIZE, lambda fd: writes(fd, data))


def writes(fd: int, data: bytes) -> None:
    os.pwrite(fd, data, MIB)


def refused(fd: int) -> None:
    os.pwrite(fd, b"half", MIB)
    raise FileRefused("/etc is a directory of the image")


def made(driver: Driver, chain: str, *names: str) -> dict[str, str]:
    """Identities of snapshots that were all created."""
    found = driver.create_snapshots(requests(chain, *names))
    assert all(isinstance(one, str) for one in found.values()), found
    return {name: str(one) for name, one in found.items()}


def costs_this_pool_only(error: BaseException) -> bool:
    return isinstance(error, ReconcilerError) and not isinstance(error, CommandError)


class DriverContract:
    """Inherit, and define the fixture ``bench``."""

    moments = range(1, 40)
    """Where the tests of interrupted operations cut; each stops at the first moment that its operation does not reach."""

    # -------------------------------------------------------------------------------------- volumes and snapshots

    def test_a_sealed_volume_and_its_snapshot_are_intact(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, {"web": driver.create_snapshot("web", A)}
            state = driver.observe(volumes, snapshots)

            assert state.volumes[A].condition is Condition.INTACT
            assert (state.snapshots["web"].condition, state.snapshots["web"].active) == (Condition.INTACT, True)
            assert bench.read(driver, "web", MIB, 4) == b"aaaa"
            assert (state.leftovers, state.orphans, state.foreign, state.troubles) == ((), (), (), ())

    def test_a_child_volume_begins_with_its_parents_content(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            with driver.create_volume(B, SIZE, A) as child:
                assert os.pread(child.fd, 4, MIB) == b"aaaa"
                os.pwrite(child.fd, b"bbbb", 2 * MIB)
                child.seal()
            driver.create_snapshot("web", B)

            assert bench.read(driver, "web", MIB, 4) == b"aaaa"
            assert bench.read(driver, "web", 2 * MIB, 4) == b"bbbb"

    def test_writes_to_a_snapshot_change_neither_its_volume_nor_another_snapshot(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            made(driver, A, "one", "two")
            bench.write(driver, "one", MIB, b"mine")
            made(driver, A, "three")

            assert [bench.read(driver, name, MIB, 4) for name in ("one", "two", "three")] == [b"mine", b"aaaa", b"aaaa"]

    def test_a_volume_that_is_not_sealed_leaves_nothing(self, bench: Bench) -> None:
        with bench.pool() as driver:
            with driver.create_volume(A, SIZE, None) as volume:
                os.pwrite(volume.fd, b"x" * MIB, 0)

            assert driver.observe({}, {}).leftovers == ()
            with pytest.raises(Retryable):
                driver.create_snapshot("web", A)

    def test_a_missing_volume_is_a_failure_that_may_pass(self, bench: Bench) -> None:
        with bench.pool() as driver:
            with pytest.raises(Retryable, match="missing"):
                driver.create_snapshot("web", A)
            with pytest.raises(Retryable, match="missing"):
                driver.create_volume(B, SIZE, A)
            assert driver.observe({}, {}).leftovers == ()

    def test_what_is_removed_is_missing_and_removing_it_again_is_success(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, made(driver, A, "web")
            for _ in range(2):
                driver.remove_snapshot("web")
                driver.remove_volume(A)

            state = driver.observe(volumes, snapshots)
            assert state.volumes[A].condition is Condition.MISSING
            assert (state.snapshots["web"].condition, state.snapshots["web"].active) == (Condition.MISSING, False)

    def test_a_snapshot_outlives_its_volume(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            snapshots = made(driver, A, "web")
            driver.remove_volume(A)

            assert driver.observe({}, snapshots).snapshots["web"].condition is Condition.INTACT
            assert bench.read(driver, "web", MIB, 4) == b"aaaa"

    def test_an_unrecorded_snapshot_of_the_same_chain_is_the_one_requested(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            first = made(driver, A, "one", "two")
        with bench.pool() as driver:
            assert made(driver, A, "one", "two") == first
            assert driver.create_snapshot("two", A) == first["two"]

    def test_replacing_gives_the_name_to_the_new_snapshot(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            build(driver, B)
            old = made(driver, A, "web")["web"]
            new = driver.replace_snapshot("web", B, old)
            driver.discard_replaced("web", new)

            state = driver.observe({}, {"web": new}).snapshots["web"]
            assert (state.condition, state.active, bench.read(driver, "web", MIB, 4)) == (Condition.INTACT, True, b"bbbb")
            assert new != old

    def test_a_snapshot_is_made_anew_from_the_same_volume(self, bench: Bench) -> None:
        """Also where what it replaced before is still there: that one was used."""
        with bench.pool() as driver:
            build(driver, A)
            first = made(driver, A, "web")["web"]
            bench.write(driver, "web", MIB, b"used")
            second = driver.replace_snapshot("web", A, first)
            assert bench.read(driver, "web", MIB, 4) == b"aaaa"
            bench.write(driver, "web", MIB, b"used")
            third = driver.replace_snapshot("web", A, second)

            assert bench.read(driver, "web", MIB, 4) == b"aaaa"
            assert len({first, second, third}) == 3
            driver.discard_replaced("web", third)
            assert driver.observe({}, {"web": third}).snapshots["web"].active

    def test_a_snapshot_is_present_while_it_can_be_opened(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            identity = made(driver, A, "web")["web"]
            assert driver.is_present("web", identity)
            driver.remove_snapshot("web")
            assert not driver.is_present("web", identity)

    # ---------------------------------------------------------------------------------------------------- batches

    def test_a_customized_snapshot_has_its_size_and_what_was_written(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            identity = driver.create_snapshot("web", A, custom=custom("one", b"mine"))
            driver.create_snapshot("plain", A)
            found = driver.observe({}, {"web": identity}).snapshots["web"]
            assert (found.condition, found.active, found.size) == (Condition.INTACT, True, 2 * SIZE)
            assert bench.read(driver, "web", MIB, 4) == b"mine"
            assert bench.read(driver, "web", MIB + 4096, 4) == bytes(4)
            assert bench.read(driver, "plain", MIB, 4) == b"aaaa"

    def test_a_read_only_snapshot_can_be_read_and_is_replaced_and_removed(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            fixed = Custom("one-ro", 2 * SIZE, lambda fd: writes(fd, b"mine"))
            snapshots = {"web": driver.create_snapshot("web", A, custom=fixed)}
            self.assert_read_only(bench, driver, "web")
        bench.reboot()
        with bench.pool() as driver:
            driver.activate_snapshot("web", snapshots["web"])
            found = driver.observe({}, snapshots).snapshots["web"]
            assert (found.condition, found.active, found.size) == (Condition.INTACT, True, 2 * SIZE)
            self.assert_read_only(bench, driver, "web")
            second = driver.replace_snapshot("web", A, snapshots["web"], custom=custom("two", b"also"))
            driver.discard_replaced("web", second)
            bench.write(driver, "web", MIB, b"ours")
            assert bench.read(driver, "web", MIB, 4) == b"ours"
            third = driver.replace_snapshot("web", A, second, custom=fixed)
            driver.discard_replaced("web", third)
            self.assert_read_only(bench, driver, "web")
            driver.remove_snapshot("web")
            assert driver.observe({}, {"web": third}).snapshots["web"].condition is Condition.MISSING

    def assert_read_only(self, bench: Bench, driver: Driver, name: str) -> None:
        assert bench.read(driver, name, MIB, 4) == b"mine"
        path = driver.snapshot_path(name)
        if path.is_block_device():
            with pytest.raises(PermissionError):
                bench.write(driver, name, MIB, b"ours")
        elif path.exists():
            assert not path.stat().st_mode & 0o222

    def test_a_snapshot_grows_while_it_is_in_use_and_keeps_its_content(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            snapshots = made(driver, A, "web", "other")
            bench.write(driver, "web", MIB, b"mine")
            with bench.held(driver, "web"):
                snapshots["web"] = driver.grow_snapshot("web", snapshots["web"], 3 * SIZE)
            assert driver.grow_snapshot("web", snapshots["web"], 3 * SIZE) == snapshots["web"]
            bench.write(driver, "web", 3 * SIZE - 4096, b"last")
            found = driver.observe({}, snapshots).snapshots
            assert [(one.condition, one.active, one.size) for _, one in sorted(found.items())] == [
                (Condition.INTACT, True, SIZE),
                (Condition.INTACT, True, 3 * SIZE),
            ]
            assert bench.read(driver, "web", MIB, 4) == b"mine"
            assert bench.read(driver, "web", 3 * SIZE - 4096, 4) == b"last"
            assert bench.read(driver, "web", 2 * SIZE, 4) == bytes(4)
        bench.reboot()
        with bench.pool() as driver:
            driver.activate_snapshot("web", snapshots["web"])
            assert bench.read(driver, "web", 3 * SIZE - 4096, 4) == b"last"

    def test_an_inactive_snapshot_grows(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            snapshots = made(driver, A, "web")
        bench.reboot()
        with bench.pool() as driver:
            snapshots["web"] = driver.grow_snapshot("web", snapshots["web"], 3 * SIZE)
            driver.activate_snapshot("web", snapshots["web"])
            assert bench.read(driver, "web", 3 * SIZE - 4096, 4096) == bytes(4096)

    def test_only_the_recorded_snapshot_grows(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            first = driver.create_snapshot("web", A)
            with pytest.raises(Retryable):
                driver.grow_snapshot("absent", first, 3 * SIZE)
            driver.remove_snapshot("web")
            second = driver.create_snapshot("web", A)
            with pytest.raises(ReconcilerError):
                driver.grow_snapshot("web", first, 3 * SIZE)
            assert driver.observe({}, {"web": second}).snapshots["web"].size == SIZE

    def test_a_snapshot_that_can_not_be_customized_leaves_nothing(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            failing = SnapshotRequest("one", A, Custom("bad", write=refused))
            found = driver.create_snapshots([failing, SnapshotRequest("two", A, custom("good", b"good"))])
            assert isinstance(found["one"], FileRefused)
            assert isinstance(found["two"], str)
            leftovers = driver.observe({}, {"two": str(found["two"])}).leftovers
            assert not [one for one in leftovers if "volume" not in one and "aaaa" not in one]
            assert bench.read(driver, "two", MIB, 4) == b"good"
            assert driver.create_snapshot("one", A)
            assert bench.read(driver, "one", MIB, 4) == b"aaaa"

    def test_replacing_with_a_customized_snapshot_of_the_same_chain(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            old = driver.create_snapshot("web", A, custom=custom("one", b"old!"))
            new = driver.replace_snapshot("web", A, old, custom=custom("two", b"new!"))
            driver.discard_replaced("web", new)
            assert bench.read(driver, "web", MIB, 4) == b"new!"
            assert driver.observe({}, {"web": new}).snapshots["web"].size == 2 * SIZE

    def test_each_request_of_a_batch_has_its_own_result(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            found = driver.create_snapshots([*requests(A, "one"), *requests(C, "lost"), *requests(A, "two")])

            assert list(found) == ["one", "lost", "two"]
            assert isinstance(found["lost"], Retryable)
            good = {name: one for name, one in found.items() if isinstance(one, str)}
            assert set(good) == {"one", "two"}
            state = driver.observe({}, good)
            assert [(one.condition, one.active) for one in state.snapshots.values()] == [(Condition.INTACT, True)] * 2
            assert driver.create_snapshots([]) == {}

    def test_more_requests_than_a_batch_holds_are_all_created(self, bench: Bench) -> None:
        names = [f"s{n}" for n in range(70)]
        with bench.pool() as driver:
            build(driver, A)
            found = made(driver, A, *names)

            assert len(set(found.values())) == len(names)
            assert all(one.active for one in driver.observe({}, found).snapshots.values())

    def test_a_heartbeat_that_raises_ends_the_batch_and_the_next_run_completes_it(self, bench: Bench) -> None:
        def stop() -> None:
            raise Stopped("stop")

        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            with pytest.raises(Stopped):
                driver.create_snapshots(requests(A, "one", "two"), stop)
        with bench.pool() as driver:
            driver.discard_leftovers(volumes, {})
            found = made(driver, A, "one", "two")
            assert all(one.active for one in driver.observe({}, found).snapshots.values())

    def test_after_a_reboot_snapshots_are_activated_with_their_content(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            snapshots = made(driver, A, "one", "two")
            bench.write(driver, "one", MIB, b"mine")
        bench.reboot()
        with bench.pool() as driver:
            errors = driver.activate_snapshots(snapshots | {"lost": next(iter(snapshots.values()))[::-1]})

            assert not set(errors) & set(snapshots), errors
            assert all(costs_this_pool_only(error) for error in errors.values())
            state = driver.observe(volumes, snapshots)
            assert [(one.condition, one.active) for one in state.snapshots.values()] == [(Condition.INTACT, True)] * 2
            assert state.volumes[A].condition is Condition.INTACT
            assert bench.read(driver, "one", MIB, 4) == b"mine"

    # ----------------------------------------------------------------------------------------------------- faults

    def test_a_snapshot_in_use_is_busy_and_stays(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            build(driver, B)
            snapshots = made(driver, A, "web", "idle")
            with bench.held(driver, "web"):
                assert set(driver.holders(snapshots)) == {"web"}
                with pytest.raises(Busy):
                    driver.remove_snapshot("web")
                with pytest.raises(Busy):
                    driver.replace_snapshot("web", B, snapshots["web"])
                state = driver.observe({}, snapshots).snapshots["web"]
                assert (state.condition, state.active) == (Condition.INTACT, True)
            assert driver.holders(snapshots) == {}
            driver.remove_snapshot("web")

    def test_a_full_pool_refuses_new_work_and_removes(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            snapshots = made(driver, A, "web")
        bench.reserve = 100
        with bench.pool() as driver:
            with pytest.raises(NoSpace):
                driver.create_volume(B, SIZE, None)
            with pytest.raises(NoSpace):
                driver.create_snapshot("new", A)
            found = driver.create_snapshots(requests(A, "one", "two"))
            assert {type(one) for one in found.values()} == {NoSpace}
            assert driver.observe(volumes, snapshots).leftovers == ()
            driver.remove_snapshot("web")
            assert driver.observe({}, snapshots).snapshots["web"].condition is Condition.MISSING

    def test_parallel_builds_are_not_promised_the_same_space(self, bench: Bench) -> None:
        with bench.pool() as driver:
            wanted = driver.space().available // 10 * 6
            with driver.create_volume(A, SIZE, None, lambda: wanted), pytest.raises(NoSpace):
                driver.create_volume(B, SIZE, None, lambda: wanted)
            with driver.create_volume(B, SIZE, None, lambda: wanted):
                pass

    def test_a_read_only_pool_can_be_read_and_is_reported(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, made(driver, A, "web")
        with bench.read_only():
            driver = bench.driver()
            state = driver.observe(volumes, snapshots)
            assert state.volumes[A].condition is Condition.INTACT
            assert state.snapshots["web"].condition is Condition.INTACT
            assert state.halted is not None
            assert state.halted.reason == "PoolReadOnly"
            assert isinstance(driver.shares_blocks, bool)
            assert (driver.copied_bytes(A) == 0) == driver.shares_blocks
            assert driver.copied_bytes(B) == 0
            self.assert_nothing_can_be_changed(driver, snapshots)
            assert driver.discard_leftovers(volumes, snapshots) == ()
        with bench.pool() as driver:
            state = driver.observe(volumes, snapshots)
            assert (state.troubles, state.leftovers) == ((), ())
            assert state.snapshots["web"].condition is Condition.INTACT

    def assert_nothing_can_be_changed(self, driver: Driver, snapshots: dict[str, str]) -> None:
        with pytest.raises(PoolUnusable):
            driver.create_volume(B, SIZE, None)
        with pytest.raises(PoolUnusable):
            driver.create_snapshot("new", A)
        assert {type(one) for one in driver.create_snapshots(requests(A, "one", "two")).values()} == {PoolUnusable}
        for name in snapshots:
            with pytest.raises(PoolUnusable):
                driver.remove_snapshot(name)
        with pytest.raises(PoolUnusable):
            driver.remove_volume(A)

    def test_a_pool_that_can_not_be_read_is_an_error_and_not_an_empty_pool(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, made(driver, A, "web")
        with bench.unreadable():
            driver = bench.driver()
            with pytest.raises(PoolUnusable):
                driver.observe(volumes, snapshots)
            driver.pulse()
            found = driver.create_snapshots(requests(A, "one"))
            assert isinstance(found["one"], PoolUnusable)
            with pytest.raises(PoolUnusable):
                driver.create_volume(B, SIZE, None)
        with bench.pool() as driver:
            assert driver.observe(volumes, snapshots).snapshots["web"].condition is Condition.INTACT

    def test_what_disappears_is_missing(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, made(driver, A, "gone", "kept")
        bench.lose("gone", snapshots["gone"])
        bench.lose(A, volumes[A])
        with bench.pool() as driver:
            state = driver.observe(volumes, snapshots)
            conditions = {name: one.condition for name, one in state.snapshots.items()}
            assert conditions == {"gone": Condition.MISSING, "kept": Condition.INTACT}
            assert state.volumes[A].condition is Condition.MISSING

    def test_objects_of_a_swapped_pool_are_never_intact_and_never_removed(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, snapshots = {A: build(driver, A)}, made(driver, A, "web")
        with bench.swap():
            driver = bench.driver()
            state = driver.observe(volumes, snapshots)
            assert state.volumes[A].condition is not Condition.INTACT
            assert state.snapshots["web"].condition is not Condition.INTACT
            before = driver.pulse()
            assert driver.discard_leftovers(volumes, snapshots) == ()
            assert driver.pulse() == before

    def test_foreign_objects_are_reported_and_left_alone(self, bench: Bench) -> None:
        bench.plant()
        with bench.pool() as driver:
            before = driver.observe({}, {}).foreign
            assert len(before) == 1
            driver.discard_leftovers({}, {})
            build(driver, A)
            made(driver, A, "web")
            driver.remove_snapshot("web")
            assert driver.observe({}, {}).foreign == before

    def test_the_pulse_changes_when_a_snapshot_comes_or_goes(self, bench: Bench) -> None:
        with bench.pool() as driver:
            build(driver, A)
            pulses = [driver.pulse(), driver.pulse()]
            made(driver, A, "web")
            pulses.append(driver.pulse())
            driver.remove_snapshot("web")
            pulses.append(driver.pulse())

        assert pulses[0] == pulses[1]
        assert pulses[1] != pulses[2] != pulses[3]

    # ------------------------------------------------------------------------------------------- interrupted operations

    def interrupted(self, bench: Bench, act: Callable[[Driver], object]) -> Iterator[Driver]:
        """The driver of the next process, after each moment at which the operation was interrupted."""
        for moment in self.moments:
            was_killed = bench.killed(moment, act)
            with bench.pool() as driver:
                yield driver
            if not was_killed:
                return
        raise AssertionError("the operation has more moments than the test tries")

    def assert_settled(self, driver: Driver, volumes: dict[str, str], snapshots: dict[str, str]) -> PoolState:
        driver.discard_leftovers(volumes, snapshots)
        state = driver.observe(volumes, snapshots)
        assert (state.leftovers, state.orphans, state.troubles, state.unready) == ((), (), (), "")
        assert {one.condition for one in (*state.volumes.values(), *state.snapshots.values())} == {Condition.INTACT}
        return state

    def test_an_interrupted_batch_is_completed_by_the_next_run(self, bench: Bench) -> None:
        names = ("one", "two", "three")
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            kept = made(driver, A, "kept")
            bench.write(driver, "kept", MIB, b"mine")
        for driver in self.interrupted(bench, lambda driver: driver.create_snapshots(requests(A, *names))):
            found = made(driver, A, *names)
            state = self.assert_settled(driver, volumes, kept | found)
            assert all(one.active and one.condition is Condition.INTACT for one in state.snapshots.values())
            assert [bench.read(driver, name, MIB, 4) for name in (*names, "kept")] == [b"aaaa"] * 3 + [b"mine"]
            for name in names:
                driver.remove_snapshot(name)

    def test_growth_that_was_cut_off_is_completed_by_the_next_run(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes, recorded = {A: build(driver, A)}, made(driver, A, "web")
            bench.write(driver, "web", MIB, b"mine")
        size = SIZE

        def act(driver: Driver) -> None:
            driver.grow_snapshot("web", recorded["web"], size + MIB)

        for driver in self.interrupted(bench, act):
            size += MIB
            assert driver.observe(volumes, recorded).snapshots["web"].condition is Condition.INTACT
            recorded["web"] = driver.grow_snapshot("web", recorded["web"], size)
            assert self.assert_settled(driver, volumes, recorded).snapshots["web"].size == size
            assert bench.read(driver, "web", size - 4096, 4096) == bytes(4096)
            assert bench.read(driver, "web", MIB, 4) == b"mine"

    def test_a_snapshot_that_was_cut_off_while_it_was_customized_is_created_again(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
        wanted = [SnapshotRequest(name, A, custom("two", b"good")) for name in ("one", "two")]
        for driver in self.interrupted(bench, lambda driver: driver.create_snapshots(wanted)):
            found = {name: str(one) for name, one in driver.create_snapshots(wanted).items()}
            self.assert_settled(driver, volumes, found)
            assert [bench.read(driver, name, MIB, 4) for name in found] == [b"good"] * 2
            for name in found:
                driver.remove_snapshot(name)

    def test_a_customized_replacement_that_was_cut_off_is_the_old_or_the_new_one(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            recorded = {"web": driver.create_snapshot("web", A, custom=custom("one", b"old!"))}
        new = custom("two", b"new!")

        def act(driver: Driver) -> None:
            driver.discard_replaced("web", driver.replace_snapshot("web", A, recorded["web"], custom=new))

        for driver in self.interrupted(bench, act):
            driver.discard_leftovers(volumes, recorded)
            recorded["web"] = driver.replace_snapshot("web", A, recorded["web"], custom=new)
            driver.discard_replaced("web", recorded["web"])
            self.assert_settled(driver, volumes, recorded)
            assert bench.read(driver, "web", MIB, 4) == b"new!"
            driver.remove_snapshot("web")
            recorded["web"] = driver.create_snapshot("web", A, custom=custom("one", b"old!"))

    def test_an_interrupted_build_is_discarded_by_the_next_run(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
        for driver in self.interrupted(bench, lambda driver: build(driver, B, A)):
            driver.discard_leftovers(volumes, {})
            made_again = build(driver, B, A)
            state = self.assert_settled(driver, volumes | {B: made_again}, {})
            assert {one.condition for one in state.volumes.values()} == {Condition.INTACT}
            driver.remove_volume(B)

    def test_an_interrupted_removal_is_completed_by_the_next_run(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A)}
            kept = made(driver, A, "kept")
            made(driver, A, "going")
        for driver in self.interrupted(bench, lambda driver: driver.remove_snapshot("going")):
            driver.remove_snapshot("going")
            state = self.assert_settled(driver, volumes, kept)
            assert state.snapshots["kept"].active
            made(driver, A, "going")

    def test_an_interrupted_replacement_leaves_the_old_or_the_new_snapshot(self, bench: Bench) -> None:
        with bench.pool() as driver:
            volumes = {A: build(driver, A), B: build(driver, B)}
            old = made(driver, A, "web")["web"]
        recorded = {"web": old}

        def act(driver: Driver) -> None:
            driver.discard_replaced("web", driver.replace_snapshot("web", B, old))

        for driver in self.interrupted(bench, act):
            driver.discard_leftovers(volumes, recorded)
            recorded["web"] = driver.replace_snapshot("web", B, recorded["web"])
            driver.discard_replaced("web", recorded["web"])
            state = self.assert_settled(driver, volumes, recorded)
            assert state.snapshots["web"].active
            assert bench.read(driver, "web", MIB, 4) == b"bbbb"
            driver.remove_snapshot("web")
            recorded["web"] = old = made(driver, A, "web")["web"]
