"""One frozen object with the paths and defaults of an invocation. Made by ``cli``; read by everybody it is handed to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reconciler.dataclass import dataclass, field

HOST_FILE = Path("/etc/reconciler/host.yaml")
SYSTEM_STATE = Path("/var/lib/reconciler")
API_SOCKET = Path("/run/reconciler/api.sock")


@dataclass(frozen=True, slots=True)
class Settings:
    """``manifests`` is as typed, ``state`` absolute. ``timeout`` is in seconds.

    ``jobs`` bounds the volumes built at once from layers that are here, ``downloads`` those whose layers are being fetched,
    of which one endpoint has all but one at most (``controller.queue.room``).
    """

    manifests: Path
    state: Path
    jobs: int = 2
    downloads: int = 4
    timeout: float | None = None
    resync: float = 300.0
    """Seconds after which a service looks at everything again although nothing seems to have changed."""
    host_file: Path = field(default_factory=lambda: default_host_file())
    """What this host says of itself: name, labels, and what it permits to manifests."""
    host_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that are given on the way; they win over those of the file."""

    @property
    def registry(self) -> Path:
        return self.state / "registry.sqlite3"

    @property
    def reserve(self) -> Path:
        """Space that the registry gets when the file system is full."""
        return self.state / "reserve"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def api(self) -> Path:
        """The socket of the local API."""
        return API_SOCKET if self.state == SYSTEM_STATE else self.state / "api.sock"

    @property
    def running(self) -> Path:
        """What runs now, for ``top`` (``telemetry.activity``)."""
        return self.state / "running.json"

    @property
    def spool(self) -> Path:
        """Layers on their way: partial and whole downloads."""
        return self.state / "spool"

    @property
    def indexes(self) -> Path:
        """Member indexes of sealed volumes, by chain; re-made from the layers where lost."""
        return self.state / "index"

    @property
    def seeds(self) -> Path:
        """Disks from which cloud-init configures snapshots (``host.seeds``)."""
        return self.state / "seeds"

    @property
    def parsed(self) -> Path:
        """What manifests were parsed to; may be removed at any time (``manifests.stored``)."""
        return self.state / "parsed"

    def pool(self, name: str) -> Path:
        """Where a file pool keeps its files, and a loop-backed thin pool its own."""
        return self.state / "pools" / name


def default_host_file(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("RECONCILER_HOST_FILE") or HOST_FILE)


def default_state(environ: Mapping[str, str] = os.environ, *, root: bool | None = None) -> Path:
    """``/var/lib/reconciler`` for root, the user's XDG state directory otherwise."""
    if os.geteuid() == 0 if root is None else root:
        return SYSTEM_STATE
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "reconciler"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What manifests select a host by. ``id`` decides which share of all hosts it belongs to (``hosts.percent``)."""

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
