"""The manifest files of a directory tree, as text: found, bounded, decoded.

Called by ``loader`` and ``last_good``. What can't be read is a fault, never skipped: a skipped file would look like a removed
one. Keeps no state; reads the tree once, file by file (``watch`` waits until it is at rest).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.manifests.faults import Fault, shown
from reconciler.model import Where
from reconciler.policy import force
from reconciler.policy.rules import Refusal

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 1 << 20
MAX_TREE_BYTES = 64 << 20
READ = 64 << 10
MAX_FILES = 20_000
MAX_ENTRIES = 100_000
"""Directory entries that are examined, manifests or not: a link to ``/`` ends as a fault, not as a walk over the host."""
MAX_DEPTH = 32

DIRECTORY = "directory"
"""The path of a fault that hides more than one file."""

RACY_NANOSECONDS = 2_000_000_000
"""Two writes within the granularity of a file system's times have the same time (2 s at worst, FAT): until then content decides.
(Git calls such entries racy, Documentation/technical/racy-git.)"""

_Identity = tuple[int, int]
"""Device and inode: two paths with the same one lead to the same file."""

Status = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and inode: differs after every write."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """``path`` begins as the user typed it; ``size`` counts bytes; ``status`` is None where a later write might not change it."""

    path: str
    text: str
    size: int
    identity: _Identity
    status: Status | None = None

    @property
    def directory(self) -> str:
        """What relative paths in it start from."""
        return os.path.dirname(self.path)  # noqa: PTH120


def read_tree(directory: Path, cached: Mapping[str, ManifestFile] | None = None) -> Iterator[ManifestFile | Fault]:
    """Every manifest under a directory, in order of name, or the reason why it can't be read.

    A manifest is a regular file (or a link to one) named ``*.yaml`` or ``*.yml``. Names that begin with a dot are
    skipped, directories too: they are Git's, editors', and Kubernetes' ``..data``. A cached file that has not been written since
    is yielded without reading it again.
    """
    return _within_bounds(_Walk().under(os.fspath(directory)), cached or {}, of_repository=True)


def read_named(directory: Path, named: Iterable[str], cached: Mapping[str, ManifestFile]) -> list[ManifestFile] | None:
    """The named files of a tree, which may be new; ``cached`` are the other files.

    None where one can't be read, or where the whole tree has to be read: links lead to a file, or a bound would be passed.
    """
    root = os.path.realpath(directory)
    found: list[ManifestFile] = []
    for path in named:
        inside = os.path.relpath(path, directory)
        file = _read(path, of_repository=True) if os.path.realpath(path) == os.path.join(root, inside) else None  # noqa: PTH118
        if not isinstance(file, ManifestFile) or inside.count(os.sep) >= MAX_DEPTH:
            return None
        found.append(file)
    size = sum(file.size for file in (*cached.values(), *found))
    return found if len(cached) + len(found) <= MAX_FILES and size <= MAX_TREE_BYTES else None


def read_paths(paths: Iterable[Path]) -> Iterator[ManifestFile | Fault]:
    """The manifests of named directories, and named files. A named file is read whatever its suffix, and only once."""
    return _within_bounds((item for path in paths for item in _named(path, _Walk())), {}, of_repository=False)


def _named(path: Path, walk: _Walk) -> Iterator[str | Fault]:
    return walk.under(os.fspath(path)) if os.path.isdir(path) else iter([os.fspath(path)])  # noqa: PTH112


def _within_bounds(
    found: Iterable[str | Fault], cached: Mapping[str, ManifestFile], *, of_repository: bool
) -> Iterator[ManifestFile | Fault]:
    seen: set[_Identity] = set()
    size = 0
    for item in found:
        manifest = (_unchanged(cached.get(item)) or _read(item, of_repository=of_repository)) if isinstance(item, str) else item
        if isinstance(manifest, Fault):
            yield manifest
        elif manifest.identity not in seen:
            seen.add(manifest.identity)
            size += manifest.size
            if len(seen) > MAX_FILES or size > MAX_TREE_BYTES:
                yield _fault(
                    manifest.path,
                    f"is beyond the bounds of {MAX_FILES} files and {MAX_TREE_BYTES >> 20} MiB; reading ended here",
                    DIRECTORY,
                )
                return
            yield manifest


class _Walk:
    """One search through directories. Counts the entries of all of them."""

    def __init__(self) -> None:
        self._entries = 0

    def under(self, directory: str, above: tuple[_Identity, ...] = ()) -> Iterator[str | Fault]:
        """``above`` are the directories on the way here: meeting one of them again is a loop of links."""
        try:
            status = os.stat(directory)  # noqa: PTH116
            identity = status.st_dev, status.st_ino
            entries = _visible(directory)
        except OSError as error:
            yield _fault(directory, f"cannot be read: {error.strerror} (this is not taken for an empty one)", "directory")
            return
        self._entries += len(entries)
        if trouble := self._trouble(identity, above):
            yield _fault(directory, trouble, "directory")
            return
        for entry in entries:
            yield from self._entry(entry, (*above, identity))

    def _trouble(self, identity: _Identity, above: tuple[_Identity, ...]) -> str:
        if identity in above:
            return "is a loop of links"
        if len(above) >= MAX_DEPTH:
            return f"is more than {MAX_DEPTH} directories deep"
        if self._entries > MAX_ENTRIES:
            return f"has brought the search to more than {MAX_ENTRIES} entries (is this a directory of manifests?)"
        return ""

    def _entry(self, entry: os.DirEntry[str], above: tuple[_Identity, ...]) -> Iterator[str | Fault]:
        """A link is followed whatever its name: a broken one may have led to a directory of manifests."""
        if entry.name.endswith(SUFFIXES) and entry.is_file(follow_symlinks=False):
            yield entry.path
            return
        try:
            if entry.is_symlink():
                os.stat(entry.path)  # noqa: PTH116
        except OSError as error:
            what = "file" if entry.name.endswith(SUFFIXES) else DIRECTORY
            yield _fault(entry.path, f"is a link that cannot be followed: {error.strerror} (repair or remove it)", what)
            return
        if (entry.is_dir() or entry.name.endswith(SUFFIXES)) and (refusal := force.file_refusal(entry.path)):
            yield _fault(entry.path, _refused(refusal), DIRECTORY if entry.is_dir() else "file")
        elif entry.is_dir():
            yield from self.under(entry.path, above)
        elif entry.name.endswith(SUFFIXES):
            yield entry.path


def _refused(refusal: Refusal) -> str:
    return f"is refused by this host's policy: {refusal.message} ({refusal.hint(force.current().file)})"


def _visible(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _unchanged(file: ManifestFile | None) -> ManifestFile | None:
    """The cached file if it has not changed since it was read."""
    if file is None or file.status is None:
        return None
    try:
        return file if _status(os.stat(file.path)) == file.status else None  # noqa: PTH116 - thousands of them
    except OSError:
        return None


def _status(found: os.stat_result) -> Status:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str, *, of_repository: bool) -> ManifestFile | Fault:
    """``of_repository``: this host's policy decides whether a link may lead to it."""
    try:
        path.encode()
        now = time.time_ns()
        data, status = _bytes(path, of_repository=of_repository)
        at_rest = now - max(status[3:]) >= RACY_NANOSECONDS
        return ManifestFile(path, data.decode("utf-8-sig"), len(data), status[:2], status if at_rest else None)
    except OSError as error:
        return _fault(path, f"cannot be read: {error.strerror}")
    except UnicodeEncodeError:
        return _fault(path, "has a name that is not UTF-8 (rename it)")
    except UnicodeDecodeError as error:
        return Fault(
            _where_of_byte(path, error), "file", f"is not UTF-8: byte 0x{error.object[error.start]:02x} (save it as UTF-8)"
        )
    except ValueError as error:
        return _fault(path, str(error))


