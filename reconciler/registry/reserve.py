"""The emergency reserve: a file of the state directory whose space the registry gets when the file system is full.

Without it a full file system would refuse the transactions by which ``--prune`` frees space. Called by ``host.context`` for
the holder of the lock, and by ``service``. State: the file, whose blocks are allocated and whose content has no meaning.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

BYTES = 4 << 20
"""More than a write-ahead log has between two checkpoints."""

ROOM = 6 * BYTES
"""The reserve is created only where so much is free."""


def settle(path: Path) -> None:
    """Create the reserve where there is room, remove it where the file system is full. Never fails."""
    with suppress(OSError):
        found = os.statvfs(path.parent)
        free = found.f_bavail * found.f_frsize
        if free < BYTES:
            path.unlink(missing_ok=True)
        elif free >= ROOM and not path.exists():
            _create(path)


def _create(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, BYTES)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
