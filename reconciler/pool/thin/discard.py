"""Discards the blocks of a thin device before it is deleted: the pool's ``delete`` message sends no discards down, and a loop's
file would never shrink.

Called by ``pool.thin.pool``. No state. BLKDISCARD: linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from reconciler.errors import Busy

BLKDISCARD = 0x1277
PIECE = 1 << 30
"""Bytes per discard: one huge discard delays all other I/O."""

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}


def discard(device: Path) -> None:
    """Discard all of a block device. Raises Busy if it is open exclusively (a mount does that)."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Busy(f"{device} is in use") from error
        raise
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        for start in range(0, size, PIECE):
            fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", start, min(PIECE, size - start)))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(fd)
