"""Addresses as the host's policy sees them, and the entries of its lists."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest

from reconciler.policy.addresses import Scope, is_local_name, literal, parse_allowed, scope, unwrapped


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.8.8.8", Scope.LOOPBACK),
        ("0.0.0.0", Scope.LOOPBACK),
        ("0.1.2.3", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("2002:7f00:1::", Scope.LOOPBACK),
        ("64:ff9b::7f00:1", Scope.LOOPBACK),
        ("64:ff9b:1::7f00:1", Scope.LOOPBACK),
        ("64:ff9b:1::a9fe:a9fe", Scope.LINK_LOCAL),
        ("::ffff:0:127.0.0.1", Scope.LOOPBACK),
        ("2001:0:7f00:1::1", Scope.LOOPBACK),
        ("2001:0:c633:6407:0:0:80ff:fffe", Scope.LOOPBACK),
        ("64:ff9b:1::c633:6407", Scope.PRIVATE),
        ("::ffff:0:198.51.100.7", Scope.PRIVATE),
        ("2001:0:c633:6407:0:0:39cc:9bf8", Scope.PRIVATE),
        ("fec0::1", Scope.PRIVATE),
        ("169.254.169.254", Scope.LINK_LOCAL),
        ("::ffff:169.254.169.254", Scope.LINK_LOCAL),
        ("fe80::1%eth0", Scope.LINK_LOCAL),
        ("fe80::1%eb0", Scope.LINK_LOCAL),
        ("127.0.0.1.", Scope.LOOPBACK),
        ("2130706433.", Scope.LOOPBACK),
        ("%31%32%37.0.0.1", Scope.LOOPBACK),
        ("169%2e254.169.254", Scope.LINK_LOCAL),
        ("\uff11\uff12\uff17.0.0.1", Scope.LOOPBACK),
        ("127\u30020\u30020\u30021", Scope.LOOPBACK),
        ("fd00:ec2::254", Scope.METADATA),
        ("100.100.100.200", Scope.METADATA),
        ("168.63.129.16", Scope.METADATA),
        ("10.255.1.9", Scope.PRIVATE),
        ("172.31.255.254", Scope.PRIVATE),
        ("192.168.77.250", Scope.PRIVATE),
        ("fd12::1", Scope.PRIVATE),
        ("198.51.100.7", Scope.PUBLIC),
        ("2606:4700::1111", Scope.PUBLIC),
    ],
)
def test_each_address_has_a_scope(text: str, expected: Scope) -> None:
    address = literal(text)

    assert address is not None
    assert scope(address) is expected


def test_an_address_of_this_host_is_recognised() -> None:
    assert scope(unwrapped(ip_address(own_address()))) is Scope.OWN


SECONDARY = """
import subprocess, sys
from ipaddress import ip_address
from reconciler.policy.addresses import scope, unwrapped
for words in ("link set lo up", "link add own type dummy", "link set own up", "addr add 10.9.2.3/24 dev own",
              "addr add 10.9.2.4/24 dev own", "-6 addr add 2002:c000:204::1/64 dev own nodad"):
    subprocess.run(["ip", *words.split()], check=True)
asked = "10.9.2.3", "10.9.2.4", "2002:c000:204::1", "10.9.2.5", "2002:c000:205::1"
print(*(scope(unwrapped(ip_address(text))).name for text in asked))
"""


@pytest.mark.root
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)")
def test_secondary_addresses_of_this_host_are_its_own_too() -> None:
    """The kernel chooses another one as the source for them."""
    command = ["unshare", "--net", sys.executable, "-c", SECONDARY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "dummy" in done.stderr or "Not supported" in done.stderr:
        pytest.skip("this kernel makes no dummy devices")

    assert done.stdout.split() == ["OWN", "OWN", "OWN", "PRIVATE", "PUBLIC"], done.stderr


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "017700000001", "[::1]", "127.0.0.1"])
def test_every_form_of_an_address_that_the_resolver_takes_is_one(text: str) -> None:
    address = literal(text)

    assert address is not None
    assert address.is_loopback


@pytest.mark.parametrize("text", ["localhost.example", "127.0.0.1.example", "minio", ""])
def test_names_are_no_addresses(text: str) -> None:
    assert literal(text) is None


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.localhost", "ip6-localhost"])
def test_names_of_this_host_are_recognised_in_every_spelling(name: str) -> None:
    assert is_local_name(name)
    assert not is_local_name(f"{name.rstrip('.')}.example")


@pytest.mark.parametrize(
    ("entry", "host", "port", "matches"),
    [
        ("127.0.0.1", "127.0.0.1", 9000, True),
        ("127.0.0.1:9000", "127.0.0.1", 9000, True),
        ("127.0.0.1:9000", "127.0.0.1", 22, False),
        ("127.0.0.0/8", "127.9.9.9", 1, True),
        ("10.0.0.0/8:9000", "10.1.1.1", 9000, True),
        ("[::1]:9000", "::1", 9000, True),
        ("::1", "::1", 9000, True),
        ("::1", "::2", 9000, False),
        ("minio.internal:9000", "MINIO.internal.", 9000, True),
        ("minio.internal:9000", "minio.internal", 80, False),
        ("minio.internal", "evil.minio.internal", 80, False),
    ],
)
def test_an_entry_matches_what_it_names_and_nothing_else(entry: str, host: str, port: int, matches: bool) -> None:
    assert parse_allowed(entry).matches(host, port, literal(host)) is matches


def test_an_address_matches_whatever_name_led_to_it() -> None:
    assert parse_allowed("10.0.0.5:9000").matches("minio.internal", 9000, ip_address("10.0.0.5"))
    assert parse_allowed("minio.internal").matches("minio.internal", 9000, ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "text", ["", "http://a", "a b", "127.1", "10.0.0.5:0", "10.0.0.5:70000", "10.0.0.5:x", "a..b", "1.2.3.4/33"]
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is not|has)"):
        parse_allowed(text)
