"""What can happen to a pool, in the words that its owner sees: nothing is lost, nothing foreign is touched, the rest goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.pool.thin.devmapper import DeviceMapper
from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import change, noise, root
from tests.stories.workshop import Completed
from tests.support.sparse import copied
from tests.support.zygote import Zygote

from .rig import dmsetup, mappings, thin_check
from .workshop import POOL, ThinWorkshop

BASE = root("base")
UNDER = "hurt-meta"
"""The mapping between a pool and its metadata that is made to fail."""


@pytest.fixture
def host(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    """A converged host: image web with snapshots a and b, the first of which somebody has written to."""
    workshop = ThinWorkshop(tmp_path, zygote, metadata_size="2MiB")
    workshop.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b"])
    workshop.converge()
    written(workshop, "a", b"mine")
    try:
        yield workshop
    finally:
        hurting = [name for name in mappings() if name.startswith("hurt")]
        for name in sorted(hurting, key=lambda name: name == UNDER):
            if name == UNDER:
                workshop.take_down()
            dmsetup("remove", "--retry", name)
        workshop.take_down()
        ThinWorkshop.up = None


def written(workshop: ThinWorkshop, name: str, text: bytes) -> None:
    """Into the boot block, which no file system uses."""
    fd = os.open(workshop.snapshot(name), os.O_RDWR)
    os.pwrite(fd, text.ljust(512, b"\0"), 0)
    os.fsync(fd)
    os.close(fd)


def read(workshop: ThinWorkshop, name: str, length: int) -> bytes:
    with workshop.snapshot(name).open("rb") as device:
        return device.read(length)


def reasons(workshop: ThinWorkshop) -> set[str]:
    return {finding["reason"] for finding in workshop.plan()["findings"]}


def still_looked_at(workshop: ThinWorkshop) -> None:
    """A pool in trouble can be looked at all the same."""
    workshop.run("list").expect(0).words("web", "a")
    workshop.run("describe", "image/web").expect(0)
    checks = workshop.run("verify", "-o", "json").json["checks"]
    assert {one["name"] for one in checks} >= {"pool"}
    assert workshop.run("plan", "-o", "json").json["findings"]


# --------------------------------------------------------------------------------------------------------------- space


def test_out_of_data(host: ThinWorkshop) -> None:
    """A guest has filled the pool: others' work is refused with what to do, everything can be looked at, pruning mends it."""
    with pytest.raises(OSError, match=r"No space|Input/output"):
        hog(host, "b")
    host.image("more", [root("more", {"srv/x": noise(1 << 20)})])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolFull"
    assert host.run("list", "-o", "json").json["images"][1]["phase"] == "Ready", "web is as declared"
    host.run("health").expect(1).words("no data space left", "declare it larger", "--prune")
    still_looked_at(host)
    host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a"])
    host.once("--prune").expect(0)
    host.converge()
    host.settled()
    assert read(host, "a", 4) == b"mine"


def hog(host: ThinWorkshop, name: str) -> None:
    """Fill the pool through a mapping larger than the snapshot's own."""
    thin_id = next(thin_id for thin_id, row in host.devices().items() if row[:2] == ("snapshot", name))
    dmsetup("create", "hurt-hog", "--table", f"0 {(512 << 20) // 512} thin /dev/mapper/{POOL} {thin_id}")
    try:
        fd = os.open("/dev/mapper/hurt-hog", os.O_RDWR | os.O_DSYNC)
        try:
            block = b"x" * (1 << 20)
            for n in range(512):
                os.pwrite(fd, block, n << 20)
        finally:
            os.close(fd)
    finally:
        dmsetup("remove", "--retry", "hurt-hog")


def crowd(count: int) -> None:
    """So many thin devices more: each takes a block of metadata at least. Raises DmError where there is none left."""
    dm = DeviceMapper.open()
    for thin_id in range(1000, 1000 + count):
        dm.message(POOL, f"create_thin {thin_id}")


