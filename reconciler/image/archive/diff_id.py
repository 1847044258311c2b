"""The sum of a layer's decompressed tar, which an image's configuration names as ``diff_id``.

Wraps a ``codec.Stream`` inside the builder process, where a sum is declared. Where there is a second processor a thread of its
own hashes: it releases the interpreter's lock meanwhile. State: a hash, and a few chunks on their way to the thread.
"""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from queue import Queue

from reconciler.errors import DigestMismatch
from reconciler.image.archive.blocks import Chunks

AHEAD = 8
"""Chunks that wait for the thread at most."""


class Summed:
    """A stream of chunks; each is hashed. ``check`` is called once, at its end."""

    def __init__(self, stream: Chunks, *, threaded: bool | None = None) -> None:
        self._stream = stream
        self._sum = sha256()
        self._waiting: Queue[bytes | memoryview] | None = None
        if len(os.sched_getaffinity(0)) > 1 if threaded is None else threaded:
            self._waiting = Queue(AHEAD)
            # a daemon: a builder that fails ends without waiting for it
            self._thread = threading.Thread(target=self._run, args=(self._waiting,), name="diff id", daemon=True)
            self._thread.start()

    def read(self) -> bytes | memoryview:
        """The next chunk; an empty one only at the end."""
        chunk = self._stream.read()
        if self._waiting is not None:
            self._waiting.put(chunk)
        else:
            self._sum.update(chunk)
        return chunk

    def _run(self, waiting: Queue[bytes | memoryview]) -> None:
        while chunk := waiting.get():
            self._sum.update(chunk)

    def check(self, wanted: str) -> None:
        """Compare with the hex digits of the declared sum. Raises DigestMismatch."""
        if self._waiting is not None:
            self._waiting.put(b"")
            self._thread.join()
        found = self._sum.hexdigest()
        if found != wanted:
            raise DigestMismatch(
                f"it unpacks to sha256 {found}, not to {wanted}, which the image's configuration names (diff_id)",
                hint="the image is damaged or was changed: build and push it again",
            )
