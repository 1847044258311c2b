"""Layers that need no transfer: files of this host, and what comes through a descriptor.

Used by ``spool`` and ``cli.inspect_layer``. State: a descriptor each.
"""

from __future__ import annotations

import os
import select
import stat

from reconciler.errors import DigestMismatch, NeedsOperator, PolicyRefused, SourceChanged, SourceForbidden, SourceNotFound
from reconciler.image.source.reading import HEARTBEAT, Check, Origin
from reconciler.image.source.stamp import Head, Stamp, stamp
from reconciler.image.spec import Layer
from reconciler.policy import force


class LocalFile(Origin):
    """A file of this host, or a part of it, which has to stay as it is while it is read.

    A write that leaves its times alone may be read: what is hashed is what the reader gets.

    Raises PolicyRefused, SourceNotFound, SourceForbidden, and SourceChanged where it differs from ``head``.
    """

    def __init__(self, layer: Layer, head: Head | None = None) -> None:
        self._layer = layer
        self._path = layer.source.whole
        force.require_file(self._path)
        self._before = stamp(self._path)
        if head not in (None, self._before.head):
            message = f"{self._path} was {head}, and is {self._before.head} now"
            raise SourceChanged(message, hint="the next try takes it as it is")
        self._at, self.size = layer.source.part or (0, self._before.size)
        self._end = self._at + self.size
        self.etag = self._before.head.etag
        self._fd = opened(self._path)

    def readinto(self, buffer: memoryview, check: Check) -> int:
        left = self._end - self._at
        if not left:
            return 0
        try:
            got = os.preadv(self._fd, [buffer[:left]], self._at)
        except OSError as error:
            raise NeedsOperator(f"{self._path} can't be read: {error.strerror}", hint="check its disk") from error
        if not got:
            raise SourceChanged(
                f"{self._path} was cut short to {self._at} bytes while it was read", hint="the next try takes it as it is"
            )
        self._at += got
        return got

    def verify(self, digest: str) -> None:
        self.recheck()
        layer, wanted = self._layer, self._layer.sha256
        if wanted in (None, digest):
            return
        if layer.learnt:
            message = f"{self._path} has sha256 {digest}, and had {wanted} when it was read before"
            raise DigestMismatch(message, hint="the next attempt takes it as it is")
        hint = "correct the manifest's sha256, or put the right file back"
        raise DigestMismatch(f"{self._path} has sha256 {digest}, not the declared {wanted}", hint=hint)

    def recheck(self) -> None:
        if stamp(self._path) != self._before or Stamp.of(os.fstat(self._fd)) != self._before:
            raise SourceChanged(f"{self._path} has changed while it was read", hint="the next try takes it as it is")

    def close(self) -> None:
        os.close(self._fd)


def opened(path: str) -> int:
    """Open a regular file that the policy permits. Raises SourceForbidden, SourceNotFound, NeedsOperator, PolicyRefused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise SourceForbidden(f"{path} may not be read", hint="check its owner and mode") from error
    except OSError as error:
        raise NeedsOperator(f"{path} can't be opened: {error.strerror}", hint="check its disk") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # another file since it was examined
        os.close(fd)
        raise SourceNotFound(f"{path} is not a regular file", hint="the source of a layer is one tar file")
    try:
        force.require_opened(path, fd)
    except PolicyRefused:
        os.close(fd)
        raise
    return fd


class Descriptor(Origin):
    """Standard input."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ready = select.poll()
        self._ready.register(fd, select.POLLIN)

    def readinto(self, buffer: memoryview, check: Check) -> int:
        while not self._ready.poll(HEARTBEAT * 1000):
            check()
        return os.readv(self._fd, [buffer])