def test_below_the_metadata_reserve(host: ThinWorkshop) -> None:
    """No work begins; declared larger, the pool grows and goes on."""
    pool = host.manifests / "pool.yaml"
    pool.write_text(pool.read_text().replace("metadataPercent: 0", "metadataPercent: 50"))
    crowd(220)
    host.image("more", [root("more")])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolFull"
    assert "metadata blocks are free" in done.object("Volume", volume_of(done))["message"]
    host.run("health").expect(1).words("metadata")
    larger = replace(host, metadata_size="32MiB")
    larger.pool()
    pool.write_text(pool.read_text().replace("metadataPercent: 0", "metadataPercent: 50"))
    larger.converge()
    larger.once("--detailed-exitcode").expect(0)


def volume_of(done: Completed) -> str:
    """The volume that failed."""
    return str(next(o["name"] for o in done.json["objects"] if o["kind"] == "Volume" and o["phase"] == "Failed"))


def test_out_of_metadata(host: ThinWorkshop) -> None:
    """The kernel gives up writing: nothing is made, all that was there can be read, and it is told how to mend it."""
    with pytest.raises(OSError, match="dm message"):
        crowd(600)
    host.image("more", [root("more")])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolReadOnly"
    host.run("health").expect(1).words("read-only", "thin_check", f"reconcile detach {POOL}")
    still_looked_at(host)
    assert read(host, "a", 4) == b"mine"
    host.run("detach", POOL, "--apply").expect(0)
    checked(host)
    larger = replace(host, metadata_size="8MiB")
    larger.pool()
    larger.converge()
    larger.once("--detailed-exitcode").expect(0)
    assert read(host, "a", 4) == b"mine"


