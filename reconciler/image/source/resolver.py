"""Names of servers as addresses, within the deadline of an exchange.

The system's resolver can't be interrupted, and waits as long as its configuration lets it. Each name is resolved in a thread of
its own, one at a time for each. Called by ``transport``. State: the look-ups under way.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from reconciler.image.source.cutoff import Cutoff
from reconciler.policy.addresses import literal

Found = Sequence[tuple[Any, Any, int, str, Any]]
"""What ``socket.getaddrinfo`` returns."""


class Unresolved(TimeoutError):
    """The resolver did not answer in time."""


class _Lookup:
    """One name that is being resolved; whoever needs it waits for ``ended``."""

    def __init__(self, host: str, port: int) -> None:
        self.ended = threading.Event()
        self._name = (host, port)
        self._found: Found = ()
        self._error: Exception | None = None

    def run(self, then: Callable[[], None]) -> None:
        try:
            self._found = _resolved(*self._name)
        except Exception as error:
            self._error = error
        then()
        self.ended.set()

    def result(self) -> Found:
        if self._error is not None:
            raise self._error
        return self._found


_under_way: dict[tuple[str, int], _Lookup] = {}
_guard = threading.Lock()


def addresses(host: str, port: int, cutoff: Cutoff) -> Found:
    """The addresses of a server. Raises OSError where it has none, Unresolved at the cutoff."""
    if literal(host) is not None:
        return _resolved(host, port)
    key = (host, port)
    with _guard:
        found = _under_way.get(key)
        if found is None:
            found = _under_way[key] = _Lookup(host, port)
            run = threading.Thread(target=found.run, args=(lambda: _forget(key),), name=f"resolve {host}", daemon=True)
            try:
                run.start()
            except RuntimeError as error:  # no more threads
                del _under_way[key]
                raise OSError(f"the address of {host} can't be looked up: {error}") from error
    if not cutoff.wait(found.ended):
        raise Unresolved(f"the address of {host} was not found in {cutoff.seconds:.0f} s")
    return found.result()


def _forget(key: tuple[str, int]) -> None:
    with _guard:
        _under_way.pop(key, None)


def _resolved(host: str, port: int) -> Found:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # of the codec idna
        raise OSError(f"{host!a} is not the name of a host") from error
