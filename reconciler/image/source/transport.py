"""HTTP/1.1 exchanges that end: requests over connections that are used again, answers that are read as they come.

Called by ``s3``, which decides what an answer means. A proxy of the environment is used. State: idle connections, by server.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from reconciler.dataclass import dataclass, field
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.resolver import Unresolved, addresses
from reconciler.policy import force
from reconciler.policy.addresses import literal
from reconciler.policy.rules import Refusal

SILENT_SECONDS = 30.0
"""How long a server may send nothing."""

MOST_IDLE = 32
"""Idle connections that are kept for one server."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Request:
    """``cafile`` names the certificates to trust; the system's where it is empty.

    ``checked``: the host was named by a manifest or a server, and has to be one that this host's policy permits.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    cafile: str = ""
    checked: bool = True
    body: bytes | None = field(default=None, repr=False)


class Route(NamedTuple):
    """What two requests share that can go over one connection. ``proxy`` is a URL, or empty."""

    scheme: str
    host: str
    port: int
    proxy: str
    cafile: str


class Answer:
    """The server's answer: status, headers, and a body that is read piece by piece."""

    def __init__(self, route: Route, connection: HTTPConnection, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._route, self._connection, self._response = route, connection, response
        self.chunked = response.chunked or response.length is None
        """Its length is not given."""

    def readinto(self, view: memoryview) -> int:
        """Receive once; 0 at the end of the body. Raises OSError and HTTPException."""
        response = self._response
        if self.chunked:
            data = response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        if not response.length or response.fp is None:
            return 0
        got = response.fp.readinto1(view[: response.length])
        response.length -= got
        if not got:
            raise ConnectionError("the answer ended early")
        return got

    def data(self, most: int) -> bytes:
        """The body, up to so many bytes. Raises OSError and HTTPException."""
        found, buffer = bytearray(), memoryview(bytearray(min(most, 64 << 10)))
        while len(found) < most and (got := self.readinto(buffer[: most - len(found)])):
            found += buffer[:got]
        return bytes(found)

    def text(self, most: int = 64 << 10) -> str:
        """The beginning of the body, for an error."""
        return self.data(most).decode("utf-8", "replace")

    def close(self) -> None:
        """Release the connection; it is used again only where the answer was read to its end."""
        whole = self._response.isclosed() or (not self.chunked and self._response.length == 0)
        if whole and not self._response.will_close:
            self._response.close()
            _keep(self._route, self._connection)
        else:
            self._response.close()
            self._connection.close()


def send(request: Request, cutoff: Cutoff) -> Answer:
    """Send a request and return the answer's beginning. Raises OSError and HTTPException; TimeoutError at the cutoff.

    Raises PolicyRefused where the request is ``checked`` and this host's policy refuses its address.
    """
    route = _route(request)
    if request.checked:
        force.require_host(route.host, route.port)
    try:
        idle = _idle_connection(route, checked=request.checked)
        if idle is not None:
            try:
                return _exchange(route, idle, request, cutoff)
            except (OSError, HTTPException):  # the server has closed it meanwhile: not an answer to this request
                if cutoff.left <= 0:
                    raise
        return _exchange(route, _Connection(route, cutoff, checked=request.checked), request, cutoff)
    except Unresolved:
        raise
    except (OSError, HTTPException) as error:
        if cutoff.left <= 0:
            raise TimeoutError(f"no whole answer in {cutoff.seconds:.0f} s") from error
        raise
    except ValueError as error:  # of a host name or header that can't be sent as it is
        raise HTTPException(f"{request.url[:200]!a} can't be asked for: {error}") from error


def _exchange(route: Route, connection: HTTPConnection, request: Request, cutoff: Cutoff) -> Answer:
    try:
        if connection.sock is not None:
            cutoff.watch(connection.sock)
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if route.proxy and route.scheme == "http":
            target = f"http://{_host_header(route)}{target}"
        headers = {"Host": _host_header(route), **request.headers, **_proxy_authorization(route)}
        connection.request(request.method, target, request.body, headers)
        answer = Answer(route, connection, connection.getresponse())
        if cutoff.left <= 0:  # http.client takes headers that were cut off for whole ones
            raise TimeoutError
        return answer
    except BaseException:
        connection.close()
        raise


# ------------------------------------------------------------------------------------------------- connections

_idle: defaultdict[Route, list[HTTPConnection]] = defaultdict(list)
_guard = threading.Lock()


def _keep(route: Route, connection: HTTPConnection) -> None:
    with _guard:
        if len(_idle[route]) < MOST_IDLE:
            _idle[route].append(connection)
            return
    connection.close()


def _idle_connection(route: Route, *, checked: bool) -> HTTPConnection | None:
    while True:
        with _guard:
            if not _idle[route]:
                return None
            connection = _idle[route].pop()
        if connection.sock is not None and not _readable(connection.sock) and not (checked and _refusal(route, connection.sock)):
            return connection
        connection.close()


def _readable(sock: socket.socket) -> bool:
    """An idle connection has nothing to read unless the server has closed it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _refusal(route: Route, sock: socket.socket) -> Refusal | None:
    """Why this host's policy refuses the server of a connection, which may be older than the policy, or another source's."""
    if route.proxy:
        return None  # the proxy is the host's own; the name behind it has been checked
    return _refused_address(route.host, route.port, str(sock.getpeername()[0]))


class _Connection(HTTPConnection):
    """A connection that the cutoff ends while it is being made, too."""

    def __init__(self, route: Route, cutoff: Cutoff, *, checked: bool) -> None:
        proxy = urlsplit(route.proxy)
        host, port = (proxy.hostname or "", proxy.port or 80) if route.proxy else (route.host, route.port)
        super().__init__(host, port, timeout=min(SILENT_SECONDS, max(0.1, cutoff.left)))
        self._route = route
        if route.proxy and route.scheme == "https":
            self.set_tunnel(route.host, route.port, _basic(route.proxy))
        # http.client calls it where it would call socket.create_connection. A proxy is the host's own.
        self._create_connection = lambda *_: _dialled(host, port, cutoff, checked=checked and not route.proxy)

    def connect(self) -> None:
        super().connect()
        if self._route.scheme == "https":
            self.sock = _context(self._route.cafile).wrap_socket(self.sock, server_hostname=self._route.host)
        self.sock.settimeout(SILENT_SECONDS)


def _dialled(host: str, port: int, cutoff: Cutoff, *, checked: bool) -> socket.socket:
    """A connection to the first of a name's addresses that accepts one, without those that this host's policy refuses.

    The address that is compared is the one that is connected to: the name is resolved once.
    """
    last: Exception = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in addresses(host, port, cutoff):
        if cutoff.left <= 0:
            break
        if checked and (refusal := _refused_address(host, port, str(address[0]))):
            last = force.current().error(refusal)
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.1, min(SILENT_SECONDS, cutoff.left)))
            cutoff.watch(sock)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            last = error
            sock.close()
        else:
            return sock
    raise last


def _refused_address(host: str, port: int, text: str) -> Refusal | None:
    address = literal(text)
    return force.address_refusal(host, port, address) if address is not None else None


@lru_cache(maxsize=8)
def _context(cafile: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cafile or None)


# -------------------------------------------------------------------------------------------------------- routes


def _route(request: Request) -> Route:
    parts = urlsplit(request.url)
    host = parts.hostname or ""
    return Route(parts.scheme, host, parts.port or _PORTS[parts.scheme], _proxy(parts.scheme, host), request.cafile)


def _proxy(scheme: str, host: str) -> str:
    if not any(os.environ.get(name) for name in _PROXIES):
        return ""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all") or ""
    if not found or proxy_bypass(host):
        return ""
    return found if "//" in found else f"http://{found}"


def _host_header(route: Route) -> str:
    host = f"[{route.host}]" if ":" in route.host else route.host
    return host if route.port == _PORTS[route.scheme] else f"{host}:{route.port}"


def _proxy_authorization(route: Route) -> dict[str, str]:
    return _basic(route.proxy) if route.proxy and route.scheme == "http" else {}


def _basic(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(secret.encode()).decode()}