def attached(file: Path) -> str:
    done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checked(host: ThinWorkshop) -> None:
    """What the message says to do."""
    loop = attached(host.metadata_path)
    try:
        subprocess.run(["thin_check", "--clear-needs-check-flag", loop], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


# ------------------------------------------------------------------------------------------- read-only, needs a check


def hurt(host: ThinWorkshop) -> None:
    """Metadata that can't be written any more: the kernel gives up and makes the pool read-only."""
    under(host, "flakey {device} 0 0 60 1 error_writes")


def under(host: ThinWorkshop, target: str) -> None:
    """Put the pool on metadata that is well, until it is this target."""
    host.take_down()
    size = host.metadata_path.stat().st_size // 512
    loop, data = attached(host.metadata_path), attached(host.backing / "thin.data")
    dmsetup("create", UNDER, "--table", f"0 {size} linear {loop} 0")
    sectors = (256 << 20) // 512
    table = f"0 {sectors} thin-pool /dev/mapper/hurt-meta {data} 128 0 1 error_if_no_space"
    dmsetup("create", POOL, "--uuid", uuid_of(host), "--table", table)
    subprocess.run(["losetup", "--detach", loop, data], check=True)
    if target:
        becomes(target.format(device=loop), size)


def becomes(target: str, size: int) -> None:
    """What lies under the pool's metadata (of so many sectors) is this from now on."""
    dmsetup("suspend", "--nolockfs", "--noflush", UNDER)
    dmsetup("load", UNDER, "--table", f"0 {size} {target}")
    dmsetup("resume", UNDER)


def uuid_of(host: ThinWorkshop) -> str:
    (transaction,) = {row[2] >> 32 for row in host.devices().values()}
    return f"RECONCILE-{transaction:08x}-pool"


def heal(host: ThinWorkshop) -> None:
    host.take_down()
    dmsetup("remove", "--retry", UNDER)


def test_an_io_error_of_the_data_device_names_the_pool_and_the_device(host: ThinWorkshop) -> None:
    """The data is sound up to its last byte in use, and every write behind that fails."""
    host.take_down()
    data, meta = attached(host.backing / "thin.data"), attached(host.metadata_path)
    sectors, used = (256 << 20) // 512, (16 << 20) // 512
    table = f"0 {used} linear {data} 0\n{used} {sectors - used} error\n"
    subprocess.run(["dmsetup", "create", UNDER], input=table, text=True, check=True)
    pool = f"0 {sectors} thin-pool {meta} /dev/mapper/{UNDER} 128 0 1 error_if_no_space"
    dmsetup("create", POOL, "--uuid", uuid_of(host), "--table", pool)
    subprocess.run(["losetup", "--detach", data, meta], check=True)
    host.image("more", [root("more", {"srv/x": noise(24 << 20)})], size="64MiB")

    done = host.once("-o", "json").expect(1)

    bad = done.object("Volume", volume_of(done))
    assert bad["reason"] == "DeviceFailed", bad
    assert f"pool {POOL}, on {host.backing / 'thin.data'}" in bad["message"]
    assert "Input/output error" in bad["message"]
    assert read(host, "a", 4) == b"mine"


def test_a_pool_whose_metadata_can_not_be_written_becomes_read_only_and_needs_a_check(host: ThinWorkshop) -> None:
    hurt(host)
    host.image("more", [root("more")])
    host.once("-o", "json").expect(1)
    assert "needs_check" in dmsetup("status", "--noflush", POOL)

    done = host.once("-o", "json")

    assert done.code == 1, done
    assert done.object("Image", "more")["reason"] == "PoolCheckRequired"
    host.run("health").expect(1).words("read-only", "thin_check", "--clear-needs-check-flag", f"reconcile detach {POOL}")
    still_looked_at(host)
    assert read(host, "a", 4) == b"mine", "its snapshots can still be read"
    heal(host)
    checked(host)
    host.converge()
    host.settled()
    assert read(host, "a", 4) == b"mine"


# ------------------------------------------------------------------------------------------------- devices one by one


def test_a_busy_snapshot_is_named_with_its_holder_and_holds_nothing_else_up(host: ThinWorkshop) -> None:
    mount = host.root / "mnt"
    mount.mkdir()
    subprocess.run(["mount", host.snapshot("a"), mount], check=True)
    try:
        host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=[])
        done = host.once("--prune", "-o", "json").expect(1)
        bad = done.object("Snapshot", "a")
        assert bad["reason"] == "DeviceBusy"
        assert f"mount at {mount}" in bad["message"]
        assert not host.snapshot("b").exists(), "the other one is gone"
    finally:
        subprocess.run(["umount", mount], check=True)
    host.once("--prune").expect(0)
    assert host.snapshot_names() == set()
    host.settled()


def test_a_base_with_errors_is_named_and_rebuilt(host: ThinWorkshop) -> None:
    """The mapping that it was read through is gone by then: neither that nor dmsetup is in the words."""
    thin_id, (_, chain, _, size) = max((one, row) for one, row in host.devices().items() if row[0] == "volume")
    dmsetup("create", "hurt-base", "--table", f"0 {size // 512} thin /dev/mapper/{POOL} {thin_id}")
    with open("/dev/mapper/hurt-base", "r+b") as device:
        device.seek(4096)
        device.write(b"x" * 4096)
    dmsetup("remove", "--retry", "hurt-base")

    done = host.run("verify", "-o", "json").expect(1)

    found = {(one["name"], one["reason"]) for one in done.json["checks"]}
    assert {("volume", "FilesystemCorrupt"), ("snapshot", "BaseCorrupt")} <= found
    host.run("verify").words("e2fsck reported errors", f"reconcile state rm volume/{POOL}/{chain[:12]}")
    assert "dmsetup" not in done.stdout
    assert ".read-" not in done.stdout
    host.run("state", "rm", f"volume/{POOL}/{chain[:12]}").expect(0)
    host.converge()
    assert thin_id not in host.thin_ids()
    host.run("verify").expect(0)
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_suspended_snapshot_is_brought_back(host: ThinWorkshop) -> None:
    dmsetup("suspend", f"{POOL}-a")

    host.run("plan").expect(0).words("activate", "snapshot/a", "suspended")
    assert host.run("list", "-o", "json").json["images"][0]["phase"] == "Degraded"
    host.converge()

    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_suspended_pool_is_brought_back(host: ThinWorkshop) -> None:
    dmsetup("suspend", POOL)

    host.run("plan").expect(0).words("assemble", f"pool/{POOL}", "suspended")
    host.converge()

    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_removed_mapping_is_activated_again(host: ThinWorkshop) -> None:
    dmsetup("remove", f"{POOL}-a")

    host.run("plan", "--detailed-exitcode").expect(2).words("activate", "snapshot/a")
    host.converge()

    assert read(host, "a", 4) == b"mine"
    host.settled()


