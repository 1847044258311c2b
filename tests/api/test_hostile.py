"""Clients that are slow, huge, pipelined, many or ambiguous: they are refused, and hold up nobody else."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from reconciler.api import client, server, wire
from reconciler.errors import HostCannot
from tests.api.conftest import Service
from tests.api.test_api import call, raw
from tests.support.no_threads import no_threads


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(service.socket))
        yield peer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /v1/version\r\n\r\n", b"400"),
        (b"GET /v1/version HTTP/2.0\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://x/v1/version HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /v1/version HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/version HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"GET /v1/version HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"GET /v1/version HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", b"400"),
        (b"GET /v1/%ff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
        (b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}", b"400"),
        (b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n", b"413"),
        (b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + b"[" * 40000, b"400"),
        (b'POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\n{"image":"web","image":"b"}', b"400"),
        (b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20000, b"431"),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
def test_what_is_ambiguous_or_too_large_is_refused(service: Service, request_: bytes, status: bytes) -> None:
    assert raw(service, request_).startswith(b"HTTP/1.1 " + status)
    assert call(service, "GET", "/v1/version")


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    one = b"GET /v1/claims/%d HTTP/1.1\r\nHost: x\r\n\r\n"

    found = raw(service, b"".join(one % n for n in range(100)))

    assert [found.index(b"claim '%d'" % n) for n in range(100)] == sorted(found.index(b"claim '%d'" % n) for n in range(100))
    assert found.count(b"HTTP/1.1 404") == 100


def test_a_slow_client_is_closed_and_holds_up_nobody(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 0.5)
    with connected(service) as slow:
        slow.sendall(b"GET /v1/version HTTP/1.1\r\nHo")
        assert call(service, "GET", "/v1/version")
        assert slow.recv(100) == b""


def test_a_client_that_reads_nothing_is_closed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SEND_SECONDS", 0.5)
    with connected(service) as deaf:
        deaf.setblocking(False)
        request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises((BlockingIOError, BrokenPipeError, ConnectionResetError)):
            while True:
                deaf.send(request * 100)
        assert call(service, "GET", "/v1/version")


def test_a_connection_without_a_thread_is_refused_and_takes_no_place(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OF_ONE_USER", 2)
    with no_threads():
        for _ in range(3):
            with connected(service) as peer:
                assert peer.recv(1000).startswith(b"HTTP/1.1 503")

    assert call(service, "GET", "/v1/version")


def test_one_user_can_not_take_all_connections(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OF_ONE_USER", 4)
    with connected(service) as a, connected(service) as b, connected(service) as c, connected(service) as d:
        for peer in (a, b, c, d):
            peer.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in peer.recv(1000)
        with connected(service) as fifth:
            assert fifth.recv(1000).startswith(b"HTTP/1.1 503")
    assert client.is_served(service.socket)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another user")
def test_users_who_take_every_connection_leave_some_for_each_other_user() -> None:
    taken = 2 * server.OF_ONE_USER

    assert not server.admits(taken, server.OF_ONE_USER)
    assert [server.admits(taken, own) for own in (0, server.OF_EACH_USER - 1, server.OF_EACH_USER)] == [True, True, False]
    assert not server.admits(server.MOST_CONNECTIONS, 0)


def test_a_service_with_a_full_backlog_is_served_and_answers_later(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        for _ in range(2):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(str(path))
        assert client.is_served(path)

        def answer() -> None:
            for body in (None, b"{}"):
                peer, _ = listener.accept()
                with peer:
                    if body:
                        peer.recv(1000)
                        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)

        threading.Timer(0.2, answer).start()
        assert client.request(path, "GET", "/v1/version") == {}


def test_a_long_list_is_the_same_json_in_pieces() -> None:
    long = [{"name": f"job-{n}", "claim": None, "many": list(range(n))} for n in range(40)]

    for value in ({"images": [{"name": "web", "snapshots": long}], "x": {}}, {"claims": long}, {"claims": []}, [], {}, long, "é"):
        pieces = list(wire._json(value))
        assert "".join(pieces) == json.dumps(value, separators=(",", ":"))
    assert max(map(len, wire._json({"claims": [{"text": "x" * 100}] * 500}))) < 200


def test_another_user_reads_all_and_releases_only_its_own(service: Service, tmp_path: Path) -> None:
    """As uid 4711: without a right to the socket first, then with it."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    mine = call(service, "POST", "/v1/claims", {"image": "web", "ttl": 0})
    assert mine["expires"] is None

    assert _as_user(service, "GET", "/v1/claims").startswith("HostCannot")
    service.socket.chmod(0o666)
    assert mine["claim"] in _as_user(service, "GET", "/v1/claims")
    assert _as_user(service, "DELETE", f"/v1/claims/{mine['claim']}").startswith("ClaimForbidden")
    assert _as_user(service, "PUT", f"/v1/claims/{mine['claim']}").startswith("ClaimForbidden")
    assert _as_user(service, "POST", "/v1/claims", '{"image": "web", "ttl": 0}').startswith("TtlRefused")
    assert "'uid': 4711" in _as_user(service, "POST", "/v1/claims", '{"image": "web"}')
    own = next(one for one in call(service, "GET", "/v1/claims")["claims"] if one["uid"] == 4711)
    assert "'state': 'released'" in _as_user(service, "DELETE", f"/v1/claims/{own['claim']}")
    assert "uid 4711" in service.host.records.events(limit=3)[-1].message


def _as_user(service: Service, method: str, target: str, body: str = "null") -> str:
    """What another user gets, printed."""
    code = """
import json, os, sys
os.setgid(4711); os.setuid(4711)
try:
    print(request(Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
except CommandError as error:
    print(type(error).__name__, error)
"""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.dup2(write, 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.argv = ["client", str(service.socket), method, target, body]
        try:
            exec(code, {"request": client.request, "CommandError": HostCannot.__mro__[1], "Path": Path})
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    return found


def test_a_long_state_directory_has_a_socket(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a" * 60] * 4)
    listener = server.listen(deep / "api.sock")
    try:
        assert client.is_served(deep / "api.sock")
        assert (deep / "api.sock").stat().st_mode & 0o777 == 0o660
    finally:
        listener.close()
    assert not client.is_served(deep / "api.sock")
    server.listen(deep / "api.sock").close()


def test_a_socket_that_systemd_passes_is_used(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "s"))
        passed.listen()
        fd = os.dup(passed.fileno())
        found = server.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, fd)
        assert found is not None
        found.close()
    assert server.activated({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(HostCannot):
        server.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, os.dup(other.fileno()))
