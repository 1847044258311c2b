"""Registries as they are and as they lie, on real sockets: what is asked of them, what is accepted, and what the errors are."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from reconciler.backoff import Backoff
from reconciler.errors import (
    DigestMismatch,
    ImageRefused,
    PolicyRefused,
    ReconcilerError,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)
from reconciler.image.oci import registry as client
from reconciler.image.oci.manifest import OCI_MANIFEST
from reconciler.image.oci.resolve import resolve
from reconciler.image.source import exchange, transport
from reconciler.image.source.spool import Spool
from reconciler.image.spec import Layer, Resolved
from reconciler.policy import force
from reconciler.policy.rules import Policy, Registries
from tests.support import oci
from tests.support.oci import Image, LyingRegistry, image, index, permit, reference
from tests.support.origin import Answer, Asked

TAR = bytes(10240)
WEB = image([TAR, TAR + bytes(1024)], run={"Env": ["A=1"]})


@pytest.fixture(scope="module")
def address() -> Iterator[LyingRegistry]:
    with LyingRegistry() as registry:
        yield registry


@pytest.fixture
def registry(address: LyingRegistry, monkeypatch: pytest.MonkeyPatch) -> LyingRegistry:
    address.reset()
    oci.forget()
    client._digests.clear()
    monkeypatch.setattr(exchange, "BETWEEN_REQUESTS", Backoff(0.001, 0.01))
    monkeypatch.setenv("HOME", "/nonexistent")
    permit(address.host)
    return address


def found(url: str) -> Resolved:
    return resolve(reference(url))


def fetched(layer: Layer, directory: Path, **manner: Any) -> str:
    with Spool(directory, **manner) as spool, spool.fetch(layer) as reading:
        return reading.result().digest


# ------------------------------------------------------------------------------------------------------ what is asked


def test_a_tag_costs_one_head_and_what_it_points_to_is_fetched_once(registry: LyingRegistry) -> None:
    url = registry.push(WEB)

    first = found(url)
    assert registry.methods() == ["HEAD manifests", "GET manifests", "GET blobs"]
    assert (first.digest, first.manifest) == (WEB.digest, WEB.digest)
    assert json.loads(first.config)["config"] == {"Env": ["A=1"]}
    assert [f"sha256:{layer.sha256}" for layer in first.layers] == WEB.layers

    registry.asked.clear()
    assert resolve(reference(url), lambda _, digest: first if digest == WEB.digest else None) == first
    assert registry.methods() == ["HEAD manifests"]


def test_a_digest_that_is_recorded_costs_no_request(registry: LyingRegistry) -> None:
    first = found(registry.push(WEB))
    registry.asked.clear()

    pinned = f"oci://{registry.host}/team/web:1@{WEB.digest}"
    assert resolve(reference(pinned), lambda _, digest: first if digest == WEB.digest else None) == first
    assert not registry.asked


def test_a_head_without_the_digest_is_followed_by_one_get_and_then_the_etag_serves(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    registry.told = False

    for _ in range(2):
        resolve(reference(url), lambda _, __: Resolved("", "", "", ()))

    assert registry.methods() == ["HEAD manifests", "GET manifests", "HEAD manifests"]


@pytest.mark.parametrize("status", [400, 405, 501])
def test_a_registry_that_refuses_head_is_asked_with_get(registry: LyingRegistry, status: int) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: oci.error(status, "UNSUPPORTED") if asked.method == "HEAD" else None

    assert found(url).digest == WEB.digest


def test_a_hundred_tags_take_two_connections(registry: LyingRegistry) -> None:
    urls = [registry.push(WEB, tag=f"t{number}") for number in range(100)]
    for idle in list(transport._idle.values()):
        idle.clear()

    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda url: resolve(reference(url), lambda _, __: Resolved("", "", "", ())), urls))

    assert registry.methods() == ["HEAD manifests"] * 100
    assert len(registry.clients) <= 2


def test_layers_of_several_repositories_are_one_transfer(registry: LyingRegistry, tmp_path: Path) -> None:
    first, second = found(registry.push(WEB, "team/web")), found(registry.push(WEB, "other/copy"))
    registry.asked.clear()

    for one in (*first.layers, *second.layers):
        fetched(one, tmp_path)

    assert registry.methods() == ["GET blobs"] * 2


# ------------------------------------------------------------------------------------------------- manifests that lie


def test_an_index_is_chosen_from_by_platform(registry: LyingRegistry) -> None:
    other = image([TAR], platform="linux/arm64")
    url = registry.push(index({"linux/arm64": other, "linux/amd64": WEB, "unknown/unknown": other}))

    assert found(url).manifest == WEB.digest
    assert resolve(reference(url, "linux/arm64")).manifest == other.digest


def test_a_platform_that_is_missing_lists_those_that_are_there(registry: LyingRegistry) -> None:
    url = registry.push(index({"linux/arm64": WEB, "linux/s390x": WEB}))

    with pytest.raises(ImageRefused, match="no image for linux/amd64") as caught:
        found(url)

    assert "linux/arm64, linux/s390x" in caught.value.hint


def test_an_image_of_another_platform_is_refused(registry: LyingRegistry) -> None:
    with pytest.raises(ImageRefused, match="is for linux/riscv64, not for linux/amd64") as caught:
        found(registry.push(image([TAR], platform="linux/riscv64")))

    assert "platform: linux/riscv64" in caught.value.hint


def test_indexes_that_are_nested_too_deep_are_refused(registry: LyingRegistry) -> None:
    nested = index({oci.PLATFORM: index({oci.PLATFORM: index({oci.PLATFORM: WEB})})})

    with pytest.raises(ImageRefused, match="nested deeper"):
        found(registry.push(nested))


def test_an_index_that_names_itself_ends(registry: LyingRegistry) -> None:
    """Its digest can't be that of its own bytes, so that the second look at it is of a manifest that was swapped."""
    inner = index({oci.PLATFORM: WEB})
    liar = Image(inner.manifest.replace(WEB.digest.encode(), inner.digest.encode()), inner.media_type, {}, {})
    registry.push(liar)
    path = f"/v2/team/web/manifests/{inner.digest}"
    registry.store(path, liar.manifest)
    registry.types[path] = inner.media_type

    with pytest.raises(DigestMismatch, match="has the digest"):
        found(f"oci://{registry.host}/team/web:1")

    assert len(registry.asked) <= 4