def allocate(host: ThinWorkshop, thin_id: int) -> None:
    """The registry has allocated this id, and has lost its row."""
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as db, db:
        db.execute("UPDATE sequence SET last = ? WHERE pool = ?", (thin_id, POOL))


def test_an_orphan_is_reported_and_deleted_by_gc(host: ThinWorkshop) -> None:
    """Its id was allocated by the registry, which has no row of it: it might hold somebody's data."""
    dmsetup("message", POOL, "0", "create_thin 500")
    allocate(host, 500)

    assert reasons(host) == {"Orphan"}
    host.once("--prune").expect(0)
    assert 500 in host.thin_ids(), "no run deletes it"
    host.run("health").words("thin id 500", f"reconcile gc {POOL}")
    host.run("gc", POOL).expect(0).words("thin id 500", "--apply")
    assert 500 in host.thin_ids(), "nor does looking"
    host.run("gc", POOL, "--apply").expect(0).words("thin id 500")
    host.settled()


def test_gc_deletes_no_orphan_beside_a_service(host: ThinWorkshop) -> None:
    """Only the holder of the lock changes a pool. What it deletes is observed once it has the lock."""
    service = host.start("--interval", "3600")
    service.until(lambda: host.run("drift").code == 0, "peace", 60)
    dmsetup("message", POOL, "0", "create_thin 500")
    allocate(host, 500)

    host.run("gc", POOL).expect(0).words("thin id 500", "--apply")
    host.run("gc", POOL, "--apply").expect(75).words(f"process {service.process.pid}")
    assert 500 in host.thin_ids()
    assert service.signal(signal.SIGTERM).wait().code == 143
    host.run("gc", POOL, "--apply").expect(0).words("thin id 500")
    host.settled()


def test_what_state_rm_leaves_is_an_orphan(host: ThinWorkshop) -> None:
    host.withdraw("web")
    host.run("state", "rm", "image/web").expect(0)

    left = set(host.thin_ids()) - {one for one, row in host.devices().items() if row[0] != "snapshot"}
    assert len(left) == 2, "both snapshots"
    assert host.run("gc", POOL).expect(0).stdout.count("thin id") == 2


@pytest.mark.parametrize("transaction", ["ours", "another"])
def test_a_foreign_thin_id_is_reported_and_never_touched(transaction: str, host: ThinWorkshop) -> None:
    """Whatever another program creates in the pool has our stamp, unless it sets a transaction id of its own."""
    ours = dmsetup("status", "--noflush", POOL).split()[3]
    if transaction == "ours":
        dmsetup("message", POOL, "0", "create_thin 500")
    else:
        for message in (f"set_transaction_id {ours} 5", "create_thin 500", f"set_transaction_id 5 {ours}"):
            dmsetup("message", POOL, "0", message)

    assert reasons(host) == {"Foreign"}
    host.once("--prune").expect(0).words("thin id 500", "not created by reconcile")
    host.run("gc", POOL, "--apply").expect(0)
    host.run("verify").words("thin id 500")
    assert 500 in host.thin_ids()


# ------------------------------------------------------------------------------------------------- two stores, two truths


