"""A file pool's volume while it is being written.

Created by ``pool.file.pool``. State: an open file under a hidden name, and the space that was promised to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.errors import BuilderDied
from reconciler.pool.file.admission import Admission
from reconciler.pool.file.directory import Shelf
from reconciler.pool.file.failures import reported
from reconciler.pool.file.identity import Identity


@dataclass
class VolumeFile:
    """A volume that is being written. It has a hidden name until it is sealed."""

    chain: str
    size: int
    fd: int
    path: Path
    shelf: Shelf
    admission: Admission
    room: int | None = None

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.admission.release(self.fd)
        os.close(self.fd)
        self.shelf.discard(self.chain)

    def check_space(self) -> None:
        self.admission.space().require_half_of_reserve(self.admission.pool)

    def seal(self) -> str:
        if (found := os.fstat(self.fd).st_size) != self.size:  # the builder has the descriptor
            raise BuilderDied(f"volume {self.chain[:12]} is {found} bytes long, {self.size} were promised")
        with reported(f"can't seal volume {self.chain[:12]}", self.path):
            os.fchmod(self.fd, 0o444)
            os.fsync(self.fd)
            self.shelf.replace(self.chain)
            self.path = self.shelf.path(self.chain)
            return str(Identity.of(self.fd))
