"""Credentials for registries: the auth files of docker and of containers/image, and credential helpers.

Asked by the registry client, once for each repository. No secret is printed, logged or kept: ``repr`` hides it. State: none;
files are read, and helpers run, at each call.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reconciler import process
from reconciler.dataclass import dataclass, field
from reconciler.errors import SourceForbidden
from reconciler.image.oci import strict_json
from reconciler.image.oci.reference import HUB, HUB_API
from reconciler.image.oci.strict_json import Object

HELPER_SECONDS = 10.0
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = re.compile(r"HOME|USER|LOGNAME|LANG|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|XDG_[A-Z_]+")
"""What a helper gets of our environment: where its user is. Secrets of other programs are none of it."""

_ABSENT = "credentials not found in native keychain"
_IDENTITY = "<token>"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_KEYS = (HUB, f"index.{HUB}", HUB_API)


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and a password, or an identity token, which is exchanged for access tokens."""

    username: str
    secret: str = field(repr=False)
    is_identity_token: bool = False


@dataclass(frozen=True, slots=True)
class AuthFile:
    """``private``: only root or its owner may read it. ``legacy``: the older format, without the level of ``auths``."""

    path: Path
    private: bool = False
    legacy: bool = False

    def read(self) -> Object:
        """Its content; empty where there is no such file. Raises SourceForbidden."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(strict_json.MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            hint = "check its owner and mode"
            raise SourceForbidden(f"the credentials in {self.path} can't be read: {error.strerror}", hint=hint) from error
        if self.private and stat.S_IMODE(mode) & 0o077:
            hint = f"chmod 600 {self.path}"
            raise SourceForbidden(f"the credentials in {self.path} may be read by other users", hint=hint)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Object:
        try:
            document = strict_json.parse(data) if data.strip() else {}
            if self.legacy:
                document = {"auths": document}
            for key in ("auths", "credHelpers"):
                strict_json.member(document, key)
            strict_json.text(document, "credsStore", "")
        except ValueError as error:
            hint = "correct it, or log in again"
            raise SourceForbidden(f"the credentials in {self.path} can't be read: {error}", hint=hint) from error
        return document


def service_files(auth_file: str, environ: Mapping[str, str] = os.environ) -> tuple[AuthFile, ...]:
    """What the service reads: the file that host.yaml names, and the credential that systemd passes, if it passes one."""
    passed = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / "registry-auth"
    named = [Path(auth_file)] if auth_file else []
    return tuple(AuthFile(path, private=True) for path in [*named, *([passed] if passed.exists() else [])])


def user_files(environ: Mapping[str, str] = os.environ) -> tuple[AuthFile, ...]:
    """What a user's commands read, in their order: containers' files, then docker's."""
    if chosen := environ.get("REGISTRY_AUTH_FILE"):
        return (AuthFile(Path(chosen)),)
    home = Path(environ.get("HOME") or Path.home())
    runtime = environ.get("XDG_RUNTIME_DIR")
    return (
        AuthFile(Path(runtime) / "containers/auth.json" if runtime else Path(f"/run/containers/{os.geteuid()}/auth.json")),
        AuthFile(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"),
        AuthFile(Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"),
        AuthFile(home / ".dockercfg", legacy=True),
    )


def find(host: str, repository: str, files: Sequence[AuthFile], environ: Mapping[str, str] = os.environ) -> Credential | None:
    """The credential of a repository: of the first file that has one; None where the repository is asked for without.

    In one file a helper of the host wins over the common helper, and both over what is stored in the file itself.
    Raises SourceForbidden: a file can't be read, a helper fails.
    """
    for file in files:
        document = file.read()
        if document and (found := _of(document, host, repository, file, environ)):
            return found
    return None


def names(host: str, files: Sequence[AuthFile]) -> bool:
    """Whether one of the files has an entry for a registry. Raises SourceForbidden."""
    return any(any(_host_of(key) in _aliases(host) for key in _keys(file.read())) for file in files)


def _keys(document: Object) -> Iterator[str]:
    for field_ in ("auths", "credHelpers"):
        yield from strict_json.member(document, field_)


def _of(document: Object, host: str, repository: str, file: AuthFile, environ: Mapping[str, str]) -> Credential | None:
    helpers = strict_json.member(document, "credHelpers")
    auths = strict_json.member(document, "auths")
    candidates = tuple(_candidates(host, repository))
    named = next((str(helpers[key]) for key in candidates if key in helpers), "")
    for helper in filter(None, (named, strict_json.text(document, "credsStore", ""))):
        if found := _ask(helper, _HUB_KEY if host == HUB else host, file, environ):
            return found
    for key in candidates:
        for written in (one for one in auths if _normal(one) == key):
            if found := _stored(auths[written], written, file):
                return found
    return None


def _aliases(host: str) -> tuple[str, ...]:
    return _HUB_KEYS if host in _HUB_KEYS else (host,)


def _candidates(host: str, repository: str) -> Iterator[str]:
    """Keys from the most specific one on."""
    parts = repository.split("/") if repository else []
    for length in range(len(parts), -1, -1):
        for alias in _aliases(host):
            yield "/".join((alias, *parts[:length]))
    if host in _HUB_KEYS:
        yield _HUB_KEY


def _normal(key: str) -> str:
    """A key as candidates have it: what older tools wrote is a URL, of which the host counts."""
    scheme, separator, rest = key.partition("://")
    return rest.partition("/")[0] if separator and scheme in ("http", "https") else key


def _host_of(key: str) -> str:
    return _normal(key).partition("/")[0]


def _stored(entry: object, key: str, file: AuthFile) -> Credential | None:
    broken = SourceForbidden(f"the entry {key!r} in {file.path} is damaged", hint="log in again")
    if not isinstance(entry, dict):
        raise broken
    try:
        token, encoded = strict_json.text(entry, "identitytoken", ""), strict_json.text(entry, "auth", "")
        username = strict_json.text(entry, "username", "")
        password = strict_json.text(entry, "password", "")
        if encoded:
            username, _, password = base64.b64decode(encoded, validate=True).rstrip(b"\0").decode().partition(":")
    except ValueError:
        raise broken from None
    if token:
        return Credential(username, token, is_identity_token=True)
    return Credential(username, password) if username or password else None


# ------------------------------------------------------------------------------------------------------ helpers


def _ask(helper: str, server: str, file: AuthFile, environ: Mapping[str, str]) -> Credential | None:
    """What a credential helper answers; None where it has nothing. Raises SourceForbidden."""
    name = f"docker-credential-{helper}"
    program = _program(helper, name, file, environ)
    passed = {key: value for key, value in environ.items() if _PASSED.fullmatch(key)}
    passed |= {"PATH": _path(environ), "LC_ALL": "C"}
    try:
        done = process.run([program, "get"], timeout=HELPER_SECONDS, text=server, environment=passed)
    except process.TimeoutExpired:
        raise _failed(name, file, f"has not answered for {HELPER_SECONDS:.0f} s") from None
    except OSError as error:
        raise _failed(name, file, f"can't be started: {error.strerror}") from error
    if done.code:
        if _ABSENT in done.stdout or _ABSENT in done.stderr:
            return None
        raise _failed(name, file, f"ends with exit code {done.code}")
    return _answer(done.stdout, name, file)


def _answer(text: str, name: str, file: AuthFile) -> Credential | None:
    try:
        found = strict_json.parse(text.encode())
        username, secret = strict_json.text(found, "Username", ""), strict_json.text(found, "Secret", "")
    except ValueError:
        raise _failed(name, file, "gives no answer that can be read") from None
    if not secret:
        return None
    return Credential("" if username == _IDENTITY else username, secret, is_identity_token=username == _IDENTITY)


def _failed(name: str, file: AuthFile, why: str) -> SourceForbidden:
    return SourceForbidden(
        f"the credential helper {name}, named in {file.path}, {why}", hint="run it by hand: echo HOST | NAME get"
    )


def _program(helper: str, name: str, file: AuthFile, environ: Mapping[str, str]) -> str:
    """Its absolute path. As root a program that other users can change is not run."""
    if not _HELPER.fullmatch(helper):
        raise SourceForbidden(f"{file.path} names a credential helper that is not a name: {helper[:60]!r}", hint="correct it")
    found = shutil.which(name, path=_path(environ))
    if found is None:
        raise SourceForbidden(f"{file.path} names the credential helper {name}, which is not installed", hint="install it")
    if os.geteuid() == 0:
        owned = os.stat(found)  # noqa: PTH116
        if owned.st_uid != 0 or owned.st_mode & 0o022:
            raise SourceForbidden(f"{found} may be changed by other users, and is not run as root", hint="chown root, chmod go-w")
    return found


def _path(environ: Mapping[str, str]) -> str:
    """Where helpers are searched for: as root in the system's directories, else also in the user's absolute ones."""
    if os.geteuid() == 0:
        return _HELPER_PATH
    own = [one for one in environ.get("PATH", "").split(":") if one.startswith("/")]
    return ":".join([*own, _HELPER_PATH])
