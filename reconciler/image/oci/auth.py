"""Authorization at registries: the answer to a challenge, with credentials where there are any (RFC 9110, Docker token protocol).

Called by ``registry``. A credential goes to the host that the reference names, and to a token server of the same domain; never to
a mirror or another host. State: the headers that servers have accepted, by server and repository, until they expire.
"""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, urlencode, urlsplit

from reconciler.dataclass import dataclass, field
from reconciler.errors import SourceForbidden, SourceUnavailable
from reconciler.image.oci import credentials, strict_json
from reconciler.image.oci.credentials import Credential
from reconciler.image.oci.server import Send, Server
from reconciler.image.source.transport import Request
from reconciler.policy import force
from reconciler.policy.rules import PORTS

MOST_TOKEN_BYTES = 1 << 20
DEFAULT_SECONDS = 60.0
"""How long a token is valid where its server does not send that."""

LOGIN = (
    "check its name; if it is private, log in (skopeo login, docker login), or set policy.registries.authFile in the host file"
)

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Bearer|Basic)(?=\s|,|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for. ``basic``: user and password; else a token of ``realm``."""

    basic: bool
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """The challenge of a WWW-Authenticate; Bearer where there are several. None where it has none that is supported."""
        found = {match[1].lower(): match for match in _SCHEME.finditer(header)}
        if "bearer" in found:
            rest = header[found["bearer"].end() :]
            values = {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(rest)}
            return cls(False, values) if values.get("realm") else None
        return cls(True, {}) if "basic" in found else None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A value of the Authorization header, and until when it is valid (monotonic seconds)."""

    header: str = field(repr=False)
    until: float


_accepted: dict[tuple[str, str], Accepted] = {}
_guard = threading.Lock()


def known(server: Server) -> str:
    """The header that a server has accepted for its repository, and that is still valid; empty where there is none."""
    with _guard:
        found = _accepted.get((server.name, server.repository))
    return found.header if found and time.monotonic() < found.until else ""


def answer(server: Server, challenge: str, send: Send) -> str:
    """The header that answers a challenge. Raises SourceForbidden where there is none, SourceUnavailable."""
    found = Challenge.parse(challenge)
    if found is None:
        asked = ascii(challenge[:60]) if challenge else "no challenge"
        hint = "Basic and Bearer authentication are supported"
        raise SourceForbidden(f"{server.name} refuses {server.image} and sends {asked}", hint=hint)
    credential = _credential(server)
    if found.basic:
        if credential is None or credential.is_identity_token:
            raise SourceForbidden(f"{server.name} asks for a user and a password for {server.image}", hint=LOGIN)
        accepted = Accepted(_basic(credential), float("inf"))
    else:
        accepted = _exchanged(server, found.parameters, credential, send)
    with _guard:
        _accepted[server.name, server.repository] = accepted
    return accepted.header


def forget(server: Server) -> None:
    """The next request asks for a new one."""
    with _guard:
        _accepted.pop((server.name, server.repository), None)


# ------------------------------------------------------------------------------------------------------ credentials


def _credential(server: Server) -> Credential | None:
    """The credential for a server, as far as this host lets manifests use it.

    Those of the host's policy and of the service are for the registries that they name. A user's own files serve the user; for
    root they serve only what ``registries.allow`` lists, as the manifests' author chooses the repository.
    """
    registries = force.current().registries
    files = credentials.service_files(registries.auth_file)
    if not files and (os.geteuid() != 0 or registries.lists(server.name)):
        files = credentials.user_files()
    return credentials.find(server.name, server.repository, files) if files else None


def _basic(credential: Credential) -> str:
    return "Basic " + b64encode(f"{credential.username}:{credential.secret}".encode()).decode()


# ------------------------------------------------------------------------------------------------------------ tokens


def _exchanged(server: Server, parameters: Mapping[str, str], credential: Credential | None, send: Send) -> Accepted:
    """A token for pulling from the repository, from the server that the challenge names."""
    realm = parameters["realm"]
    parts = _realm(server, realm)
    host = parts.netloc
    if credential is not None and not _may_have_credentials(server, parts):
        hint = f"if it may have them, add {_named(parts)} to policy.registries.allow in the host file"
        raise SourceForbidden(f"{server.name} sends clients to {host} for a token: credentials are not sent there", hint=hint)
    asked = {"service": parameters.get("service", ""), "scope": f"repository:{server.repository}:pull"}
    began = time.monotonic()
    document = None
    if credential is not None and credential.is_identity_token:
        document = _refreshed(server, realm, asked, credential, send)
    if document is None:
        joint = "&" if parts.query else "?"
        headers = {"Authorization": _basic(credential)} if credential and not credential.is_identity_token else {}
        url = f"{realm}{joint}{urlencode({key: value for key, value in asked.items() if value})}"
        document = _token(server, _request("GET", url, headers, server), send)
    token = document and (document.get("token") or document.get("access_token"))
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise SourceUnavailable(f"{host}, which {server.name} names, sends no token", hint="check the registry's configuration")
    assert document is not None
    seconds = document.get("expires_in")
    valid = float(seconds) if isinstance(seconds, int | float) and 0 < seconds < 1e9 else DEFAULT_SECONDS
    return Accepted(f"Bearer {token}", began + max(valid * 0.9, valid - 10.0))


def _realm(server: Server, realm: str) -> SplitResult:
    """Where a token is to be asked for. Raises SourceForbidden."""
    try:
        parts = urlsplit(realm)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("https", server.scheme) or not parts.hostname or parts.username is not None or not realm.isascii():
        hint = "a token server needs https, unless policy.registries.plainHttp lists the registry"
        raise SourceForbidden(f"{server.name} sends clients to {realm[:80]!a} for a token, which is not accepted", hint=hint)
    return parts


def _may_have_credentials(server: Server, parts: SplitResult) -> bool:
    """Whether a token server is the registry itself, of its domain at the same port, or listed in the host file."""
    own, host = server.hostname.lower(), (parts.hostname or "").lower()
    domain = "docker.io" if server.name == "docker.io" else own
    same = host == own or host.endswith(f".{domain}") or own.endswith(f".{host}")
    return (same and _port(parts) == server.port) or force.current().registries.lists(_named(parts))


def _request(method: str, url: str, headers: Mapping[str, str], server: Server, body: bytes | None = None) -> Request:
    """Another port of the registry's host is another server: its address is checked, unless the host file lists it."""
    parts, registries = urlsplit(url), force.current().registries
    same = (parts.hostname or "").lower() == server.hostname.lower()
    cafile = registries.ca_files.get(_named(parts)) or registries.ca_files.get(parts.hostname or "")
    checked = server.checked if same and _port(parts) == server.port else not registries.lists(_named(parts))
    return Request(method, url, headers, cafile or (server.cafile if same else ""), checked, body)


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _named(parts: SplitResult) -> str:
    """A server as the host file names it, with its port."""
    host = parts.hostname or ""
    return f"[{host}]:{_port(parts)}" if ":" in host else f"{host}:{_port(parts)}"


def _refreshed(
    server: Server, realm: str, asked: Mapping[str, str], credential: Credential, send: Send
) -> strict_json.Object | None:
    """The OAuth2 exchange of an identity token; None where the server has none."""
    form = {"grant_type": "refresh_token", "client_id": "reconcile", "refresh_token": credential.secret} | dict(asked)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = _request("POST", realm, headers, server, urlencode(form).encode())
    return _token(server, request, send)


def _token(server: Server, request: Request, send: Send) -> strict_json.Object | None:
    """What a token server answers; None where it has no such resource or method."""
    with send(request) as answered:
        host = urlsplit(request.url).netloc
        if answered.status in (404, 405):
            return None
        if answered.status in (400, 401, 403):
            hint = LOGIN if "Authorization" not in request.headers and not request.body else "log in again"
            message = f"{host} gives no token for {server.image}: status {answered.status}"
            raise SourceForbidden(message, hint=hint)
        if answered.status != 200:
            message = f"{host}, which gives tokens for {server.name}, answers with status {answered.status}"
            raise SourceUnavailable(message, hint="the next attempt asks again")
        data = answered.data(MOST_TOKEN_BYTES + 1)
    try:
        return strict_json.parse(data)
    except ValueError as error:
        raise SourceUnavailable(f"{host} sends no token for {server.name}: {error}", hint="check the token server") from None
