"""The conversation between the parent (``parent``) and its builder process (``child``): one JSON object a packet.

A ``SOCK_SEQPACKET`` pair keeps packets whole. Either side's death shows as the end of the other's stream. Descriptors go to the
child only, with its request. Keeps no state but the socket.

Parent to child:   request {size, bytes_per_inode, layers, replay, limits, survey, …} + descriptors; for each layer:
                   layer {name, diff_id}, length {length} whenever more of it lies in the ``ring``, end {};
                   at last commit {uuid, label}
Child to parent:   confined {measures}, progress {layer, read, held, entries}, seen {totals} where asked for, applied {totals} for
                   each layer, accepted {}, written {summary}, failed {error, message, hint, …}
Edits:             editor {size} is answered by confined {measures}; then each edit {} + descriptors by edited {} or failed {…}
Other questions:   probe {} is answered by confined {measures}, check {} + an index's descriptor by checked {} or failed {…}
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler import errors
from reconciler.dataclass import dataclass, field

NAME = "reconcile-build"
"""What ``ps`` shows for a builder."""

PACKET = 64 * 1024
"""Largest packet in bytes; well under the kernel's default socket buffer."""

DEPTH = 6
"""Most mappings and lists within each other in an answer."""

MESSAGE_LENGTH = 1000
"""What is kept of a message of the child's."""

MAX_WORD = 4096
MAX_NUMBER = 2**64

_SENTENCE = re.compile(r"(?!.*(?:\bsudo\b|\b(?:ba|da|z)?sh\b|\bcurl\b|\bwget\b))[A-Za-z0-9 .,:;()'`=+-]{0,160}")

ANSWERS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "confined": {"measures": (dict,)},
    "progress": {"layer": (int,), "read": (int,), "held": (int,), "entries": (int,)},
    "seen": {"totals": (dict,)},
    "applied": {"totals": (dict,)},
    "accepted": {},
    "written": {"summary": (dict,)},
    "checked": {},
    "edited": {},
    "failed": {
        "error": (str,),
        "message": (str,),
        "hint": (str,),
        "member": (str,),
        "rule": (str,),
        "offset": (int, type(None)),
        "needed": (int,),
    },
}
"""The shape of each answer: exactly these fields, of these types."""


def verdicts(*kinds: type[errors.ReconcilerError]) -> Mapping[str, type[errors.ReconcilerError]]:
    """The errors that a child may report, by name: these, and those of every volume. Any other one counts as its death."""
    common = (errors.ImageTooSmall, errors.VolumeCorrupt, errors.Terminal, errors.NoSpace, errors.DeviceFailed)
    return {kind.__name__: kind for kind in (*kinds, *common)}


@dataclass(frozen=True, slots=True)
class Packet:
    """``kind`` and its fields; ``fds`` were received with it and belong to the receiver."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    fds: tuple[int, ...] = ()


class Channel:
    """One end of the conversation. Not thread-safe for the same direction. ``descriptors``: how many may come with a packet."""

    def __init__(self, sock: socket.socket, descriptors: int = 0) -> None:
        self._sock = sock
        self._descriptors = descriptors

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def inherited(cls, fd: int) -> Channel:
        """The end that a parent left open as ``fd``."""
        return cls(socket.socket(fileno=fd), descriptors=4)

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
        data, fds = self._data()
        if not data:
            return None
        kind, body = json.loads(data)
        return Packet(kind, body, tuple(fds))

    def answer(self) -> Packet | None:
        """What ``receive`` returns, of a side that is not trusted. Raises ValueError where it is no answer of a fixed shape."""
        data, _ = self._data()
        if not data:
            return None
        try:
            kind, body = json.loads(data)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"it is not a packet: {error}") from None
        if not isinstance(kind, str) or kind not in ANSWERS or not isinstance(body, dict):
            raise ValueError("it is not an answer")
        shape = ANSWERS[kind]
        if body.keys() != shape.keys() or not all(type(body[name]) in types for name, types in shape.items()):
            raise ValueError(f"{kind} has other fields than {', '.join(shape)}")
        if kind == "confined" and not all(type(why) is str for why in body["measures"].values()):
            raise ValueError("a measure has a reason that is not a text")
        return Packet(kind, believable(body))

    def _data(self) -> tuple[bytes, list[int]]:
        try:
            return self._next()
        except ConnectionResetError:
            return self._next()  # the reset comes once, before the last packets: the other side left some of ours unread

    def _next(self) -> tuple[bytes, list[int]]:
        """The kernel closes descriptors for which there is no room, so that they never are this process's."""
        if not self._descriptors:
            return self._sock.recv(PACKET), []
        data, fds, _, _ = socket.recv_fds(self._sock, PACKET, self._descriptors)
        return data, fds

    def close(self) -> None:
        self._sock.close()

    def hang_up(self) -> None:
        """End the conversation in both directions, also for a thread that is waiting in ``receive``."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def believable(body: Mapping[Any, Any], depth: int = DEPTH) -> Mapping[str, Any]:
    """A packet's fields: numbers that fit 64 bits, printable words, and lists and mappings of them. Raises ValueError."""
    return {printable(str(key)): _believable(value, depth - 1) for key, value in body.items()}


def _believable(value: Any, depth: int) -> Any:
    if depth < 0:
        raise ValueError("it is nested too deeply")
    match value:
        case None | bool():
            return value
        case int() | float() if -MAX_NUMBER < value < MAX_NUMBER:
            return value
        case str():
            return printable(value)
        case list():
            return [_believable(one, depth - 1) for one in value]
        case dict():
            return believable(value, depth)
    raise ValueError("it holds a number that is out of range")


def advisable(hint: str) -> str:
    """A hint that the builder gives, if it is a short sentence of plain words; another one may be meant to have a command run."""
    return hint if _SENTENCE.fullmatch(hint) else "check the layer with `reconcile inspect`"


def printable(text: str) -> str:
    """Without what moves a terminal's cursor; cut where it is long."""
    return errors.visible(text[:MAX_WORD])
