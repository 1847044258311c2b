"""The disk beside a snapshot of a thin pool: as the kernel and blkid see it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.test_seeds import SECRET, declared, seed
from tests.support.zygote import Zygote

from .rig import thin_check
from .workshop import ThinWorkshop


@pytest.fixture
def host(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    workshop = ThinWorkshop(tmp_path / "host", zygote)
    yield workshop
    workshop.take_down()
    ThinWorkshop.up = None
    thin_check(workshop.metadata_path)


def test_a_guest_finds_and_mounts_the_disk_of_its_snapshot(host: ThinWorkshop, tmp_path: Path) -> None:
    declared(host).converge()
    disk, top = seed(host, "ci-1"), tmp_path / "top"
    top.mkdir()

    said = subprocess.run(["/usr/sbin/blkid", "-p", "-o", "export", disk], capture_output=True, text=True, check=True).stdout
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(said.split())
    subprocess.run(["mount", "-t", "iso9660", "-o", "loop,ro", disk, top], check=True)
    try:
        found = {path.name: path.read_text() for path in top.iterdir()}
    finally:
        subprocess.run(["umount", top], check=True)
    assert found.keys() == {"user-data", "meta-data"}
    assert found["user-data"] == f"#cloud-config\n# ci-1 1 web\n# {SECRET}\n"
    assert found["meta-data"].splitlines()[1] == "local-hostname: ci-1"
    host.settled()

    host.take_down()
    disk.unlink()
    host.once().expect(0)
    assert disk.exists() and host.snapshot("ci-1").is_block_device()
