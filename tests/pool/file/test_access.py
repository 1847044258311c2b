"""Whether a pool's directories can be written, and share blocks, found out without writing where that is possible."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reconciler.pool.file import access
from reconciler.pool.file.access import read_only, sharing
from reconciler.pool.file.clone import shares_blocks


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_the_type_of_the_file_system_answers_where_nothing_can_be_written(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(access, "shares_blocks", refuse)
    assert sharing(Path("/proc")) == (False, False)
    for kind, shares in (("xfs", True), ("btrfs", True), ("ext4", False)):
        monkeypatch.setattr(access, "_filesystem_type", lambda directory, kind=kind: kind)
        assert sharing(tmp_path) == (shares, False)


def test_another_error_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(access, "shares_blocks", fail)
    with pytest.raises(OSError, match="Input/output error"):
        sharing(tmp_path)


def test_a_test_in_a_writable_directory_is_the_answer(tmp_path: Path) -> None:
    assert sharing(tmp_path) == (shares_blocks(tmp_path), True)


def test_the_type_is_that_of_the_innermost_mount() -> None:
    assert access._filesystem_type(Path("/proc/self")) == "proc"


def test_a_writable_pool_has_no_fault_and_leaves_no_trace(tmp_path: Path) -> None:
    assert read_only("default", [tmp_path / "pool" / "volumes", tmp_path]) is None
    assert list(tmp_path.iterdir()) == []
