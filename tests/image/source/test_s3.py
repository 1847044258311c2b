"""S3 objects and files as ETags, lengths and ranges, and what a user is told when they can't be had."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import __version__
from reconciler.errors import ReconcilerError, SourceChanged, SourceForbidden, SourceNotFound, SourceUnavailable
from reconciler.image.source import exchange, s3_client
from reconciler.image.source.exchange import Cut
from reconciler.image.source.remote import get, head, head_one
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.spec import S3Options, Source
from samples.s3 import S3Server, connect, upload
from tests.support.origin import Answer, Origin, failure


@pytest.fixture(scope="module")
def address() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def origin(address: Origin) -> Origin:
    address.reset()
    return address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a public object and a private one."""
    path = tmp_path_factory.mktemp("objects") / "object"
    path.write_bytes(b"0123456789")
    with S3Server() as server:
        upload(server.endpoint, {"open/a b+c.tar": path}, "images")
        upload(server.endpoint, {"closed.tar": path}, "images", public=False)
        yield server


@pytest.fixture(autouse=True, scope="module")
def _hasty() -> Iterator[None]:
    """No second try of a request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "REQUEST_ATTEMPTS", 1)
        yield


def anonymous(endpoint: str) -> S3Options:
    return S3Options(endpoint, "us-east-1", anonymous=True)


def unused_endpoint() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# ------------------------------------------------------------------------------------------------------- head


def test_many_sources_are_asked_at_once_and_each_has_its_own_answer(server: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(b"abc")
    s3 = anonymous(server.endpoint)
    there, no_key, no_bucket = (Source(f"s3://{name}", s3) for name in ("images/open/a b+c.tar", "images/none", "nowhere/none"))
    local, no_file = Source(str(path)), Source(str(tmp_path / "none"))

    found = head([there, no_key, no_bucket, local, no_file, there])

    client = connect(server.endpoint)
    assert found[there] == Head(client.head_object(Bucket="images", Key="open/a b+c.tar")["ETag"], 10)
    assert found[local] == Head(stamp(str(path)).head.etag, 3)
    assert [type(found[source]) for source in (no_key, no_bucket, no_file)] == [SourceNotFound] * 3


def test_no_sources_need_no_answers() -> None:
    assert head([]) == {}


def test_a_source_that_is_named_twice_is_asked_for_once(origin: Origin) -> None:
    source = origin.put(b"data")

    head([source, source, source])

    assert len(origin.asked) == 1


def test_a_replaced_or_touched_file_has_another_etag(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(b"one")
    before = head_one(Source(str(path)))
    os.utime(path, ns=(0, 1))
    touched = head_one(Source(str(path)))
    (tmp_path / "other").write_bytes(b"one")
    os.utime(tmp_path / "other", ns=(0, 1))
    (tmp_path / "other").rename(path)

    assert len({before.etag, touched.etag, head_one(Source(str(path))).etag}) == 3


def test_a_directory_is_no_layer(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="not a regular file"):
        head_one(Source(str(tmp_path)))


# -------------------------------------------------------------------------------------------- what can go wrong


def test_a_missing_key_is_named_with_its_bucket(server: S3Server) -> None:
    with pytest.raises(SourceNotFound, match=r"bucket images .* has no key layers/7\.tar .*check the key"):
        get(Source("s3://images/layers/7.tar", anonymous(server.endpoint)), 0, 10)


def test_a_missing_bucket_is_named(server: S3Server) -> None:
    with pytest.raises(SourceNotFound, match=r"no bucket nowhere at http://127\.0\.0\.1:\d+ .*check the bucket"):
        get(Source("s3://nowhere/layers/7.tar", anonymous(server.endpoint)), 0, 10)


def test_a_private_object_is_forbidden_to_the_anonymous(server: S3Server) -> None:
    with pytest.raises(SourceForbidden, match=r"s3://images/closed\.tar .*leave s3\.anonymous out"):
        head_one(Source("s3://images/closed.tar", anonymous(server.endpoint)))


def test_without_credentials_the_user_is_told_the_two_ways_out(server: S3Server) -> None:
    with pytest.raises(SourceForbidden, match=r"give AWS credentials, or set s3\.anonymous"):
        head_one(Source("s3://images/closed.tar", S3Options(server.endpoint, "us-east-1")))


def test_credentials_that_come_later_are_found(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that runs for weeks does not have to be restarted when its credentials are put in place."""
    source = Source("s3://images/closed.tar", S3Options(server.endpoint, "eu-west-1"))
    assert isinstance(head([source])[source], SourceForbidden)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    assert head_one(source).size == 10


