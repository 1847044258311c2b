"""Layers that need no transfer: files of this host, and whole layers in the spool. Read where they lie, and hashed meanwhile.

Called by ``spool``. State: an ``Arrival`` each, in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Event

from reconciler.errors import DigestMismatch, SourceChanged, SourceForbidden
from reconciler.image.source.arrival import Arrival
from reconciler.image.source.stamp import Head, Stamp, stamp
from reconciler.image.spec import Layer


def check_whole(path: Path, head: Head | None, stop: Event) -> Arrival:
    """Hand out a spooled layer, whose name is its digest. Ends in SourceChanged, and removes it, where it was damaged."""
    size = stamp(str(path)).size
    arrival = Arrival(path, stop)

    def verified() -> str:
        if (digest := _hashed(arrival, size)) != path.name:
            path.unlink(missing_ok=True)
            raise SourceChanged(f"the spooled layer {path} was damaged", hint="it is removed, and the next try fetches it again")
        return digest

    return _begin(arrival, Head(head.etag if head else "", size), verified)


def read_file(layer: Layer, head: Head | None, stop: Event) -> Arrival:
    """Hand out a file. Ends in SourceChanged where it doesn't stay as it is until the last reader asks for the result.

    Raises SourceNotFound, SourceForbidden, and SourceChanged where it differs from ``head``.
    """
    path = layer.source.url
    before = stamp(path)
    if not os.access(path, os.R_OK):
        raise SourceForbidden(f"{path} may not be read", hint="check its owner and mode")
    if head not in (None, before.head):
        raise SourceChanged(f"{path} was {head}, and is {before.head} now", hint="the next try takes it as it is")
    arrival = Arrival(Path(path), stop, recheck=lambda: _require_same(path, before))

    def verified() -> str:
        digest = _hashed(arrival, before.size)
        _require_same(path, before)
        if layer.sha256 not in (None, digest):
            if layer.learnt:
                message = f"{path} has sha256 {digest}, and had {layer.sha256} when it was read before"
                raise DigestMismatch(message, hint="the next attempt takes it as it is")
            hint = "correct the manifest's sha256, or put the right file back"
            raise DigestMismatch(f"{path} has sha256 {digest}, not the declared {layer.sha256}", hint=hint)
        return digest

    return _begin(arrival, before.head, verified)


def _begin(arrival: Arrival, head: Head, verified: Callable[[], str]) -> Arrival:
    arrival.describe(head.etag, head.size)
    arrival.advance(head.size)
    arrival.start(verified)
    return arrival


def _hashed(arrival: Arrival, size: int) -> str:
    sha = sha256()
    descriptor = arrival.open()
    try:
        arrival.digest(descriptor, 0, size, sha)
    finally:
        os.close(descriptor)
    return sha.hexdigest()


def _require_same(path: str, before: Stamp) -> None:
    if stamp(path) != before:
        raise SourceChanged(f"{path} has changed while it was read", hint="the next try takes it as it is")
