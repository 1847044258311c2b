"""The disks beside snapshots from which cloud-init configures machines (NoCloud): ISO 9660, label ``cidata``, a few KiB each.

    <state>/seeds/<pool>/<snapshot>.<digest>.iso      the pool's ``spec.access`` without write permission, or 0400

``customizing`` writes one before its snapshot gets its name; ``observe`` reports a snapshot without its disk as inactive, so that
its activation writes the disk again. Its bytes follow from the declaration alone. State: the files; rows have the digest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from reconciler import atomic_file
from reconciler.dataclass import dataclass, replace
from reconciler.errors import Retryable
from reconciler.image.custom import Names, has_seed
from reconciler.image.iso9660 import image
from reconciler.model import SnapshotRow
from reconciler.pool.access import Access
from reconciler.pool.driver import Condition, PoolState, chain_and_custom
from reconciler.pool.spec import AccessSpec

LABEL = "cidata"
PRIVATE = AccessSpec(mode=0o400)
_WRITING = 0o222
CLOCK_SECONDS = 0.05
"""By how much a file system's times may be behind the clock."""


def disk(names: Names, custom: str, files: Mapping[str, bytes]) -> bytes:
    """What the files of the host become; ``custom`` is the digest of what the snapshot gets."""
    found = {"meta-data": f"instance-id: {names.snapshot}-{custom[:16]}\nlocal-hostname: {names.snapshot}\n".encode()}
    return image(LABEL, found | {name: names.fill_bytes(content) for name, content in files.items()})


@dataclass(frozen=True, slots=True)
class Seeds:
    directory: Path

    def path(self, pool: str, name: str, custom: str) -> Path | None:
        """Where the disk of a snapshot is; None where it has none."""
        return self.directory / pool / f"{name}.{custom[:16]}.iso" if has_seed(custom) else None

    def of(self, row: SnapshotRow) -> Path | None:
        return self.path(row.pool, row.name, row.custom)

    def is_present(self, row: SnapshotRow) -> bool:
        path = self.of(row)
        return path is None or os.path.lexists(path)

    def write(self, path: Path, content: bytes, declared: AccessSpec | None) -> None:
        """Raises Retryable, PoolUnusable. What a user of an earlier disk may have written to it is gone."""
        access = _access(path.parent.name, declared)
        try:
            atomic_file.make_directory(path.parent, 0o711)
            with atomic_file.draft(path) as made:
                with os.fdopen(os.dup(made.fd), "wb") as file:
                    file.write(content)
                access.apply(made.fd)
                made.publish()
        except OSError as error:
            hint = "see that the file system of the state directory can be written to"
            raise Retryable(f"{path}: the seed can't be written: {error.strerror}", hint=hint) from error

    def joined(self, pool: str, state: PoolState, rows: Collection[SnapshotRow], declared: AccessSpec | None) -> PoolState:
        """The state of a pool in which snapshots have their disks, and none is active without it."""
        snapshots = dict(state.snapshots)
        for row in rows:
            path, found = self.of(row), snapshots.get(row.name)
            if row.pool != pool or path is None or found is None:
                continue
            fault = _fault(path, _access(pool, declared)) if found.condition is Condition.INTACT else ""
            active, detail = found.active and not fault, found.detail or fault
            snapshots[row.name] = replace(found, seed=str(path), active=active, detail=detail)
        return replace(state, snapshots=snapshots)

    def sweep(self, rows: Collection[SnapshotRow], states: Mapping[str, PoolState | None], before: float) -> None:
        """Remove the disks of snapshots that neither the registry has nor an interrupted run has created.

        ``states`` are those of the pools as of ``before``; newer files stay, and those of pools that could not be observed.
        """
        kept = {self.of(row) for row in rows}
        for pool, state in states.items():
            for found in state.snapshots.values() if state else ():
                kept.add(self.path(pool, found.name, chain_and_custom(found.made)[1]))
        for path in self.directory.glob("*/*.iso*"):
            if path not in kept and states.get(path.parent.name, 0) is not None:
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < before - CLOCK_SECONDS:
                        path.unlink()


def _access(pool: str, declared: AccessSpec | None) -> Access:
    access = Access.of(pool, declared or PRIVATE)
    return replace(access, mode=access.mode & ~_WRITING)


def _fault(path: Path, access: Access) -> str:
    """Why a disk can't be used as declared; empty where it can."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return f"its seed {path} is missing"
    if not stat.S_ISREG(found.st_mode):
        return f"its seed {path} is not a regular file"
    difference = access.difference(found.st_uid, found.st_gid, found.st_mode)
    return f"its seed has {difference}" if difference else ""
