"""A volume never takes the last of the file system that it lies on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import NoSpace
from reconciler.image.free_space import SPARE, Room


def test_a_file_that_cannot_fit_is_refused_before_a_byte_of_it_is_written(tmp_path: Path) -> None:
    """The error says how much there is and how much is asked for; smaller files still fit."""
    with (tmp_path / "volume").open("wb") as volume:
        found = os.statvfs(tmp_path)
        room, everything = Room(volume.fileno()), found.f_blocks * found.f_frsize

        with pytest.raises(NoSpace, match=str(everything)):
            room.take(everything)
        room.take(1)


def test_many_small_files_are_stopped_as_one_large_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system is asked again while a volume grows, so that what others write counts: sixteen MiB later, then two."""
    free = iter([SPARE + (64 << 20), SPARE + (2 << 20), SPARE])
    real = os.statvfs(tmp_path)

    def shrinking(fd: int) -> os.statvfs_result:
        fields = list(real)
        fields[0] = fields[1] = 1
        fields[4] = next(free)
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "fstatvfs", shrinking)
    with (tmp_path / "volume").open("wb") as volume:
        room = Room(volume.fileno())

        for _ in range(18):
            room.take(1 << 20)
        with pytest.raises(NoSpace):
            room.take(1 << 20)


def test_what_has_no_file_has_no_end() -> None:
    """A rehearsal writes nothing, so nothing is too much for it."""
    Room(-1).take(1 << 62)


def test_a_block_device_ends_where_the_pools_reserve_begins() -> None:
    """Others run on snapshots of the same pool: a volume stops before it takes what is theirs."""
    with open("/dev/null", "wb") as device:
        room = Room(device.fileno(), given=3 << 20)
        room.take(2 << 20)

        with pytest.raises(NoSpace, match=str(3 << 20)):
            room.take((1 << 20) + 1)


def test_a_block_device_without_a_bound_has_no_end() -> None:
    with open("/dev/null", "wb") as device:
        Room(device.fileno()).take(1 << 62)
