"""The file pool: image files that appear whole or not at all, and are recognised when they come back."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import BuilderDied, Busy, NoSpace, PoolUnusable, Retryable, SnapshotUnrecognised, Stopped, Terminal
from reconciler.pool import holders
from reconciler.pool.driver import Condition, Driver, SnapshotRequest, Space
from reconciler.pool.file.clone import CHUNK, extents, reflink, sparse_copy
from reconciler.pool.file.directory import Shelf
from reconciler.pool.file.identity import Identity
from reconciler.pool.file.pool import FilePool
from tests.support.intents import KeptIntents
from tests.support.sleeper import command_name, sleeper
from tests.support.sparse import copied

MIB = 1 << 20
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def pool(tmp_path: Path) -> FilePool:
    return FilePool("default", tmp_path / "pool", 0, KeptIntents())


def filesystem(fd: int, of: str) -> None:
    """Enough of an ext4 file system to be told from another: the superblock's magic and UUID, and data far behind."""
    superblock = bytearray(1024)
    superblock[0x38:0x3A] = b"\x53\xef"
    superblock[0x68:0x78] = uuid.uuid5(uuid.NAMESPACE_URL, of).bytes
    os.pwrite(fd, superblock, 1024)
    os.pwrite(fd, of.encode() * 100, 6 * MIB)


def build(pool: FilePool, chain: str, *, size: int = 16 * MIB, parent: str | None = None) -> str:
    with pool.create_volume(chain, size, parent) as volume:
        filesystem(volume.fd, chain)
        return volume.seal()


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def condition_of(pool: FilePool, name: str, identity: str) -> tuple[Condition, str]:
    state = pool.observe({}, {name: identity}).snapshots[name]
    return state.condition, state.detail


def condition_of_volume(pool: FilePool, chain: str, identity: str) -> tuple[Condition, str]:
    state = pool.observe({chain: identity}, {}).volumes[chain]
    return state.condition, state.detail


def test_it_is_a_driver(pool: FilePool) -> None:
    driver: Driver = pool

    assert driver.name == "default"


# ----------------------------------------------------------------------------------------------------- volumes


def test_a_sealed_volume_is_whole_read_only_and_has_its_name(pool: FilePool) -> None:
    identity = build(pool, A)

    path = pool.volume_path(A)
    assert path == pool.root / "volumes" / f"{A}.ext4"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.stat().st_size == 16 * MIB
    state = pool.observe({A: identity}, {}).volumes[A]
    assert (state.condition, state.size, state.detail) == (Condition.INTACT, 16 * MIB, "")
    assert 0 < state.used < MIB, "what was not written takes no space"


@pytest.mark.parametrize("size", [15 * MIB, 17 * MIB])
def test_a_volume_whose_builder_changed_its_size_is_not_sealed(pool: FilePool, size: int) -> None:
    with pool.create_volume(A, 16 * MIB, None) as volume:
        os.ftruncate(volume.fd, size)
        with pytest.raises(BuilderDied, match=f"is {size} bytes long, {16 * MIB} were promised"):
            volume.seal()

    assert not pool.observe({}, {}, whole=True).volumes


def test_a_volume_has_no_name_before_it_is_sealed(pool: FilePool) -> None:
    with pool.create_volume(A, MIB, None) as volume:
        assert not pool.volume_path(A).exists()
        assert volume.path.exists()
        assert stat.S_IMODE(volume.path.stat().st_mode) == 0o600
        assert A not in pool.observe({}, {}).volumes
        volume.seal()
        assert volume.path == pool.volume_path(A)


def test_a_volume_that_is_not_sealed_is_discarded(pool: FilePool) -> None:
    with pytest.raises(RuntimeError), pool.create_volume(A, MIB, None):
        raise RuntimeError

    assert everything(pool.root) == set()


