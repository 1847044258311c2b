"""Network addresses as the host's policy sees them: which class one belongs to, and which entries of a list match it.

Used by ``policy.rules``. Sends nothing: an address of this host is recognised by the kernel's routing table. No state.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote

from reconciler.dataclass import dataclass

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_METADATA = {
    ip_address(text)
    for text in ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
}
"""Where clouds serve a machine's credentials, besides the link-local addresses: Amazon, Google, Alibaba, Azure, Oracle."""

_SITE_LOCAL, _LOCAL_NAT64, _TRANSLATED, _TEREDO = "fec0::/10", "64:ff9b:1::/48", "::ffff:0:0:0/96", "2001::/32"

_PRIVATE = [
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
        *(_SITE_LOCAL, _LOCAL_NAT64, _TRANSLATED, _TEREDO),
    )
]
"""Networks of a site (RFC 1918, 6598, 4193, 3879), and those whose translator or tunnel is the site's (RFC 8215, 7915, 4380)."""

AMAZON_S3 = re.compile(
    r"(?:(?P<bucket>.+)\.)?s3[.-](?:dualstack\.)?[a-z0-9-]+\.amazonaws\.com(?:\.cn)?|(?:(?P<old>.+)\.)?s3\.amazonaws\.com"
)
"""The hosts that serve S3 for Amazon; customers' machines have other names below amazonaws.com."""


class Scope(StrEnum):
    """The class of an address, as messages name it."""

    LOOPBACK = "a loopback address"
    LINK_LOCAL = "a link-local address"
    METADATA = "the address of a cloud's metadata service"
    OWN = "an address of this host"
    PRIVATE = "a private address"
    PUBLIC = "a public address"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of a list: a host name, or a network of addresses; ``port`` None matches every port."""

    name: str = ""
    network: Network | None = None
    port: int | None = None

    def matches(self, host: str, port: int, address: Address | None) -> bool:
        """Whether a connection to ``host``, or to one of its addresses, is meant."""
        if self.port not in (None, port):
            return False
        return address in self.network if self.network and address else bool(self.name) and self.name == plain_name(host)


def parse_allowed(text: str) -> Allowed:
    """``10.0.0.5``, ``10.0.0.5:9000``, ``10.0.0.0/8``, ``[::1]:9000``, ``minio.internal:9000``. Raises ValueError."""
    host, port = _split(text)
    with suppress(ValueError):
        return Allowed(network=ip_network(host.strip("[]"), strict=False), port=port)
    labels = plain_name(host).split(".")
    if not all(label and len(label) < 64 and label.replace("-", "").replace("_", "").isalnum() for label in labels):
        raise ValueError("is not an address, a network or a host name, with or without a port")
    if labels[-1].isdigit():
        raise ValueError("is not a whole address (four numbers)")
    return Allowed(name=plain_name(host), port=port)


def _split(text: str) -> tuple[str, int | None]:
    if text.count(":") > 1 and not text.startswith("["):
        return text, None  # an IPv6 address without a port
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        return text, None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("has a port that is not a number from 1 to 65535")
    return host, int(port)


def plain_name(host: str) -> str:
    """A host as resolvers and proxies read it: %-escapes and compatibility forms (RFC 5895) resolved, no dot at the end."""
    return unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").lower().rstrip(".")


def literal(host: str) -> Address | None:
    """The address that a host is given as, in any form that the resolver takes for one; None for names."""
    zoned = (host,) if ":" in host else ()  # the zone of an IPv6 address may look like an escape
    for form in (*zoned, plain_name(host)):
        text = form.strip("[]").partition("%")[0]
        with suppress(ValueError):
            return unwrapped(ip_address(text))
        with suppress(OSError, ValueError):
            return IPv4Address(socket.inet_aton(text))  # 127.1, 0x7f000001, 2130706433
    return None


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that leads to it: ``::ffff:127.0.0.1`` is 127.0.0.1."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    inside: list[IPv4Address | None] = [address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING):
        inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
    for inner in inside:
        if inner is not None and scope(inner) is not Scope.PUBLIC:
            return inner
    return address  # it may be this host's own as it is


_EMBEDDING = [ip_network(text) for text in ("64:ff9b::/96", _LOCAL_NAT64, _TRANSLATED)]
"""Their last four bytes are an IPv4 address."""


def scope(address: Address) -> Scope:
    if address.is_loopback or address.is_unspecified or (isinstance(address, IPv4Address) and not int(address) >> 24):
        return Scope.LOOPBACK  # Linux connects to this host for 0.0.0.0 and :: as well
    if address.is_link_local:
        return Scope.LINK_LOCAL
    if address in _METADATA:
        return Scope.METADATA
    if is_own(address):
        return Scope.OWN
    return Scope.PRIVATE if any(address in network for network in _PRIVATE) else Scope.PUBLIC


def is_own(address: Address) -> bool:
    """Whether this host has the address: a socket can then be bound to it. No packet is sent.

    Where the kernel lets sockets have foreign addresses (``ip_nonlocal_bind``), whether it chooses the address as the source.
    """
    family, version = (socket.AF_INET, "ipv4") if isinstance(address, IPv4Address) else (socket.AF_INET6, "ipv6")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        if not _binds_foreign(version):
            probe.bind((str(address), 0))
            return True
        probe.connect((str(address), 9))
        return ip_address(str(probe.getsockname()[0]).partition("%")[0]) == address
    return False


def _binds_foreign(version: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/sys/net/{version}/ip_nonlocal_bind").read_text().strip() != "0"
    return False


def is_local_name(host: str) -> bool:
    """Names that mean this host wherever they are resolved (RFC 6761)."""
    name = plain_name(host)
    return name in ("localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain") or name.endswith(".localhost")


def is_listed(allowed: Iterable[Allowed], host: str, port: int, address: Address | None) -> bool:
    return any(one.matches(host, port, address) for one in allowed)
