"""The conversation between the parent (``build``) and its builder process (``builder``): one JSON object a packet.

A ``SOCK_SEQPACKET`` pair keeps packets whole and carries descriptors (SCM_RIGHTS), so that the child is handed each layer when
its download begins and needs no path. Either side's death shows as the end of the other's stream. Keeps no state but the socket.

Parent to child:   request {size, layers, replay, limits, survey, …} + descriptors; for each layer: layer {name} + descriptor,
                   length {length} whenever more has arrived, end {}; at last commit {uuid}
Child to parent:   progress {layer, read, entries}, seen {totals} where asked for, applied {totals} for each layer, accepted {},
                   written {summary}, failed {error, message, hint, …}
Other questions:   probe {} is answered by confined {measures}, check {} + an index's descriptor by checked {} or failed {…}
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PACKET = 64 * 1024
"""Largest packet in bytes; well under the kernel's default socket buffer."""


@dataclass(frozen=True, slots=True)
class Packet:
    """``kind`` and its fields; ``fds`` were received with it and belong to the receiver."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    fds: tuple[int, ...] = ()


class Channel:
    """One end of the conversation. Not thread-safe for the same direction."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def inherited(cls, fd: int) -> Channel:
        """The end that a parent left open as ``fd``."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, kind: str, fds: Sequence[int] = (), **body: Any) -> None:
        """Raises BrokenPipeError or ConnectionResetError where the other side is gone."""
        data = json.dumps([kind, body], separators=(",", ":")).encode()
        if len(data) > PACKET:
            raise ValueError(f"a packet of {len(data)} bytes would be cut")
        socket.send_fds(self._sock, [data], fds)

    def receive(self) -> Packet | None:
        """The next packet, or None where the other side has closed and all its packets have been read."""
        try:
            data, fds = self._next()
        except ConnectionResetError:
            data, fds = self._next()  # the reset comes once, before the last packets: the other side left some of ours unread
        if not data:
            return None
        kind, body = json.loads(data)
        return Packet(kind, body, tuple(fds))

    def _next(self) -> tuple[bytes, list[int]]:
        data, fds, _, _ = socket.recv_fds(self._sock, PACKET, 4)
        return data, fds

    def close(self) -> None:
        self._sock.close()

    def hang_up(self) -> None:
        """End the conversation in both directions, also for a thread that is waiting in ``receive``."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
