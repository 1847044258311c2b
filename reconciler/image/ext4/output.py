"""Bytes on their way to the volume: many small writes become few large ones, written while the next are gathered.

Owned by ``writer``. Two page-aligned buffers and one thread: ``pwritev`` releases the interpreter's lock, so the layer is read
while its blocks are written. Whole blocks of large pieces are written from where they lie, what is small from a buffer. Direct
I/O where the volume takes it: no copy through the page cache (which costs several times the CPU of the write itself, and leaves
pages of a volume that is not read soon), and nothing left for ``fsync``.
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

BUFFER = 2 << 20
LARGE = 64 << 10
"""Bytes from which on a piece is written from where it lies: a view of a few bytes would keep a chunk of 1 MiB alive."""

WINDOW = 256 << 10
ZEROS = bytes(2 * BLOCK)
ZERO_BLOCK = bytes(BLOCK)
O_DIRECT = getattr(os, "O_DIRECT", 0)
FULL = (errno.ENOSPC, errno.EDQUOT)

Data = bytes | bytearray | memoryview
Job = tuple[
    mmap.mmap, list[memoryview], int
]  # a buffer, what is to be written (of it and of others), the volume's byte it goes to


class Output(Protocol):
    """Where a writer's bytes go."""

    def write(self, offset: int, data: Data) -> None: ...
    def update(self, offset: int, data: Data) -> None: ...
    def let_go(self) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Discard:
    """Takes everything and keeps nothing."""

    def write(self, offset: int, data: Data) -> None:
        pass

    def update(self, offset: int, data: Data) -> None:
        pass

    def let_go(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class VolumeOutput:
    """Gathers writes that follow each other within blocks or from one block to the next; the bytes in between become zeros.

    What lies behind the volume's ``size`` is dropped: a writer allocates on beyond it, to report how much would have been needed.
    A volume that is not ``blank`` is a copy of a parent, whose blocks stay shared where an update leaves them as they are.
    Raises NoSpace where the host runs out of space, DeviceFailed where the device fails, at a later call than the one to blame.
    """

    def __init__(self, fd: int, size: int, *, blank: bool) -> None:
        self._size = size
        target = _Target(fd)
        self._window = None if blank else _Window(target)
        self._drain = _Drain(target)
        self._target = target
        self._start = self._fill = self._copied = self._used = 0
        self._take_buffer()

    def write(self, offset: int, data: Data) -> None:
        """Put ``data`` at the byte ``offset`` of the volume. It must not change any more: what is large is not copied."""
        if offset >= self._size:
            return
        if offset != self._start + self._fill:
            self._move(offset)
        self._gather(memoryview(data))

    def update(self, offset: int, data: Data) -> None:
        """Write those of the blocks, from the byte ``offset`` on, that the volume doesn't hold already. Once for each block."""
        view = memoryview(data)
        start = 0
        for at in range(0, len(view), BLOCK):
            if self._holds(offset + at, view[at : at + BLOCK]):
                if start < at:
                    self.write(offset + start, view[start:at])
                start = at + BLOCK
        if start < len(view):
            self.write(offset + start, view[start:])

    def _holds(self, offset: int, block: memoryview) -> bool:
        return block == ZERO_BLOCK if self._window is None else self._window.block(offset) == block

    def _gather(self, data: memoryview) -> None:
        while data:
            piece = data[: BUFFER - self._fill]
            whole = len(piece) & -BLOCK
            if whole >= LARGE and not self._fill % BLOCK and self._target.takes_views:
                self._end_copied()
                piece = piece[:whole]
                self._pieces.append(piece)
            else:
                at = self._used
                self._used = at + len(piece)
                self._view[at : self._used] = piece
            self._fill += len(piece)
            data = data[len(piece) :]
            if self._fill == BUFFER:
                self._flush()

    def _end_copied(self) -> None:
        """What has been copied since the last view is one piece."""
        if self._used > self._copied:
            self._pieces.append(self._view[self._copied : self._used])
            self._copied = self._used

    def _move(self, offset: int) -> None:
        end = self._start + self._fill
        if not (end < offset and offset // BLOCK <= -(-end // BLOCK)):
            self._flush()
            self._start = end = offset - offset % BLOCK
        self._gather(memoryview(ZEROS)[: offset - end])

    def _flush(self) -> None:
        if not self._fill:
            return
        padding = -self._fill % BLOCK
        self._view[self._used : self._used + padding] = ZEROS[:padding]
        self._used += padding
        self._end_copied()
        self._drain.put((self._buffer, self._pieces, self._start))
        self._start, self._fill = self._start + self._fill + padding, 0
        self._take_buffer()

    def _take_buffer(self) -> None:
        self._buffer = self._drain.get()
        self._view = memoryview(self._buffer)
        self._pieces: list[memoryview] = []
        self._copied = self._used = 0

    def let_go(self) -> None:
        """Return when no view of what was written is left."""
        self._end_copied()
        gathered = b"".join(self._pieces)
        self._view[: len(gathered)] = gathered
        self._pieces, self._copied, self._used = [], 0, len(gathered)
        self._drain.settle()

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

    def settle(self) -> None:
        """Wait until the one other buffer has come back: then nothing is under way."""
        self._free.put(self._free.get())
        self._check()

    def sync(self) -> None:
        self.settle()
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
            buffer, pieces, offset = job
            try:
                if not self._errors:
                    self._target.write(pieces, offset)
            except OSError as error:
                self._errors.append(error)
            finally:
                del job, pieces  # chunks of the layer that nothing else holds
                self._free.put(buffer)


class _Window:
    """What the volume held before: a piece of it, which moves with the blocks that are asked for."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._buffer = mmap.mmap(-1, WINDOW)
        self._view = memoryview(self._buffer)
        self._start = self._stop = 0

    def block(self, offset: int) -> memoryview:
        """The block at the byte ``offset``, or what there is of it."""
        if not self._start <= offset < self._stop:
            self._start = offset
            self._stop = offset + self._target.read(self._view, offset)
        return self._view[offset - self._start : min(offset + BLOCK, self._stop) - self._start]


class _Target:
    """The volume's descriptor, with direct I/O switched on where it can be."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._direct = self._try_direct()
        self.takes_views = True
        """Whether memory that is not aligned can be written from: direct I/O of most file systems can't."""

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

    def write(self, pieces: list[memoryview], offset: int) -> None:
        begin, end = offset, offset + sum(map(len, pieces))
        while offset < end:
            try:
                written = os.pwritev(self._fd, pieces, offset)
                offset, pieces = offset + written, _behind(pieces, written)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                pieces = self._yield(pieces)
        if not self._direct:
            _start_writeback(self._fd, begin, end - begin)

    def _yield(self, pieces: list[memoryview]) -> list[memoryview]:
        """A direct write was refused: what to try next. Some file systems want aligned memory, some accept the flag alone."""
        if not self.takes_views:
            self.restore()
            self.takes_views = True
            return pieces
        self.takes_views = False
        aligned = mmap.mmap(-1, sum(map(len, pieces)))
        aligned.write(b"".join(pieces))
        return [memoryview(aligned)]

    def read(self, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [into], offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise _explained(error) from error
        self.restore()
        return self.read(into, offset)

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _explained(error) from error


def _behind(pieces: list[memoryview], written: int) -> list[memoryview]:
    """What is left of them behind so many bytes."""
    for at, piece in enumerate(pieces):
        if written < len(piece):
            return [piece[written:], *pieces[at + 1 :]]
        written -= len(piece)
    return []


def _start_writeback(fd: int, offset: int, length: int) -> None:
    """The pages are not needed again: the kernel begins to write them now, so that the last fsync has little left to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _explained(error: OSError) -> Exception:
    if error.errno in FULL:
        return NoSpace(f"no space left for the volume: {error.strerror}", hint=NoSpace.HINT)
    return DeviceFailed(f"the volume can't be written: {error.strerror}", hint=DeviceFailed.HINT)
