"""Converts errors of the kernel and of the host into errors that cost one pool only.

Called by ``pool.thin``. Pure.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.errors import Busy, DeviceFailed, HostCannot, PoolUnusable, ReconcilerError
from reconciler.pool.thin.devices import DmError


def converted(pool: str, doing: str, error: OSError | ReconcilerError, location: str = "") -> ReconcilerError:
    """The error to raise for ``error``, which happened while the driver was ``doing`` something on its data at ``location``."""
    if isinstance(error, DmError):
        what = f"pool {pool}: can't {doing}: {error}"
        if error.errno == errno.EBUSY:
            return Busy(what, hint="it is retried later")
        return PoolUnusable(what, hint="see `reconcile health`")
    if isinstance(error, HostCannot):
        return PoolUnusable(error.message, hint=error.hint)
    if isinstance(error, ReconcilerError):
        return error
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.EIO:
        return DeviceFailed(f"pool {pool}: can't {doing} on {location}: {error.strerror}{where}", hint=DeviceFailed.HINT)
    return PoolUnusable(f"pool {pool}: can't {doing}: {error.strerror}{where}")


@contextmanager
def reported(pool: str, doing: str, location: str) -> Iterator[None]:
    """Raise ``converted`` errors."""
    try:
        yield
    except (OSError, HostCannot) as error:
        raise converted(pool, doing, error, location) from error