def test_an_endpoint_that_is_down_is_named_and_tried_again_later() -> None:
    endpoint = unused_endpoint()

    with pytest.raises(SourceUnavailable, match=rf"{endpoint} does not answer for s3://images/x"):
        head_one(Source("s3://images/x", anonymous(endpoint)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (failure(500, "InternalError"), SourceUnavailable),
        (failure(503, "SlowDown"), SourceUnavailable),
        (failure(429, "TooManyRequests"), SourceUnavailable),
        (failure(400, "RequestTimeout"), SourceUnavailable),
        (failure(403, "AccessDenied"), SourceForbidden),
        (failure(400, "ExpiredToken"), SourceForbidden),
        (failure(401, "Unauthorized"), SourceForbidden),
        (failure(403, "InvalidObjectState", "the object is archived"), SourceForbidden),
        (failure(404, "NoSuchBucket"), SourceNotFound),
        (failure(404, "NoSuchKey"), SourceNotFound),
        (failure(400, "AuthorizationHeaderMalformed"), SourceNotFound),
        (failure(412, "PreconditionFailed"), SourceChanged),
    ],
    ids=lambda value: value.body.decode().split("Code>")[1][:-2] if isinstance(value, Answer) else value.__name__,
)
def test_the_kind_of_failure_says_whether_to_try_again(origin: Origin, answer: Answer, error: type[ReconcilerError]) -> None:
    source = origin.put(b"data")
    origin.script = lambda asked: answer

    with pytest.raises(error) as caught:
        get(source, 0, 4)

    assert source.url in str(caught.value) or "layers" in str(caught.value)


def test_a_passing_hiccup_of_the_server_is_not_noticed(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "REQUEST_ATTEMPTS", 2)
    origin.put(b"data")
    source = origin.source(region="patient-1")
    origin.script = lambda asked: failure(503, "SlowDown") if len(origin.asked) == 1 else None

    assert head_one(source).size == 4


@pytest.mark.parametrize("bucket", ["No Bucket!", "x"])
def test_a_name_that_can_not_be_a_bucket_needs_a_new_spec(origin: Origin, bucket: str) -> None:
    with pytest.raises(SourceNotFound):
        head_one(origin.source(f"{bucket}/key"))


def test_an_endpoint_that_is_no_url_needs_a_new_spec() -> None:
    with pytest.raises(SourceNotFound, match=r"s3\.endpointUrl"):
        head_one(Source("s3://images/x", anonymous("not a url")))


# ---------------------------------------------------------------------------------------------- who is asking


def test_the_anonymous_sign_nothing(origin: Origin) -> None:
    head_one(origin.put(b"data"))

    assert "Authorization" not in origin.asked[0].headers


def test_credentials_of_the_environment_sign(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    origin.put(b"data")

    head_one(origin.source(anonymous=False, region="eu-south-2"))

    assert "Credential=somebody/" in origin.asked[0].headers["Authorization"]
    assert "/eu-south-2/s3/" in origin.asked[0].headers["Authorization"]


def test_the_server_sees_which_program_asks(origin: Origin) -> None:
    head_one(origin.put(b"data"))

    assert f"reconciler/{__version__}" in origin.asked[0].headers["User-Agent"]


def test_an_endpoint_of_the_environment_is_asked_with_the_bucket_in_the_path(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few endpoints but Amazon's own resolve a host name for each bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", origin.endpoint.replace("127.0.0.1", "localhost"))
    origin.put(b"data", "layers/one.tar")

    assert head_one(Source("s3://layers/one.tar", S3Options(region="ap-east-1", anonymous=True))).size == 4


# ------------------------------------------------------------------------------------------------------ ranges


def test_a_range_is_what_was_asked_for(server: S3Server) -> None:
    body = get(Source("s3://images/open/a b+c.tar", anonymous(server.endpoint)), 3, 7)
    buffer = bytearray(4)
    body.readinto(memoryview(buffer))
    body.close()

    assert (buffer, body.head.size) == (b"3456", 10)


def test_an_empty_object_can_be_asked_for(origin: Origin) -> None:
    body = get(origin.put(b""), 0, 10)
    body.close()

    assert body.head.size == 0


def test_a_replaced_object_is_an_error_and_not_a_mix(origin: Origin) -> None:
    source = origin.put(b"one")
    etag = head_one(source).etag
    origin.put(b"two")

    with pytest.raises(SourceChanged, match="was replaced"):
        get(source, 0, 3, etag)


def test_a_server_without_ranges_is_told_from_one_with(origin: Origin) -> None:
    source = origin.put(b"0123456789")
    origin.script = lambda asked: Answer(200, {"ETag": '"x"'}, b"0123456789")

    assert get(source, 0, 4).head.size == 10
    with pytest.raises(SourceUnavailable, match="has to support ranged GETs"):
        get(source, 4, 8)


def test_a_body_that_ends_early_is_no_success(origin: Origin) -> None:
    source = origin.put(b"0123456789")
    origin.script = lambda asked: Answer(206, {"ETag": '"x"', "Content-Range": "bytes 0-9/10"}, b"0123456789", cut=5)
    body = get(source, 0, 10)

    buffer = bytearray(10)
    assert body.readinto(memoryview(buffer)) == 5, "what came before the end is not lost"
    assert buffer[:5] == b"01234"
    with pytest.raises(Cut, match=r"broke off while it sent s3://layers/one\.tar"):
        body.readinto(memoryview(buffer)[5:])
    body.close()


def test_a_directory_bucket_is_asked_without_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 would send CreateSession, and wait for an answer that nothing here gives."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = S3Options(region="us-east-1")
    s3_client.forget(options)
    source = Source("s3://layers--use1-az4--x-s3/one.tar", options)

    request = s3_client.request(source, options, "GET", {"Range": "bytes=0-1"})

    assert "layers--use1-az4--x-s3" in request.url
    assert request.url.split("?")[0].endswith("/one.tar")
    assert "AKIAEXAMPLE" in {name.lower(): value for name, value in request.headers.items()}["authorization"]
