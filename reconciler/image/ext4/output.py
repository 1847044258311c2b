"""Bytes on their way to the volume: many small writes become few large ones, written while the next are gathered.

Owned by ``writer``. Two page-aligned buffers and one thread: ``pwrite`` releases the interpreter's lock, so the layer is read
while its blocks are written. Direct I/O where the volume takes it: no copy through the page cache (which costs several times
the CPU of the write itself, and leaves pages of a volume that is not read soon), and nothing left for ``fsync``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from queue import SimpleQueue
from typing import Protocol

from reconciler.errors import DeviceFailed, NoSpace
from reconciler.image.ext4.layout import BLOCK

BUFFER = 4 << 20
ZEROS = bytes(2 * BLOCK)
O_DIRECT = getattr(os, "O_DIRECT", 0)
FULL = (errno.ENOSPC, errno.EDQUOT)

Job = tuple[mmap.mmap, int, int]  # a buffer, the volume's byte it goes to, its filled length


class Output(Protocol):
    """Where a writer's bytes go."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...
    def written(self) -> list[range]: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Discard:
    """Takes everything and keeps nothing."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        pass

    def written(self) -> list[range]:
        return []

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class VolumeOutput:
    """Gathers writes that follow each other within blocks or from one block to the next; the bytes in between become zeros.

    What lies behind the volume's ``size`` is dropped: a writer allocates on beyond it, to report how much would have been needed.
    Raises NoSpace where the host runs out of space, DeviceFailed where the device fails, at a later call than the one to blame.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._runs: list[range] = []
        self._size = size
        self._drain = _Drain(_Target(fd))
        self._start = self._fill = 0
        self._take_buffer()

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at the byte ``offset`` of the volume; it is copied before this returns."""
        if offset >= self._size:
            return
        if offset != self._start + self._fill:
            self._move(offset)
        self._gather(memoryview(data))

    def _gather(self, data: memoryview) -> None:
        while data:
            piece = data[: BUFFER - self._fill]
            self._view[self._fill : self._fill + len(piece)] = piece
            self._fill += len(piece)
            data = data[len(piece) :]
            if self._fill == BUFFER:
                self._flush()

    def _move(self, offset: int) -> None:
        end = self._start + self._fill
        if not (end < offset and offset // BLOCK <= -(-end // BLOCK)):
            self._flush()
            self._start = end = offset - offset % BLOCK
        self._gather(memoryview(ZEROS)[: offset - end])

    def _flush(self) -> None:
        if not self._fill:
            return
        padded = -(-self._fill // BLOCK) * BLOCK
        self._view[self._fill : padded] = ZEROS[: padded - self._fill]
        self._record(range(self._start // BLOCK, (self._start + padded) // BLOCK))
        self._drain.put((self._buffer, self._start, padded))
        self._start, self._fill = self._start + padded, 0
        self._take_buffer()

    def _take_buffer(self) -> None:
        self._buffer = self._drain.get()
        self._view = memoryview(self._buffer)

    def _record(self, run: range) -> None:
        if self._runs and self._runs[-1].stop == run.start:
            run = range(self._runs.pop().start, run.stop)
        self._runs.append(run)

    def written(self) -> list[range]:
        """The blocks of every write so far, in their order."""
        self._flush()
        return self._runs

    def sync(self) -> None:
        """Return when everything written so far is on stable storage."""
        self._flush()
        self._drain.sync()

    def close(self) -> None:
        """Stop the thread; what has not been synced is lost."""
        self._drain.close()


class _Drain:
    """The thread that writes full buffers in the order in which they come, and the buffers that it has done with."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._full: SimpleQueue[Job | None] = SimpleQueue()
        self._errors: list[OSError] = []
        self._out = 0
        for _ in range(2):
            self._free.put(mmap.mmap(-1, BUFFER))
        # a daemon: a builder that fails must end without waiting for a device that hangs
        self._thread = threading.Thread(target=self._run, name="volume writer", daemon=True)
        self._thread.start()

    def get(self) -> mmap.mmap:
        buffer = self._free.get()
        self._check()
        return buffer

    def put(self, job: Job) -> None:
        self._full.put(job)

    def sync(self) -> None:
        """Wait until the one other buffer has come back: then nothing is under way."""
        self._free.put(self._free.get())
        self._check()
        self._target.sync()

    def close(self) -> None:
        if self._thread.is_alive():
            self._full.put(None)
            self._thread.join()
            self._target.restore()

    def _check(self) -> None:
        if self._errors:
            raise _explained(self._errors[0])

    def _run(self) -> None:
        while (job := self._full.get()) is not None:
            buffer, offset, length = job
            try:
                if not self._errors:
                    self._target.write(memoryview(buffer)[:length], offset)
            except OSError as error:
                self._errors.append(error)
            finally:
                self._free.put(buffer)


class _Target:
    """The volume's descriptor, with direct I/O switched on where it can be."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._direct = self._try_direct()

    def _try_direct(self) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags | O_DIRECT)
        except OSError:
            return False
        return bool(O_DIRECT)

    def restore(self) -> None:
        """Leave the descriptor as it was handed in: it may be shared with the process that started this one."""
        fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags)
        self._direct = False

    def write(self, data: memoryview, offset: int) -> None:
        begin, end = offset, offset + len(data)
        while offset < end:
            try:
                offset += os.pwrite(self._fd, data[offset - begin :], offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self.restore()  # some file systems accept the flag and refuse the write
        if not self._direct:
            _start_writeback(self._fd, begin, end - begin)

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _explained(error) from error


def _start_writeback(fd: int, offset: int, length: int) -> None:
    """The pages are not needed again: the kernel begins to write them now, so that the last fsync has little left to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _explained(error: OSError) -> Exception:
    if error.errno in FULL:
        return NoSpace(f"no space left for the volume: {error.strerror}", hint="free some space, or move the pool")
    return DeviceFailed(f"the volume can't be written: {error.strerror}", hint=DeviceFailed.HINT)
