"""Addresses that this host's policy refuses: compared when a connection is made, and when one is used again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import PolicyRefused, SourceNotFound
from reconciler.image.source import local
from reconciler.image.source.local import LocalFile
from reconciler.image.source.remote import head_one
from reconciler.image.source.s3_client import forget
from reconciler.image.source.stamp import Stamp, stamp
from reconciler.image.spec import Layer, Source
from reconciler.policy import force
from reconciler.policy.addresses import parse_allowed
from reconciler.policy.rules import Policy
from tests.support.origin import Origin

ROOT = Policy(limits_addresses=True)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def test_loopback_is_refused_before_anything_is_sent(origin: Origin) -> None:
    force.use(ROOT)

    with pytest.raises(PolicyRefused, match=r"s3://layers/.*is a loopback address") as caught:
        head_one(origin.put(b"data"))

    assert "policy.endpoints.allow" in caught.value.hint
    assert not origin.asked


def test_a_connection_from_before_the_policy_is_not_used_again(origin: Origin) -> None:
    source = origin.put(b"data")
    named = Source(source.url, replace(source.s3, endpoint_url=(source.s3.endpoint_url or "").replace("127.0.0.1", "localhost")))
    assert head_one(named).size == 4

    force.use(replace(ROOT, allow=(parse_allowed("[::1]"),)))

    with pytest.raises(PolicyRefused, match=r"resolves to 127\.0\.0\.1"):
        head_one(named)


def test_what_is_listed_is_asked(origin: Origin) -> None:
    force.use(replace(ROOT, allow=(parse_allowed(origin.endpoint.removeprefix("http://")),)))

    assert head_one(origin.put(b"data")).size == 4


def test_a_policy_that_is_not_enforced_refuses_nothing(origin: Origin) -> None:
    force.use(replace(ROOT, enforced=False))

    assert head_one(origin.put(b"data")).size == 4


def test_the_endpoint_of_the_environment_is_the_hosts_own(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    source = origin.put(b"data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint)
    force.use(ROOT)

    options = replace(source.s3, endpoint_url=None)
    forget(options)  # a client of another test was made with another endpoint

    assert head_one(Source(source.url, options)).size == 4
    forget(options)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "[::1]", "169.254.169.254", "localhost"])
def test_through_a_proxy_a_literal_address_of_this_host_is_refused(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """The proxy resolves names; what it would reach on itself is not compared."""
    source = origin.put(b"data")
    monkeypatch.setenv("http_proxy", origin.endpoint)
    force.use(ROOT)

    with pytest.raises(PolicyRefused):
        head_one(Source(source.url, replace(source.s3, endpoint_url=f"http://{host}:9")))

    assert not origin.asked


def test_a_proxy_of_the_environment_is_the_hosts_own(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies on loopback here; names behind it are left to it."""
    source = origin.put(b"data")
    monkeypatch.setenv("http_proxy", origin.endpoint)
    force.use(ROOT)

    with pytest.raises(SourceNotFound):  # the proxy has been asked, and has no such page
        head_one(Source(source.url, replace(source.s3, endpoint_url="http://minio.example")))

    assert origin.asked


def test_a_link_that_leads_elsewhere_by_the_time_a_file_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is moved between the two checks of its place."""
    inside, secret, link = tmp_path / "repository/1.tar", tmp_path / "secret.tar", tmp_path / "repository/link.tar"
    inside.parent.mkdir()
    for file in (inside, secret):
        file.write_bytes(b"data")
    link.symlink_to(inside)

    def moved(path: str) -> Stamp:
        link.unlink()
        link.symlink_to(secret)
        return stamp(path)

    monkeypatch.setattr(local, "stamp", moved)
    force.use(Policy(manifests=str(inside.parent), limits_files=True))

    with pytest.raises(PolicyRefused, match=f"a link to {secret}"):
        LocalFile(Layer(Source(str(link))))
