"""Servers that answer oddly, slowly or never: one deadline, one clear error of that source, and nothing that stays behind."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.backoff import Backoff
from reconciler.errors import ReconcilerError, SourceChanged, SourceForbidden, SourceNotFound, SourceUnavailable
from reconciler.image.source import exchange, s3_client
from reconciler.image.source.answers import Asked as About
from reconciler.image.source.answers import md5_of, redirected, refusal
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import Slow
from reconciler.image.source.remote import get, head_one
from reconciler.image.source.stamp import Head
from reconciler.image.spec import S3Options, Source
from tests.support.origin import Answer, Asked, Origin, eventually, failure
from tests.support.raw import RawServer, Speak, answering, dripping, interim, silent


@pytest.fixture(scope="module")
def address() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def origin(address: Origin) -> Origin:
    address.reset()
    return address


@pytest.fixture(params=[True, False], ids=["unsigned", "signed"])
def anonymous(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of asking: without boto3, and signed by it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return bool(request.param)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BETWEEN_REQUESTS", Backoff(0.001, 0.01))


# ------------------------------------------------------------------------------------------------------ deadlines


@pytest.mark.parametrize("speak", [silent, dripping, interim], ids=lambda speak: speak.__name__)
def test_a_look_up_has_one_deadline_and_leaves_no_thread_and_no_connection(
    speak: Speak, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 0.5)
    with RawServer(speak) as server:
        source = server.source(anonymous=anonymous)
        if not anonymous:
            s3_client.client_for(source.s3)  # loading boto3 can take longer than this deadline
        with pytest.raises(SourceUnavailable, match="no whole answer in 0 s"):
            head_one(source)
        eventually(lambda: server.open == 0)
        eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "cutoff"])
        assert server.accepted == 1


@pytest.mark.slow
def test_the_time_that_boto3_takes_to_load_is_not_the_servers(
    origin: Origin, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loaded machine the first import takes seconds."""
    source = replace(origin.put(b"data"), s3=S3Options(origin.endpoint, "us-east-1", anonymous=anonymous))
    if not anonymous:
        s3_client.client_for(source.s3)
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 2.0)
    monkeypatch.setattr(s3_client, "load", lambda _: time.sleep(2.5) or 2.5)

    assert head_one(source).size == 4


def test_a_tls_handshake_that_never_ends_has_the_same_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 0.5)
    with RawServer(silent) as server:
        endpoint = server.endpoint.replace("http", "https")
        with pytest.raises(SourceUnavailable):
            head_one(Source("s3://a/b", S3Options(endpoint, "us-east-1", anonymous=True)))
        eventually(lambda: server.open == 0)


