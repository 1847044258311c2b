"""A PostgreSQL cluster of its own for tests: on a unix socket in a temporary directory, as an unprivileged user, without fsync.

    with Postgres(directory) as server:
        server.url("fleet")

It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

BIN = Path("/usr/lib/postgresql/15/bin")
WITH_PARENT = ("setpriv", "--pdeathsig", "QUIT")
"""It leaves at once, and takes its children and shared memory along."""
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}


def needs_postgres() -> None:
    """Skip where Debian's postgresql or the packages of the extra are missing; in CI that is a failure."""
    missing = [str(BIN / "initdb")] if not (BIN / "initdb").exists() else []
    for package in ("psycopg", "alembic"):
        try:
            __import__(package)
        except ImportError:
            missing.append(package)
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"CI has to have {', '.join(missing)}")
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (apt install postgresql; pip install -e '.[fleet]')")


class Postgres:
    """``start`` and ``kill`` as often as a test likes; the data stay until ``remove``."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self._settings = SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        words = [BIN / "initdb", "-D", self.data, "-U", "fleet", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run(*words)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def socket(self) -> Path:
        return self.directory / f".s.PGSQL.{self._port}"

    @property
    def pid(self) -> int:
        """Of the process whose children are all others."""
        assert self._process is not None
        return self._process.pid

    @property
    def _port(self) -> str:
        return self._settings.get("port", "5432")

    @property
    def _here(self) -> list[object]:
        """Where its programs find it."""
        return ["-h", self.directory, "-p", self._port, "-U", "fleet"]

    def write(self, name: str, text: str) -> Path:
        """A file of the cluster, that only its user can read."""
        path = self.data / name
        path.write_text(text)
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
        return path

    def _demoted(self) -> dict[str, object]:
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def _run(self, *words: object) -> None:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd="/", **self._demoted())  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> Postgres:
        """Return once it answers."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        words = [*WITH_PARENT, str(BIN / "postgres"), "-D", str(self.data), "-k", str(self.directory), *options]
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, cwd="/", start_new_session=True, **self._demoted())  # type: ignore[call-overload]
        deadline = time.monotonic() + 30
        while subprocess.run([BIN / "pg_isready", "-q", *self._here, "-d", "postgres"]).returncode:
            assert self._process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """SIGKILL for all of its processes."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def suspend(self) -> None:
        """Its processes stop where they are; the kernel still accepts connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _processes(self) -> list[int]:
        """The postmaster first; its children are in sessions of their own."""
        if self._process is None:
            return []
        pid = self._process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, found)]

    def _signal(self, number: int) -> None:
        # A session's process or a worker may end between the look and the signal.
        for pid in self._processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def create(self, name: str) -> str:
        """An empty database; return its URL."""
        self._run(BIN / "createdb", *self._here, name)
        return self.url(name)

    def url(self, name: str, directory: Path | None = None) -> str:
        """``directory`` has another socket that leads here."""
        return f"postgresql+psycopg://fleet@/{name}?host={quote(str(directory or self.directory), safe='')}&port={self._port}"

    def query(self, name: str, text: str) -> list[str]:
        """The answer of psql: a line for each row, columns apart by a bar."""
        words = [BIN / "psql", *self._here, "-d", name, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.resume()
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
