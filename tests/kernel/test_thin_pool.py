"""The thin pool on the real kernel: made once, found again, changed in pool transactions, without harm to foreign devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import Busy, NameTaken, NoSpace, PoolUnusable, Retryable
from reconciler.image.spec import filesystem_uuid
from reconciler.pool.driver import Condition
from reconciler.pool.spec import AccessSpec
from reconciler.pool.thin.assembly import Geometry
from reconciler.pool.thin.backing import Backing
from reconciler.pool.thin.label import TAIL
from reconciler.pool.thin.nodes import RULES
from reconciler.pool.thin.pool import ThinPool
from reconciler.registry.writer import Registry
from tests.support.sleeper import await_name, sleeper

from .rig import BLOCK, LABEL, MIB, A, B, C, Journal, Rig, dmsetup, read, rig, volume, write


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


# ---------------------------------------------------------------------------------------------------- the pool itself


def test_a_pool_is_made_once_and_then_only_found(thin: Rig) -> None:
    with thin.pool() as pool:
        assert pool.observe({}, {}).unready
        assert "created" in pool.assemble()
        state = pool.observe({}, {})
        assert (state.unready, state.troubles, state.foreign) == ("", (), ())
        assert pool.assemble() == ""


def test_looking_at_a_pool_that_was_never_made_makes_nothing(thin: Rig) -> None:
    with thin.pool() as pool:
        pool.observe({}, {})

    assert not thin.data.exists()
    assert not thin.metadata.exists()
    assert thin.mappings() == set()


def test_new_blocks_are_zeroed_and_a_full_pool_fails_instead_of_hanging(thin: Rig) -> None:
    with thin.assembled():
        assert "skip_block_zeroing" not in dmsetup("table", thin.name)
        assert "error_if_no_space" in thin.status()


def test_its_transaction_id_carries_its_stamp(thin: Rig) -> None:
    with thin.assembled() as pool:
        row = pool.journal.pool()
        assert row is not None
        assert row.transaction == int(thin.status().split()[3]) == row.stamp << 32 | 2, "the label was the first transaction"


def test_after_a_reboot_it_is_assembled_with_all_that_it_held(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        snapshot = pool.create_snapshot("web", A)
        write(pool.snapshot_path("web"), 4096, b"mine")
    thin.take_down()

    with thin.pool() as pool:
        state = pool.observe({A: identity}, {"web": snapshot})
        assert state.unready
        assert state.volumes[A].condition is Condition.INTACT
        assert (state.snapshots["web"].condition, state.snapshots["web"].active) == (Condition.INTACT, False)
        pool.assemble()
        pool.activate_snapshot("web")
        assert pool.observe({A: identity}, {"web": snapshot}).snapshots["web"].active
        assert read(pool.snapshot_path("web"), 4096, 4) == b"mine"


def test_a_stale_metadata_snapshot_is_released(thin: Rig) -> None:
    with thin.assembled():
        dmsetup("message", thin.name, "0", "reserve_metadata_snap")
    thin.take_down()

    with thin.assembled():
        assert thin.status().split()[6] == "-"


def test_a_device_that_holds_something_is_not_made_a_pool(thin: Rig) -> None:
    thin.data.parent.mkdir(exist_ok=True)
    thin.data.write_bytes(bytes(16 * MIB))
    os.system(f"mke2fs -q -F {thin.data}")

    with thin.pool() as pool, pytest.raises(PoolUnusable, match=r"holds .*ext.*rm .*thin\.data"):
        pool.assemble()


@pytest.mark.parametrize("what", ["a file system", "the metadata of a thin pool"])
def test_a_device_with_content_is_blank_after_the_command_of_the_hint(what: str, thin: Rig) -> None:
    with thin.assembled():
        pass
    thin.take_down()
    file = thin.metadata if what == "the metadata of a thin pool" else thin.data
    if file == thin.data:
        subprocess.run(["mke2fs", "-q", "-F", file], check=True)
    os.truncate(file, thin.data_bytes)
    device = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=True).stdout.strip()
    try:
        geometry = Geometry(Backing(device), Backing(file=str(thin.root / "new.meta"), size=4 * MIB), BLOCK)
        with Registry.open(thin.root / "other.sqlite3") as registry:
            pool = ThinPool(thin.name, geometry, Journal(thin.name, registry), filesystem_uuid)
            with pytest.raises(PoolUnusable, match="to overwrite it: ") as caught:
                pool.assemble()
            subprocess.run(caught.value.hint.removeprefix("to overwrite it: "), shell=True, check=True)
            pool.assemble()
            assert pool.observe({}, {}).unready == ""
    finally:
        thin.take_down()
        subprocess.run(["losetup", "--detach", device], check=True)
        thin.metadata.unlink()


def test_a_mapping_of_the_same_name_that_is_not_ours_is_left_alone(thin: Rig) -> None:
    dmsetup("create", thin.name, "--table", "0 8 error")

    with thin.pool() as pool:
        assert [trouble.reason for trouble in pool.observe({}, {}).troubles] == ["NameTaken"]
        with pytest.raises(PoolUnusable, match="did not create"):
            pool.assemble()
    assert "error" in dmsetup("table", thin.name)


def test_a_pool_that_is_declared_larger_grows(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        before = pool.space().total
        thin.data_bytes *= 2
    with thin.pool() as pool:
        assert "larger" in pool.observe({A: identity}, {}).unready
        assert "grown" in pool.assemble()
        state = pool.observe({A: identity}, {})
        assert (state.unready, state.space.total) == ("", 2 * before + TAIL)
        assert state.volumes[A].condition is Condition.INTACT


def test_its_metadata_grows_too(tmp_path: Path) -> None:
    with rig(tmp_path, metadata_bytes=4 * MIB) as thin:
        with thin.assembled():
            thin.metadata_bytes = 8 * MIB
        with thin.pool() as pool:
            assert "metadata" in pool.observe({}, {}).unready
            pool.assemble()
            state = pool.observe({}, {})
            assert state.unready == ""
            assert state.metadata is not None
            assert state.metadata.total == 8 * MIB


def test_a_data_device_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with Rig(tmp_path, data_bytes=2 * MIB).pool() as pool, pytest.raises(PoolUnusable, match="is too small"):
        pool.assemble()


def test_a_pool_never_shrinks(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
    thin.data_bytes //= 2
    with thin.assembled() as pool:
        state = pool.observe({A: identity}, {})
        assert [(trouble.reason, trouble.halts) for trouble in state.troubles] == [("ShrinkUnsupported", False)]
        assert state.volumes[A].condition is Condition.INTACT


# ------------------------------------------------------------------------------------------------ volumes and snapshots


def test_a_sealed_volume_is_inactive_and_recognised(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)

        state = pool.observe({A: identity}, {}).volumes[A]
        assert (state.condition, state.size, state.used) == (Condition.INTACT, 16 * MIB, BLOCK)
        assert thin.mappings() == {thin.name}


def test_a_volume_that_is_not_sealed_leaves_nothing(thin: Rig) -> None:
    with thin.assembled() as pool:
        with pool.create_volume(A, 16 * MIB, None) as made:
            os.pwrite(made.fd, b"x" * MIB, 0)
        assert thin.mappings() == {thin.name}
        state = pool.observe({}, {})
        assert (state.leftovers, state.orphans) == ((), ())
        assert state.space.free == state.space.total - LABEL


def test_a_child_shares_its_parents_blocks(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A, data=b"a" * (8 * MIB))
        used = pool.space().total - pool.space().free
        volume(pool, B, parent=A, data=b"b", at=9 * MIB)

        assert pool.space().total - pool.space().free == used + BLOCK
        with pool.reading(B) as path:
            assert read(path, 0, 4) == b"aaaa"
            assert read(path, 9 * MIB, 1) == b"b"


def test_snapshots_are_writable_and_touch_neither_base_nor_siblings(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A, data=b"base" * 1024)
        for name in ("one", "two"):
            pool.create_snapshot(name, A)
        write(pool.snapshot_path("one"), 0, b"mine")

        assert read(pool.snapshot_path("one"), 0, 4) == b"mine"
        assert read(pool.snapshot_path("two"), 0, 4) == b"base"
        with pool.reading(A) as path:
            assert read(path, 0, 4) == b"base"


def test_what_a_base_is_read_through_can_not_be_written(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        with pool.reading(A) as path, pytest.raises(PermissionError):
            write(path, 0, b"x")


def test_a_base_that_was_written_to_behind_our_back_is_damaged(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        dmsetup("create", "intruder", "--table", f"0 32768 thin /dev/mapper/{thin.name} {identity.split()[0][3:]}")
        write(Path("/dev/mapper/intruder"), 8 * MIB, b"x")
        dmsetup("remove", "intruder")

        state = pool.observe({A: identity}, {}).volumes[A]
        assert (state.condition, "written to" in state.detail) == (Condition.DAMAGED, True)


def test_a_snapshot_of_nothing_is_tried_again_later(thin: Rig) -> None:
    with thin.assembled() as pool, pytest.raises(Retryable, match="missing"):
        pool.create_snapshot("web", A)


def test_a_taken_name_of_a_snapshot_is_reported_and_nothing_is_touched(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        dmsetup("create", f"{thin.name}-web", "--table", "0 8 error")
        with pytest.raises(NameTaken, match=f"{thin.name}-web.*did not create"):
            pool.create_snapshot("web", A)
        assert "error" in dmsetup("table", f"{thin.name}-web")


@pytest.mark.parametrize("name", ["a.b", "x_1", "0", "CI-7", "n" * 100])
def test_snapshots_bear_their_names(thin: Rig, name: str) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        pool.create_snapshot(name, A)

        assert pool.snapshot_path(name).exists()
        assert f"{thin.name}-{name}" in thin.mappings()


def test_a_suspended_snapshot_is_resumed(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        identity = pool.create_snapshot("web", A)
        dmsetup("suspend", f"{thin.name}-web")

        state = pool.observe({}, {"web": identity}).snapshots["web"]
        assert (state.active, state.detail) == (False, "suspended")
        pool.activate_snapshot("web")
        assert pool.observe({}, {"web": identity}).snapshots["web"].active


def test_a_missing_device_node_is_created_again(thin: Rig) -> None:
    """As a crash leaves a host without udev, between the activation and the node."""
    with thin.assembled() as pool:
        volume(pool, A)
        identity = pool.create_snapshot("web", A)
        pool.snapshot_path("web").unlink()

        state = pool.observe({}, {"web": identity}).snapshots["web"]
        assert (state.active, state.detail) == (False, "its device node is missing")
        pool.activate_snapshot("web", identity)
        assert pool.observe({}, {"web": identity}).snapshots["web"].active
        assert pool.snapshot_path("web").is_block_device()


# -------------------------------------------------------------------------------------------------------- removing


def test_removed_snapshots_give_back_their_space_to_the_pool_and_to_the_file(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        before = (pool.space().free, thin.data.stat().st_blocks)
        pool.create_snapshot("web", A)
        write(pool.snapshot_path("web"), 0, os.urandom(8 * MIB))
        assert pool.space().free <= before[0] - 8 * MIB

        pool.remove_snapshot("web")

        assert pool.space().free == before[0]
        assert thin.data.stat().st_blocks <= before[1] + 64
        pool.remove_snapshot("web")


def test_a_busy_snapshot_names_its_holder_and_stays(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        identity = pool.create_snapshot("web", A)
        fd = os.open(pool.snapshot_path("web"), os.O_RDONLY)
        dmsetup("create", "above", "--table", f"0 2048 linear {pool.snapshot_path('web')} 0")
        try:
            with pytest.raises(Busy, match="mapping above"):
                pool.remove_snapshot("web")
        finally:
            dmsetup("remove", "above")
            os.close(fd)
        assert pool.observe({}, {"web": identity}).snapshots["web"].active


def test_a_process_that_holds_a_snapshot_is_named(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        pool.create_snapshot("web", A)
        with pool.snapshot_path("web").open("rb") as device, sleeper(device) as pid:
            device.close()
            with pytest.raises(Busy, match=rf"web is held by process {pid} \(sleep\)"):
                pool.remove_snapshot("web")
        pool.remove_snapshot("web")


def test_a_mount_in_another_namespace_is_named(thin: Rig) -> None:
    """As a container leaves it that was started while it was mounted."""
    with thin.assembled() as pool:
        volume(pool, A)
        pool.create_snapshot("web", A)
        path, top = pool.snapshot_path("web"), thin.root / "mnt"
        subprocess.run(["mke2fs", "-q", "-F", path], check=True)
        top.mkdir()
        command = f"mount {path} {top} && echo mounted && exec sleep 600"
        unshared = ["unshare", "--mount", "--propagation=private", "sh", "-c", command]
        with subprocess.Popen(unshared, stdout=subprocess.PIPE, text=True) as container:
            assert container.stdout is not None
            assert container.stdout.readline() == "mounted\n"
            try:
                await_name(container.pid, "sleep")
                named = rf"a mount at {top} in the mount namespace of process {container.pid} \(sleep\)"
                with pytest.raises(Busy, match=named):
                    pool.remove_snapshot("web")
            finally:
                container.kill()
        pool.remove_snapshot("web")


def test_what_a_microvm_has_open_is_not_discarded(thin: Rig) -> None:
    """It claims nothing, it just has it open: the removal is refused before a byte is given back."""
    with thin.assembled() as pool:
        volume(pool, A, data=b"base" * 1024)
        identity = pool.create_snapshot("web", A)
        write(pool.snapshot_path("web"), 0, b"mine")
        fd = os.open(pool.snapshot_path("web"), os.O_RDWR)
        try:
            with pytest.raises(Busy):
                pool.remove_snapshot("web")
            assert os.pread(fd, 8, 0) == b"minebase"
        finally:
            os.close(fd)
        assert pool.observe({}, {"web": identity}).snapshots["web"].active
        pool.remove_snapshot("web")


def test_two_volumes_at_once_are_not_promised_the_same_space(tmp_path: Path) -> None:
    with rig(tmp_path, reserve=50) as thin, thin.assembled() as pool, ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(pool.create_volume, chain, 16 * MIB, None, lambda: 40 * MIB) for chain in (A, B)]
        made = [one.result() for one in begun if one.exception() is None]

        assert [type(one.exception()) for one in begun if one.exception()] == [NoSpace]
        for one in made:
            one.__exit__()


def test_a_base_can_go_before_its_snapshots(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A, data=b"base")
        pool.create_snapshot("web", A)
        pool.remove_volume(A)

        assert read(pool.snapshot_path("web"), 0, 4) == b"base"


# ------------------------------------------------------------------------------------------------------------ space


def test_a_volume_that_takes_the_reserve_is_noticed_while_it_is_written(tmp_path: Path) -> None:
    """A builder that was taken over doesn't keep to its room; half of the reserve bounds it."""
    with rig(tmp_path, reserve=50) as thin, thin.assembled() as pool, pool.create_volume(A, 128 * MIB, None) as volume:
        os.pwrite(volume.fd, b"x" * (60 * MIB), 0)
        os.fsync(volume.fd)
        volume.check_space()

        os.pwrite(volume.fd, b"x" * (40 * MIB), 60 * MIB)
        os.fsync(volume.fd)

        with pytest.raises(NoSpace, match="may not take the reserve"):
            volume.check_space()


