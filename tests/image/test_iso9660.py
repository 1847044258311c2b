"""The disk for cloud-init, as independent readers see it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.image.iso9660 import SECTOR, image

FILES = {
    "user-data": b"#cloud-config\nhostname: web\n",
    "meta-data": b"x" * (1 << 20),
    "network-config": b"",
    "sector": b"y" * SECTOR,
}


def test_the_same_files_give_the_same_bytes() -> None:
    assert image("cidata", FILES) == image("cidata", dict(reversed(FILES.items())))


def test_blkid_knows_its_type_and_label(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(image("cidata", FILES))

    blkid = shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin")
    assert blkid
    found = subprocess.run([blkid, "-p", "-o", "export", disk], capture_output=True, text=True, check=True).stdout.split()
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(found)


@pytest.mark.skipif(not shutil.which("bsdtar"), reason="needs bsdtar (libarchive-tools)")
def test_libarchive_reads_every_file_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(image("cidata", FILES))
    (tmp_path / "out").mkdir()

    subprocess.run(["bsdtar", "-xpf", tmp_path / "disk", "-C", tmp_path / "out"], check=True)

    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == FILES
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o444}
    assert {path.stat().st_mtime for path in (tmp_path / "out").iterdir()} == {0}
