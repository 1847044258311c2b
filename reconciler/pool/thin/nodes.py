"""Owner, group and mode of snapshots' device nodes (``spec.access``).

udev gives a node its defaults again with each of its events, so ``deploy/udev/60-reconciler.rules`` reads the declared ones from
a file under /run that has the device's UUID as its name. They are also set here, after udev is done: a host may have no udev, or
not the rules.

Called by ``pool.thin.snapshots``, ``pool.thin.state`` and ``pool.thin.pool``. State: the files under /run, and the nodes.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler import atomic_file
from reconciler.dataclass import dataclass
from reconciler.pool.access import Access
from reconciler.pool.spec import AccessSpec
from reconciler.pool.thin.naming import MAPPER

RULES = Path("/run/reconciler/access")


@dataclass(frozen=True, slots=True)
class Nodes:
    """Those of one pool; ``access`` None leaves them to udev."""

    pool: str
    access: AccessSpec | None

    def announce(self, uuid: str) -> None:
        """Let udev's rules have the access of a device. Called before it is activated. Raises OSError, PoolUnusable."""
        if access := self._wanted():
            atomic_file.make_directory(RULES, 0o755, above=0o755)
            owner = [f"RECONCILE_OWNER={access.uid}"] if access.uid != -1 else []
            group = [f"RECONCILE_GROUP={access.gid}"] if access.gid != -1 else []
            text = "\n".join([*owner, *group, f"RECONCILE_MODE={access.mode:04o}"]) + "\n"
            atomic_file.write(RULES / uuid, text, durable=False, mode=0o644)

    def apply(self, mapping: str) -> None:
        """Give an active device's node the declared access. Raises OSError, PoolUnusable."""
        if access := self._wanted():
            path = MAPPER / mapping
            os.chown(path, access.uid, access.gid)
            path.chmod(access.mode)

    def difference(self, mapping: str) -> str:
        """Why the node can't be opened as declared; empty where it can. Raises PoolUnusable."""
        try:
            found = (MAPPER / mapping).stat()
        except OSError:
            return "its device node is missing"
        access = self._wanted()
        return access.difference(found.st_uid, found.st_gid, found.st_mode) if access else ""

    def forget(self, uuid: str) -> None:
        if self.access:
            (RULES / uuid).unlink(missing_ok=True)

    def _wanted(self) -> Access | None:
        return Access.of(self.pool, self.access) if self.access else None
