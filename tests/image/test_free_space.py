"""A volume never takes the last of the file system that it lies on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import NoSpace
from reconciler.image.free_space import KEPT, SPARE, Promises, Room


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


def test_downloads_share_what_a_file_system_has(tmp_path: Path) -> None:
    """Each would fit alone. What one of them has on disk is no longer promised, and the promise ends with it."""
    found, promises = os.statvfs(tmp_path), Promises()
    free = found.f_bavail * found.f_frsize - min(KEPT, found.f_blocks * found.f_frsize // 20)
    share = free * 6 // 10
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two:
        with promises.made(one.fileno(), share, "s3://b/one", tmp_path):
            with (
                pytest.raises(NoSpace, match=f"{share} are promised to other downloads"),
                promises.made(two.fileno(), share, "s3://b/two", tmp_path),
            ):
                pass
            with promises.made(two.fileno(), free // 10, "s3://b/two", tmp_path):
                pass
        with promises.made(two.fileno(), share, "s3://b/two", tmp_path):
            pass


def test_what_a_download_has_on_disk_is_no_longer_promised(tmp_path: Path) -> None:
    found, promises = os.statvfs(tmp_path), Promises()
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two:
        one.write(bytes(1 << 20))
        one.flush()
        os.fsync(one.fileno())
        with (
            promises.made(one.fileno(), 1 << 20, "s3://b/one", tmp_path),
            pytest.raises(NoSpace, match=r"must stay free \("),
            promises.made(two.fileno(), found.f_blocks * found.f_frsize, "s3://b/two", tmp_path),
        ):
            pass
