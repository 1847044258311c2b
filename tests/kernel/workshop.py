"""The stories' workshop on a thin pool: the same manifests and commands, with device-mapper underneath."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from reconciler.pool.thin import metadata
from tests.stories.workshop import Completed, Running, Workshop, contents

from .rig import Rig, dmsetup, mappings

POOL = "default"
MAPPER = Path("/dev/mapper")


@dataclass
class ThinWorkshop(Workshop):
    """All of them have a pool of the same name, so one at a time is up: the one whose command ran last."""

    up: ClassVar[Path | None] = None
    """Whose pool is up."""
    data_size: str = "256MiB"
    metadata_size: str | None = "4MiB"

    def start(self, *words: str | Path, env: Mapping[str, str] | None = None, die_at: int = 0) -> Running:
        self.claim()
        return super().start(*words, env=env, die_at=die_at)

    def run_installed(self, *words: str) -> Completed:
        self.claim()
        return super().run_installed(*words)

    def claim(self) -> None:
        """What another workshop has up is taken down, as by a reboot."""
        if ThinWorkshop.up != self.root:
            self.take_down()
            ThinWorkshop.up = self.root

    @property
    def backing(self) -> Path:
        return self.root / "backing"

    def pool(self, reserve: int = 0, **more: Any) -> None:
        self.backing.mkdir(exist_ok=True)
        sizes = {"size": self.metadata_size} if self.metadata_size else {}
        thin = {
            "data": {"file": str(self.backing / "thin.data"), "size": self.data_size},
            "metadata": {"file": str(self.backing / "thin.meta")} | sizes,
        }
        body = {"thin": thin, "reserve": {"dataPercent": reserve, "metadataPercent": reserve}} | more
        self.declare("pool", {"apiVersion": "reconciler/v1alpha1", "kind": "Pool", "metadata": {"name": POOL}, "spec": body})

    @property
    def rig(self) -> Rig:
        return Rig(self.root, POOL)

    @property
    def metadata_path(self) -> Path:
        return self.backing / "thin.meta"

    def snapshot(self, name: str) -> Path:
        return MAPPER / f"{POOL}-{name}"

    def snapshot_names(self) -> set[str]:
        return {name.removeprefix(f"{POOL}-") for name in mappings() if name.startswith(f"{POOL}-") and "-." not in name}

    def devices(self) -> dict[int, tuple[str, str, int, int]]:
        """What the registry knows: (role, name, transaction, size) by thin id."""
        with closing(sqlite3.connect(f"file:{self.state}/registry.sqlite3?mode=ro", uri=True)) as db:
            found = db.execute('SELECT id, role, name, "transaction", size FROM device WHERE pool = ?', (POOL,))
            return {row[0]: (row[1], row[2], row[3], row[4]) for row in found}

    def thin_ids(self) -> dict[int, int]:
        """What the pool holds: the transaction at which each thin id was created."""
        found = metadata.read(self.metadata_path)
        return {one.id: one.transaction for one in found.devices.values()} if found else {}

    @property
    def volumes(self) -> list[Path]:
        """Copies of the bases, read while they are active for a moment."""
        exports = self.root / "exports"
        exports.mkdir(exist_ok=True)
        found = []
        for thin_id, (role, chain, _, size) in self.devices().items() if self.state.exists() else ():
            if role == "volume":
                target = exports / f"{chain}.ext4"
                self.export(thin_id, size, target)
                found.append(target)
        return sorted(found)

    def export(self, thin_id: int, size: int, target: Path) -> None:
        dmsetup("create", "exported", "--readonly", "--table", f"0 {size // 512} thin /dev/mapper/{POOL} {thin_id}")
        try:
            subprocess.run(["cp", "--sparse=always", MAPPER / "exported", target], check=True)
        finally:
            dmsetup("remove", "--retry", "exported")

    def holdings(self) -> dict[str, str]:
        if ThinWorkshop.up != self.root:
            self.once().expect(0)
        return contents((*self.volumes, *map(self.snapshot, self.snapshot_names())))

    def tidy(self) -> None:
        super().tidy()
        assert not [name for name in mappings() if "-." in name], mappings()
        assert self.thin_ids() == {thin_id: row[2] for thin_id, row in self.devices().items()}, "registry and pool agree"

    def take_down(self) -> None:
        self.rig.take_down()

    def copy(self, root: Path) -> ThinWorkshop:
        """Taken down, copied with the pool's files, and declared where it is now."""
        self.take_down()
        super().copy(root)
        other = replace(self, root=root)
        other.pool()
        other.once().expect(0)
        return other