def test_what_a_killed_run_leaves_is_reported_and_discarded(pool: FilePool) -> None:
    """SIGKILL in the middle of a build and of nothing else: the hidden partial file is all that is left."""
    code = f"""
import sys, time
from pathlib import Path
from reconciler.pool.file.pool import FilePool
volume = FilePool("default", Path({str(pool.root)!r}), 0, None).create_volume({A!r}, 1 << 20, None)
print("begun", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGKILL)

    leftover = str(pool.root / "volumes" / f".{A}.partial")
    state = pool.observe({}, {})
    assert (state.volumes, state.leftovers, state.foreign) == ({}, (leftover,), ())
    assert pool.discard_leftovers({}, {}) == (leftover,)
    assert everything(pool.root) == set()
    assert pool.discard_leftovers({}, {}) == ()


def test_an_unfinished_earlier_try_is_begun_again_from_nothing(pool: FilePool) -> None:
    first = pool.create_volume(A, MIB, None)
    os.pwrite(first.fd, b"old", 0)
    with pool.create_volume(A, MIB, None) as second:
        assert os.pread(second.fd, 3, 0) == bytes(3)
        second.seal()
    os.close(first.fd)

    assert everything(pool.root) == {f"volumes/{A}.ext4"}


def test_a_volume_with_a_parent_begins_as_a_copy_of_it(pool: FilePool) -> None:
    build(pool, A)
    parent = pool.volume_path(A).read_bytes()

    with pool.create_volume(B, 16 * MIB, A) as child:
        assert os.pread(child.fd, 16 * MIB, 0) == parent
        assert os.fstat(child.fd).st_blocks * 512 < MIB, "holes stay holes"
        os.pwrite(child.fd, b"changed", 6 * MIB)
        child.seal()

    assert pool.volume_path(A).read_bytes() == parent


def test_a_missing_parent_is_an_error_that_may_pass(pool: FilePool) -> None:
    with pytest.raises(Retryable, match=f"volume {A[:12]} of pool default is missing"):
        pool.create_volume(B, MIB, A)

    assert everything(pool.root) == set()


def test_rebuilding_replaces_a_damaged_volume_in_one_step(pool: FilePool) -> None:
    old = build(pool, A)
    pool.volume_path(A).chmod(0o644)
    pool.volume_path(A).write_bytes(b"damaged")

    new = build(pool, A)

    assert condition_of_volume(pool, A, new) == (Condition.INTACT, "")
    assert condition_of_volume(pool, A, old)[0] is not Condition.MISSING
    assert everything(pool.root) == {f"volumes/{A}.ext4"}


def test_a_directory_in_a_volumes_place_is_set_aside(pool: FilePool) -> None:
    pool.volume_path(A).mkdir(parents=True)
    (pool.volume_path(A) / "precious").write_text("x")

    identity = build(pool, A)

    assert condition_of_volume(pool, A, identity)[0] is Condition.INTACT
    assert (pool.root / "volumes" / f"{A}.ext4.aside-1" / "precious").read_text() == "x"


def change_time(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def write_in_it(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"x")
    path.chmod(0o444)


def shorten(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 8 * MIB)
    path.chmod(0o444)


def swap(path: Path) -> None:
    other = path.with_name("other")
    with other.open("wb") as file:
        filesystem(file.fileno(), "somebody else's")
        file.truncate(64 * MIB)
    other.replace(path)


def restore(path: Path) -> None:
    """As a backup program would: another inode, the same bytes, times and mode."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("accident", "condition", "detail"),
    [
        (lambda path: None, Condition.INTACT, ""),
        (restore, Condition.INTACT, ""),
        (Path.unlink, Condition.MISSING, "no such file"),
        (swap, Condition.REPLACED, "inode "),
        (change_time, Condition.DAMAGED, "written to since it was sealed"),
        (write_in_it, Condition.DAMAGED, "written to since it was sealed"),
        (shorten, Condition.DAMAGED, f"{8 * MIB} bytes instead of {16 * MIB}"),
        (lambda path: path.chmod(0o644), Condition.DAMAGED, "writable (mode 0644)"),
        (become_directory, Condition.REPLACED, "a directory is in its place"),
    ],
)
def test_what_happened_to_a_volume_is_seen(
    pool: FilePool, accident: Callable[[Path], object], condition: Condition, detail: str
) -> None:
    identity = build(pool, A)
    accident(pool.volume_path(A))

    found, words = condition_of_volume(pool, A, identity)

    assert found is condition
    assert detail in words


# --------------------------------------------------------------------------------------------------- snapshots


@pytest.fixture
def snapshot(pool: FilePool) -> str:
    """A pool with volume A and snapshot ``vm``; its identity."""
    build(pool, A)
    return recorded(pool, "vm", pool.create_snapshot("vm", A))


def recorded(pool: FilePool, name: str, identity: str) -> str:
    """Let the snapshot have its row in the registry, which replaces its intent."""
    pool.intents.write({}, [name])
    return identity


def test_a_snapshot_is_a_writable_copy_with_the_same_holes(pool: FilePool, snapshot: str) -> None:
    path = pool.snapshot_path("vm")
    base = pool.volume_path(A).read_bytes()

    assert path == pool.root / "snapshots" / "vm.ext4"
    assert path.read_bytes() == base
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_blocks * 512 < MIB
    with path.open("r+b") as file:
        file.write(b"written by a machine")
    assert pool.volume_path(A).read_bytes() == base
    state = pool.observe({}, {"vm": snapshot}).snapshots["vm"]
    assert (state.condition, state.active, state.path, state.size) == (Condition.INTACT, True, str(path), 16 * MIB)


def test_a_snapshot_is_replaced_by_one_of_another_volume(pool: FilePool, snapshot: str) -> None:
    """Its name, owner and mode stay; what was written to it is gone, and the file is another one."""
    build(pool, B)
    path = pool.snapshot_path("vm")
    with path.open("r+b") as file:
        file.write(b"written by a machine")
    path.chmod(0o660)

    new = pool.replace_snapshot("vm", B, snapshot)

    assert path.read_bytes() == pool.volume_path(B).read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert pool.observe({}, {"vm": new}).snapshots["vm"].condition is Condition.INTACT
    interrupted = pool.observe({}, {"vm": snapshot}).snapshots["vm"]
    assert (interrupted.condition, interrupted.made) == (Condition.INTACT, B)
    assert pool.replace_snapshot("vm", B, snapshot) == new, "cut off before it was written down, it is found done"
    recorded(pool, "vm", new)
    assert pool.observe({}, {"vm": snapshot}).snapshots["vm"].condition is Condition.REPLACED
    assert everything(pool.root) == {f"volumes/{A}.ext4", f"volumes/{B}.ext4", "snapshots/vm.ext4"}


