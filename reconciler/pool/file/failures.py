"""Converts errors of the operating system into errors that cost one file pool only.

Called by ``pool.file``. Pure.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import NoSpace, PoolUnusable, ReconcilerError

FULL = {errno.ENOSPC, errno.EDQUOT}
UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


def converted(what: str, where: Path, error: OSError) -> ReconcilerError:
    """The error to raise: ``what`` failed on the file system of ``where``."""
    message = f"{what}: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    if error.errno in FULL:
        return NoSpace(message, hint=f"free space on the file system of {where}")
    return PoolUnusable(message, hint=f"check owner, permissions and file system of {where}")


@contextmanager
def reported(what: str, where: Path) -> Iterator[None]:
    """Raise ``converted`` errors."""
    try:
        yield
    except OSError as error:
        raise converted(what, where, error) from error
