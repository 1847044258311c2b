"""Manifests, a state directory and a file pool for whole runs of ``reconcile``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import RECONCILE
from benchmarks.measure import run
from tests.support import policy


@dataclass(frozen=True)
class Ground:
    """Below ``root``, whose file system has the pool."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    def declare(
        self, name: str, layers: Sequence[Mapping[str, str]], snapshots: Sequence[Mapping[str, Any]], **more: Any
    ) -> None:
        (self.root / "manifests").mkdir(parents=True, exist_ok=True)
        spec = {"layers": [dict(layer) for layer in layers], "snapshots": [dict(one) for one in snapshots], **more}
        document = {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": spec}
        (self.root / "manifests" / f"{name}.yaml").write_text(json.dumps(document))  # JSON is YAML

    def command(self, *words: str) -> list[str]:
        host_file = policy.write(self.root / "host.yaml")
        where = ["-f", str(self.root / "manifests"), "--state", str(self.state), "--host-file", str(host_file)]
        return [RECONCILE, *words, *where]

    def forget(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    def once(self) -> None:
        run(self.command("--once"))


def pinned(source: str, path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"source": source, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
