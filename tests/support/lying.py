"""Builders that die, hang or send false messages, for ``child.COMMAND``; the first argument selects one."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from reconciler.image.builder import child
from reconciler.image.builder.measures import Measure
from reconciler.image.builder.protocol import Channel
from reconciler.image.free_space import Room
from reconciler.image.tree import index


def main(flaw: str) -> int:
    match flaw:
        case "hangs":
            child.apply_layer = lambda *_: _wait(600)  # type: ignore[assignment,return-value,func-returns-value]
        case "dies":
            child.apply_layer = lambda *_: os.abort()  # type: ignore[assignment]
        case "forges its index":
            index.dump = lambda *_: b"reconidx" + bytes(100)
        case "shouts":
            child.apply_layer = _shout
        case "claims to be done":
            child.apply_layer = _claim
        case "counts wildly":
            child.apply_layer = _forge({"entries": 10**40})
        case "moves the cursor":
            child.apply_layer = _forge({"entries": "\x1b[2J\x1b[H0"})
        case "sees nonsense":
            child.apply_layer = _see({"compression": 5, "entries": [], "times": {"firstNs": "now"}})
        case "sees nothing":
            child.apply_layer = _see({"compression": "none"})
        case "hangs up":
            child.apply_layer = _hang_up
        case "hangs up and stays":
            child.apply_layer = _hang_up_and_stay
        case "accepts and hangs":
            child.apply_layer = _accept_and_hang
        case "floods with progress" | "floods with totals" | "floods with surveys" | "sends descriptors":
            child.apply_layer = FLOODS[flaw]
        case "claims more than there is":
            child.apply_layer = _send(("progress", {"layer": 0, "read": 1 << 40, "held": 0, "entries": 0}))
        case "goes back":
            child.apply_layer = _send(*(("progress", {"layer": 0, "read": n, "held": 0, "entries": 0}) for n in (9, 8)))
        case "is ahead":
            child.apply_layer = _send(("progress", {"layer": 1, "read": 0, "held": 0, "entries": 0}))
        case "fails without a shape":
            child.apply_layer = _send(("failed", {"error": ["LayerRefused"], "message": {"a": 1}, "hint": 7}))
        case "fails without a member":
            told = {"error": "LayerRefused", "message": "x", "hint": "", "rule": "r", "member": "zz", "offset": None, "needed": 0}
            child.apply_layer = _send(("failed", told))
        case "is too large":
            child.apply_layer = _raw(b'["applied",{"totals":{"a":"' + b"x" * 70_000 + b'"}}]')
        case "nests":
            child.apply_layer = _raw(b"[" * 60_000)
        case "nests in fields":
            child.apply_layer = _raw(b'["applied",{"totals":' + b'{"a":' * 800 + b"1" + b"}" * 800 + b"}]")
        case "lacks a measure for no reason":
            child.confine = lambda _: (Measure("Landlock", ["a"]),)  # type: ignore[assignment,arg-type]
        case "is no packet":
            child.apply_layer = _raw(b"hello")
        case "is a number":
            child.apply_layer = _raw(b"7")
        case "fills the disk":
            index.dump = _endless
        case "writes on":
            child.Room = _Noted  # type: ignore[misc]
            Channel.send = _send_and_write_on  # type: ignore[method-assign]
    return child.main(sys.argv)


def _wait(seconds: float) -> None:
    """The builder may not make the system call that sleeps."""
    threading.Event().wait(seconds)


def _shout(channel: Channel, *_: Any) -> dict[str, object]:
    channel.send("obey", now=True)
    _wait(600)
    return {}


def _claim(channel: Channel, *_: Any) -> dict[str, object]:
    channel.send("written", summary={})
    _wait(600)
    return {}


def _forge(totals: dict[str, object]) -> Any:
    """A builder that reads its layer, and reports wrong totals."""
    honest = child.apply_layer

    def forge(*given: Any) -> dict[str, object]:
        honest(*given)
        return totals

    return forge


def _see(totals: dict[str, object]) -> Any:
    """A builder that accepts its layer, and has seen this."""
    honest = child.apply_layer

    def see(channel: Channel, *rest: Any) -> dict[str, object]:
        found = honest(channel, *rest[:-1])
        channel.send("seen", totals=totals)
        return found

    return see


def _hang_up(channel: Channel, *_: Any) -> dict[str, object]:
    channel.close()
    os._exit(0)


def _hang_up_and_stay(channel: Channel, *_: Any) -> dict[str, object]:
    channel.close()
    _wait(600)
    return {}


def _accept_and_hang(channel: Channel, source: Any, *rest: Any) -> dict[str, object]:
    while source.read(1 << 20):
        pass
    source.close()
    _wait(600)
    return {}


def _send(*packets: tuple[str, dict[str, Any]]) -> Any:
    """A builder that sends these packets and waits."""

    def send(channel: Channel, *_: Any) -> dict[str, object]:
        for kind, body in packets:
            channel.send(kind, (), **body)
        _wait(600)
        return {}

    return send


def _raw(data: bytes) -> Any:
    def send(channel: Channel, *_: Any) -> dict[str, object]:
        channel._sock.sendmsg([data])
        _wait(600)
        return {}

    return send


def _flood(kind: str, fds: tuple[int, ...] = (), **body: Any) -> Any:
    def flood(channel: Channel, *_: Any) -> dict[str, object]:
        while True:
            channel.send(kind, fds, **body)

    return flood


FLOODS = {
    "floods with progress": _flood("progress", layer=0, read=0, held=0, entries=0),
    "floods with totals": _flood("applied", totals={f"k{n}": "v" * 60 for n in range(600)}),
    "floods with surveys": _flood("seen", totals={}),
    "sends descriptors": _flood("progress", (2, 2, 2, 2), layer=0, read=0, held=0, entries=0),
}


def _endless(*_: Any) -> bytes:
    """An index of a GiB."""
    return bytes(1 << 30)


class _Noted(Room):
    """Remembers the volume's descriptor."""

    volume = -1

    def __init__(self, fd: int, given: int | None = None) -> None:
        super().__init__(fd, given)
        _Noted.volume = max(fd, _Noted.volume)


_honest = Channel.send


def _send_and_write_on(self: Channel, kind: str, fds: Any = (), **body: Any) -> None:
    _honest(self, kind, fds, **body)
    if kind == "written":
        _wait(1)
        os.pwrite(_Noted.volume, b"too late", 1024)
        _wait(600)


if __name__ == "__main__":
    sys.exit(main(sys.argv.pop(1)))
