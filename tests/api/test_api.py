"""The API's routes over its socket: claims, what is read, events, and what is refused with which problem."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.api import client
from reconciler.claim import ClaimState
from reconciler.cli import booting, claiming
from reconciler.errors import (
    ClaimNotFound,
    Guarded,
    HostCannot,
    IdempotencyKeyReused,
    NoneReady,
    ReconcilerError,
    TtlRefused,
    UsageError,
)
from reconciler.host.claims import Claiming
from reconciler.host.claims import Request as Wanted
from reconciler.registry.claims import Claims
from tests.api.conftest import MANIFEST, Service, serving


def call(service: Service, method: str, target: str, body: Any = None) -> Any:
    return client.request(service.socket, method, target, body)


def raw(service: Service, text: bytes, seconds: float = 5.0) -> bytes:
    """What the server answers to these bytes, until it closes or is silent."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(seconds)
        peer.connect(str(service.socket))
        peer.sendall(text)
        peer.shutdown(socket.SHUT_WR)
        found = b""
        while piece := peer.recv(65536):
            found += piece
        return found


def test_a_snapshot_is_claimed_renewed_released_and_made_anew(service: Service) -> None:
    claim = call(service, "POST", "/v1/claims", {"image": "web", "ttl": "1h", "holder": "job 7"})
    assert claim.keys() >= {"claim", "image", "pool", "snapshot", "path", "chain", "config", "size", "expires"}
    assert (claim["image"], claim["holder"], claim["ttl"], claim["size"]) == ("web", "job 7", 3600.0, 16 << 20)
    assert call(service, "GET", "/v1/claims")["claims"] == [claim]
    assert call(service, "GET", f"/v1/snapshots/default/{claim['snapshot']}")["claim"]["id"] == claim["claim"]

    assert call(service, "PUT", f"/v1/claims/{claim['claim']}", {"ttl": 60})["ttl"] == 60.0
    assert call(service, "DELETE", f"/v1/claims/{claim['claim']}")["state"] == "released"
    assert call(service, "DELETE", f"/v1/claims/{claim['claim']}")["state"] == "released"
    service.converge()
    assert call(service, "GET", f"/v1/claims/{claim['claim']}")["state"] == "ended"
    assert call(service, "GET", "/v1/claims") == {"claims": []}


def test_the_configuration_of_an_oci_image_is_whole(tmp_path: Path) -> None:
    manifest = MANIFEST.replace("layers: [{source: layer.tar}]", "source: oci-layout:layout:x")
    with serving(tmp_path, manifest) as service:
        answers = (call(service, "GET", "/v1/images/web"), call(service, "POST", "/v1/claims", {"image": "web"}))

    for one in answers:
        assert one["config"]["config"] == {"Cmd": ["/init"], "Env": ["A=1"]}
        assert one["config"]["rootfs"]["type"] == "layers"


def test_what_a_vmm_needs_is_what_the_command_prints(tmp_path: Path) -> None:
    seed = "seed: {nocloud: {userData: web.yaml}}"
    manifest = MANIFEST.replace("layers: [{source: layer.tar}]", "source: oci-layout:layout:x").replace("ttl: 2h", seed)
    with serving(tmp_path, manifest) as service:
        target = "/v1/snapshots/default/job-0/boot-config"
        found = call(service, "GET", f"{target}?vmm=firecracker&kernel=/srv/k")
        words = call(service, "GET", f"{target}?vmm=qemu&readOnly=true&kernel=k&init=/sbin/start")["arguments"]
        bare = call(service, "GET", f"{target}?vmm=cloud-hypervisor&kernel=k&entrypoint=false")["arguments"]
        with pytest.raises(ReconcilerError, match="vmm is one of firecracker, cloud-hypervisor, qemu"):
            call(service, "GET", target)
        with pytest.raises(ReconcilerError, match="there is no snapshot default/job-9"):
            call(service, "GET", f"{target.replace('job-0', 'job-9')}?vmm=qemu")
        settings = service.settings

    assert found["boot-source"]["boot_args"].endswith("root=/dev/vda rw A=1 init=/init")
    assert [one["drive_id"] for one in found["drives"]] == ["rootfs", "seed"]
    assert found == booting.configured(
        settings, "snapshot/job-0", "firecracker", Path("/srv/k"), read_only=False, entrypoint=True
    )
    assert words[3].endswith("ro init=/sbin/start") and words[5].endswith("read-only=on")
    assert bare[3].endswith("root=/dev/vda rw")


