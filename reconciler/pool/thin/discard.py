"""Gives back the space of a thin device before it is deleted: the pool's ``delete`` message alone sends no discards down, and a
loop's file would never shrink.

Called by ``pool.thin``. No state. BLKDISCARD: linux/fs.h.
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
"""Bytes at a time: one huge discard holds up everybody else's I/O."""

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL}


def discard(device: Path) -> None:
    """Discard all of a block device. Raises Busy where somebody has it open exclusively (a mount does)."""
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
