"""Whether mappings are live and suspended, where no device-mapper is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.pool.thin import devices
from reconciler.pool.thin.devices import Listed, sized

PARTITIONS = """\
major minor  #blocks  name

   8        0  488386584 sda
 254        0    1048576 dm-0
 254   100000      16384 dm-100000
"""


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices, "SYSFS", tmp_path / "block")
    monkeypatch.setattr(devices, "PARTITIONS", tmp_path / "partitions")
    return tmp_path


def mapping(sysfs: Path, minor: int, *, size: int | None, suspended: int) -> Listed:
    entry = sysfs / "block" / f"254:{minor}"
    (entry / "dm").mkdir(parents=True)
    (entry / "dm" / "suspended").write_text(f"{suspended}\n")
    if size is not None:
        (entry / "size").write_text(f"{size}\n")
    return Listed(f"p-{minor}", 254, minor)


def test_a_device_that_has_a_size_is_known_by_one_read_for_all(sysfs: Path) -> None:
    (sysfs / "partitions").write_text(PARTITIONS)

    assert sized() == {(8, 0), (254, 0), (254, 100_000)}
    assert mapping(sysfs, 0, size=None, suspended=0).state(sized()) == (True, False)
    assert mapping(sysfs, 100_000, size=None, suspended=1).state(sized()) == (True, True)


def test_a_device_that_is_missing_there_is_looked_at_and_not_taken_for_inactive(sysfs: Path) -> None:
    (sysfs / "partitions").write_text(PARTITIONS)

    assert mapping(sysfs, 1, size=32768, suspended=0).state(sized()) == (True, False)
    assert mapping(sysfs, 2, size=0, suspended=0).state(sized()) == (False, False)
    assert Listed("p-3", 254, 3).state(sized()) is None


@pytest.mark.parametrize("content", [None, b"", b"\xff\n", b"major minor  #blocks  name\n\n  x 1 2 sda\n"])
def test_where_that_read_gives_nothing_each_device_is_looked_at(sysfs: Path, content: bytes | None) -> None:
    if content is not None:
        (sysfs / "partitions").write_bytes(content)

    assert not sized()
    assert mapping(sysfs, 0, size=32768, suspended=0).state(sized()) == (True, False)