def test_none_is_ready_until_the_service_has_made_more(service: Service) -> None:
    for _ in range(3):
        call(service, "POST", "/v1/claims", {"image": "web"})
    with pytest.raises(NoneReady, match="no snapshot of it is ready") as refused:
        call(service, "POST", "/v1/claims", {"image": "web"})
    assert refused.value.hint
    assert service.counted == [("web", "Claimed")] * 3 + [("web", "NoneReady")]

    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(call(service, "POST", "/v1/claims", {"image": "web", "wait": 20})))
    waiting.start()
    service.converge()
    waiting.join()
    assert found[0]["state"] == "claimed"


def test_a_named_snapshot_is_claimed_once(service: Service) -> None:
    assert call(service, "POST", "/v1/claims", {"snapshot": "default/job-1"})["snapshot"] == "job-1"
    with pytest.raises(NoneReady, match="it is claimed"):
        call(service, "POST", "/v1/claims", {"snapshot": "job-1"})


def test_a_repeated_key_gets_the_same_claim(service: Service) -> None:
    def post(body: str) -> bytes:
        fields = f"Host: x\r\nIdempotency-Key: k\r\nConnection: close\r\nContent-Length: {len(body)}"
        head = f"POST /v1/claims HTTP/1.1\r\n{fields}\r\n\r\n"
        return raw(service, (head + body).encode())

    first, again, other = post('{"image":"web"}'), post('{"image":"web"}'), post('{"snapshot":"job-2"}')

    assert b" 201 " in first
    assert first.partition(b"\r\n\r\n")[2] == again.partition(b"\r\n\r\n")[2]
    assert b" 422 " in other
    assert IdempotencyKeyReused.reason.encode() in other


