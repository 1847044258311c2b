"""OCI layouts: directories of this host. Nothing outside of the directory is read through links in it.

Used by ``stored``. State: a path.
"""

from __future__ import annotations

import os
import stat

from reconciler.errors import ImageRefused, NeedsOperator, SourceForbidden, SourceNotFound
from reconciler.policy import force
from reconciler.policy.rules import is_within


class Layout:
    """Raises SourceNotFound where there is no such directory, PolicyRefused."""

    etag = key = ""
    packed = None

    def __init__(self, path: str) -> None:
        self.name = path
        self._root = os.path.realpath(path)
        if not os.path.isdir(self._root):  # noqa: PTH112
            hint = "check the path; an archive is named oci-archive:PATH" if os.path.exists(path) else "check the path"  # noqa: PTH110
            raise SourceNotFound(f"there is no directory {path}", hint=hint)
        force.require_file(path)

    def read(self, path: str, most: int) -> bytes | None:
        fd = self._open(path)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ImageRefused(f"{path} in {self.name} has more than {most} bytes", hint="write the layout again")
        return data

    def begins(self, path: str, most: int) -> bytes:
        fd = self._open(path)
        if fd is None:
            return b""
        with os.fdopen(fd, "rb") as file:
            return file.read(most)

    def place(self, path: str) -> tuple[str, int]:
        fd = self._open(path)
        if fd is None:
            raise ImageRefused(f"{self.name} has no file {path}", hint="write the layout again")
        size = os.fstat(fd).st_size
        os.close(fd)
        return os.path.realpath(os.path.join(self._root, path)), size  # noqa: PTH118

    def _open(self, path: str) -> int | None:
        """A regular file of the directory; None where there is none."""
        real = os.path.realpath(os.path.join(self._root, path))  # noqa: PTH118
        if not is_within(real, self._root):
            raise ImageRefused(f"{path} in {self.name} leads out of the layout, to {real}", hint="write the layout again")
        try:
            fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise SourceForbidden(f"{real} may not be read", hint="check its owner and mode") from error
        except OSError as error:
            raise NeedsOperator(f"{real} can't be opened: {error.strerror}", hint="check its disk") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ImageRefused(f"{path} in {self.name} is not a regular file", hint="write the layout again")
            force.require_opened(real, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd
