"""Converts errors of the kernel and of the host into errors that cost one pool only.

Called by ``pool.thin``. Pure.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.errors import Busy, HostCannot, PoolUnusable, ReconcilerError
from reconciler.pool.thin.devices import DmError


def converted(pool: str, doing: str, error: OSError | ReconcilerError) -> ReconcilerError:
    """The error to raise for ``error``, which happened while the driver was ``doing`` something."""
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
    return PoolUnusable(f"pool {pool}: can't {doing}: {error.strerror}{where}")


@contextmanager
def reported(pool: str, doing: str) -> Iterator[None]:
    """Raise ``converted`` errors."""
    try:
        yield
    except (OSError, HostCannot) as error:
        raise converted(pool, doing, error) from error
