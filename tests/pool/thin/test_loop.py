"""Loop devices over files: found by inode, shared, grown, and gone when nobody holds them. On the kernel's own."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import HostCannot
from reconciler.pool.thin import loop
from reconciler.pool.thin.loop import attach, find, grow

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return sparse(tmp_path / "thin.data", 4 * MIB)


def sparse(path: Path, size: int) -> Path:
    with path.open("ab") as file:
        file.truncate(size)
    return path


def size_of(device: Path) -> int:
    with device.open("rb") as file:
        return file.seek(0, os.SEEK_END)


@contextmanager
def losetup(*options: str) -> Iterator[Path]:
    """A loop device that an administrator attached."""
    done = subprocess.run(["losetup", "--find", "--show", *options], check=True, capture_output=True, text=True)
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


# ----------------------------------------------------------------------------------------------------------- attach


@pytest.mark.root
def test_what_is_written_to_the_device_is_in_the_file(file: Path) -> None:
    with attach(file) as device:
        fd = os.open(device, os.O_RDWR)
        try:
            os.pwrite(fd, b"written", 4096)
            os.fsync(fd)
        finally:
            os.close(fd)

        assert size_of(device) == 4 * MIB

    assert file.read_bytes()[4096:4103] == b"written"


@pytest.mark.root
def test_a_loop_device_is_detached_after_its_last_use(file: Path) -> None:
    assert find(file) is None

    with attach(file) as device:
        found = find(file)
        assert found is not None
        assert found.path == device
        assert found.inode == file.stat().st_ino

    assert find(file) is None


@pytest.mark.root
def test_a_loop_device_stays_while_it_is_held(file: Path) -> None:
    """A mapping on top holds it as this descriptor does."""
    with attach(file) as device:
        holder = os.open(device, os.O_RDONLY)
    try:
        found = find(file)
        assert found is not None
        assert found.path == device
    finally:
        os.close(holder)

    assert find(file) is None


@pytest.mark.root
def test_a_file_has_one_device_by_whatever_name_it_is_called(file: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    with attach(file) as device:
        file.rename(renamed)
        (tmp_path / "link").symlink_to(renamed)
        sparse(file, 4 * MIB)

        with attach(tmp_path / "link") as again, attach(file) as other:
            assert again == device
            assert other != device, "another file under the old name is another file"


@pytest.mark.root
def test_the_file_that_is_open_counts_whatever_the_path_leads_to_by_now(file: Path, tmp_path: Path) -> None:
    with attach(file) as ours, file.open("r+b") as opened:
        file.rename(tmp_path / "renamed")
        sparse(file, 4 * MIB)

        with attach(file, opened.fileno()) as device:
            assert device == ours


@pytest.mark.root
def test_direct_io_is_used_where_the_file_system_has_it(file: Path) -> None:
    """The caches of a pool's snapshots are enough: what lies under them is not cached again."""
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct I/O")
    with attach(file):
        found = find(file)

    assert found is not None
    assert found.direct_io


@pytest.mark.root
def test_many_at_once_get_devices_of_their_own(tmp_path: Path) -> None:
    """And several that want the same file, at the same moment, see one file's content."""
    files = [sparse(tmp_path / str(number), MIB) for number in range(8)]
    got: dict[Path, Path] = {}
    failed: list[BaseException] = []
    together, done = threading.Barrier(len(files)), threading.Barrier(len(files))

    def take(file: Path) -> None:
        try:
            together.wait(30)
            with attach(file) as device:
                got[file] = device
                done.wait(30)
        except BaseException as error:
            failed.append(error)
            done.abort()

    threads = [threading.Thread(target=take, args=[file]) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failed == []
    assert len(set(got.values())) == len(files)
    assert [find(file) for file in files] == [None] * len(files)


@pytest.mark.root
def test_devices_that_others_come_and_go_with_are_never_mixed_up(tmp_path: Path) -> None:
    """Files whose devices vanish all the time, and whose numbers are taken over at once."""
    files = [sparse(tmp_path / str(number), MIB) for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number + 1]) * MIB)
    wrong: list[object] = []

    def churn(number: int) -> None:
        try:
            for _ in range(40):
                with attach(files[number]) as device, device.open("rb") as opened:
                    if opened.read(1) != bytes([number + 1]):
                        wrong.append((number, device))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=churn, args=[number % 3]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == []


@pytest.mark.root
def test_a_device_that_an_administrator_attached_is_used_and_left(file: Path) -> None:
    with losetup(str(file)) as theirs:
        with attach(file) as device:
            assert device == theirs
        found = find(file)
        assert found is not None
        assert found.path == theirs


