"""What a source is at one moment: enough to notice later that it has become another.

Made by ``s3`` and ``local``, compared by ``download`` and ``local``. Frozen values, no state.
"""

from __future__ import annotations

import os
import stat

from reconciler.dataclass import dataclass, field
from reconciler.errors import SourceForbidden, SourceNotFound


@dataclass(frozen=True, slots=True)
class Head:
    """An opaque ETag, as the server writes it (files: made up of inode, mtime and length), and the length in bytes.

    ``md5`` is that of the bytes, where the ETag may be one; whatever else the server says of them does not make another object.
    """

    etag: str
    size: int
    md5: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.size} bytes with ETag {self.etag}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What must stay the same while a file is read, or its bytes may be a mix."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def head(self) -> Head:
        return Head(f'"{self.inode:x}-{self.mtime_ns:x}-{self.size:x}"', self.size)


def stamp(path: str) -> Stamp:
    """The stamp of a regular file. Raises SourceNotFound and SourceForbidden."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a source is a string, and stays one in messages
    except PermissionError as error:
        raise SourceForbidden(f"{path} may not be read", hint="check the modes of its directories") from error
    except (OSError, ValueError) as error:
        raise SourceNotFound(f"there is no file {path}", hint="check the layer's source") from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceNotFound(f"{path} is not a regular file", hint="the source of a layer is one tar file")
    return Stamp.of(status)
