"""Hosts for tests: real agents with a state directory of their own, tiny layers and labels."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

RECONCILE = Path(sys.executable).with_name("reconcile")


def manifests(directory: Path, revision: str, *, source: str = "") -> Path:
    """Manifests as a checkout of this revision: a directory behind the link ``current``, which is swapped."""
    made = directory / revision
    made.mkdir(parents=True)
    with tarfile.open(made / "a.tar", "w") as layer:
        layer.addfile(tarfile.TarInfo(f"revision-{revision}"), io.BytesIO())
    spec = f"{{pool: p, size: 16MiB, layers: [{{source: {source or 'a.tar'}}}], snapshots: [{{name: web, count: 2, ttl: 1h}}]}}"
    pool = "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: p}\nspec: {file: {}}\n"
    image = f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: web}}\nspec: {spec}\n"
    (made / "web.yaml").write_text(f"{pool}---\n{image}")
    link = directory / "next"
    link.symlink_to(revision)
    link.rename(directory / "current")
    return directory / "current"


@dataclass
class Agent:
    """``url`` is in its environment. ``labels`` as in RECONCILER_HOST_LABELS."""

    state: Path
    manifests: Path
    url: str
    labels: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        told = {"RECONCILER_REPORT_TO": self.url, "RECONCILER_HOST_LABELS": self.labels}
        return os.environ | told | dict(self.env)

    def words(self, *words: str) -> list[str]:
        return [str(RECONCILE), *words, "-f", str(self.manifests), "--state", str(self.state)]

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words("--once", *words), capture_output=True, text=True, env=self.environment(), timeout=100)

    def start(self, *words: str) -> Agent:
        with (self.state.parent / f"{self.state.name}.log").open("ab") as log:
            self.running = subprocess.Popen(self.words(*words), stdout=log, stderr=log, env=self.environment())
        return self

    @property
    def log(self) -> str:
        return (self.state.parent / f"{self.state.name}.log").read_text()

    def stop(self) -> int:
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(60)

    def events(self) -> list[tuple[int, str]]:
        """Number and object of each event in its registry."""
        with closing(sqlite3.connect(self.state / "registry.sqlite3")) as registry:
            return list(registry.execute("SELECT seq, name FROM event ORDER BY seq"))


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)


def fleet(url: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A verb of ``reconcile fleet``."""
    env = os.environ | {"RECONCILER_REPORT_TO": url}
    done = subprocess.run([RECONCILE, "fleet", *words], capture_output=True, text=True, env=env, timeout=100)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
