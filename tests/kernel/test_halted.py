"""A pool in which nothing can be changed any more: its owner is told what to do, does just that, and all is well again.

Beside ``test_troubles``, whose host and helpers these tests use: here stands what becomes of such a pool over a reboot, when it
is given what it lacks, and when it can't be read at all.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.pool.thin import metadata
from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import noise, root

from .rig import dmsetup, write
from .test_troubles import becomes, checked, crowd, heal, hog, host, read, still_looked_at, under  # noqa: F401 - a fixture among them
from .workshop import POOL, ThinWorkshop


def said_by_health(host: ThinWorkshop) -> str:  # noqa: F811
    """Of the pool, where something is wrong with it."""
    found = host.run("health", "-o", "json").expect(1).json["checks"]
    return "\n".join(f"{one['reason']}: {one['message']}" for one in found if one["name"] == "pool" and one["level"] == "fail")


def begun(host: ThinWorkshop, thin_id: int) -> None:  # noqa: F811
    """The registry is told that this thin device is being created, as by a run that has died since."""
    transaction = int(dmsetup("status", "--noflush", POOL).split()[3])
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as db, db:
        columns = 'pool, id, role, name, chain, size, "transaction", state, mapped'
        values = (POOL, thin_id, "volume", "c" * 64, "c" * 64, 16 << 20, transaction, "creating", 0)
        db.execute(f"INSERT INTO device ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def mark_needs_check(host: ThinWorkshop) -> None:  # noqa: F811
    """Set the flag as the kernel does when a commit has failed (struct thin_disk_superblock: csum, flags …)."""
    with host.metadata_path.open("r+b") as file:
        block = bytearray(file.read(metadata.BLOCK))
        block[4] |= 1
        block[:4] = (metadata.crc32c(bytes(block[4:])) ^ 160774).to_bytes(4, "little")
        file.seek(0)
        file.write(block)


def test_a_full_pool_that_is_declared_larger_goes_on(host: ThinWorkshop) -> None:  # noqa: F811
    with pytest.raises(OSError, match=r"No space|Input/output"):
        hog(host, "b")
    host.image("more", [root("more", {"srv/x": noise(1 << 20)})])
    host.once().expect(1)
    assert said_by_health(host).startswith(f"PoolFull: pool {POOL} has no data space left: declare it larger")

    replace(host, data_size="512MiB").pool()
    host.run("plan").expect(0).words("assemble", f"pool/{POOL}", "declared larger: data")
    host.converge()

    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_pool_whose_full_metadata_is_declared_larger_goes_on(host: ThinWorkshop) -> None:  # noqa: F811
    """Nothing was lost, so it need not be taken down for that: snapshots stay as they are, in use or not."""
    with pytest.raises(OSError, match="dm message"):
        crowd(600)
    host.image("more", [root("more")])
    host.once().expect(1)
    print(dmsetup("status", "--noflush", POOL))
    assert "its metadata is full: declare it larger" in said_by_health(host)

    with host.snapshot("a").open("rb") as user:
        replace(host, metadata_size="8MiB").pool()
        host.converge()
        assert user.read(4) == b"mine"
    assert dmsetup("status", "--noflush", POOL).split()[7] == "rw"
    host.once("--detailed-exitcode").expect(0)


def test_a_read_only_pool(host: ThinWorkshop) -> None:  # noqa: F811
    """Somebody has made it so; its metadata is whole, and detaching it is all that has to be done."""
    (table,) = dmsetup("table", POOL).splitlines()
    dmsetup("reload", POOL, "--table", table.replace("1 error_if_no_space", "2 error_if_no_space read_only"))
    dmsetup("resume", POOL)
    host.image("more", [root("more")])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolReadOnly"
    assert f"reconcile detach {POOL} --apply" in said_by_health(host)
    still_looked_at(host)
    assert read(host, "a", 4) == b"mine"
    host.run("detach", POOL, "--apply").expect(0)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_snapshots_come_back_after_a_reboot_in_a_pool_that_needs_a_check(host: ThinWorkshop) -> None:  # noqa: F811
    """Also where the change that it failed at is still open: that is settled once the pool can be written again."""
    dmsetup("message", POOL, "0", "create_thin 99")
    begun(host, 99)
    host.take_down()
    mark_needs_check(host)
    host.image("more", [root("more")])

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolCheckRequired"
    assert host.snapshot_names() == {"a", "b"}
    assert read(host, "a", 4) == b"mine"
    assert "--clear-needs-check-flag" in said_by_health(host)
    still_looked_at(host)
    assert host.once("-o", "json").expect(1).json["changed"] == 0, "and that is all that can be done"
    host.run("detach", POOL, "--apply").expect(0)
    checked(host)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_metadata_that_can_not_be_read(host: ThinWorkshop) -> None:  # noqa: F811
    """Overwritten from its second block on. Nothing is made anew over it; other verbs tell and go on."""
    host.take_down()
    with host.metadata_path.open("r+b") as file:
        whole = file.read()
        file.seek(4096)
        file.write(b"x" * (len(whole) - 4096))

    done = host.once("-o", "json").expect(69)

    assert "thin_repair" in done.object("Image", "web")["message"]
    assert "thin_check" in said_by_health(host)
    still_looked_at(host)
    assert host.metadata_path.read_bytes()[4096:8192] == b"x" * 4096
    host.metadata_path.write_bytes(whole)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_a_pool_that_has_failed(host: ThinWorkshop) -> None:  # noqa: F811
    """The kernel can't read its metadata any more, and neither can we."""
    under(host, "")
    thin_id = next(one for one, row in host.devices().items() if row[:2] == ("snapshot", "b"))
    dmsetup("create", "hurt-thin", "--table", f"0 32768 thin /dev/mapper/{POOL} {thin_id}")
    write(Path("/dev/mapper/hurt-thin"), 8 << 20, b"x" * 65536)
    becomes("error", host.metadata_path.stat().st_size // 512)
    with pytest.raises(OSError, match="Input/output error"):
        write(Path("/dev/mapper/hurt-thin"), 9 << 20, b"x" * 65536)
    assert dmsetup("status", "--noflush", POOL).split()[3:] == ["Fail"]
    host.image("more", [root("more")])
    host.once()

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "more")["reason"] == "PoolFailed"
    assert f"reconcile detach {POOL} --apply" in said_by_health(host)
    still_looked_at(host)
    dmsetup("remove", "hurt-thin")
    heal(host)
    checked(host)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()


def test_data_that_is_gone(host: ThinWorkshop) -> None:  # noqa: F811
    """Its metadata is there, so something is wrong with a disk: it is put back, or a person gives it up."""
    host.take_down()
    data = host.backing / "thin.data"
    kept = data.rename(host.root / "kept")

    done = host.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "PoolLost"
    assert "restore it" in said_by_health(host)
    assert f"reconcile adopt {POOL}" in said_by_health(host)
    assert not data.exists()
    still_looked_at(host)
    kept.rename(data)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()