def test_work_is_refused_below_the_reserve_and_what_runs_is_counted(tmp_path: Path) -> None:
    with rig(tmp_path, reserve=50) as thin, thin.assembled() as pool:
        with pool.create_volume(A, 16 * MIB, None, lambda: 40 * MIB) as made:
            assert made.room == (128 * MIB - TAIL) // 2 - LABEL
            with pytest.raises(NoSpace, match="promised"):
                pool.create_volume(B, 16 * MIB, None, lambda: 40 * MIB)
        with pool.create_volume(B, 16 * MIB, None, lambda: 40 * MIB):
            pass


# ---------------------------------------------------------------------------------------------- three stores, one truth


def test_foreign_thin_devices_are_named_and_left_alone(thin: Rig) -> None:
    with thin.assembled() as pool:
        dmsetup("message", thin.name, "0", "create_thin 5")
    thin.take_down()
    with thin.pool() as pool:
        pool.assemble()
        state = pool.observe({}, {})
        assert [word.split(" (")[0] for word in state.foreign] == ["thin id 5"], "it has our stamp, and an id that we never gave"
        assert pool.discard_leftovers({}, {}) == ()
        assert pool.observe({}, {}).foreign == state.foreign


def test_an_id_that_is_taken_is_skipped(thin: Rig) -> None:
    with thin.assembled() as pool:
        for thin_id in (2, 3, 9):
            dmsetup("message", thin.name, "0", f"create_thin {thin_id}")
        identity = volume(pool, A)

        assert int(identity.split()[0][3:]) == 4, "the next free one"
        assert pool.observe({A: identity}, {}).volumes[A].condition is Condition.INTACT


