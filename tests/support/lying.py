"""Builders that die, hang or send false messages, for ``child.COMMAND``; the first argument selects one."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from reconciler.image.builder import child
from reconciler.image.builder.protocol import Channel
from reconciler.image.free_space import Room
from reconciler.image.tree import index


def main(flaw: str) -> int:
    match flaw:
        case "hangs":
            child.apply_layer = lambda *_: time.sleep(600)  # type: ignore[assignment,return-value,func-returns-value]
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
        case "writes on":
            child.Room = _Noted  # type: ignore[misc]
            Channel.send = _send_and_write_on  # type: ignore[method-assign]
    return child.main(sys.argv)


def _shout(channel: Channel, *_: Any) -> dict[str, object]:
    channel.send("obey", now=True)
    time.sleep(600)
    return {}


def _claim(channel: Channel, *_: Any) -> dict[str, object]:
    channel.send("written", summary={})
    time.sleep(600)
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
    channel.hang_up()
    os._exit(0)


class _Noted(Room):
    """Remembers the volume's descriptor."""

    volume = -1

    def __init__(self, fd: int, given: int | None = None) -> None:
        super().__init__(fd, given)
        _Noted.volume = max(fd, _Noted.volume)


_send = Channel.send


def _send_and_write_on(self: Channel, kind: str, fds: Any = (), **body: Any) -> None:
    _send(self, kind, fds, **body)
    if kind == "written":
        time.sleep(1)
        os.pwrite(_Noted.volume, b"too late", 1024)
        time.sleep(600)


if __name__ == "__main__":
    sys.exit(main(sys.argv.pop(1)))