def _bytes(path: str, *, of_repository: bool) -> tuple[bytes, Status]:
    """The whole of a regular file, and its status from before it was read."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # a FIFO is refused, never waited for
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if of_repository and (refusal := force.opened_refusal(path, fd)):
            raise ValueError(_refused(refusal))
        data = _whole(fd, status.st_size)
    finally:
        os.close(fd)
    if not data:
        raise ValueError("is empty (a power cut leaves such files): write it again, or remove it")
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB (split it: any number of files may declare images)")
    return data, _status(status)


def _whole(fd: int, size: int) -> bytes:
    """All bytes of a file that had that size a moment ago; one byte more than the bound where it is larger."""
    data = os.read(fd, min(size, MAX_FILE_BYTES) + 1)
    if len(data) <= size:
        return data
    while (left := MAX_FILE_BYTES + 1 - len(data)) and (more := os.read(fd, min(left, READ))):
        data += more
    return data


def _where_of_byte(path: str, error: UnicodeDecodeError) -> Where:
    before = error.object[: error.start]
    line = before[before.rfind(b"\n") + 1 :]
    return Where(shown(path), before.count(b"\n") + 1, len(line.decode()) + 1)


def _fault(path: str, message: str, what: str = "file") -> Fault:
    return Fault(Where(shown(path), 1, 1), what, message)