@pytest.mark.parametrize("told", [True, False])
def test_a_manifest_with_another_digest_is_refused(registry: LyingRegistry, told: bool) -> None:
    registry.push(WEB)
    registry.told = told
    path = f"/v2/team/web/manifests/{WEB.digest}"
    registry.store(path, WEB.manifest + b" ")

    with pytest.raises(DigestMismatch, match=f"the manifest {WEB.digest} of {registry.host}/team/web has the digest"):
        found(f"oci://{registry.host}/team/web@{WEB.digest}")


def test_a_manifest_by_tag_is_compared_with_the_digest_that_is_sent(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: (
        Answer(200, {"Docker-Content-Digest": f"sha256:{'a' * 64}", "Content-Type": OCI_MANIFEST}, WEB.manifest)
        if asked.method == "GET"
        else oci.error(405, "UNSUPPORTED")
    )

    with pytest.raises(DigestMismatch, match="not sha256:aaaa"):
        found(url)


@pytest.mark.parametrize("endless", [{}, {"Content-Length": "1000000000000"}, {"Connection": "close", "Content-Length": ""}])
def test_an_endless_manifest_ends_at_four_mebibytes(registry: LyingRegistry, endless: dict[str, str]) -> None:
    url = registry.push(WEB)
    body = b"{" + b" " * (6 << 20)
    registry.script = lambda asked: Answer(200, endless, body, cut=len(body)) if asked.method == "GET" else None

    with pytest.raises(ImageRefused, match="more than 4194304 bytes"):
        found(url)

    assert registry.sent < len(body) * 2


def test_a_manifest_that_drips_ends_at_the_deadline(registry: LyingRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 0.5)
    url, hold = registry.push(WEB), threading.Event()
    registry.script = lambda asked: Answer(200, {}, WEB.manifest, 10, hold) if asked.method == "GET" else None

    with pytest.raises(SourceUnavailable, match=registry.host):
        found(url)
    hold.set()


@pytest.mark.parametrize("damage", [b"{}", b"", b"x" * 400])
def test_a_configuration_that_was_swapped_is_refused(registry: LyingRegistry, damage: bytes) -> None:
    url = registry.push(WEB)
    config = json.loads(WEB.manifest)["config"]["digest"]
    registry.store(f"/v2/team/web/blobs/{config}", damage)

    with pytest.raises((DigestMismatch, ImageRefused), match="the configuration"):
        found(url)


# --------------------------------------------------------------------------------------------------- layers that lie


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1]])
def test_a_layer_of_another_length_is_refused(registry: LyingRegistry, tmp_path: Path, change: object) -> None:
    layer = found(registry.push(WEB)).layers[0]
    path = f"/v2/team/web/blobs/sha256:{layer.sha256}"
    registry.store(path, change(registry.objects[path]))  # type: ignore[operator]

    with pytest.raises(DigestMismatch, match="the image's manifest has"):
        fetched(layer, tmp_path)