def test_what_was_deleted_behind_our_back_is_missing(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        dmsetup("message", thin.name, "0", f"delete {identity.split()[0][3:]}")

        assert pool.observe({A: identity}, {}).volumes[A].condition is Condition.MISSING


def test_an_id_that_means_something_else_now_is_not_ours(thin: Rig) -> None:
    with thin.assembled() as pool:
        identity = volume(pool, A)
        volume(pool, C)
        thin_id = identity.split()[0][3:]
        dmsetup("message", thin.name, "0", f"delete {thin_id}")
        dmsetup("message", thin.name, "0", f"create_thin {thin_id}")

        assert pool.observe({A: identity}, {}).volumes[A].condition is Condition.REPLACED
        pool.remove_volume(A)
        state = pool.observe({}, {})
        assert [word.split(" (")[0] for word in state.foreign] == [f"thin id {thin_id}"], "it was not touched"


def test_what_has_the_id_of_a_snapshot_is_left_alone_and_set_aside_on_request(thin: Rig) -> None:
    """Its bytes prove nothing: it is not ours, is never activated, and stays in the pool when the snapshot is made again."""
    with thin.assembled() as pool:
        base = volume(pool, A).split()[0][3:]
        identity = pool.create_snapshot("web", A)
        thin_id = identity.split()[0][3:]
        dmsetup("remove", "--retry", f"{thin.name}-web")
        dmsetup("message", thin.name, "0", f"delete {thin_id}")
        dmsetup("message", thin.name, "0", f"create_snap {thin_id} {base}")

        state = pool.observe({}, {"web": identity}).snapshots["web"]
        assert (state.condition, state.active) == (Condition.REPLACED, False)
        assert state.identity.startswith(f"id={thin_id} tid=")
        assert state.identity != identity
        pool.set_aside("web", state.identity)
        pool.set_aside("web", state.identity)
        new = pool.create_snapshot("web", A)

        assert new.split()[0] != f"id={thin_id}"
        state = pool.observe({}, {"web": new})
        assert state.snapshots["web"].active
        assert [word.split(" (")[0] for word in (*state.foreign, *state.orphans)] == [f"thin id {thin_id}"], "no run touches it"


def test_a_guest_that_changes_its_superblock_has_a_normal_snapshot(thin: Rig) -> None:
    with thin.assembled() as pool:
        volume(pool, A)
        volume(pool, B)
        identity = pool.create_snapshot("web", A)
        write(pool.snapshot_path("web"), 0, bytes(4096))
        assert pool.observe({}, {"web": identity}).snapshots["web"].condition is Condition.INTACT
        with pool.reading(B) as coming:
            write(pool.snapshot_path("web"), 0, read(coming, 0, 8192))

        new = pool.replace_snapshot("web", B, identity)
        assert new != identity
        pool.discard_replaced("web", new)
        assert pool.observe({}, {"web": new}).snapshots["web"].active


def test_nodes_have_the_declared_owner_group_and_mode(thin: Rig) -> None:
    """After each way in which a device comes to its name; udev's rules get them from a file."""
    with thin.assembled() as pool:
        volume(pool, A)
        volume(pool, B)
        identity = pool.create_snapshot("old", A)
    with thin.pool() as pool:
        pool.access = AccessSpec("65534", "12", 0o640)

        def found(name: str) -> tuple[int, int, int]:
            node = pool.snapshot_path(name).stat()
            return node.st_uid, node.st_gid, node.st_mode & 0o777

        state = pool.observe({}, {"old": identity}).snapshots["old"]
        assert (state.condition, state.active, "owner 0 instead of 65534" in state.detail) == (Condition.INTACT, False, True)
        pool.activate_snapshot("old", identity)
        assert found("old") == (65534, 12, 0o640)
        assert pool.observe({}, {"old": identity}).snapshots["old"].active

        pool.create_snapshot("new", A)
        assert found("new") == (65534, 12, 0o640)
        replaced = pool.replace_snapshot("old", B, identity)
        pool.discard_replaced("old", replaced)
        assert found("old") == (65534, 12, 0o640)
        rules = {path.name: path.read_text() for path in RULES.iterdir()}
        assert set(rules.values()) == {"RECONCILE_OWNER=65534\nRECONCILE_GROUP=12\nRECONCILE_MODE=0640\n"}
        for name in ("old", "new"):
            pool.remove_snapshot(name)
        assert not [name for name in rules if (RULES / name).exists()]
