"""Where ``reconcile build`` writes: a file that is replaced as a whole, a block device in place, or standard output.

Called by ``build_image``. State: while a build runs, a private file beside the output, an exclusive hold on the device, or an
unnamed temporary file. A device has no file system from the moment a build begins until it has succeeded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reconciler import atomic_file
from reconciler.dataclass import dataclass
from reconciler.errors import Guarded, HostCannot, NoSpace, UsageError
from reconciler.image.spec import GIB, MIB
from reconciler.sizes import format_size

STANDARD_OUTPUT = Path("-")
BLOCK = 4096

BLKZEROOUT = 0x127F
SLICE, TAIL = GIB, MIB
"""Bytes that are zeroed with one call, and at a device's end, where some formats keep a second signature."""

LARGE = Path("/var/tmp")  # noqa: S108 - for an unnamed file
"""Where an image for standard output is built, unless TMPDIR names another place."""

Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of ``build`` about its output. ``size`` None: the device's. ``mode`` None: the old file's, else 0600."""

    path: Path
    size: int | None = None
    mode: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """An open volume that reads as zeros. ``path`` is where e2fsck finds it, in a process that inherits ``fd``."""

    fd: int
    path: Path
    size: int
    spool: Path | None = None
    """Where layers of S3 are kept meanwhile; None for the system's temporary directory."""


@contextmanager
def opened(wish: Wish, tick: Tick) -> Iterator[Target]:
    """The output, complete and durable when the context ends without an error. ``tick``: bytes zeroed, of all; may raise.

    Raises UsageError for what can't be an output, Guarded for a device that holds something, HostCannot, NoSpace.
    """
    if wish.path == STANDARD_OUTPUT:
        chosen = _standard_output(wish)
    elif wish.path.is_block_device():
        chosen = _device(wish, wish.path.resolve(), tick)
    else:
        chosen = _file(wish)
    with chosen as target:
        yield target


def _needed(wish: Wish) -> int:
    if wish.size is None:
        raise UsageError("--size is missing", hint="only a block device has a size of its own: give --size, for example 8GiB")
    return wish.size


# ------------------------------------------------------------------------------------------------------ file


@contextmanager
def _file(wish: Wish) -> Iterator[Target]:
    """A private file beside the output that gets its name when the build has succeeded. Other builds of the output fail."""
    output, size = wish.path, _needed(wish)
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(atomic_file.draft(output))
        except OSError as error:
            partial = error.filename == str(atomic_file.private(output)) and isinstance(error, FileExistsError)
            problem = f"{error.filename}, under which it is written, {error.strerror}" if partial else error.strerror
            hint = "name a regular file that no other build writes, in a directory that you may write"
            raise UsageError(f"--output {output}: {problem}", hint="remove it" if partial else hint) from error
        with _reporting(f"--output {output}", output.parent):
            os.ftruncate(draft.fd, size)
            yield Target(draft.fd, draft.path, size, output.parent)
            atomic_file.keep_access(draft.fd, output)
            if wish.mode is not None:
                os.fchmod(draft.fd, wish.mode)
            draft.publish()


@contextmanager
def _reporting(what: str, directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            hint = f"the file system of {directory} has no files of that size; name a block device, or a file elsewhere"
            raise HostCannot(f"{what}: {error.strerror}", hint=hint) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{what}: {error.strerror}", hint=f"free space on {directory}") from error
        raise HostCannot(f"{what}: {error.strerror}", hint=f"check {directory}") from error


# ------------------------------------------------------------------------------------------------------ device


@contextmanager
def _device(wish: Wish, path: Path, tick: Tick) -> Iterator[Target]:
    """A block device, held so that nothing else mounts, maps or writes it; every byte that the image leaves unwritten is zero."""
    if wish.mode is not None:
        raise UsageError("--mode: a device's node keeps its mode", hint="leave --mode out, or name a file")
    from reconciler.pool.thin import backing

    os.close(_held(path))
    if (found := backing.blank(path)) and not wish.force:
        raise Guarded(f"--output {wish.path} holds {found}", hint="give --force to overwrite it")
    fd = _held(path)
    try:
        capacity = os.lseek(fd, 0, os.SEEK_END)
        size = capacity // BLOCK * BLOCK if wish.size is None else wish.size
        if size > capacity:
            hint = "leave --size out to use all of the device"
            raise UsageError(f"--output {wish.path} has {format_size(capacity)}, less than --size {format_size(size)}", hint=hint)
        with _reporting(f"--output {wish.path}", path):
            _zero(fd, size, capacity, tick)
            yield Target(fd, path, size)
            os.fsync(fd)
    finally:
        os.close(fd)


def _held(path: Path) -> int:
    """The device, opened exclusively: that fails where it is mounted, mapped, swapped to, or the output of another build."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(f"--output {path} is in use", hint="unmount it, or remove what is mapped onto it") from error
        raise HostCannot(f"--output {path}: {error.strerror}", hint="check the device and its node's owner and mode") from error
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"--output {path} is not a block device any more")
    return fd


def _zero(fd: int, size: int, capacity: int, tick: Tick) -> None:
    """Zeros as the device makes them or written, never a discard, from the start on: old signatures go first. Durable."""
    places = [*((at, min(SLICE, size - at)) for at in range(0, size, SLICE))]
    if (tail := max(size, capacity - TAIL)) < capacity:
        places.append((tail, (capacity - tail) // 512 * 512))
    for start, length in places:
        tick(start, size)
        if not _deallocated(fd, start, length):
            fcntl.ioctl(fd, BLKZEROOUT, struct.pack("QQ", start, length))
    os.fsync(fd)


def _deallocated(fd: int, start: int, length: int) -> bool:
    """Have the device deallocate a range, where it guarantees that such a range reads as zeros; else False."""
    from reconciler.image.builder import libc  # for devices only

    try:
        libc.punch_hole(fd, start, length)
    except OSError:  # writing zeros reports what is wrong with the device, if anything is
        return False
    return True


# ------------------------------------------------------------------------------------------------------ standard output


@contextmanager
def _standard_output(wish: Wish) -> Iterator[Target]:
    """An unnamed file that is written out when the build has succeeded."""
    size = _needed(wish)
    if wish.mode is not None:
        raise UsageError("--mode: standard output has none", hint="leave --mode out, or name a file")
    if os.isatty(1):
        raise UsageError("standard output is a terminal", hint="redirect it: reconcile build … --output - > image")
    import tempfile  # for standard output only: it loads as much as all the rest

    directory = Path(tempfile.gettempdir()) if "TMPDIR" in os.environ or not os.access(LARGE, os.W_OK) else LARGE
    with _reporting(f"an unnamed file in {directory}", directory), tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        yield Target(file.fileno(), Path(f"/proc/self/fd/{file.fileno()}"), size, directory)
        _pour(file.fileno(), size)


def _pour(fd: int, size: int) -> None:
    sys.stdout.flush()
    at = 0
    try:
        while at < size:
            at += os.sendfile(1, fd, at, min(SLICE, size - at))
    except OSError as error:
        hint = "the reader has ended, or its disk is full"
        raise HostCannot(f"standard output took {at} of {size} bytes: {error.strerror}", hint=hint) from error
