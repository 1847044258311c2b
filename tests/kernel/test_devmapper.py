"""libdevmapper against a real kernel: what each task does, which errno each refusal has, and that nothing stays behind.

The rules of thin pools that are held here: Documentation/admin-guide/device-mapper/thin-provisioning.rst, drivers/md/dm-thin.c.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from reconciler.errors import HostCannot
from reconciler.pool.thin import status
from reconciler.pool.thin.devices import DIRECTORY, sized
from reconciler.pool.thin.devmapper import Device, DeviceMapper, DmError, Listed, Target
from reconciler.pool.thin.status import Mode, PoolStatus, PoolTable, ThinStatus, ThinTable

MIB = 1 << 20
SECTORS = MIB // 512
BLOCK = 128
"""Sectors, 64 KiB."""

serial = count()


@pytest.fixture(scope="module")
def dm() -> DeviceMapper:
    return DeviceMapper.open()


def number(device: Path) -> str:
    found = device.stat().st_rdev
    return f"{os.major(found)}:{os.minor(found)}"


@contextmanager
def loop(file: Path, size: int) -> Iterator[Path]:
    file.touch()
    os.truncate(file, size)
    device = subprocess.check_output(["losetup", "--find", "--show", file], text=True).strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


@dataclass
class Rig:
    """A pool of 32 MiB, and every mapping whose name begins with the pool's: taken down at the end, last made first."""

    dm: DeviceMapper
    name: str
    data: Path
    metadata: Path

    def pool_table(self, *features: str, megabytes: int = 32) -> Target:
        table = PoolTable(number(self.metadata), number(self.data), BLOCK, 16, ("error_if_no_space", *features))
        return Target(0, megabytes * SECTORS, "thin-pool", str(table))

    def thin(self, thin_id: int, *, megabytes: int = 8, name: str = "", read_only: bool = False) -> Device:
        table = ThinTable(number(DIRECTORY / self.name), thin_id)
        name = name or f"{self.name}-{thin_id}"
        return self.dm.create(name, f"U-{name}", [Target(0, megabytes * SECTORS, "thin", str(table))], read_only=read_only)

    def status(self) -> PoolStatus:
        (target,) = self.dm.status(self.name)
        return PoolStatus.parse(target.params)

    def message(self, text: str) -> None:
        self.dm.message(self.name, text)

    def ours(self) -> list[Listed]:
        return [one for one in self.dm.devices() if one.name.startswith(self.name)]

    def down(self) -> None:
        for one in sorted(self.ours(), key=lambda one: one.minor, reverse=True):
            self.dm.resume(one.name)
            self.dm.remove(one.name)


