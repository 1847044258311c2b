"""Customizes new snapshots of a thin pool while they are drafts: active under a working name, known to nothing.

A draft that was written and synced becomes a snapshot by one row of the journal; one that an interruption left is removed, and
created again. Called by ``pool.thin.pool``. No state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from reconciler.dataclass import dataclass, replace
from reconciler.errors import ReconcilerError
from reconciler.pool.driver import Custom
from reconciler.pool.thin.admission import Admission
from reconciler.pool.thin.devmapper import DmError
from reconciler.pool.thin.failures import converted
from reconciler.pool.thin.journal import DeviceRow, Journal, Role
from reconciler.pool.thin.mappings import Mappings
from reconciler.pool.thin.naming import MAPPER

Rows = Mapping[str, DeviceRow | ReconcilerError]


@dataclass(frozen=True)
class Drafts:
    """``abandon`` removes a draft that failed. ``admission`` protects drafts from the removal of leftovers."""

    pool: str
    mappings: Mappings
    journal: Journal
    admission: Admission
    abandon: Callable[[DeviceRow], None]

    def finish(self, made: Rows, customs: Mapping[str, Custom | None]) -> dict[str, DeviceRow | ReconcilerError]:
        """Customize the drafts among what was made. Return the rows of the snapshots or the errors, by name.

        Whatever ends it early, no draft becomes a snapshot, and no working name stays active.
        """
        results = dict(made)
        drafts = {name: row for name, row in made.items() if isinstance(row, DeviceRow) and row.role is Role.DRAFT}
        if not drafts:
            return results
        names = self.mappings.names()
        places = {name: names.working("draft", row.id) for name, row in drafts.items()}
        for row in drafts.values():
            self.admission.reserve(row.id, 0)
        try:
            failed = self.mappings.activate_many((row, places[name]) for name, row in drafts.items())
            for name, row in drafts.items():
                results[name] = self._finished(row, places[name], customs.get(name), failed.get(row.id))
            finished = [row for name, row in results.items() if name in drafts and isinstance(row, DeviceRow)]
            if finished:
                self.journal.write(put=finished)
            return results
        finally:
            for row in drafts.values():
                self.admission.release(row.id)

    def _finished(
        self, row: DeviceRow, place: str, custom: Custom | None, failed: DmError | ReconcilerError | None
    ) -> DeviceRow | ReconcilerError:
        doing = f"customize snapshot {row.name}"
        try:
            if failed is not None:
                raise failed
            try:
                if custom is not None:
                    _write(place, custom)
            finally:
                self.mappings.deactivate(place)
            return replace(row, role=Role.SNAPSHOT)
        except (DmError, ReconcilerError, OSError) as error:
            self.abandon(row)
            return converted(self.pool, doing, error)


def _write(place: str, custom: Custom) -> None:
    fd = os.open(MAPPER / place, os.O_RDWR | os.O_CLOEXEC)
    try:
        custom.write(fd)
        os.fsync(fd)
    finally:
        os.close(fd)
