"""Where the sink is: a URL, from the command line, the environment or a file. No password gets into a log, an error or `ps`.

Called by ``cli``. The password comes from where PostgreSQL's programs have it (``PGPASSFILE``, ``~/.pgpass``, certificates), from
the environment or from a file; TLS is as the URL's parameters say (``sslmode``, ``sslrootcert``). No state.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from reconciler.dataclass import dataclass, field
from reconciler.errors import UsageError

SCHEMES = ("postgresql+psycopg", "postgresql", "postgres")
HINT = "write postgresql+psycopg://USER@HOST/DATABASE?sslmode=verify-full, or the path of a file that has the URL"
PRIVATE = "put the URL into a file and name that, or the password into PGPASSFILE: other users can read a command line"


@dataclass(frozen=True, slots=True)
class Address:
    """``conninfo`` is what libpq takes, ``shown`` what people may read."""

    conninfo: str = field(repr=False)
    shown: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def redacted(self, text: str) -> str:
        """The text without what this address keeps secret."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse(text: str, *, public: bool = False) -> Address:
    """``public``: it was given on the command line. Raises UsageError, which never has the URL of a file in it."""
    if text.startswith("/"):
        return _of_url(_content(Path(text)), f"the URL in {text}")
    address = _of_url(text, "--report-to")
    if public and address.secrets:
        raise UsageError("--report-to has a password", hint=PRIVATE)
    return address


def _content(path: Path) -> str:
    try:
        text, mode = path.read_text().strip(), path.stat().st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"--report-to: {path} can't be read: {getattr(error, 'strerror', None) or 'not text'}") from None
    if mode & 0o004 and _password(text):
        raise UsageError(f"--report-to: every user can read {path}, which has a password", hint=f"chmod o-r {path}")
    return text


def _of_url(text: str, what: str) -> Address:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise UsageError(f"{what} is not valid", hint=HINT) from None
    if url.scheme not in SCHEMES:
        raise UsageError(f"{what} is not the URL of a PostgreSQL database", hint=HINT)
    conninfo = f"postgresql://{text.partition('://')[2]}"
    found = _password(text)
    return Address(conninfo, _place(url, port), tuple({found, unquote(found)}) if found else ())


def _place(url: SplitResult, port: int | None) -> str:
    """What a URL leads to, for people."""
    service = parse_qs(url.query).get("service")
    if service and not url.hostname:
        return f"service {service[0]}"
    return f"{url.hostname or 'local socket'}{f':{port}' if port else ''}{url.path}"


def _password(text: str) -> str:
    """As it is written in the URL: of the user, or as a parameter."""
    try:
        url: SplitResult = urlsplit(text)
        given = [pair.partition("=")[2] for pair in url.query.split("&") if pair.startswith(("password=", "sslpassword="))]
        return url.password or next(filter(None, given), "")
    except ValueError:
        return ""
