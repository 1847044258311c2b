"""What this process may do with a pool's directories, found out without writing where that is possible.

Called by ``pool.file.pool``. Keeps no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from reconciler.pool.driver import Trouble
from reconciler.pool.file.clone import shares_blocks
from reconciler.pool.file.directory import nearest_directory
from reconciler.pool.file.failures import FULL, UNWRITABLE
from reconciler.pool.holders import unescaped

_SHARING = {"btrfs", "xfs", "bcachefs"}


def read_only(pool: str, directories: Iterable[Path]) -> Trouble | None:
    """The fault of a pool in which nothing can be written. Nothing is written to find out."""
    for directory in dict.fromkeys(nearest_directory(one) for one in directories):
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            mounted = os.statvfs(directory).f_flag & os.ST_RDONLY
            why = "its file system is mounted read-only" if mounted else f"user {os.geteuid()} may not write to it"
            what = f"pool {pool} can be read, but not changed: {directory}: {why}"
            return Trouble("PoolReadOnly", f"{what}: remount it read-write, or run as the owner of the directory")
    return None


def sharing(directory: Path) -> tuple[bool, bool]:
    """Whether files in the directory can share blocks, and whether that was tested. Raises OSError.

    Where nothing can be written, the answer follows from the type of the file system.
    """
    try:
        return shares_blocks(directory), True
    except OSError as error:
        if error.errno not in UNWRITABLE | FULL:
            raise
        return _filesystem_type(directory) in _SHARING, False


def _filesystem_type(directory: Path) -> str:
    """Of the mount with the longest path that contains the directory (proc_pid_mountinfo(5))."""
    resolved, found = directory.resolve(), (0, "")
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        mount, _, source = line.partition(" - ")
        point = unescaped(mount.split(" ")[4])
        if resolved.is_relative_to(point) and len(point) >= found[0]:
            found = len(point), source.split(" ")[0]
    return found[1]
