"""Snapshots of a thin pool with a size, files and an identity of their own: what the kernel mounts, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.test_customized import SECRET, declared, put_key, uuid
from tests.stories.test_growing import declared as grown
from tests.stories.workshop import cat, fsck
from tests.support.zygote import Zygote

from .rig import thin_check
from .test_images import mounted
from .workshop import ThinWorkshop

MIB = 1 << 20
STRIDE = 31


@pytest.fixture
def host(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    workshop = ThinWorkshop(tmp_path / "host", zygote)
    yield workshop
    workshop.take_down()
    ThinWorkshop.up = None
    thin_check(workshop.metadata_path)


def device_size(path: Path) -> int:
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def test_the_kernel_mounts_each_machine_and_fills_its_own_size(host: ThinWorkshop, tmp_path: Path) -> None:
    declared(host).converge()

    for index, name in enumerate(("ci-0", "ci-1")):
        snapshot = host.snapshot(name)
        assert device_size(snapshot) == 80 * MIB
        with mounted(snapshot, tmp_path / "top") as top:
            assert (top / "etc/hostname").read_text() == f"{name} {index} web {{x}}\n"
            key = top / "root/.ssh/authorized_keys"
            assert key.read_bytes() == SECRET
            assert (key.stat().st_mode & 0o7777, key.stat().st_uid) == (0o600, 7)
            assert (top / "etc/machine-id").read_bytes() == b""
            assert list((top / "etc/ssh").iterdir()) == []
            (top / "large").write_bytes(b"x" * (40 * MIB))
        fsck(snapshot)
    assert len({uuid(host.snapshot(name)) for name in ("ci-0", "ci-1", "plain")}) == 3
    assert device_size(host.snapshot("plain")) == 16 * MIB
    assert {role for role, _, _, _ in host.devices().values()} == {"label", "volume", "snapshot"}
    host.settled()

    put_key(host, b"another key")
    assert {(one["name"], one["reason"]) for one in host.plan()["findings"]} >= {("ci-0", "SnapshotOutdated")}


def test_a_mounted_snapshot_grows_online(host: ThinWorkshop, tmp_path: Path) -> None:
    """As a guest does it: the device grows under the mounted file system, then ``resize2fs``."""
    grown(host, "20MiB").converge()
    snapshot = host.snapshot("own")
    with mounted(snapshot, tmp_path / "top") as top:
        (top / "written").write_bytes(b"guest" * MIB)
        grown(host, "80MiB").converge()
        assert device_size(snapshot) == 80 * MIB
        subprocess.run(["resize2fs", snapshot], check=True, capture_output=True)
        (top / "large").write_bytes(b"x" * (40 * MIB))
        assert (top / "written").read_bytes() == b"guest" * MIB
    fsck(snapshot)
    host.take_down()
    host.once().expect(0)
    assert device_size(snapshot) == 80 * MIB
    fsck(snapshot)


def test_killed_at_any_moment_no_snapshot_of_a_thin_pool_is_half_made(tmp_path: Path, zygote: Zygote) -> None:  # noqa: F811
    """Whatever was a draft is gone, and the next run completes the rest."""
    moment = STRIDE
    while True:
        workshop = declared(ThinWorkshop(tmp_path / str(moment), zygote))
        if workshop.start("--once", die_at=moment).wait().code != -signal.SIGKILL:
            break
        workshop.once("-o", "json").expect(0)
        for name in ("ci-0", "ci-1"):
            assert cat(workshop.snapshot(name), "/root/.ssh/authorized_keys") == SECRET
            fsck(workshop.snapshot(name))
        workshop.settled()
        assert {role for role, _, _, _ in workshop.devices().values()} == {"label", "volume", "snapshot"}
        workshop.take_down()
        moment += STRIDE
    workshop.take_down()
    ThinWorkshop.up = None
    assert moment > 3 * STRIDE