def test_a_snapshot_that_is_open_is_not_replaced(pool: FilePool, snapshot: str) -> None:
    build(pool, B)
    path = pool.snapshot_path("vm")
    with path.open("rb") as image, sleeper(image) as pid:
        image.close()
        assert pool.holders({"vm": snapshot}) == {"vm": f"process {pid} (sleep)"}
        with pytest.raises(Busy, match=rf"held by process {pid} \(sleep\)"):
            pool.replace_snapshot("vm", B, snapshot)

    assert pool.holders({"vm": snapshot}) == {}
    assert path.read_bytes() == pool.volume_path(A).read_bytes()
    assert not list(path.parent.glob(".*")), "nothing half-made is left"


def test_a_snapshot_that_is_opened_while_its_successor_is_synced_is_not_replaced(
    pool: FilePool, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(pool, B)
    path, real = pool.snapshot_path("vm"), os.fsync
    with ExitStack() as opened:

        def sync(fd: int) -> None:
            opened.enter_context(sleeper(opened.enter_context(path.open("rb"))))
            real(fd)

        monkeypatch.setattr(os, "fsync", sync)
        with pytest.raises(Busy, match="snapshot vm is in use"):
            pool.replace_snapshot("vm", B, snapshot)

    monkeypatch.setattr(os, "fsync", real)
    assert pool.replace_snapshot("vm", B, snapshot) != snapshot


def test_many_snapshots_are_asked_for_at_once_who_holds_them(pool: FilePool) -> None:
    """Each gets the answer that it gets alone; what isn't there, or isn't a file, is held by nobody."""
    build(pool, A)
    known = {name: pool.create_snapshot(name, A) for name in ("open", "too", "free", "gone", "odd")}
    pool.snapshot_path("gone").unlink()
    become_directory(pool.snapshot_path("odd"))
    paths = pool.snapshot_path("open"), pool.snapshot_path("too")
    with paths[0].open("rb") as one, paths[1].open("r+b") as two, sleeper(one, two) as asleep:
        found = pool.holders(known)
        assert found == {path.stem: holders.holder(path) for path in paths}
        assert set(found.values()) <= {f"process {pid} ({command_name(pid)})" for pid in (os.getpid(), asleep)}
    assert pool.holders(known) == {}


def test_a_lock_of_a_process_that_is_hidden_from_us_is_seen(pool: FilePool, snapshot: str) -> None:
    """flock(2), which many monitors of virtual machines take; /proc would not show such a process's files."""
    path = pool.snapshot_path("vm")
    found = path.stat()
    if f" {os.major(found.st_dev)}:{os.minor(found.st_dev)} " not in Path("/proc/self/mountinfo").read_text():
        pytest.skip("this file system (overlayfs, btrfs) calls its device something else than the kernel's list of locks does")
    assert list(holders.flocks(path, found)) == []
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert list(holders.flocks(path, found)) == [f"a lock of process {os.getpid()}"]


def test_a_guest_can_not_make_its_snapshot_pass_for_its_replacement(pool: FilePool, snapshot: str) -> None:
    """The guest gives its file system the UUID, or all the bytes, of the image that is to come."""
    build(pool, B)
    path = pool.snapshot_path("vm")
    with path.open("r+b") as file:
        file.write(pool.volume_path(B).read_bytes())
        file.seek(9 * MIB)
        file.write(b"what the guest wants to keep")

    new = pool.replace_snapshot("vm", B, snapshot)

    assert new != snapshot
    assert path.read_bytes() == pool.volume_path(B).read_bytes()


def test_what_took_the_place_of_a_snapshot_stays_when_that_is_to_be_replaced(pool: FilePool, snapshot: str) -> None:
    build(pool, B)
    path = pool.snapshot_path("vm")
    swap(path)
    before = path.stat().st_ino

    with pytest.raises(SnapshotUnrecognised, match=r"import snapshot/default/vm .* --recreate snapshot/default/vm"):
        pool.replace_snapshot("vm", B, snapshot)

    assert path.stat().st_ino == before
    assert everything(pool.root) == {f"volumes/{A}.ext4", f"volumes/{B}.ext4", "snapshots/vm.ext4"}


def grow(path: Path) -> None:
    os.truncate(path, 32 * MIB)


def reformat(path: Path) -> None:
    with path.open("r+b") as file:
        filesystem(file.fileno(), "the owner's own")


def wipe(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(8192))


@pytest.mark.parametrize(
    ("accident", "condition", "detail"),
    [
        (lambda path: None, Condition.INTACT, ""),
        (grow, Condition.INTACT, ""),
        (reformat, Condition.INTACT, ""),
        (wipe, Condition.INTACT, ""),
        (restore, Condition.INTACT, ""),
        (lambda path: path.chmod(0o666), Condition.INTACT, ""),
        (Path.unlink, Condition.MISSING, "no such file"),
        (lambda path: shutil.rmtree(path.parent), Condition.MISSING, "no such file"),
        (swap, Condition.REPLACED, "inode "),
        (shorten, Condition.DAMAGED, f"{8 * MIB} bytes instead of {16 * MIB}"),
        (become_directory, Condition.REPLACED, "a directory is in its place"),
        (become_link, Condition.REPLACED, "a symbolic link is in its place"),
        (become_fifo, Condition.REPLACED, "a fifo is in its place"),
    ],
)
def test_what_happened_to_a_snapshot_is_seen(
    pool: FilePool, snapshot: str, accident: Callable[[Path], object], condition: Condition, detail: str
) -> None:
    """Its owner may write, enlarge and reformat it; a backup may bring it back; nobody may put another file in its place."""
    accident(pool.snapshot_path("vm"))

    found, words = condition_of(pool, "vm", snapshot)

    assert found is condition
    assert detail in words


def test_a_new_file_with_the_old_inode_number_is_not_taken_for_the_snapshot(pool: FilePool, snapshot: str) -> None:
    """Some file systems hand out a freed inode number at once."""
    was = Identity.parse(snapshot)
    assert was
    if was.generation is None:
        pytest.skip("this file system has no inode generations")
    path = pool.snapshot_path("vm")
    path.unlink()
    with path.open("wb") as file:
        filesystem(file.fileno(), "somebody else's")
        file.truncate(16 * MIB)

    assert condition_of(pool, "vm", snapshot)[0] is Condition.REPLACED


@pytest.mark.parametrize("garbage", ["", "ino=", "ino=x gen=- id=- size=0 mtime=0", "🙈", "ino=1 gen=z id=- size=1 mtime=1"])
def test_an_identity_that_cannot_be_read_means_replaced(pool: FilePool, snapshot: str, garbage: str) -> None:
    assert condition_of(pool, "vm", garbage) == (Condition.REPLACED, "its recorded identity can't be read")


@given(st.text())
def test_any_text_can_be_asked_for_an_identity(text: str) -> None:
    found = Identity.parse(text)
    assert found is None or Identity.parse(str(found)) == found


@given(
    st.builds(
        Identity,
        inode=st.integers(0, 2**64 - 1),
        generation=st.none() | st.integers(0, 2**32 - 1),
        id=st.none() | st.uuids().map(lambda one: one.hex),
        size=st.integers(0, 2**63 - 1),
        mtime_ns=st.integers(-(2**63), 2**63 - 1),
    )
)
def test_what_is_printed_is_read_back(identity: Identity) -> None:
    assert Identity.parse(str(identity)) == identity


def test_an_unrecorded_snapshot_with_an_intent_is_registered(pool: FilePool) -> None:
    """The run was cut off between giving the file its name and writing the row; a machine may use the file already."""
    build(pool, A)
    first = pool.create_snapshot("vm", A)
    with pool.snapshot_path("vm").open("r+b") as file:
        file.write(b"in use, and without a superblock" * 100)
    state = pool.observe({}, {}).snapshots["vm"]
    assert (state.condition, state.made) == (Condition.INTACT, A)

    assert pool.create_snapshot("vm", A) == first
    assert pool.snapshot_path("vm").read_bytes().startswith(b"in use")
    assert pool.observe({}, {}).foreign == ()


@pytest.mark.parametrize("accident", [lambda path: None, swap, shorten, become_directory, become_link, become_fifo])
def test_what_has_a_snapshots_name_without_a_record_stays(
    pool: FilePool, snapshot: str, accident: Callable[[Path], object]
) -> None:
    """Whatever is in it: the UUID of an image, for example, is no proof. It is set aside only where that is asked for."""
    path = pool.snapshot_path("vm")
    accident(path)
    kept = path.lstat()

    with pytest.raises(SnapshotUnrecognised, match=r"import snapshot/default/vm .* --recreate snapshot/default/vm"):
        pool.create_snapshot("vm", A)
    assert path.lstat().st_ino == kept.st_ino
    asked = pool.observe({}, {}).snapshots["vm"].identity
    pool.set_aside("vm", asked)
    pool.set_aside("vm", asked)
    identity = pool.create_snapshot("vm", A)

    assert condition_of(pool, "vm", identity)[0] is Condition.INTACT
    aside = path.with_name("vm.ext4.aside-1")
    assert aside.lstat().st_ino == kept.st_ino
    foreign = pool.observe({}, {"vm": identity}).foreign
    assert f"{aside}: set aside, because it was at the path of snapshot vm; keep it or delete it" in foreign


def test_only_the_file_that_was_there_when_it_was_asked_for_is_set_aside(pool: FilePool, snapshot: str) -> None:
    swap(pool.snapshot_path("vm"))
    asked = pool.observe({}, {"vm": snapshot}).snapshots["vm"].identity
    swap(pool.snapshot_path("vm"))

    with pytest.raises(SnapshotUnrecognised):
        pool.set_aside("vm", asked)
    with pool.snapshot_path("vm").open("rb") as image, sleeper(image):
        image.close()
        with pytest.raises(Busy):
            pool.set_aside("vm", pool.observe({}, {"vm": snapshot}).snapshots["vm"].identity)


def test_a_pool_that_was_moved_with_its_attributes_is_recognised(pool: FilePool, snapshot: str) -> None:
    """The files have other inodes; one that has lost its id is unrecognised, and so is one under the name of another."""
    recorded(pool, "other", pool.create_snapshot("other", A))
    was = Identity.parse(snapshot)
    if was is None or was.id is None:
        pytest.skip("this file system has no extended attributes")
    restore(pool.snapshot_path("vm"))
    assert condition_of(pool, "vm", snapshot) == (Condition.INTACT, "")

    copied(pool.snapshot_path("vm"), pool.root / "copy")
    (pool.root / "copy").replace(pool.snapshot_path("vm"))
    assert condition_of(pool, "vm", snapshot)[0] is Condition.REPLACED
    restore(pool.snapshot_path("other"))
    pool.snapshot_path("other").replace(pool.snapshot_path("vm"))
    assert condition_of(pool, "vm", snapshot)[0] is Condition.REPLACED


def test_an_identity_of_an_older_version_is_that_of_its_inode(pool: FilePool, snapshot: str) -> None:
    was = Identity.parse(snapshot)
    assert was
    old = f"ino={was.inode} gen={'-' if was.generation is None else was.generation} size={was.size} mtime={was.mtime_ns}"
    assert condition_of(pool, "vm", old) == (Condition.INTACT, "")
    swap(pool.snapshot_path("vm"))
    assert condition_of(pool, "vm", old)[0] is Condition.REPLACED


def test_an_intent_whose_file_never_got_its_name_is_dropped(pool: FilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    build(pool, A)
    with monkeypatch.context() as patch, pytest.raises(PoolUnusable):
        patch.setattr(Shelf, "publish", failing)
        pool.create_snapshot("vm", A)
    assert set(pool.intents.read()) == {"vm"}

    pool.discard_leftovers({}, {})

    assert (pool.intents.read(), everything(pool.root)) == ({}, {f"volumes/{A}.ext4"})


def failing(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_nothing_that_was_set_aside_is_overwritten(pool: FilePool, snapshot: str) -> None:
    for n in (1, 2, 3):
        pool.snapshot_path("vm").write_bytes(b"%d" % n)
        pool.set_aside("vm", pool.observe({}, {}).snapshots["vm"].identity)
        pool.create_snapshot("vm", A)
        assert (pool.root / "snapshots" / f"vm.ext4.aside-{n}").exists()

    assert [(pool.root / "snapshots" / f"vm.ext4.aside-{n}").read_bytes() for n in (1, 2, 3)] == [b"1", b"2", b"3"]


def test_a_snapshot_without_its_volume_may_be_made_later(pool: FilePool) -> None:
    with pytest.raises(Retryable, match="missing"):
        pool.create_snapshot("vm", A)

    assert everything(pool.root) == set()


# ----------------------------------------------------------------------------------------------------- removal


def test_removing_is_done_once_and_may_be_asked_again(pool: FilePool, snapshot: str) -> None:
    for _ in range(2):
        pool.remove_snapshot("vm")
        pool.remove_volume(A)

    assert everything(pool.root) == set()


def test_a_directory_in_place_of_a_snapshot_is_not_removed_with_it(pool: FilePool, snapshot: str) -> None:
    become_directory(pool.snapshot_path("vm"))

    pool.remove_snapshot("vm")

    assert not pool.snapshot_path("vm").exists()
    assert pool.snapshot_path("vm").with_name("vm.ext4.aside-1").is_dir()


def test_a_snapshot_that_a_process_has_open_is_busy(pool: FilePool, snapshot: str) -> None:
    path = pool.snapshot_path("vm")
    with path.open("rb") as image, sleeper(image) as pid:
        image.close()
        with pytest.raises(Busy, match=rf"snapshot vm is in use: .*held by process {pid} \(sleep\)"):
            pool.remove_snapshot("vm")

    pool.remove_snapshot("vm")
    assert not path.exists()


def test_a_lock_tells_of_a_holder_that_cannot_be_seen(pool: FilePool, snapshot: str) -> None:
    path = pool.snapshot_path("vm")
    assert list(holders.locks(path, path.stat())) == []
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0))
        assert list(holders.locks(path, path.stat())) == ["a lock"]


def test_a_lock_of_another_process_is_named(pool: FilePool, snapshot: str) -> None:
    path = pool.snapshot_path("vm")
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        assert list(holders.locks(path, path.stat())) == [f"a lock of process {child.pid}"]


# --------------------------------------------------------------------------------------------------- observing


def test_a_pool_that_was_never_used_is_empty_and_stays_unmade(pool: FilePool) -> None:
    state = pool.observe({A: "x"}, {"vm": "y"})

    assert (state.volumes[A].condition, state.snapshots["vm"].condition) == (Condition.MISSING, Condition.MISSING)
    assert (state.foreign, state.leftovers) == ((), ())
    assert isinstance(pool.shares_blocks, bool)
    assert state.space.total > state.space.free > 0
    assert not pool.root.exists(), "observing writes nothing"


def test_the_look_for_shared_blocks_leaves_no_trace(pool: FilePool, snapshot: str) -> None:
    before = everything(pool.root)

    assert isinstance(FilePool("again", pool.root, 0, KeptIntents()).shares_blocks, bool)
    assert everything(pool.root) == before


@contextmanager
def unreadable(directory: Path) -> Iterator[None]:
    """Without permission, for root as well."""
    directory.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        directory.chmod(0o700)


def test_a_pool_that_cannot_be_read_is_not_empty(pool: FilePool, snapshot: str) -> None:
    with (
        unreadable(pool.root / "snapshots"),
        pytest.raises(PoolUnusable, match="pool default: can't read the pool: Permission denied"),
    ):
        pool.observe({}, {})
    with unreadable(pool.root), pytest.raises(PoolUnusable, match="Permission denied"):
        pool.observe({}, {})


def test_a_file_in_the_pools_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pool").write_text("")
    pool = FilePool("default", tmp_path / "pool", 0, KeptIntents())

    with pytest.raises(PoolUnusable, match="Not a directory"):
        pool.observe({}, {})
    with pytest.raises(PoolUnusable):
        pool.create_volume(A, MIB, None)


def test_other_names_are_foreign_whatever_they_look_like(pool: FilePool, snapshot: str) -> None:
    strange = [b"notes.txt", b".hidden", b"short.ext4", f".{A}.partial~".encode(), b"bad\xff.ext4", b"new\nline.ext4"]
    for name in strange:
        (pool.root / "volumes" / os.fsdecode(name)).write_bytes(b"")

    state = pool.observe({}, {})

    assert len(state.foreign) == len(strange)
    assert all("not a file of this pool; left alone" in text for text in state.foreign)
    assert any("bad\\xff.ext4" in text for text in state.foreign), "every name can be printed"
    assert pool.discard_leftovers({}, {}) == ()


def test_a_file_without_a_row_is_reported_as_such(pool: FilePool, snapshot: str) -> None:
    state = pool.observe({}, {})

    unknown = (Condition.REPLACED, "this file is not in the registry")
    assert (state.volumes[A].condition, state.volumes[A].detail) == unknown
    assert (state.snapshots["vm"].condition, state.snapshots["vm"].detail) == unknown


def test_names_that_must_not_become_files_are_refused(pool: FilePool) -> None:
    for name in ("", ".", "..", "../up", "a/b", ".hidden", "-rf", "a\0b", "new\nline", "x" * 201, "über"):
        for act in (pool.snapshot_path, pool.remove_snapshot, lambda n: pool.create_snapshot(n, A)):
            with pytest.raises(Terminal, match="can't be the name of a snapshot"):
                act(name)
    for chain in ("", "..", "A" * 64, "a" * 63, f"{'a' * 63}/"):
        with pytest.raises(Terminal, match="can't be the name of a volume"):
            pool.create_volume(chain, MIB, None)
    assert pool.observe({"..": "x"}, {"../../etc/passwd": "x"}).snapshots["../../etc/passwd"].condition is Condition.MISSING


def test_five_hundred_snapshots_are_observed_without_reading_them(pool: FilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What guests write proves nothing; the time that it takes is for the benchmarks."""
    with pool.create_volume(A, 8 * MIB, None) as volume:
        filesystem(volume.fd, A)
        volume.seal()
    identity = pool.create_snapshot("s0", A)
    first = pool.snapshot_path("s0").read_bytes()[:4096]
    for n in range(1, 500):
        pool.snapshot_path(f"s{n}").write_bytes(first)
    real, read = os.pread, []

    def counting(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    state = pool.observe({}, {f"s{n}": identity for n in range(500)})

    assert len(state.snapshots) == 500
    assert read == []


# ------------------------------------------------------------------------------------------------------- space


def test_nothing_is_begun_below_the_reserve(tmp_path: Path) -> None:
    pool = FilePool("default", tmp_path / "pool", 100, KeptIntents())

    with pytest.raises(NoSpace, match=r"pool default: \d+ bytes are free, \d+ must stay free"):
        pool.create_volume(A, MIB, None)
    assert not pool.root.exists()
    build(FilePool("default", pool.root, 0, KeptIntents()), A)
    with pytest.raises(NoSpace):
        pool.create_snapshot("vm", A)
    assert everything(pool.root) == {f"volumes/{A}.ext4"}


def test_a_volume_that_takes_the_reserve_is_noticed_while_it_is_written(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    half_free = found.f_bavail * 50 // found.f_blocks
    with FilePool("p", tmp_path / "p", half_free, KeptIntents()).create_volume(A, 16 * MIB, None) as volume:
        volume.check_space()
        volume.admission.space = lambda: Space(total=100 * MIB, free=4 * MIB, reserve=10 * MIB)
        with pytest.raises(NoSpace, match="may not take the reserve"):
            volume.check_space()


def test_a_copy_that_would_go_below_the_reserve_is_not_begun(pool: FilePool) -> None:
    """Only the data counts, and only where blocks can't be shared."""
    if pool.shares_blocks:
        pytest.skip("this file system shares blocks")

    class Tight(FilePool):
        def space(self) -> Space:
            return Space(total=100 * MIB, free=10 * MIB, reserve=10 * MIB - self.spare)

        spare = 0

    build(pool, A)
    tight = Tight("default", pool.root, 0, KeptIntents())
    with pytest.raises(NoSpace, match="more are needed"):
        tight.create_snapshot("vm", A)
    assert everything(pool.root) == {f"volumes/{A}.ext4"}
    tight.spare = MIB
    tight.create_snapshot("vm", A)


# ------------------------------------------------------------------------------------------------------ copies


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 8)), max_size=8), st.integers(0, 72 * 4096))
def test_a_sparse_copy_has_the_same_bytes_and_the_same_holes(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[int, int]], size: int
) -> None:
    directory = tmp_path_factory.mktemp("copy")
    with (directory / "source").open("w+b") as source, (directory / "target").open("w+b") as target:
        for at, length in blocks:
            os.pwrite(source.fileno(), os.urandom(length * 4096), at * 4096)
        source.truncate(size)
        os.fsync(source.fileno())
        sparse_copy(source.fileno(), target.fileno())
        os.fsync(target.fileno())

        assert (directory / "target").read_bytes() == (directory / "source").read_bytes()
        assert list(extents(target.fileno())) == list(extents(source.fileno()))
    shutil.rmtree(directory)


