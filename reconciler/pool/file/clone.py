"""Copies of files: reflinks if the file system can share blocks, else sparse copies.

Called by ``pool.file.pool``. Keeps no state. Linux only: FICLONE is from linux/fs.h, SEEK_DATA and copy_file_range(2) from
their manual pages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from reconciler.pool.driver import Heartbeat, no_heartbeat

FICLONE = 0x40049409
CHUNK = 8 << 20
SYNC_BYTES = 256 << 20

_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
_CANNOT_OFFLOAD = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
_NO_NAMELESS_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


def shares_blocks(directory: Path) -> bool:
    """Whether files in this directory can share blocks. Tests it with two unnamed files.

    A file system without unnamed files (O_TMPFILE) counts as one that can't. Raises OSError if nothing may be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            source, target = (_nameless(directory, stack) for _ in range(2))
        except OSError as error:
            if error.errno in _NO_NAMELESS_FILES:
                return False
            raise
        os.pwrite(source, bytes(4096), 0)
        return reflink(source, target)


def _nameless(directory: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def reflink(source: int, target: int) -> bool:
    """Make ``target`` share all blocks of ``source``; False (and nothing done) where the file system can't."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of what is not a hole, ascending."""
    end = os.fstat(fd).st_size
    at = 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at - start


def data_bytes(fd: int) -> int:
    """Bytes that a sparse copy of the file takes."""
    return sum(length for _, length in extents(fd))


def sparse_copy(source: int, target: int, heartbeat: Heartbeat = no_heartbeat) -> None:
    """Copy the data and leave the holes; ``target`` is empty. Raises OSError (ENOSPC among others), and what heartbeat raises.

    The heartbeat is called after each piece. The data is written back from time to time, so that the caller's fsync is short.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    unsynced = 0
    for offset, length in extents(source):
        end = offset + length
        while offset < end:
            copied = _copy_piece(source, target, offset, min(end - offset, CHUNK))
            offset += copied
            unsynced += copied
            heartbeat()
            if unsynced >= SYNC_BYTES:
                os.fdatasync(target)
                unsynced = 0


def _copy_piece(source: int, target: int, offset: int, length: int) -> int:
    return _offload(source, target, offset, length) or _by_hand(source, target, offset, length)


def _offload(source: int, target: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError as error:
        if error.errno in _CANNOT_OFFLOAD:
            return 0
        raise


def _by_hand(source: int, target: int, offset: int, length: int) -> int:
    chunk = os.pread(source, min(length, CHUNK), offset)
    if not chunk:
        raise OSError(errno.EIO, "the file became shorter while it was copied")
    return os.pwrite(target, chunk, offset)