def test_an_older_registry(host: ThinWorkshop) -> None:
    """Restored from a backup: what was made since is kept, nothing is changed until a person says so, and then all is well."""
    backup = host.root / "backup"
    shutil.copy(host.state / "registry.sqlite3", backup)
    host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b", "c"])
    host.converge()
    written(host, "c", b"younger")
    shutil.copy(backup, host.state / "registry.sqlite3")
    before = host.thin_ids()

    done = host.once("-o", "json")

    assert done.code == 1, done
    assert done.object("Image", "web")["reason"] == "RegistryOutdated"
    assert host.thin_ids() == before
    host.run("health").expect(1).words("older", f"reconcile adopt {POOL}")
    host.run("verify").expect(1).words("older")
    still_looked_at(host)
    host.run("adopt", POOL).expect(0).words("snapshot c", "--apply")
    assert host.once().code == 1, "looking has changed nothing"
    host.run("adopt", POOL, "--apply").expect(0)
    host.converge()
    host.settled()
    assert (read(host, "a", 4), read(host, "c", 7)) == (b"mine", b"younger")


def test_an_older_registry_after_a_reboot(host: ThinWorkshop) -> None:
    """What both the registry and the pool know comes back by itself; nothing else happens before a person has looked."""
    backup = host.root / "backup"
    shutil.copy(host.state / "registry.sqlite3", backup)
    host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b", "c"])
    host.converge()
    shutil.copy(backup, host.state / "registry.sqlite3")
    host.take_down()
    before = host.thin_ids()

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "RegistryOutdated"
    assert host.snapshot_names() == {"a", "b"}
    assert read(host, "a", 4) == b"mine"
    assert host.thin_ids() == before


def test_an_older_pool(host: ThinWorkshop) -> None:
    """Its metadata was restored from a backup: nothing is activated before a person has decided, as blocks may have moved."""
    host.take_down()
    backup = host.root / "meta.backup"
    shutil.copy(host.metadata_path, backup)
    host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b", "c"])
    host.converge()
    host.take_down()
    shutil.copy(backup, host.metadata_path)

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolOutdated"
    assert not [name for name in mappings() if name.startswith(POOL)]
    still_looked_at(host)
    host.run("adopt", POOL, "--apply").expect(0)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    assert host.snapshot_names() == {"a", "b", "c"}
    host.settled()


def test_the_data_of_another_pool(host: ThinWorkshop, tmp_path: Path, zygote: Zygote) -> None:  # noqa: F811
    """Two hosts with the same manifests, and their data files were swapped: `--once` and `adopt` refuse, and touch nothing."""
    other = ThinWorkshop(tmp_path / "other", zygote, metadata_size="2MiB")
    other.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b"])
    other.converge()
    other.take_down()
    host.take_down()
    ours, theirs = (one.backing / "thin.data" for one in (host, other))
    shutil.move(ours, tmp_path / "aside")
    copied(theirs, ours)
    before = ours.read_bytes(), host.metadata_path.read_bytes()

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolDataWrong"
    host.run("health").expect(1).words(str(ours), str(host.metadata_path), "label of pool default")
    still_looked_at(host)
    host.run("adopt", POOL, "--apply").expect(1).words("does not hold the data of pool default")
    assert (ours.read_bytes(), host.metadata_path.read_bytes()) == before
    assert not [name for name in mappings() if name.startswith(POOL)]
    shutil.move(tmp_path / "aside", ours)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_unproved_data_is_used_once_it_is_accepted(host: ThinWorkshop) -> None:
    """A pool of an earlier version, without a label, whose bases are gone: only a person can tell."""
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as db, db:
        gone = [row[0] for row in db.execute("DELETE FROM device WHERE role IN ('label', 'volume') RETURNING id")]
        db.execute("DELETE FROM volume")
    for thin_id in gone:
        dmsetup("message", POOL, "0", f"delete {thin_id}")
    host.take_down()

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolDataUnproved"
    assert not [name for name in mappings() if name.startswith(POOL)]
    host.run("adopt", POOL).expect(0).words("its data is accepted", "--apply")
    host.run("adopt", POOL, "--apply").expect(0)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_pool_that_is_active_on_other_devices_than_the_declared_ones(host: ThinWorkshop) -> None:
    moved = host.root / "moved"
    copied(host.backing, moved)
    pool = host.manifests / "pool.yaml"
    before = pool.read_text()
    pool.write_text(before.replace(str(host.backing), str(moved)))
    host.image("web", [BASE, change("app", {"srv/app": b"v1"})], snapshots=["a", "b", "c"])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolDevicesChanged"
    host.run("health").expect(1).words(str(host.backing), str(moved), f"reconcile detach {POOL} --apply")
    still_looked_at(host)
    pool.write_text(before)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_block_size_that_was_changed_in_the_manifest_changes_nothing(host: ThinWorkshop) -> None:
    """It is fixed for a pool's life: the pool comes up as it was made, and the mistake is told."""
    pool = host.manifests / "pool.yaml"
    pool.write_text(pool.read_text().replace("    data:", "    blockSize: 128KiB\n    data:", 1))
    host.take_down()

    host.converge()

    assert read(host, "a", 4) == b"mine"
    assert reasons(host) == {"BlockSizeFixed"}
    host.run("health").words("blocks of 65536 bytes", "131072 are declared")