@pytest.mark.parametrize("key", ["", "k"])
def test_a_client_that_is_gone_before_it_is_answered_keeps_no_claim(
    service: Service, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """One with a key may ask again, and gets the claim."""
    gone, describe = threading.Event(), Claiming.describe

    def late(claiming: Claiming, claim: Any) -> dict[str, Any]:
        gone.wait()
        return describe(claiming, claim)

    monkeypatch.setattr(Claiming, "describe", late)
    body = '{"image":"web"}'
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(service.socket))
        field = f"Idempotency-Key: {key}\r\n" if key else ""
        peer.sendall(f"POST /v1/claims HTTP/1.1\r\nHost: x\r\n{field}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        while not service.host.records.claims():
            time.sleep(0.01)
    gone.set()

    (claim,) = service.host.records.claims().values()
    while not key and claim.state is ClaimState.CLAIMED:
        time.sleep(0.01)
        (claim,) = service.host.records.claims().values()
    if key:
        again = client.request(service.socket, "POST", "/v1/claims", {"image": "web"}, key=key)
        assert (again["claim"], again["state"]) == (claim.id, "claimed")


def test_the_command_asks_again_with_the_same_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost after the claim is on disk."""
    real, lost = client.request, []

    def request(*words: Any, **more: Any) -> Any:
        found = real(*words, **more)
        if not lost:
            lost.append(found["claim"])
            raise HostCannot("the connection is lost")
        return found

    monkeypatch.setattr(client, "request", request)

    assert [claiming.ask(service.settings, Wanted(image="web"), 0.0)["claim"]] == lost
    assert len(service.host.records.claims()) == 1


@pytest.mark.parametrize(
    ("method", "target", "body", "kind", "words"),
    [
        ("POST", "/v1/claims", {"image": "wed"}, UsageError, "did you mean"),
        ("POST", "/v1/claims", {"snapshot": "job-9"}, UsageError, "there is no snapshot"),
        ("POST", "/v1/claims", {"image": "web", "ttl": "3h"}, TtlRefused, "longer than the manifest permits"),
        ("POST", "/v1/claims", {"image": "web", "ttl": "999999999d"}, Guarded, "more than 1000000000 seconds"),
        ("POST", "/v1/claims", {"image": "web", "ttl": 1e10}, Guarded, "ttl is not a number"),
        ("POST", "/v1/claims", {"image": "web", "color": 1}, Guarded, "there is no field 'color'"),
        ("POST", "/v1/claims", {"image": "web", "holder": "a\x00b"}, Guarded, "holder has to be a text of"),
        ("POST", "/v1/claims", {"image": "web", "holder": "\ud800"}, Guarded, "holder has to be a text of"),
        ("GET", "/v1/events?since=100000000000000001", None, Guarded, "since is not a number"),
        ("POST", "/v1/claims", {}, Guarded, "either image or snapshot"),
        ("POST", "/v1/claims", {"image": "web", "snapshot": "a"}, Guarded, "either image or snapshot"),
        ("POST", "/v1/claims", {"image": "web", "wait": -1}, Guarded, "wait is not a number of seconds"),
        ("POST", "/v1/claims", {"image": "web", "ttl": True}, Guarded, "ttl is not a number"),
        ("POST", "/v1/claims", [1], Guarded, "not a JSON object"),
        ("GET", "/v1/claims/none", None, ClaimNotFound, "there is no claim"),
        ("DELETE", "/v1/claims/none", None, ClaimNotFound, "there is no claim"),
        ("GET", "/v1/images/none", None, Guarded, "there is no image"),
        ("GET", "/v1/snapshots/default/none", None, Guarded, "there is no snapshot"),
        ("GET", "/v1/images?x=1", None, Guarded, "there is no parameter 'x'"),
        ("GET", "/v1/events?since=-1", None, Guarded, "since is not a number"),
        ("PATCH", "/v1/claims", None, Guarded, "PATCH is not allowed"),
        ("GET", "/v2", None, Guarded, "there is no /v2"),
    ],
)
def test_what_is_refused(service: Service, method: str, target: str, body: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(service, method, target, body)


def test_a_method_that_is_not_allowed_is_answered_with_those_that_are(service: Service) -> None:
    answer = raw(service, b"TRACE /v1/claims/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert b" 405 " in answer
    assert b"Allow: PUT, GET, DELETE\r\n" in answer


def test_a_problem_has_a_reason_and_a_hint(service: Service) -> None:
    head, _, body = raw(service, b"GET /v1/claims/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")

    assert b"404 Not Found" in head
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no claim 'none'",
        "reason": "ClaimNotFound",
        "hint": "list them with: reconcile list claims",
    }


def test_what_there_is_can_be_read(service: Service) -> None:
    assert call(service, "GET", "/v1/version")["api"] == "v1"
    assert call(service, "GET", "/v1/health")["healthy"] is True
    assert call(service, "GET", "/v1/images/web")["readySnapshots"] == 3
    assert [one["name"] for one in call(service, "GET", "/v1/snapshots")["snapshots"]] == ["job-0", "job-1", "job-2"]
    assert "/v1/claims/{id}" in call(service, "GET", "/v1/openapi.json")["paths"]


def test_before_the_first_assessment_claims_are_answered_and_images_are_not(service: Service) -> None:
    service.last = None

    assert call(service, "POST", "/v1/claims", {"image": "web"})["state"] == "claimed"
    assert b" 503 " in raw(service, b"GET /v1/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def test_events_are_lines_from_a_number_on(service: Service) -> None:
    answer = raw(service, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")[2]
    events = [json.loads(line) for line in answer.splitlines()]

    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    since = events[-2]["seq"]
    answer = raw(service, f"GET /v1/events?since={since} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")[2]
    assert [json.loads(line) for line in answer.splitlines()] == events[-1:]


def test_a_follower_gets_new_events_as_they_come(service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(service.socket))
        peer.sendall(b"GET /v1/events?since=0&follow HTTP/1.1\r\nHost: x\r\n\r\n")
        claim = call(service, "POST", "/v1/claims", {"image": "web"})
        found = b""
        while claim["claim"].encode() not in found:
            found += peer.recv(65536)
    assert b'"reason":"Claimed"' in found


def test_what_reads_the_registry_ends_before_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service stops while a follower reads."""
    reading, read, events = threading.Event(), threading.Event(), Claims.events

    def slowly(claims: Claims, since: int, limit: int) -> Any:
        reading.set()
        time.sleep(0.3)
        found = events(claims, since, limit)
        read.set()
        return found

    with socket.socket(socket.AF_UNIX) as peer, serving(tmp_path, MANIFEST) as service:
        monkeypatch.setattr(Claims, "events", slowly)
        peer.connect(str(service.socket))
        peer.sendall(b"GET /v1/events?since=0&follow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reading.wait(10)

    assert read.is_set()


def test_many_users_at_once_get_different_snapshots(service: Service) -> None:
    found: list[str] = []

    def claim() -> None:
        found.append(call(service, "POST", "/v1/claims", {"image": "web"})["snapshot"])

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["job-0", "job-1", "job-2"]


def test_a_client_that_has_gone_gets_no_claim(service: Service) -> None:
    for _ in range(3):
        call(service, "POST", "/v1/claims", {"image": "web"})
    body = b'{"image":"web","wait":30,"holder":"gone"}'
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(service.socket))
        peer.sendall(b"POST /v1/claims HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    time.sleep(1)
    service.converge()

    assert "gone" not in {claim["holder"] for claim in call(service, "GET", "/v1/claims")["claims"]}
