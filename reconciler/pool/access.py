"""Owner, group and mode of the snapshots of a pool (``spec.access``): a jailed microVM's user opens its disk, and nothing else.

Called by the drivers, which apply it to each new snapshot and compare it with what they find. State: the inodes.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat

from reconciler.dataclass import dataclass
from reconciler.errors import PoolUnusable
from reconciler.pool.spec import AccessSpec


@dataclass(frozen=True, slots=True)
class Access:
    """With this host's numbers. ``uid`` and ``gid`` are -1 where they are not declared."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, pool: str, spec: AccessSpec) -> Access:
        """Raises PoolUnusable for a user or group that this host does not have."""
        hint = f"create it, or correct spec.access of pool {pool}"
        uid = gid = -1
        if spec.owner:
            try:
                uid = int(spec.owner) if spec.owner.isdecimal() else pwd.getpwnam(spec.owner).pw_uid
            except KeyError:
                raise PoolUnusable(f"pool {pool}: this host has no user {spec.owner!r}", hint=hint) from None
        if spec.group:
            try:
                gid = int(spec.group) if spec.group.isdecimal() else grp.getgrnam(spec.group).gr_gid
            except KeyError:
                raise PoolUnusable(f"pool {pool}: this host has no group {spec.group!r}", hint=hint) from None
        return cls(uid, gid, spec.mode)

    def apply(self, fd: int) -> None:
        """Raises OSError. The mode comes last: chown(2) clears bits of it, and no other user may have the old one."""
        os.fchown(fd, self.uid, self.gid)
        os.fchmod(fd, self.mode)

    def difference(self, uid: int, gid: int, mode: int) -> str:
        """How an inode differs from what is declared; empty where it does not."""
        faults = []
        if self.uid not in (-1, uid):
            faults.append(f"owner {uid} instead of {self.uid}")
        if self.gid not in (-1, gid):
            faults.append(f"group {gid} instead of {self.gid}")
        if stat.S_IMODE(mode) != self.mode:
            faults.append(f"mode {stat.S_IMODE(mode):04o} instead of {self.mode:04o}")
        return "; ".join(faults)
