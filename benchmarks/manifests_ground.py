"""A repository of very many manifests, and a host that holds what they declare: for ``manifests_scale``.

Each image has a file of its own, labels, two pinned layers and a snapshot; a hundred files share a directory and a
chain, as the services of one team do. Volumes and snapshots are real, and as small as a file system can be.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from samples import layers as samples
from tests.support import policy

TEAM = 100
"""Images in a directory and of a chain."""

SIZE = "16MiB"

MANIFEST = """\
apiVersion: reconciler/v1alpha1
kind: Image
metadata:
  name: {name}
  labels: {{team: {team}, tier: {tier}}}
spec:
  size: {size}
  layers:
    - {{source: {base}, sha256: {base_sha256}}}
    - {{source: {own}, sha256: {own_sha256}}}
  snapshots:
{snapshots}"""


@dataclass(frozen=True)
class Ground:
    """``count`` images, below a directory of its own."""

    root: Path
    count: int

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def command(self, *words: str) -> list[str]:
        host_file = policy.write(self.root / "host.yaml")
        where = ("-f", str(self.manifests), "--state", str(self.state), "--host-file", str(host_file))
        return [sys.executable, "-m", "reconciler.cli.main", *words[:1], *where, *words[1:]]

    def declare(self) -> None:
        for number in range(self.count):
            path = self.manifest(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text(number))

    def manifest(self, number: int) -> Path:
        return self.manifests / f"team-{number // TEAM:03}" / f"image-{number:05}.yaml"

    def text(self, number: int, *more: str) -> str:
        """The manifest of an image, with a snapshot of its own and those that are asked for besides."""
        team = f"team-{number // TEAM:03}"
        base, own = self._layer("base"), self._layer(team)
        return MANIFEST.format(
            name=f"image-{number:05}",
            team=team,
            tier=("web", "batch", "database")[number % 3],
            size=SIZE,
            base=base,
            base_sha256=_sha256(base),
            own=own,
            own_sha256=_sha256(own),
            snapshots="".join(f"    - {{name: {name}}}\n" for name in (f"image-{number:05}-live", *more)),
        )

    def _layer(self, name: str) -> Path:
        path = self.root / "layers" / f"{name}.tar"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            samples.pack(path, [samples.file(f"etc/{name}", f"{name}\n")])
        return path

    def converge(self) -> None:
        subprocess.run([*self.command("--once"), "--jobs", "4"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