@pytest.fixture
def rig(dm: DeviceMapper, tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        data = stack.enter_context(loop(tmp_path / "data", 64 * MIB))
        metadata = stack.enter_context(loop(tmp_path / "metadata", 4 * MIB))
        rig = Rig(dm, f"test{os.getpid()}_{next(serial)}", data, metadata)
        stack.callback(rig.down)
        dm.create(rig.name, f"U-{rig.name}", [rig.pool_table()])
        yield rig


@contextmanager
def refused(code: int, task: str) -> Iterator[None]:
    with pytest.raises(DmError) as caught:
        yield
    assert (errno.errorcode[caught.value.errno or 0], caught.value.task) == (errno.errorcode[code], task)


def write(path: Path, data: bytes, offset: int = 0) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path, size: int, offset: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------------ devices


def test_a_device_is_there_with_its_node_and_gone_with_it(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    made = rig.thin(0)

    assert (made.name, made.uuid) == (f"{rig.name}-0", f"U-{rig.name}-0")
    assert (made.open_count, made.suspended, made.read_only, made.live_table) == (0, False, False, True)
    assert rig.dm.info(made.name) == rig.dm.by_uuid(made.uuid) == made
    (listed,) = [one for one in rig.dm.devices() if one.name == made.name]
    assert (listed, listed.state()) == (Listed(made.name, *made.number, made.uuid, made.event), (True, False))
    assert made.number in sized() and listed.state(sized()) == (True, False)
    rig.dm.suspend(made.name)
    assert listed.state() == listed.state(sized()) == (True, True)
    rig.dm.resume(made.name)
    assert number(made.path) == f"{made.major}:{made.minor}"
    assert rig.dm.table(made.name) == (Target(0, 8 * SECTORS, "thin", f"{number(DIRECTORY / rig.name)} 0"),)
    pool = rig.dm.info(rig.name)
    assert pool and pool.open_count == 1

    rig.dm.remove(made.name)

    assert rig.dm.info(made.name) is rig.dm.by_uuid(made.uuid) is None
    assert [one.name for one in rig.ours()] == [rig.name]
    assert not os.path.lexists(made.path)


@pytest.mark.parametrize("name", ["a.b", "-.import-7", "-a_b+c:d@e#f", "-with space", "-\\x20", "-é", "-" + "n" * 100])
def test_names_are_the_kernels_as_they_are(rig: Rig, name: str) -> None:
    rig.message(status.create_thin(0))
    made = rig.thin(0, name=f"{rig.name}{name}")

    assert made.name == f"{rig.name}{name}"
    assert made.name in [one.name for one in rig.dm.devices()]
    assert rig.dm.info(made.name) == made == rig.dm.by_uuid(made.uuid)
    assert number(made.path) == f"{made.major}:{made.minor}"


@pytest.mark.parametrize(
    ("name", "code"), [("", errno.EINVAL), ("a/b", errno.EINVAL), ("a\0b", errno.EINVAL), ("n" * 128, errno.ENAMETOOLONG)]
)
def test_names_that_the_kernel_can_not_take_are_refused(dm: DeviceMapper, name: str, code: int) -> None:
    before = dm.devices()
    with refused(code, "create"):
        dm.create(name, "U", [])
    with refused(code, "remove"):
        dm.remove(name)

    assert dm.devices() == before


def test_the_longest_name_and_uuid_fit(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    name, uuid = f"{rig.name}-".ljust(127, "n"), f"U-{rig.name}-".ljust(128, "u")
    table = [Target(0, SECTORS, "thin", f"{number(DIRECTORY / rig.name)} 0")]

    rig.dm.create(name, uuid, table)

    assert rig.dm.by_uuid(uuid) == rig.dm.info(name)
    with refused(errno.ENAMETOOLONG, "create"):
        rig.dm.create("n", uuid + "u", table)


def test_a_name_or_uuid_that_is_taken_stays_as_it_is(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    rig.message(status.create_thin(1))
    first = rig.thin(0)
    table = [Target(0, SECTORS, "thin", f"{number(DIRECTORY / rig.name)} 1")]

    with refused(errno.EBUSY, "create"):
        rig.dm.create(first.name, "U-other", table)
    with refused(errno.EBUSY, "create"):
        rig.dm.create(f"{rig.name}-other", first.uuid, table)

    assert rig.dm.info(first.name) == first
    assert len(rig.ours()) == 2


def test_a_device_that_is_not_there_is_enxio_whatever_is_asked(dm: DeviceMapper) -> None:
    table = [Target(0, SECTORS, "error", "")]
    calls: dict[str, Callable[[], object]] = {
        "load": lambda: dm.load("nobody", table),
        "suspend": lambda: dm.suspend("nobody"),
        "resume": lambda: dm.resume("nobody"),
        "remove": lambda: dm.remove("nobody"),
        "message": lambda: dm.message("nobody", "hello"),
        "status": lambda: dm.status("nobody"),
        "table": lambda: dm.table("nobody"),
    }
    for task, call in calls.items():
        with refused(errno.ENXIO, task):
            call()


def test_a_refused_task_is_described_in_its_error_only(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.message(status.create_thin(5))
    with pytest.raises(DmError, match=rf"^dm message {rig.name}: File exists \(create_thin 5\)$"):
        rig.message(status.create_thin(5))
    with pytest.raises(DmError, match=r"^dm remove nobody: No such device or address$"):
        rig.dm.remove("nobody")

    assert capfd.readouterr() == ("", "")


def test_a_foreign_mapping_is_listed(rig: Rig) -> None:
    subprocess.run(["dmsetup", "create", f"{rig.name}-theirs", "--table", f"0 {SECTORS} error"], check=True)

    found = rig.dm.info(f"{rig.name}-theirs")

    assert found and (found.uuid, found.live_table) == ("", True)
    assert rig.dm.table(found.name) == (Target(0, SECTORS, "error", ""),)


def test_a_device_without_a_table_is_seen_as_one(rig: Rig) -> None:
    """What a process leaves that is killed in the middle of making one."""
    subprocess.run(["dmsetup", "create", f"{rig.name}-empty", "--notable"], check=True)

    found = rig.dm.info(f"{rig.name}-empty")

    assert found and not found.live_table
    assert rig.dm.status(found.name) == rig.dm.table(found.name) == ()


def test_several_targets_are_distinguished(rig: Rig) -> None:
    table = [Target(0, SECTORS, "error", ""), Target(SECTORS, 2 * SECTORS, "linear", f"{number(rig.data)} 2048")]

    made = rig.dm.create(f"{rig.name}-two", f"U-{rig.name}-two", table)

    assert rig.dm.table(made.name) == tuple(table)
    assert [target.kind for target in rig.dm.status(made.name)] == ["error", "linear"]


def test_the_kinds_of_target_have_versions(rig: Rig) -> None:
    found = rig.dm.targets()

    assert {"thin", "thin-pool", "linear", "error"} <= set(found)
    assert found["thin-pool"] >= (1, 0, 0)


def test_each_call_is_counted(rig: Rig) -> None:
    """One for the list, and three for a device: made, given a table, begun."""
    rig.message(status.create_thin(0))
    before = rig.dm.ioctls
    rig.dm.devices()
    rig.thin(0)

    assert rig.dm.ioctls == before + 4


# ---------------------------------------------------------------------------------------- suspending and busy devices


def test_writes_wait_while_a_device_is_suspended(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    rig.dm.suspend(thin.name)
    begun, done = Event(), Event()

    def writer() -> None:
        begun.set()
        write(thin.path, b"x" * 4096)
        done.set()

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(writer)
        begun.wait()
        suspended = rig.dm.info(thin.name)
        assert suspended and suspended.suspended
        assert not done.is_set()
        rig.dm.resume(thin.name)
        future.result(timeout=60)

    resumed = rig.dm.info(thin.name)
    assert resumed and not resumed.suspended
    assert read(thin.path, 1) == b"x"


def test_a_device_is_suspended_without_flushing_or_freezing_too(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    for flush, lockfs in ((False, True), (True, False), (False, False)):
        rig.dm.suspend(thin.name, flush=flush, lockfs=lockfs)
        found = rig.dm.info(thin.name)
        assert found and found.suspended
        rig.dm.resume(thin.name)


def test_what_is_open_is_not_removed(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    holder = os.open(thin.path, os.O_RDONLY)
    try:
        found = rig.dm.info(thin.name)
        assert found and found.open_count == 1
        with refused(errno.EBUSY, "remove"):
            rig.dm.remove(thin.name)
        with refused(errno.EBUSY, "remove"):
            rig.dm.remove(rig.name)
        assert os.pread(holder, 16, 0) == bytes(16)
    finally:
        os.close(holder)
    assert thin.path.exists()

    rig.dm.remove(thin.name)


def test_a_read_only_device_can_not_be_written(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    write(rig.thin(0).path, b"precious")
    rig.dm.remove(f"{rig.name}-0")
    thin = rig.thin(0, read_only=True)

    assert thin.read_only
    assert read(thin.path, 8) == b"precious"
    with pytest.raises(OSError):
        write(thin.path, b"spoiled")
    assert read(thin.path, 8) == b"precious"


# --------------------------------------------------------------------------------------------------- thin pools


def test_a_new_pools_status_and_table_are_understood_to_the_last_word(rig: Rig) -> None:
    (line,), (table,) = rig.dm.status(rig.name), rig.dm.table(rig.name)

    found = rig.status()
    assert str(found) == line.params
    assert (found.transaction, found.used_data, found.total_data, found.total_metadata) == (0, 0, 512, 1024)
    assert (found.mode, found.needs_check, found.held_root, found.error_if_no_space) == (Mode.RW, False, None, True)
    assert 0 < found.used_metadata < 1024
    assert str(PoolTable.parse(table.params)) == table.params == rig.pool_table().params


def test_a_thin_devices_status_counts_what_is_mapped(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    (before,) = rig.dm.status(thin.name)
    write(thin.path, b"x" * 4096, offset=3 * 65536)
    (after,) = rig.dm.status(thin.name)

    assert ThinStatus.parse(before.params) == ThinStatus(0, None)
    assert ThinStatus.parse(after.params) == ThinStatus(BLOCK, 4 * BLOCK - 1)
    assert [str(ThinStatus.parse(one.params)) for one in (before, after)] == [before.params, after.params]


def test_ids_are_made_and_deleted_once(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    rig.message(status.create_snap(1, 0))
    with refused(errno.EEXIST, "message"):
        rig.message(status.create_thin(1))
    with refused(errno.EEXIST, "message"):
        rig.message(status.create_snap(1, 0))
    with refused(errno.ENODATA, "message"):
        rig.message(status.create_snap(2, 9))
    with refused(errno.ENODATA, "message"):
        rig.message(status.delete(9))
    rig.message(status.delete(0))
    with refused(errno.ENODATA, "message"):
        rig.message(status.delete(0))

    rig.message(status.delete(1))


def test_ids_have_24_bits(rig: Rig) -> None:
    rig.message(status.create_thin((1 << 24) - 1))
    with refused(errno.EINVAL, "message"):
        rig.message(status.create_thin(1 << 24))
    with refused(errno.EINVAL, "message"):
        rig.message("hello")


def test_what_is_active_is_not_deleted(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    with refused(errno.EBUSY, "message"):
        rig.message(status.delete(0))
    rig.dm.remove(thin.name)

    rig.message(status.delete(0))


def test_a_transaction_id_is_compared_and_set(rig: Rig) -> None:
    first = (0x7FFFFFFF << 32) | 1
    with refused(errno.EINVAL, "message"):
        rig.message(status.set_transaction_id(1, 2))
    rig.message(status.set_transaction_id(0, first))

    assert rig.status().transaction == first
    with refused(errno.EINVAL, "message"):
        rig.message(status.set_transaction_id(0, 1))
    assert rig.status().transaction == first


def test_an_id_that_is_not_there_is_not_activated_and_nothing_is_left_of_the_try(rig: Rig) -> None:
    with refused(errno.ENODATA, "load"):
        rig.thin(7)

    assert [one.name for one in rig.ours()] == [rig.name]
    assert not os.path.lexists(DIRECTORY / f"{rig.name}-7")
    rig.message(status.create_thin(7))
    rig.thin(7)


def test_nothing_is_activated_in_a_suspended_pool(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    rig.dm.suspend(rig.name)
    with refused(errno.EINVAL, "load"):
        rig.thin(0)
    rig.dm.resume(rig.name)

    assert rig.thin(0).live_table


def test_a_snapshot_has_what_its_origin_had(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    write(rig.thin(0).path, b"origin")
    rig.dm.remove(f"{rig.name}-0")
    rig.message(status.create_snap(1, 0))
    origin, snapshot = rig.thin(0), rig.thin(1)

    write(snapshot.path, b"changed")

    assert (read(origin.path, 6), read(snapshot.path, 7)) == (b"origin", b"changed")
    assert rig.status().used_data == 2


def test_a_metadata_snapshot_shows_in_the_status(rig: Rig) -> None:
    with refused(errno.EINVAL, "message"):
        rig.message(status.release_metadata_snap())
    rig.message("reserve_metadata_snap")
    assert rig.status().held_root is not None
    with refused(errno.EBUSY, "message"):
        rig.message("reserve_metadata_snap")

    rig.message(status.release_metadata_snap())

    assert rig.status().held_root is None


def test_a_pool_grows_with_its_devices_active(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    write(thin.path, b"x" * 4096)

    rig.dm.load(rig.name, [rig.pool_table(megabytes=64)])
    assert rig.status().total_data == 512, "what is loaded counts when the pool is resumed"
    rig.dm.suspend(rig.name)
    rig.dm.resume(rig.name)

    assert rig.status().total_data == 1024
    assert read(thin.path, 1) == b"x"


def test_a_pool_does_not_shrink_and_stays_suspended_until_it_has_a_table_that_fits(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0)
    write(thin.path, b"x" * 4096)
    rig.dm.load(rig.name, [rig.pool_table(megabytes=16)])
    rig.dm.suspend(rig.name)
    for _ in range(2):
        with refused(errno.EINVAL, "resume"):
            rig.dm.resume(rig.name)
    pool = rig.dm.info(rig.name)
    assert pool and pool.suspended

    rig.dm.load(rig.name, [rig.pool_table()])
    rig.dm.resume(rig.name)

    assert rig.status().total_data == 512
    assert read(thin.path, 1) == b"x"


def test_what_a_pool_held_is_there_when_it_comes_back(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    write(rig.thin(0).path, b"kept")
    rig.message(status.set_transaction_id(0, 5))
    rig.down()

    rig.dm.create(rig.name, f"U-{rig.name}", [rig.pool_table()])

    assert rig.status().transaction == 5
    assert read(rig.thin(0).path, 4) == b"kept"


def test_a_read_only_pool_takes_no_messages(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    rig.down()
    rig.dm.create(rig.name, f"U-{rig.name}", [rig.pool_table("read_only")])

    assert rig.status().mode is Mode.RO
    for text in (status.create_thin(1), status.delete(0), status.set_transaction_id(0, 1)):
        with refused(errno.EOPNOTSUPP, "message"):
            rig.message(text)
    assert rig.thin(0).live_table, "reading goes on"


def test_a_full_pool_reports_it(rig: Rig) -> None:
    rig.message(status.create_thin(0))
    thin = rig.thin(0, megabytes=64)
    with pytest.raises(OSError) as caught:
        for megabyte in range(64):
            write(thin.path, b"x" * MIB, offset=megabyte * MIB)

    assert caught.value.errno in (errno.ENOSPC, errno.EIO)
    found = rig.status()
    assert (found.mode, found.used_data, found.total_data) == (Mode.OUT_OF_DATA_SPACE, 512, 512)
    pool = rig.dm.info(rig.name)
    assert pool and pool.event > 0


def test_a_pool_whose_metadata_can_not_be_written_any_more(rig: Rig) -> None:
    """The kernel may answer a message with success whose commit failed: only the status tells."""
    under = f"{rig.name}_metadata"
    linear = Target(0, 4 * SECTORS, "linear", f"{number(rig.metadata)} 0")
    rig.down()
    rig.metadata = rig.dm.create(under, f"U-{under}", [linear]).path
    rig.dm.create(rig.name, f"U-{rig.name}", [rig.pool_table()])
    rig.message(status.create_thin(0))

    rig.dm.load(under, [Target(0, 4 * SECTORS, "error", "")])
    rig.dm.suspend(under, flush=False, lockfs=False)
    rig.dm.resume(under)
    with pytest.raises(DmError) as caught:
        for thin_id in range(1, 100):
            rig.message(status.create_thin(thin_id))

    assert caught.value.task == "message"
    assert rig.status().mode in (Mode.RO, Mode.FAIL)


# ------------------------------------------------------------------------------------ threads, signals and the host


def test_threads_share_one_device_mapper(rig: Rig) -> None:
    """libdevmapper itself knows nothing of threads."""
    for thin_id in range(8):
        rig.message(status.create_thin(thin_id))

    def toil(thin_id: int) -> None:
        for _ in range(10):
            made = rig.thin(thin_id)
            assert rig.dm.info(made.name) == made == rig.dm.by_uuid(made.uuid)
            assert [target.kind for target in rig.dm.status(made.name)] == ["thin"]
            assert number(made.path) == f"{made.major}:{made.minor}"
            with refused(errno.EEXIST, "message"):
                rig.message(status.create_thin(thin_id))
            rig.dm.remove(made.name)
            assert not os.path.lexists(made.path)

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(toil, thin_id) for thin_id in range(8)]:
            future.result(timeout=100)

    assert [one.name for one in rig.ours()] == [rig.name]


def test_a_signal_that_interrupts_a_suspend_starts_it_again(rig: Rig) -> None:
    """The upper device is suspended only after its write, which the lower one holds until there is a second attempt."""
    lower = rig.dm.create(f"{rig.name}-lower", f"U-{rig.name}-lower", [Target(0, SECTORS, "linear", f"{number(rig.data)} 65536")])
    upper = rig.dm.create(f"{rig.name}-upper", f"U-{rig.name}-upper", [Target(0, SECTORS, "linear", f"{number(lower.path)} 0")])
    rig.dm.suspend(lower.name)
    enough = Event()

    def write_directly() -> None:
        fd = os.open(upper.path, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwrite(fd, mmap.mmap(-1, 4096), 0)
        finally:
            os.close(fd)

    def release() -> None:
        enough.wait()
        subprocess.run(["dmsetup", "resume", lower.name], check=True)

    before = rig.dm.ioctls
    previous = signal.signal(signal.SIGALRM, lambda *_: enough.set() if rig.dm.ioctls - before > 1 else None)
    try:
        with ThreadPoolExecutor(2) as threads:
            futures = [threads.submit(write_directly), threads.submit(release)]
            while Path(f"/sys/block/dm-{upper.minor}/inflight").read_text().split() == ["0", "0"]:
                assert not futures[0].done()
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            try:
                rig.dm.suspend(upper.name)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                enough.set()
            for future in futures:
                future.result(timeout=60)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert rig.dm.ioctls - before > 1
    found = rig.dm.info(upper.name)
    assert found and found.suspended


def test_it_is_for_root() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(HostCannot, match="thin pools need root"):
            DeviceMapper.open()
    finally:
        os.seteuid(0)


OPEN = "from reconciler.pool.thin.devmapper import DeviceMapper; print(DeviceMapper.open().devices() is not None)"


def in_namespace(*commands: str, code: str = OPEN) -> subprocess.CompletedProcess[str]:
    """A Python of its own that minds udev, where the given commands have changed what is mounted; with semaphores of its own."""
    script = " && ".join((*commands, 'exec "$0" -c "$1"'))
    argv = ["unshare", "--ipc", "--mount", "--propagation=private", "sh", "-c", script, sys.executable, code]
    environment = {name: value for name, value in os.environ.items() if name != "DM_DISABLE_UDEV"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_a_missing_control_node_is_made(rig: Rig) -> None:
    assert in_namespace("mount -t tmpfs none /dev/mapper").stdout == "True\n"


def test_a_kernel_without_device_mapper_is_named() -> None:
    done = in_namespace("mount -t tmpfs none /dev/mapper", "mount --bind /dev/null /proc/misc")

    assert "HostCannot: this kernel has no device-mapper that can be used" in done.stderr
    assert "modprobe dm-mod" in done.stderr


# --------------------------------------------------------------------------------------------------------- udev

SEEMING = ("mkdir -p /run/udev", "mount -t tmpfs none /run/udev", "touch /run/udev/control")
"""All that libdevmapper looks at to see whether udev runs. A real one is in another world of semaphores, and never answers."""

MAKE = """
import os
from pathlib import Path
from reconciler.pool.thin.devmapper import DeviceMapper, Target

def semaphores():
    return [int(line.split()[0]) for line in Path("/proc/sysvipc/sem").read_text().splitlines()[1:]]

def make_and_remove(dm):
    made = dm.create(NAME, "U-" + NAME, [Target(0, 8, "error", "")])
    node = made.path.stat().st_rdev
    assert (os.major(node), os.minor(node)) == made.number
    dm.remove(NAME)
    assert not os.path.lexists(made.path)
    print("made and removed", *semaphores())
"""

UNANSWERED = """
make_and_remove(DeviceMapper.open(udev_seconds=0.1))
make_and_remove(DeviceMapper.open(udev_seconds=3600))
"""

ANSWERED = """
import socket, subprocess, threading
uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)  # NETLINK_KOBJECT_UEVENT
uevents.bind((0, 1))

def udev():
    while True:
        event = uevents.recv(65536).split(b"\\0")
        cookie = next((item[10:] for item in event if item.startswith(b"DM_COOKIE=")), b"0")
        if 0x0D4D << 16 | int(cookie) & 0xFFFF in semaphores():  # of this test, and nobody else's
            flags = subprocess.check_output(["dmsetup", "udevflags", cookie], text=True).split()
            print(event[0].partition(b"@")[0].decode(), *sorted(flags), flush=True)
            subprocess.run(["dmsetup", "udevcomplete", cookie], check=True, stdout=subprocess.DEVNULL)

threading.Thread(target=udev, daemon=True).start()
make_and_remove(DeviceMapper.open(udev_seconds=3600))
"""


def test_udev_that_never_answers_is_waited_for_once_and_the_nodes_are_made(dm: DeviceMapper) -> None:
    done = in_namespace(*SEEMING, code=f"NAME = 'udev{os.getpid()}'\n{MAKE}{UNANSWERED}")

    assert (done.stdout, done.stderr) == ("made and removed\n" * 2, "")


def test_udev_is_waited_for_and_its_rules_are_turned_off(dm: DeviceMapper) -> None:
    """A udev in a few lines, answering as its rules do. Were it not waited for, or waited for in vain, this would not end."""
    done = in_namespace(*SEEMING, code=f"NAME = 'udev{os.getpid()}'\n{MAKE}{ANSWERED}")

    flags = [f"DM_UDEV_{name}_FLAG='1'" for name in ("DISABLE_DISK_RULES", "DISABLE_OTHER_RULES", "DISABLE_SUBSYSTEM_RULES")]
    told = " ".join([*flags, "DM_UDEV_PRIMARY_SOURCE_FLAG='1'"])
    assert done.stdout.splitlines() == [f"change {told}", f"remove {told}", "made and removed"], done.stderr
