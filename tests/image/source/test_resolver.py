"""Names that the system's resolver does not answer for end with the deadline, and hold up nothing else.

``getaddrinfo`` is replaced: a test can't give this host a name server that is silent.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.errors import SourceUnavailable
from reconciler.image.source import exchange, remote
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.resolver import Unresolved, addresses
from reconciler.image.source.transport import Request, send
from reconciler.image.spec import S3Options, Source
from tests.support.no_threads import no_threads

STALLED = "stalled.example"


class Silent:
    """``asked`` counts the look-ups that have begun."""

    def __init__(self) -> None:
        self.asked = 0
        self.over = threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *rest: Any, **options: Any) -> Any:
        if host != STALLED:
            return self._real(host, *rest, **options)
        self.asked += 1
        self.over.wait(60)
        return self._real("127.0.0.1", *rest, **options)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    found = Silent()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.over.set()


def test_a_name_that_is_not_resolved_ends_at_the_deadline(silent: Silent) -> None:
    with Cutoff(0.2) as cutoff, pytest.raises(Unresolved, match=r"the address of stalled\.example was not found in 0 s"):
        send(Request("GET", f"http://{STALLED}:9000/", {}), cutoff)
    with Cutoff(60, lambda: True) as unwanted, pytest.raises(Unresolved):
        send(Request("GET", f"http://{STALLED}:9000/", {}), unwanted)


def test_a_look_up_names_the_server_whose_name_is_not_resolved(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 0.2)
    source = Source("s3://layers/one.tar", S3Options(f"http://{STALLED}:9000", anonymous=True))
    with pytest.raises(SourceUnavailable, match=r"stalled\.example"):
        remote.head_one(source)


def test_the_name_of_a_proxy_ends_at_the_deadline_too(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{STALLED}:3128")
    with Cutoff(0.2) as cutoff, pytest.raises(Unresolved):
        send(Request("GET", "http://layers.example/", {}), cutoff)


def test_one_look_up_of_a_name_runs_at_a_time_and_serves_whoever_waits(silent: Silent) -> None:
    for _ in range(3):
        with Cutoff(0.05) as cutoff, pytest.raises(Unresolved):
            addresses(STALLED, 9000, cutoff)
    assert silent.asked == 1
    threading.Timer(0.05, silent.over.set).start()
    with Cutoff(60) as cutoff:
        assert {one[4] for one in addresses(STALLED, 9000, cutoff)} == {("127.0.0.1", 9000)}
        assert silent.asked == 1
        addresses(STALLED, 9000, cutoff)
    assert silent.asked == 2, "the next exchange asks again"


@pytest.mark.parametrize("name", ["x..y", "a" * 64 + ".example"])
def test_a_name_that_can_not_be_encoded_is_an_error_in_words(name: str) -> None:
    with Cutoff(5) as cutoff, pytest.raises(OSError, match="is not the name of a host"):
        addresses(name, 443, cutoff)


def test_a_look_up_without_a_thread_fails_and_is_not_under_way() -> None:
    with no_threads(), pytest.raises(OSError, match="can't start new thread"):
        addresses("localhost", 80, Cutoff(10))

    assert addresses("localhost", 80, Cutoff(10))
