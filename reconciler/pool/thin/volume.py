"""A thin pool's volume while it is being written.

Created by ``pool.thin.pool``, which seals and abandons it. State: an open device, and its mapping.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.pool.thin.journal import DeviceRow


class Owner(Protocol):
    """What a volume needs of its pool."""

    def seal(self, row: DeviceRow, fd: int) -> str: ...
    def check_space(self) -> None: ...
    def abandon(self, row: DeviceRow) -> None: ...


@dataclass
class ThinVolume:
    """A volume that is being written, active under a working name until it is sealed or discarded."""

    size: int
    fd: int
    path: Path
    room: int
    row: DeviceRow
    pool: Owner
    _open: bool = True

    def __enter__(self) -> ThinVolume:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)
            self.pool.abandon(self.row)

    def check_space(self) -> None:
        self.pool.check_space()

    def seal(self) -> str:
        self._open = False
        try:
            return self.pool.seal(self.row, self.fd)
        except BaseException:
            self.pool.abandon(self.row)
            raise