def test_repeated_requests_count_against_the_same_deadline(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks to wait longer than there is time is not waited for."""
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 5.0)
    source = origin.put(b"data")
    origin.script = lambda asked: Answer(503, {"Retry-After": "30"})

    with pytest.raises(SourceUnavailable, match="can't serve"):
        head_one(source)

    assert len(origin.asked) == 1


def test_retry_after_is_honoured_within_bounds(origin: Origin) -> None:
    pauses: list[float] = []
    source = origin.put(b"data")
    waits = iter(["7", "100000"])
    origin.script = lambda asked: Answer(429, {"Retry-After": told}) if (told := next(waits, "")) else None

    with Cutoff(1000) as cutoff:
        get(source, 0, 4, cutoff=cutoff, pause=pauses.append).close()

    assert pauses == [7.0, 60.0]


def test_a_get_can_be_ended_while_it_waits_for_its_answer() -> None:
    with RawServer(silent) as server:
        cutoff = Cutoff(60)
        threading.Timer(0.1, cutoff.cut).start()
        with pytest.raises(SourceUnavailable):
            get(server.source(), 0, 10, cutoff=cutoff)
        eventually(lambda: server.open == 0)


def test_a_body_below_the_minimum_rate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RATE_SECONDS", 0.2)

    def speak(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(
            b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Length: 1000\r\nContent-Range: bytes 0-999/1000\r\n\r\n'
        )
        while not over.wait(0.02):
            connection.sendall(b"a")

    with RawServer(speak) as server:
        body = get(server.source(), 0, 1000)
        buffer = memoryview(bytearray(1000))
        assert 0 < body.readinto(buffer) < 1000, "what came is kept"
        with pytest.raises(Slow, match=r"only \d+ bytes in 0 s"):
            body.readinto(buffer)
        body.close()


CHUNKED = b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-999/1000\r\n\r\n'


@pytest.mark.parametrize("unless", [None, lambda: False], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("begun", [b"1;", b"1\r\na\r\n0\r\nX: "], ids=["extension", "trailer"])
def test_a_chunk_that_never_begins_or_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, begun: bytes, unless: Callable[[], bool] | None
) -> None:
    """Its size line or trailer comes a byte at a time: each receives in time, and none of them counts."""
    monkeypatch.setattr(exchange, "RATE_SECONDS", 0.3)

    def speak(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(CHUNKED + begun)
        while not over.wait(0.01):
            connection.sendall(b"a")

    with RawServer(speak) as server:
        body = get(server.source(), 0, 1000, cutoff=Cutoff(60, unless))
        buffer = memoryview(bytearray(1000))
        with pytest.raises(Slow, match="no bytes in 0 s"):
            while body.readinto(buffer):
                pass
        body.close()


def test_a_whole_chunked_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(answering(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")) as server:
        for _ in range(2):
            body, buffer, length = get(server.source(), 0, 1000), memoryview(bytearray(1000)), 0
            while length < 1000:
                length += body.readinto(buffer[length:])
            body.close()
        assert bytes(buffer) == b"x" * 1000


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(origin: Origin) -> None:
    first = answering(b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 4\r\n\r\n')

    def once(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 4\r\n\r\n')
        connection.shutdown(socket.SHUT_WR)

    with RawServer(once) as server:
        source = server.source()
        assert [head_one(source).size for _ in range(3)] == [4, 4, 4]
        assert server.accepted == 3
    with RawServer(first) as server:
        source = server.source()
        assert [head_one(source).size for _ in range(3)] == [4, 4, 4]
        assert server.accepted == 1, "one connection serves them all"


# ------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nConnection: close\r\n\r\n', "without a Content-Length"),
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\n\r\n', "without a Content-Length"),
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 1' + b"0" * 30 + b"\r\n\r\n", "Content-Length '1000"),
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: many\r\n\r\n', "Content-Length 'many'"),
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: -5\r\n\r\n', "Content-Length '-5'"),
        (b'HTTP/1.1 200 OK\r\nETag: ""\r\nContent-Length: 5\r\n\r\n', "no ETag .*pin the layer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "no ETag .*pin the layer"),
        (b'HTTP/1.1 204 No Content\r\nETag: "a"\r\n\r\n', "status 204"),
        (b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n', "status 206"),
        (b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Type: text/html; charset=x\r\nContent-Length: 5\r\n\r\n', "with a web page"),
        (b"\x00\xff garbage\r\n\r\n" * 20, "does not answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5000 + b"\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)  # fmt: skip
def test_an_odd_answer_to_a_look_up_is_an_error_of_that_source(
    answer: bytes, words: str, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "REQUEST_ATTEMPTS", 1)

    def speak(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)

    with RawServer(speak) as server, pytest.raises(SourceUnavailable, match=words) as caught:
        head_one(server.source(anonymous=anonymous))

    assert "s3://layers/one.tar" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (206, {}, "status 206 without a Content-Range"),
        (206, {"Content-Range": "bytes */10"}, "Content-Range 'bytes"),
        (206, {"Content-Range": "bytes 0-3/1" + "0" * 30}, "Content-Range 'bytes"),
        (206, {"Content-Range": "bytes 5-9/10"}, "Content-Range 'bytes 5-9/10'"),
        (204, {}, "status 204"),
        (206, {"Content-Range": "bytes 0-3/10", "Content-Type": "text/html"}, "with a web page"),
        (200, {"Content-Length": "1" + "0" * 30}, "Content-Length '1000"),
    ],
)
def test_an_odd_answer_to_a_get_is_an_error_of_that_source(
    origin: Origin, status: int, headers: dict[str, str], words: str
) -> None:
    source = origin.put(b"0123456789")
    origin.script = lambda asked: Answer(status, {"ETag": '"x"'} | headers, b"" if status == 204 else b"0123")

    with pytest.raises(SourceUnavailable, match=words):
        get(source, 0, 4)


@pytest.mark.parametrize("status", [403, 405, 501])
def test_where_head_is_refused_a_get_of_one_byte_answers(origin: Origin, status: int, anonymous: bool) -> None:
    source = origin.source(anonymous=anonymous)
    origin.put(b"0123456789", etag="abc")
    origin.script = lambda asked: Answer(status, {}) if asked.method == "HEAD" else None

    assert head_one(source) == Head('"abc"', 10)
    assert origin.ranges() == [(0, 1)]


def test_an_empty_object_is_described_where_head_is_refused(origin: Origin) -> None:
    source = origin.put(b"", etag="abc")
    origin.script = lambda asked: Answer(405, {}) if asked.method == "HEAD" else None

    assert head_one(source) == Head('"abc"', 0)


def test_a_weak_etag_is_compared_and_never_sent(origin: Origin) -> None:
    source = origin.put(b"0123456789")
    origin.etags["/layers/one.tar"] = 'W/"abc"'
    etag = head_one(source).etag
    body = get(source, 0, 4, etag)
    body.close()

    assert (etag, body.head.etag) == ('W/"abc"', 'W/"abc"')
    assert "If-Match" not in origin.gets()[-1].headers


@pytest.mark.parametrize(
    ("headers", "md5"),
    [
        ({}, "0" * 32),
        ({"x-amz-server-side-encryption": "AES256"}, "0" * 32),
        ({"x-amz-server-side-encryption": "aws:kms"}, ""),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, ""),
        ({"etag": f'"{"0" * 32}-2"'}, ""),
        ({"etag": f'W/"{"0" * 32}"'}, ""),
    ],
)
def test_an_etag_is_an_md5_where_the_object_is_one_part_and_not_encrypted_with_a_key(headers: dict[str, str], md5: str) -> None:
    assert md5_of({"etag": f'"{"0" * 32}"'} | headers) == md5


# ----------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_on_the_same_host_is_followed_once(origin: Origin, status: int, anonymous: bool) -> None:
    source = origin.source("layers/old.tar", anonymous=anonymous)
    origin.put(b"0123456789", "layers/new.tar", etag="abc")
    origin.script = lambda asked: Answer(status, {"Location": "/layers/new.tar"}) if asked.path.endswith("old.tar") else None

    assert head_one(source) == Head('"abc"', 10)
    body = get(source, 3, 7, '"abc"')
    buffer = bytearray(4)
    body.readinto(memoryview(buffer))
    body.close()
    assert buffer == b"3456"
    if not anonymous:
        signatures = [asked.headers["Authorization"] for asked in origin.asked]
        assert len(set(signatures)) == 4, "each request is signed for its own path"


def test_a_redirect_in_a_circle_ends_after_the_second_one(origin: Origin) -> None:
    source = origin.put(b"data")
    origin.script = lambda asked: Answer(302, {"Location": "/layers/one.tar"})

    with pytest.raises(SourceUnavailable, match="more than once"):
        head_one(source)

    assert len(origin.asked) == 2


def about(endpoint: str, key: str = "bucket/key", *, anonymous: bool = True) -> About:
    return About(Source(f"s3://{key}", S3Options(endpoint, anonymous=anonymous)), endpoint)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://s3.example/bucket/key", "https://s3.example/other/key"),
        ("http://s3.example/bucket/key", "https://s3.example/bucket/key"),
        ("https://bucket.s3.amazonaws.com/key", "https://bucket.s3.eu-west-1.amazonaws.com/key"),
        ("https://bucket.s3.us-east-1.amazonaws.com/key", "https://bucket.s3-eu-west-1.amazonaws.com/key"),
        ("https://s3.us-east-1.amazonaws.com/bucket/key", "https://s3.eu-west-1.amazonaws.com/bucket/key"),
        ("http://127.0.0.1:9000/bucket/key", "http://127.0.0.1:9000/elsewhere"),
    ],
)
def test_a_redirect_leads_to_the_same_host_or_to_the_region_of_the_bucket(url: str, location: str) -> None:
    assert redirected(about(url), url, 307, {"location": location}) == location


@pytest.mark.parametrize(
    ("url", "location", "words"),
    [
        ("https://s3.example/bucket/key", "http://s3.example/bucket/key", "not encrypted"),
        ("https://s3.example/bucket/key", "https://169.254.169.254/latest", "another host"),
        ("http://s3.example/bucket/key", "http://127.0.0.1/bucket/key", "another host"),
        ("http://s3.example/bucket/key", "http://localhost/bucket/key", "another host"),
        ("http://s3.example/bucket/key", "http://s3.example:22/bucket/key", "another port"),
        ("http://s3.example/bucket/key", "file:///etc/passwd", "not a plain HTTP URL"),
        ("http://s3.example/bucket/key", "http://s3.example:x/", "not a URL"),
        ("https://s3.example/bucket/key", "https://user@s3.example/bucket/key", "not a plain HTTP URL"),
        ("https://bucket.s3.amazonaws.com/key", "https://other.s3.eu-west-1.amazonaws.com/key", "another host"),
        ("https://s3.amazonaws.com/bucket/key", "https://s3.eu-west-1.amazonaws.com/other/key", "another host"),
        ("https://s3.example/bucket/key", "https://bucket.s3.eu-west-1.amazonaws.com/key", "another host"),
    ],
)
def test_a_redirect_to_anywhere_else_is_refused_in_words(url: str, location: str, words: str) -> None:
    with pytest.raises(SourceUnavailable, match=words):
        redirected(about(url), url, 302, {"location": location})


def test_a_redirect_that_names_a_region_only_is_explained() -> None:
    with pytest.raises(SourceUnavailable, match=r"region eu-west-1 .*set s3\.region to eu-west-1"):
        redirected(about("http://s3.example"), "http://s3.example/bucket/key", 301, {"x-amz-bucket-region": "eu-west-1"})


# --------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "RequestTimeTooSkewed", SourceUnavailable, "clock of this host is wrong; .*29 Nov 2026.*timedatectl"),
        (400, "ExpiredToken", SourceForbidden, "session token .* has expired.*renew the credentials"),
        (403, "InvalidObjectState", SourceForbidden, "archive tier .*restore"),
        (403, "AccessDenied", SourceForbidden, "does not allow"),
        (412, "PreconditionFailed", SourceChanged, "was replaced"),
        (404, "NoSuchKey", SourceNotFound, "has no key"),
        (400, "AuthorizationHeaderMalformed", SourceNotFound, r"set s3\.region to eu-west-3"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, code: str, kind: type[ReconcilerError], words: str) -> None:
    text = f"<Error><Code>{code}</Code><Message>m</Message><Region>eu-west-3</Region></Error>"

    error = refusal(about("http://s3.example"), status, {"date": "Sun, 29 Nov 2026 10:00:00 GMT"}, text)

    assert isinstance(error, kind)
    with pytest.raises(kind, match=words):
        raise error


def test_a_look_up_that_is_refused_without_a_word_is_explained_by_a_get(origin: Origin) -> None:
    """The answer to a HEAD has no body; an expired token is a bare 400."""
    source = origin.put(b"data")
    origin.script = lambda asked: Answer(400, {}) if asked.method == "HEAD" else failure(400, "ExpiredToken")

    with pytest.raises(SourceForbidden, match="has expired"):
        head_one(source)


def test_after_an_expired_token_new_credentials_are_read(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    origin.put(b"data")
    source = origin.source(anonymous=False, region="eu-south-1")

    def script(asked: Asked) -> Answer | None:
        return failure(400, "ExpiredToken") if "Credential=old/" in asked.headers["Authorization"] else None

    origin.script = script
    with pytest.raises(SourceForbidden):
        head_one(source)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new")

    assert head_one(source).size == 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificate")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {directory}/key -out {directory}/cert -days 2 -subj /CN=x"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return directory


def test_a_certificate_that_the_environment_names_is_trusted(
    certificate: Path, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")

    def speak(connection: socket.socket, over: threading.Event) -> None:
        with context.wrap_socket(connection.dup(), server_side=True) as inside:
            inside.recv(1 << 16)
            inside.sendall(b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nContent-Length: 4\r\n\r\n')

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "cert"))
    with RawServer(speak) as server:
        options = S3Options(server.endpoint.replace("http", "https"), "us-east-1", anonymous=anonymous)
        assert head_one(Source("s3://a/b", options)) == Head('"abc"', 4)


def test_a_certificate_that_is_not_trusted_is_named_as_the_reason(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")

    def speak(connection: socket.socket, over: threading.Event) -> None:
        context.wrap_socket(connection, server_side=True)

    with RawServer(speak) as server:
        endpoint = server.endpoint.replace("http", "https")
        with pytest.raises(SourceUnavailable, match=r"certificate .*not accepted.*self.signed.*CA certificate"):
            head_one(Source("s3://a/b", S3Options(endpoint, "us-east-1", anonymous=True)))


def test_an_endpoint_without_tls_is_named_as_the_reason(origin: Origin) -> None:
    endpoint = origin.endpoint.replace("http", "https")

    with pytest.raises(SourceUnavailable, match=r"TLS with .* fails.*scheme of s3\.endpointUrl"):
        head_one(Source("s3://a/b", S3Options(endpoint, "us-east-1", anonymous=True)))


def test_a_proxy_of_the_environment_is_asked(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", origin.endpoint.replace("//", "//me:secret@"))
    monkeypatch.setattr(origin, "objects", {"http://s3.example/layers/one.tar": b"data"})
    monkeypatch.setattr(origin, "etags", {"http://s3.example/layers/one.tar": '"abc"'})

    found = head_one(Source("s3://layers/one.tar", S3Options("http://s3.example", "us-east-1", anonymous=True)))

    assert found == Head('"abc"', 4)
    assert origin.asked[0].headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
    assert origin.asked[0].headers["Host"] == "s3.example"


# -------------------------------------------------------------------------------------------------------- Amazon


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for Amazon's names."""
    directory = tmp_path_factory.mktemp("amazon")
    hosts = ",".join(f"DNS:*.s3.{region}amazonaws.com" for region in ("", "us-east-1.", "eu-west-1."))
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {directory}/key -out {directory}/cert -days 2 -subj /CN=x"
    subprocess.run([*command.split(), "-addext", f"subjectAltName={hosts}"], check=True, capture_output=True)
    return directory


def test_the_region_of_a_bucket_is_learnt_from_the_first_answer(
    amazon: Path, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy, with the certificates of the AWS configuration, as boto3 does it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(amazon / "cert", amazon / "key")
    asked: list[str] = []

    def speak(connection: socket.socket, over: threading.Event) -> None:
        tunnel = connection.recv(1 << 16).split()[1].decode()
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(connection.dup(), server_side=True) as inside:
            while request := inside.recv(1 << 16):
                asked.append(
                    f"{tunnel} {request.split()[0].decode()} {'/eu-west-1/s3/' if b'/eu-west-1/s3/' in request else ''}".strip()
                )
                elsewhere = b"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n"
                there = b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nContent-Length: 4\r\n\r\n'
                inside.sendall(there if "eu-west-1" in tunnel else elsewhere)

    with RawServer(speak) as server:
        monkeypatch.setenv("https_proxy", server.endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(amazon / "cert"))
        source = Source("s3://images/one.tar", S3Options(None, "us-east-1", anonymous=anonymous))
        assert [head_one(source) for _ in range(2)] == [Head('"abc"', 4)] * 2

    signed = "" if anonymous else " /eu-west-1/s3/"
    there = f"images.s3.eu-west-1.amazonaws.com:443 HEAD{signed}"
    assert asked[0].startswith(("images.s3.amazonaws.com:443", "images.s3.us-east-1.amazonaws.com:443"))
    assert asked[1:] == [there, there]