def test_a_layer_of_other_bytes_is_refused(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(WEB)).layers[0]
    registry.store(f"/v2/team/web/blobs/sha256:{layer.sha256}", bytes(layer.size))

    with pytest.raises(DigestMismatch, match="not the declared"):
        fetched(layer, tmp_path)


def test_a_layer_that_vanishes_is_named(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(WEB)).layers[1]
    del registry.objects[f"/v2/team/web/blobs/sha256:{layer.sha256}"]

    with pytest.raises(SourceNotFound, match=f"there is no blob sha256:{layer.sha256} of {registry.host}/team/web: BLOB_UNKNOWN"):
        fetched(layer, tmp_path)


def whole(registry: LyingRegistry, asked: Asked) -> Answer | None:
    """A registry that ignores Range."""
    return registry.serve(replace(asked, start=None)) if "/blobs/" in asked.path and asked.method == "GET" else None


def test_a_registry_without_ranges_is_read_in_one_go(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(image([bytes(range(256)) * 40000]))).layers[0]
    registry.asked.clear()
    registry.script = lambda asked: whole(registry, asked)

    assert fetched(layer, tmp_path, part_bytes=4096) == layer.sha256
    assert registry.methods() == ["GET blobs"]


def test_what_a_registry_without_ranges_has_sent_is_begun_again(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(image([bytes(range(256)) * 40000]))).layers[0]
    registry.script = lambda asked: oci.error(404, "GONE") if asked.start else None
    with pytest.raises(SourceNotFound):
        fetched(layer, tmp_path, part_bytes=layer.size // 4, connections=1, checkpoint_seconds=0)
    registry.script = lambda asked: whole(registry, asked)

    with pytest.raises(SourceUnavailable, match="with the whole object"):
        fetched(layer, tmp_path)
    assert fetched(layer, tmp_path) == layer.sha256


# --------------------------------------------------------------------------------------------------- rates and errors


def test_a_rate_limit_is_waited_for_as_long_as_it_asks(registry: LyingRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("reconciler.image.oci.resolve.time.sleep", waited.append)
    url, left = registry.push(WEB), [1, 1]
    registry.script = lambda asked: oci.error(429, "TOOMANYREQUESTS", **{"Retry-After": "3"}) if left and left.pop() else None

    assert found(url).digest == WEB.digest
    assert waited == [3.0, 3.0]


@pytest.mark.parametrize(("status", "words"), [(429, "limits the rate"), (503, "fails with status 503")])
def test_a_registry_that_stays_busy_is_given_up(registry: LyingRegistry, status: int, words: str) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: oci.error(status, "TOOMANYREQUESTS") if asked.method == "GET" else None

    with pytest.raises(SourceUnavailable, match=f"{registry.host} {words} .*team/web"):
        found(url)

    assert registry.methods("GET") == ["GET manifests"] * exchange.REQUEST_ATTEMPTS


def test_a_tag_that_is_missing_is_named(registry: LyingRegistry) -> None:
    with pytest.raises(SourceNotFound, match=f"there is no manifest 7 of {registry.host}/team/web"):
        found(f"oci://{registry.host}/team/web:7")


def test_a_registry_that_is_down_is_named() -> None:
    permit("127.0.0.1:9")

    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9 does not answer"):
        found("oci://127.0.0.1:9/team/web:1")


def test_plain_http_has_to_be_listed(registry: LyingRegistry) -> None:
    permit()

    with pytest.raises(SourceUnavailable, match="TLS") as caught:
        found(registry.push(WEB))

    assert "policy.registries.plainHttp" in caught.value.hint


# ------------------------------------------------------------------------------------------------------ authorization


def tokens(realm: LyingRegistry, *, valid: int = 10**6) -> list[str]:
    """Have a server give tokens t1, t2 …; each is good for so many requests. Returns those that were given."""
    given: list[str] = []
    used: dict[str, int] = {}

    def script(asked: Asked) -> Answer | None:
        if asked.path == "/token":
            given.append(f"t{len(given) + 1}")
            return Answer(200, {}, json.dumps({"token": given[-1]}).encode())
        header = asked.headers.get("Authorization", "")
        used[header] = used.get(header, 0) + 1
        accepted = header == f"Bearer {given[-1] if given else ''}" and used[header] <= valid
        return None if accepted else oci.challenge(f"http://{realm.host}/token")

    realm.script = script
    return given


def test_one_token_serves_a_whole_image(registry: LyingRegistry, tmp_path: Path) -> None:
    given = tokens(registry)

    for layer in found(registry.push(WEB)).layers:
        fetched(layer, tmp_path)

    assert given == ["t1"]


def test_a_token_that_expires_in_the_middle_of_a_layer_is_renewed(registry: LyingRegistry, tmp_path: Path) -> None:
    given = tokens(registry, valid=4)
    layer = found(registry.push(image([bytes(range(256)) * 40000]))).layers[0]

    assert fetched(layer, tmp_path, part_bytes=layer.size // 9 + 1, connections=1) == layer.sha256
    assert len(given) > 2


def test_a_registry_that_accepts_no_token_is_left(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: (
        Answer(200, {}, b'{"access_token": "t"}') if asked.path == "/token" else oci.challenge(f"http://{registry.host}/token")
    )

    with pytest.raises(SourceForbidden, match=f"{registry.host} does not allow manifest 1 of") as caught:
        found(url)

    assert len(registry.asked) == 3
    assert "policy.registries.authFile" in caught.value.hint


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Digest realm=x", "Bearer service=x"])
def test_a_challenge_that_can_not_be_answered_is_named(registry: LyingRegistry, challenge: str) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: oci.error(401, "UNAUTHORIZED", **({"WWW-Authenticate": challenge} if challenge else {}))

    with pytest.raises(SourceForbidden, match=r"refuses|sends"):
        found(url)

    assert len(registry.asked) == 1


@pytest.mark.parametrize(
    "realm", ["ftp://x/token", "token", "http://user:pw@127.0.0.1/token", "http://[::1", "file:///etc/passwd"]
)
def test_a_realm_that_is_no_plain_url_is_not_asked(registry: LyingRegistry, realm: str) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: oci.challenge(realm)

    with pytest.raises(SourceForbidden, match="is not accepted"):
        found(url)


@pytest.mark.parametrize(
    "realm", ["https://x..y/token", f"https://{'a' * 64}.example/token", "http://127.0.0.1:9\x01/token", "https://a b/token"]
)
def test_a_realm_without_a_host_that_can_be_asked_is_an_error_in_words(registry: LyingRegistry, realm: str) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: oci.challenge(realm)

    with pytest.raises((SourceUnavailable, SourceForbidden), match=r"does not answer|not accepted"):
        found(url)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\nb"}', b"x" * (2 << 20)])
def test_an_answer_without_a_token_is_an_error_in_words(registry: LyingRegistry, body: bytes) -> None:
    url = registry.push(WEB)
    registry.script = lambda asked: (
        Answer(200, {}, body) if asked.path == "/token" else oci.challenge(f"http://{registry.host}/token")
    )

    with pytest.raises(SourceUnavailable, match="no token"):
        found(url)


SECRET = "hunter2-hunter2"


@pytest.fixture
def logged_in(registry: LyingRegistry, tmp_path: Path) -> LyingRegistry:
    """The host file names an auth file with the registry's credentials."""
    oci.auth_file(tmp_path / "auth.json", registry.host, "ann", SECRET)
    permit(registry.host, auth_file=str(tmp_path / "auth.json"))
    return registry


def secrets(found: list[Asked]) -> list[str]:
    basic = base64.b64encode(f"ann:{SECRET}".encode()).decode()
    return [one.path for one in found if basic in one.headers.get("Authorization", "")]


def test_credentials_are_sent_where_basic_is_asked_for(logged_in: LyingRegistry) -> None:
    url = logged_in.push(WEB)
    logged_in.script = oci.demanding(
        lambda header: header.startswith("Basic "), oci.error(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="x"'})
    )

    assert found(url).digest == WEB.digest
    assert len(secrets(logged_in.asked)) == len(logged_in.asked) - 1, "the first request has shown that they are needed"


def test_credentials_are_sent_to_the_token_server_only(logged_in: LyingRegistry) -> None:
    tokens(logged_in)

    found(logged_in.push(WEB))

    assert secrets(logged_in.asked) == ["/token"]


def test_credentials_are_not_sent_to_a_token_server_elsewhere(logged_in: LyingRegistry) -> None:
    url = logged_in.push(WEB)
    with LyingRegistry() as elsewhere:
        realm = elsewhere.host.replace("127.0.0.1", "localhost")
        logged_in.script = lambda asked: oci.challenge(f"http://{realm}/token")

        with pytest.raises(SourceForbidden, match=f"sends clients to {realm} for a token") as caught:
            found(url)

        assert not elsewhere.asked
    assert "policy.registries.allow" in caught.value.hint


def test_another_port_of_the_registry_is_another_server(logged_in: LyingRegistry, tmp_path: Path) -> None:
    """It gets no credentials, and its address has to be a permitted one, unless the host file lists it."""
    url = logged_in.push(WEB)
    with LyingRegistry() as elsewhere:
        elsewhere.script = lambda asked: Answer(200, {}, b'{"token": "t"}')
        realm = oci.challenge(f"http://{elsewhere.host}/token")
        logged_in.script = oci.demanding(lambda header: header == "Bearer t", realm)

        with pytest.raises(SourceForbidden, match="credentials are not sent there") as caught:
            found(url)
        assert f"add {elsewhere.host} to policy.registries.allow" in caught.value.hint
        plain = Registries(allow=(logged_in.host,), plain_http=(logged_in.host,))
        force.use(Policy(limits_addresses=True, registries=plain))
        with pytest.raises(PolicyRefused, match="is a loopback address"):
            found(url)
        assert not elsewhere.asked

        permit(logged_in.host, allow=(logged_in.host, elsewhere.host), auth_file=str(tmp_path / "auth.json"))
        assert found(url).digest == WEB.digest
        assert secrets(elsewhere.asked) == ["/token"]


def test_a_token_server_elsewhere_is_asked_without_credentials(registry: LyingRegistry) -> None:
    """Docker Hub's, and many others, have another name than the registry."""
    url = registry.push(WEB)
    with LyingRegistry() as elsewhere:
        elsewhere.script = lambda asked: Answer(200, {}, b'{"token": "t"}')
        realm = elsewhere.host.replace("127.0.0.1", "localhost")
        registry.script = oci.demanding(lambda header: header == "Bearer t", oci.challenge(f"http://{realm}/token"))

        assert found(url).digest == WEB.digest
        assert [one.headers.get("Authorization") for one in elsewhere.asked] == [None]


def test_an_identity_token_is_exchanged(registry: LyingRegistry, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {registry.host: {"auth": base64.b64encode(b"ann:").decode(), "identitytoken": SECRET}}}))
    file.chmod(0o600)
    certificate = oci.certificate(tmp_path)
    with oci.TokenServer(certificate, {"ann": SECRET}) as server:
        permit(registry.host, allow=(registry.host, urlsplit(server.realm).netloc), auth_file=str(file))
        registry.script = oci.demanding(lambda header: header.startswith("Bearer "), oci.challenge(server.realm))

        assert found(registry.push(WEB)).digest == WEB.digest
        assert server.asked == [("POST", "")]


def test_no_error_holds_a_secret(logged_in: LyingRegistry) -> None:
    url = logged_in.push(WEB)
    logged_in.script = lambda asked: (
        Answer(200, {}, b'{"token": "tok-en"}') if asked.path == "/token" else oci.challenge(f"http://{logged_in.host}/token?a=b")
    )

    with pytest.raises(SourceForbidden) as caught:
        found(url)

    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error)
        assert "tok-en" not in repr(error)
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------------------------------------------------- redirects


def redirecting(registry: LyingRegistry, storage: LyingRegistry, *, host: str = "localhost") -> None:
    """Blobs are at another host, under URLs that are signed anew each time."""
    signed = [0]
    port = storage.host.partition(":")[2]

    def script(asked: Asked) -> Answer | None:
        if "/blobs/" not in asked.path:
            return None
        signed[0] += 1
        return Answer(307, {"Location": f"http://{host}:{port}{asked.path}?signature={signed[0]}"})

    registry.script = script
    storage.objects, storage.etags = registry.objects, registry.etags


def test_a_redirect_is_followed_without_the_authorization(registry: LyingRegistry, tmp_path: Path) -> None:
    given = tokens(registry)
    first = registry.script
    with LyingRegistry() as storage:
        redirecting(registry, storage)
        second = registry.script
        registry.script = lambda asked: first(asked) or second(asked)

        for layer in found(registry.push(WEB)).layers:
            fetched(layer, tmp_path)

        assert given == ["t1"]
        assert storage.asked
        assert not any("Authorization" in one.headers for one in storage.asked)
        assert all("Authorization" in one.headers for one in registry.asked if "/blobs/" in one.path)


def test_a_layer_that_was_cut_off_resumes_through_a_fresh_redirect(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(image([bytes(range(256)) * 40000]))).layers[0]
    with LyingRegistry() as storage:
        redirecting(registry, storage)
        storage.script = lambda asked: oci.error(404, "GONE") if asked.start else None
        with pytest.raises(ReconcilerError):
            fetched(layer, tmp_path, part_bytes=layer.size // 4, connections=1, checkpoint_seconds=0)
        storage.script = lambda asked: None
        registry.asked.clear()
        storage.asked.clear()

        assert fetched(layer, tmp_path, part_bytes=layer.size, connections=1) == layer.sha256

        assert [one.start for one in storage.asked] == [layer.size // 4]
        assert registry.methods() == ["GET blobs"]


def test_a_redirect_to_an_address_that_the_policy_refuses_is_not_followed(registry: LyingRegistry, tmp_path: Path) -> None:
    layer = found(registry.push(WEB)).layers[0]
    force.use(Policy(limits_addresses=True, registries=Registries(allow=(registry.host,), plain_http=(registry.host,))))
    registry.script = lambda asked: Answer(307, {"Location": "http://169.254.169.254/latest/meta-data"})

    with pytest.raises(PolicyRefused, match=r"team/web: .*169\.254\.169\.254:80 is a link-local address"):
        fetched(layer, tmp_path)


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://user:pw@127.0.0.1/x", "http://[::1", "/same", "http://127.0.0.1:0/"]
)
def test_a_redirect_that_leads_nowhere_ends(registry: LyingRegistry, tmp_path: Path, location: str) -> None:
    layer = found(registry.push(WEB)).layers[0]
    registry.asked.clear()
    registry.script = lambda asked: Answer(307, {"Location": location})

    with pytest.raises(SourceUnavailable, match="redirects"):
        fetched(layer, tmp_path)

    assert len(registry.asked) <= 5


# ------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[LyingRegistry]:
    certificate = oci.certificate(tmp_path)
    oci.forget()
    with LyingRegistry(certificate) as registry:
        force.use(Policy(registries=Registries(ca_files={registry.host: str(certificate.cert)})))
        yield registry


@pytest.mark.slow
def test_a_private_authority_is_named_in_the_host_file(tls: LyingRegistry, tmp_path: Path) -> None:
    assert fetched(found(tls.push(WEB)).layers[0], tmp_path / "spool")

    force.use(Policy())
    with pytest.raises(SourceUnavailable, match="certificate") as caught:
        found(tls.push(WEB))
    assert "policy.registries.caFiles" in caught.value.hint


def test_a_redirect_to_http_is_not_followed_from_https(tls: LyingRegistry, tmp_path: Path) -> None:
    layer = found(tls.push(WEB)).layers[0]
    tls.script = lambda asked: Answer(307, {"Location": "http://127.0.0.1:9/blob"})

    with pytest.raises(SourceUnavailable, match=r"to 127\.0\.0\.1:9 without TLS"):
        fetched(layer, tmp_path / "spool")


def test_a_realm_without_tls_is_not_asked_from_https(tls: LyingRegistry) -> None:
    url = tls.push(WEB)
    tls.script = lambda asked: oci.challenge("http://127.0.0.1:9/token")

    with pytest.raises(SourceForbidden, match="is not accepted"):
        found(url)


# ------------------------------------------------------------------------------------------------- mirrors and policy


def test_a_mirror_is_asked_first_and_the_registry_for_what_it_lacks(registry: LyingRegistry, tmp_path: Path) -> None:
    url = registry.push(WEB)
    with LyingRegistry() as mirror:
        mirror.push(WEB)
        gone = WEB.layers[1]
        del mirror.objects[f"/v2/team/web/blobs/{gone}"]
        permit(registry.host, mirror.host, mirrors={registry.host: (mirror.host,)})

        for layer in found(url).layers:
            fetched(layer, tmp_path)

        assert [one.path.rpartition("/")[2] for one in registry.asked] == [gone]


def test_a_mirror_below_a_path_takes_the_place_of_the_longest_prefix(registry: LyingRegistry) -> None:
    with LyingRegistry() as mirror:
        mirror.push(WEB, "proxy/hub/team/web")
        mirror.push(WEB, "mine/web")
        prefixes = {registry.host: (f"{mirror.host}/proxy/hub",), f"{registry.host}/tea": ("wrong.example",)}
        permit(registry.host, mirror.host, mirrors=prefixes)
        url = f"oci://{registry.host}/team/web:1"

        assert found(url).digest == WEB.digest
        assert {one.path.partition("/manifests/")[0].partition("/blobs/")[0] for one in mirror.asked} == {
            "/v2/proxy/hub/team/web"
        }
        mirror.asked.clear()
        permit(registry.host, mirror.host, mirrors=prefixes | {f"{registry.host}/team": (f"{mirror.host}/mine",)})
        assert found(url).digest == WEB.digest
        assert {one.path.partition("/manifests/")[0].partition("/blobs/")[0] for one in mirror.asked} == {"/v2/mine/web"}
    assert not registry.asked


def test_as_many_digests_are_kept_as_are_allowed(registry: LyingRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a registry that sends no digest: the newest ones are those that need no second request."""
    from reconciler.image.oci import registry as client

    monkeypatch.setattr(client, "MOST_DIGESTS", 2)
    monkeypatch.setattr(client, "_digests", {})
    registry.told = False
    for number in range(3):
        found(registry.push(WEB, f"team/{number}"))

    assert {url.partition("/v2/")[2].partition("/manifests/")[0] for url, _ in client._digests} == {"team/2"}
    assert len(client._digests) == 2


def test_a_long_etag_is_not_kept(registry: LyingRegistry) -> None:
    registry.told = False
    url = registry.push(WEB)

    def script(asked: Asked) -> Answer:
        answer = registry.serve(asked)
        return replace(answer, headers={**answer.headers, "ETag": f'"{"x" * 256}"'})

    registry.script = script
    assert found(url).digest == WEB.digest
    assert not client._digests


def test_a_mirror_that_fails_is_passed_over_for_a_while(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    with LyingRegistry() as mirror:
        permit(registry.host, mirror.host, mirrors={registry.host: (mirror.host,)})
        mirror.script = lambda asked: oci.error(503, "UNAVAILABLE")

        found(url)
        asked = len(mirror.asked)
        found(url)

        assert (asked, len(mirror.asked)) == (exchange.REQUEST_ATTEMPTS, exchange.REQUEST_ATTEMPTS)


def test_a_mirror_that_lies_is_noticed_and_the_registry_asked(registry: LyingRegistry) -> None:
    registry.push(WEB)
    with LyingRegistry() as mirror:
        mirror.push(WEB)
        mirror.store(f"/v2/team/web/manifests/{WEB.digest}", b"{}")
        permit(registry.host, mirror.host, mirrors={registry.host: (mirror.host,)})

        assert found(f"oci://{registry.host}/team/web@{WEB.digest}").digest == WEB.digest


def test_a_registry_that_is_not_listed_is_refused(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    permit(registry.host, allow=("registry.example",))

    with pytest.raises(PolicyRefused, match="is not listed") as caught:
        found(url)

    assert "policy.registries.allow" in caught.value.hint
    assert not registry.asked


def test_loopback_is_refused_unless_the_host_file_lists_the_registry(registry: LyingRegistry) -> None:
    url = registry.push(WEB)
    plain = Registries(plain_http=(registry.host,))
    force.use(Policy(limits_addresses=True, registries=plain))

    with pytest.raises(PolicyRefused, match="loopback"):
        found(url)
    assert not registry.asked

    force.use(Policy(limits_addresses=True, registries=replace(plain, allow=(registry.host,))))
    assert found(url).digest == WEB.digest