@pytest.mark.root
@pytest.mark.parametrize("options", [["--offset", "4096"], ["--sizelimit", "4096"], ["--read-only"]], ids=lambda words: words[0])
def test_a_device_over_a_part_of_the_file_or_a_read_only_one_is_not_used(options: list[str], file: Path) -> None:
    with losetup(*options, str(file)) as theirs, attach(file) as device:
        assert device != theirs
        assert size_of(device) == 4 * MIB


@pytest.mark.root
def test_kernels_that_have_no_configure_are_asked_step_by_step(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ioctl that no kernel has is answered as LOOP_CONFIGURE is by those before 5.8."""
    monkeypatch.setattr(loop, "_CONFIGURE", 0x4CFF)

    with attach(file) as device:
        found = find(file)
        assert found is not None
        assert found.path == device

    assert find(file) is None


@pytest.mark.root
def test_a_kernel_that_refuses_direct_io_gives_a_device_without(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refusing_direct_io(fcntl.ioctl))

    with attach(file) as device:
        found = find(file)
        assert found is not None
        assert found.path == device
        assert not found.direct_io


def refusing_direct_io(real: Callable[..., Any]) -> Callable[..., Any]:
    """Linux 6.1 on tmpfs, for instance."""

    def ioctl(fd: int, request: int, argument: Any = 0) -> Any:
        if request == loop._CONFIGURE and argument[8 + 52] & 16:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, request, argument)

    return ioctl


IN_A_BARE_DEV = """
mount -t tmpfs none /dev && mknod /dev/loop-control c 10 237 && mknod /dev/null c 1 3 && exec "$@"
"""


@pytest.mark.root
def test_nodes_that_are_not_in_dev_are_made(file: Path) -> None:
    """As in a container whose /dev is a directory of its own."""
    code = "import sys; from pathlib import Path; from reconciler.pool.thin.loop import attach\n"
    code += "with attach(Path(sys.argv[1])) as device, attach(Path(sys.argv[1])) as again: print(device, again)"
    words = ["unshare", "--mount", "sh", "-c", IN_A_BARE_DEV, "sh", sys.executable, "-c", code, str(file)]

    done = subprocess.run(words, capture_output=True, text=True)

    assert done.stderr == ""
    first, second = done.stdout.split()
    assert first == second
    assert first.startswith("/dev/loop")


# ------------------------------------------------------------------------------------------------------------- grow


@pytest.mark.root
def test_a_device_grows_with_its_file(file: Path) -> None:
    with attach(file) as device:
        sparse(file, 8 * MIB)
        assert size_of(device) == 4 * MIB

        grow(device)

        assert size_of(device) == 8 * MIB


@pytest.mark.root
def test_an_interrupted_growth_is_completed(file: Path) -> None:
    """The file had grown, and the device had not."""
    with attach(file) as device:
        sparse(file, 8 * MIB)

        with attach(file) as again:
            assert again == device
            assert size_of(device) == 8 * MIB


@pytest.mark.root
def test_a_file_that_is_no_whole_number_of_sectors_loses_its_end(tmp_path: Path) -> None:
    with attach(sparse(tmp_path / "odd", MIB + 100)) as device:
        assert size_of(device) == MIB


def test_what_is_no_loop_device_does_not_grow(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="can't be used as a loop device"):
        grow(sparse(tmp_path / "plain", MIB))


# ----------------------------------------------------------------------------------------------------------- errors


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="No such file or directory") as caught, attach(tmp_path / "nowhere"):
        pass
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_host_without_loop_devices_gets_a_hint_what_to_load(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CONTROL", tmp_path / "loop-control")

    with pytest.raises(HostCannot, match="loop-control") as caught, attach(file):
        pass
    assert "modprobe loop" in caught.value.hint


@pytest.mark.root
def test_without_the_right_the_hint_is_to_run_as_root(file: Path) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            os.setgid(65534)
            os.setuid(65534)
            try:
                with attach(file):
                    pass
            except HostCannot as error:
                code = 0 if "run as root" in error.hint else 2
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.root
def test_an_error_leaves_no_device_and_no_descriptor(file: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError))
        stack.enter_context(attach(file))
        raise RuntimeError

    assert find(file) is None
    assert set(os.listdir("/proc/self/fd")) == before
    assert str(file) not in listed()


def listed() -> str:
    return subprocess.run(["losetup", "--list"], check=True, capture_output=True, text=True).stdout
