"""TLS to the database, and passwords from where PostgreSQL's programs have them: a cluster that accepts nothing else over TCP."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.fleet import address, migrate
from reconciler.fleet.sink import Sink, SinkUnavailable
from tests.fleet.agents import Agent, fleet, manifests
from tests.support.postgres import Postgres, needs_postgres

pytestmark = pytest.mark.slow

SECRET = "pa$s w/rd"
USER = f"CREATE ROLE agent LOGIN PASSWORD '{SECRET}'"
GRANTS = """
    GRANT USAGE ON SCHEMA reconcile TO agent;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA reconcile TO agent
"""
"""As docs/fleet.md has them."""


@dataclass(frozen=True)
class Secured:
    """``certificate`` is of the authority that has signed the server's, which is for the name ``localhost``."""

    server: Postgres
    port: int
    certificate: Path
    other: Path

    def url(self, certificate: Path, *, host: str = "localhost", user: str = "agent@") -> str:
        tls = f"sslmode=verify-full&sslrootcert={certificate}"
        return f"postgresql+psycopg://{user}{host}:{self.port}/fleet?hostaddr=127.0.0.1&{tls}"


def openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def authority(directory: Path, name: str) -> Path:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    openssl(directory, "req", "-x509", *key, "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", "2")
    return directory / f"{name}.crt"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    needs_postgres()
    made, port = tmp_path_factory.mktemp("tls"), free_port()
    right, other = authority(made, "right"), authority(made, "other")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "server.key"]
    openssl(made, "req", *key, "-out", "server.csr", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    signed = ["-CA", "right.crt", "-CAkey", "right.key", "-copy_extensions", "copy", "-days", "2"]
    openssl(made, "x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
    server = Postgres(directory, ssl="on", listen_addresses="127.0.0.1", port=str(port))
    for name in ("server.key", "server.crt"):
        server.write(name, (made / name).read_text())
    server.write("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    with server:
        migrate.upgrade(address.parse(server.create("fleet")))
        server.query("fleet", f"{USER}; {GRANTS}")
        yield Secured(server, port, right, other)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def password_file(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pgpass"
    path.write_text(f"*:*:fleet:agent:{SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(path))
    return path


def refusal(url: str) -> str:
    with pytest.raises(SinkUnavailable) as refused, Sink(address.parse(url)).session(10.0):
        pass
    return str(refused.value)


def test_a_server_is_verified_by_authority_and_name(secured: Secured, password_file: Path) -> None:
    with Sink(address.parse(secured.url(secured.certificate))).session(10.0) as session:
        (found,) = session.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert found["ssl"]

    assert "certificate verify failed" in refusal(secured.url(secured.other))
    assert 'does not match host name "elsewhere"' in refusal(secured.url(secured.certificate, host="elsewhere"))
    assert "root certificate file" in refusal(secured.url(secured.certificate.with_name("missing.crt")))
    plain = secured.url(secured.certificate).replace("verify-full", "disable")
    assert "no encryption" in refusal(plain)


@pytest.fixture
def agent(secured: Secured, tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state", manifests(tmp_path / "tree", "one"), secured.url(secured.certificate))


def test_a_password_from_its_file_is_nowhere_else(secured: Secured, agent: Agent, password_file: Path) -> None:
    done = agent.once("--debug", "--log-format", "json")
    assert (done.returncode, "not reported" in done.stderr) == (0, False), done.stderr
    shown = [fleet(agent.url, verb, "-o", "json") for verb in ("status", "hosts")]

    password_file.write_text("*:*:fleet:agent:wrong\n")
    refused = replace(agent, url=secured.url(secured.certificate)).once("--debug", "--log-format", "json")
    assert refused.returncode == 0
    assert 'password authentication failed for user \\"agent\\"' in refused.stderr

    for one in (done, refused, *shown):
        assert SECRET not in one.stdout + one.stderr
    assert not [path for path in agent.state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_service_file_has_everything(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "services"
    where = f"host=localhost\nhostaddr=127.0.0.1\nport={secured.port}\ndbname=fleet\nuser=agent\npassword={SECRET}\n"
    services.write_text(f"[fleet]\n{where}sslmode=verify-full\nsslrootcert={secured.certificate}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    found = address.parse("postgresql+psycopg://?service=fleet", public=True)

    assert found.shown == "service fleet"
    with Sink(found).session(10.0) as session:
        assert session.rows("SELECT current_user AS name")[0]["name"] == "agent"
    services.write_text(services.read_text().replace(str(secured.certificate), str(secured.other)))
    said = refusal("postgresql+psycopg://?service=fleet")
    assert "the database service fleet" in said and "certificate verify failed" in said
    assert SECRET not in said