def test_a_deleted_registry(host: ThinWorkshop) -> None:
    """Snapshots that are active are taken over with what was written to them; bases are built again, the old ones collected."""
    for path in host.state.glob("registry.sqlite3*"):
        path.unlink()

    done = host.once("-o", "json")

    assert done.code == 1, done
    assert done.object("Image", "web")["reason"] == "PoolForeign"
    host.run("health").expect(1).words(f"reconcile adopt {POOL}")
    host.run("adopt", POOL, "--apply").expect(0).words("snapshot a", "snapshot b")
    host.converge()
    assert read(host, "a", 4) == b"mine"
    assert reasons(host) == {"Orphan", "SnapshotOutdated"}, "the bases of the lost registry, and snapshots of unknown chains"
    host.run("gc", POOL, "--apply").expect(0)
    chain = next(row["chain"] for row in host.run("state", "ls", "-o", "json").json["rows"] if row["kind"] == "Image")
    host.run("adopt", POOL, "--chain", f"a={chain}", "--chain", f"b={chain[:12]}", "--apply").expect(0)
    assert reasons(host) == set()
    host.settled()


def test_a_deleted_registry_after_a_reboot(host: ThinWorkshop) -> None:
    """Nothing is active that could tell its name: a person says which thin id is which snapshot."""
    thin_id = next(thin_id for thin_id, row in host.devices().items() if row[:2] == ("snapshot", "a"))
    for path in host.state.glob("registry.sqlite3*"):
        path.unlink()
    host.take_down()

    host.once().expect(1)
    host.run("adopt", POOL, "--apply").expect(0).words(f"thin id {thin_id}", "--snapshot NAME=")
    host.run("adopt", POOL, "--snapshot", f"a={thin_id}", "--apply").expect(0).words("snapshot a")
    host.converge()

    assert read(host, "a", 4) == b"mine"
    host.run("gc", POOL, "--apply").expect(0)
    host.settled()


def test_a_lost_pool(host: ThinWorkshop) -> None:
    """Its files are gone: that is no wish for an empty one. Adopted as lost, everything is made again."""
    host.take_down()
    shutil.rmtree(host.backing)

    done = host.once("-o", "json")

    assert done.code == 1, done
    assert done.object("Image", "web")["reason"] == "PoolLost"
    host.run("adopt", POOL).expect(0).words("creates a new pool")
    host.run("adopt", POOL, "--apply").expect(0)
    host.backing.mkdir()
    host.converge()
    host.settled()
    assert read(host, "a", 4) == bytes(4), "what was written is lost with the disk"


def test_detached_and_back(host: ThinWorkshop) -> None:
    """`detach` leaves nothing in the kernel, and everything on the disk; thin_check may look at it."""
    host.run("detach", POOL).expect(0).words("--apply")
    assert host.snapshot("a").exists()
    host.run("detach", POOL, "--apply").expect(0)

    assert not [name for name in mappings() if name.startswith(POOL)]
    thin_check(host.metadata_path)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()