# ------------------------------------------------------------------------- on real file systems of other kinds


def run(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


@contextmanager
def mounted(image: Path, kind: str, size: int) -> Iterator[Path]:
    """A file system of its own, freshly made and loop-mounted."""
    point = image.with_suffix(".mnt")
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run(f"mkfs.{kind}", "-q", image)
    run("mount", "-o", "loop", image, point)
    try:
        yield point
    finally:
        run("umount", point)


def used(point: Path) -> int:
    os.sync()
    found = os.statvfs(point)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_reflinks_share_blocks_where_the_file_system_can(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path / "disk", kind, 512 * MIB) as point:
        pool = FilePool("default", point / "not" / "yet" / "there", 0, KeptIntents())
        assert pool.shares_blocks
        assert list(point.iterdir()) == [], "asked without leaving anything"
        with pool.create_volume(A, 256 * MIB, None) as volume:
            filesystem(volume.fd, A)
            for n in range(100):
                os.pwrite(volume.fd, os.urandom(MIB), (16 + n) * MIB)
            volume.seal()
        before = used(point)

        with pool.create_volume(B, 256 * MIB, A) as child:
            child.seal()
        identities = {f"vm-{n}": pool.create_snapshot(f"vm-{n}", B) for n in range(10)}

        assert used(point) - before < 16 * MIB, "eleven copies of 100 MiB"
        assert pool.snapshot_path("vm-9").read_bytes() == pool.volume_path(A).read_bytes()
        with pool.snapshot_path("vm-0").open("r+b") as file:
            file.write(b"mine")
        assert {s.condition for s in pool.observe({}, identities).snapshots.values()} == {Condition.INTACT}
        assert not pool.volume_path(A).read_bytes().startswith(b"mine")


@pytest.mark.root
def test_ext4_copies_take_their_data_and_leave_their_holes(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ext4", 128 * MIB) as point:
        pool = FilePool("default", point / "pool", 0, KeptIntents())
        assert not pool.shares_blocks
        with pool.create_volume(A, 1024 * MIB, None) as volume:
            filesystem(volume.fd, A)
            os.pwrite(volume.fd, os.urandom(8 * MIB), 512 * MIB)
            volume.seal()
        before = used(point)
        pool.create_snapshot("vm", A)

        assert 8 * MIB <= used(point) - before < 9 * MIB


@pytest.mark.root
def test_a_file_system_that_runs_full_costs_nothing_that_was_there(tmp_path: Path) -> None:
    point = tmp_path / "small"
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", point)
    try:
        pool = FilePool("default", point / "pool", 0, KeptIntents())
        with pool.create_volume(A, 64 * MIB, None) as volume:
            filesystem(volume.fd, A)
            os.pwrite(volume.fd, os.urandom(6 * MIB), 16 * MIB)
            volume.seal()
        pool.create_snapshot("one", A)
        with pytest.raises(NoSpace, match="more are needed"):
            pool.create_snapshot("two", A)

        class Blind(FilePool):
            def space(self) -> Space:
                """Another process takes the space after it was read."""
                return Space(1 << 40, 1 << 40, 0)

        with pytest.raises(NoSpace, match="No space left on device"):
            Blind("default", pool.root, 0, KeptIntents()).create_snapshot("two", A)
        assert everything(pool.root) == {f"volumes/{A}.ext4", "snapshots/one.ext4"}
    finally:
        run("umount", point)


@pytest.mark.root
def test_a_snapshot_behind_a_loop_device_or_a_mount_is_busy(pool: FilePool, tmp_path: Path) -> None:
    build(pool, A)
    pool.create_snapshot("vm", A)
    path, point = pool.snapshot_path("vm"), tmp_path / "mnt"
    run("mkfs.ext4", "-q", "-F", path)
    device = run("losetup", "--find", "--show", path).strip()
    try:
        with pytest.raises(Busy, match=f"held by loop device {device}"):
            pool.remove_snapshot("vm")
        point.mkdir()
        run("mount", device, point)
        with pytest.raises(Busy, match=f"held by {device}, mounted at {point}"):
            pool.remove_snapshot("vm")
        run("umount", point)
    finally:
        run("losetup", "--detach", device)
    other = tmp_path / "over this"
    other.write_text("")
    run("mount", "--bind", path, other)
    try:
        with pytest.raises(Busy, match=f"held by a mount at {other}"):
            pool.remove_snapshot("vm")
    finally:
        run("umount", other)
    pool.remove_snapshot("vm")


@pytest.mark.root
def test_blocks_are_never_shared_across_file_systems(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "disk", "xfs", 512 * MIB) as point,
        (point / "a").open("wb") as here,
        (tmp_path / "b").open("wb") as there,
    ):
        here.write(b"x")
        here.flush()

        assert not reflink(here.fileno(), there.fileno())


# -------------------------------------------------------------------------------------------------- long copies


@pytest.fixture
def copying(pool: FilePool, monkeypatch: pytest.MonkeyPatch) -> FilePool:
    """A pool on a file system without shared blocks, with a volume of 40 MiB of data."""
    monkeypatch.setattr("reconciler.pool.file.pool.reflink", lambda source, target: False)
    with pool.create_volume(A, 64 * MIB, None) as volume:
        for at in range(40):
            os.pwrite(volume.fd, os.urandom(MIB), at * MIB)
        volume.seal()
    return pool


def test_a_copy_calls_the_heartbeat_after_each_piece(copying: FilePool) -> None:
    beats: list[None] = []
    copying.create_snapshot("vm", A, lambda: beats.append(None))

    assert len(beats) >= 40 * MIB // CHUNK
    assert copying.snapshot_path("vm").read_bytes() == copying.volume_path(A).read_bytes()


@pytest.mark.parametrize("act", ["create_snapshot", "create_snapshots", "replace_snapshot", "create_volume"])
def test_a_copy_ends_when_the_heartbeat_raises_and_leaves_nothing(copying: FilePool, act: str) -> None:
    identity = copying.create_snapshot("old", A) if act == "replace_snapshot" else ""
    if act == "replace_snapshot":
        with copying.snapshot_path("old").open("r+b") as file:
            os.pwrite(file.fileno(), b"another file system", 1024)
    before = everything(copying.root)
    beats = 0

    def heartbeat() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            raise Stopped("asked to stop")

    calls: dict[str, Callable[[], object]] = {
        "create_snapshot": lambda: copying.create_snapshot("vm", A, heartbeat),
        "create_snapshots": lambda: copying.create_snapshots([SnapshotRequest("vm", A)], heartbeat),
        "replace_snapshot": lambda: copying.replace_snapshot("old", A, identity, heartbeat),
        "create_volume": lambda: copying.create_volume(B, 64 * MIB, A, heartbeat=heartbeat),
    }
    with pytest.raises(Stopped):
        calls[act]()

    assert beats == 3
    assert everything(copying.root) == before


def test_parallel_copies_do_not_pass_the_reserve_together(copying: FilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second copy begins within the first one, which has been promised what it has not yet written."""
    free = 60 * MIB
    monkeypatch.setattr(FilePool, "space", lambda self: Space(1 << 40, free, 0))
    refused: list[NoSpace] = []

    def heartbeat() -> None:
        if not refused:
            with pytest.raises(NoSpace, match="promised to running work") as caught:
                copying.create_snapshot("second", A)
            refused.append(caught.value)

    copying.create_snapshot("first", A, heartbeat)
    assert refused
    copying.create_snapshot("second", A)


def test_a_batch_makes_its_names_durable_with_one_fsync_of_the_directory(pool: FilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    build(pool, A)
    pool.create_snapshot("first", A)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    pool.create_snapshots([SnapshotRequest(f"vm-{n}", A) for n in range(5)])

    assert synced.count(str(pool.root / "snapshots")) == 1
    assert len(synced) == 5 + 1
