"""Carries out what manifests declare of single snapshots: contents from files of the host, the editor's child, seeds.

``machines`` asks it for the ``Custom`` of a request, ``observe`` for digests of files. A run's input has a digest only: contents
are read when they are written, and must give that digest. State: what is declared now.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from reconciler.dataclass import replace
from reconciler.errors import ReconcilerError, Retryable, SourceForbidden, SourceNotFound
from reconciler.host import seeds
from reconciler.host.seeds import Seeds
from reconciler.image.custom import FILE_BYTES, CustomSpec, FileSpec, Names, has_seed, sum_of
from reconciler.model import Desired, ImageSpec, PoolSpec
from reconciler.policy import force
from reconciler.pool.driver import Custom

if TYPE_CHECKING:
    from reconciler.image.builder.editor import Editor
    from reconciler.image.builder.process import Proceed
    from reconciler.image.ext4.edit import Edit, File

NOWHERE = Path("/nonexistent")
AGAIN = "the next plan takes them as they are"
LOST = "its seed is lost: restore its files as they were, or have it replaced (replacePolicy, recycle)"


class Customizing:
    """``declare`` replaces what is declared, for every thread. ``directory`` is for seeds."""

    def __init__(self, desired: Desired | None = None, directory: Path = NOWHERE) -> None:
        self._lock = threading.Lock()
        self._seeds = Seeds(directory)
        self._images: dict[str, ImageSpec] = {}
        self._pools: dict[str, PoolSpec] = {}
        self._host = ""
        if desired is not None:
            self.declare(desired)

    def declare(self, desired: Desired) -> None:
        """Keep what these manifests declare; an image that they leave out stays as it was, for runs that are under way."""
        with self._lock:
            self._host = desired.host
            self._images.update(desired.images)
            self._pools.update(desired.pools)

    def editor(self, proceed: Proceed, wishes: Iterable[Mapping[str, Any]]) -> AbstractContextManager[Editor | None]:
        """One child for all edits of a batch; it begins with the first of them. None where all snapshots are plain copies."""
        if not any(wish.get("custom") for wish in wishes):
            return nullcontext()
        from reconciler.image.builder.editor import Editor

        return Editor(proceed)

    def custom(self, wish: Mapping[str, Any], editor: Editor | None) -> Custom | None:
        """What the snapshot of a run's input gets besides its chain; None for nothing."""
        if not wish.get("custom"):
            return None

        def write(fd: int) -> None:
            spec, names, contents = self._declared(wish)
            if spec.edits:
                assert editor is not None
                editor.edit(fd, _edit(spec, names, contents))
            self._write_seed(wish, spec, names, contents)

        return Custom(wish["custom"], wish["size"], write)

    def seed(self, wish: Mapping[str, Any]) -> None:
        """Write the seed of an activation's snapshot again. Raises as ``Custom.write``."""
        if has_seed(wish.get("custom", "")):
            self._write_seed(wish, *self._declared(wish, LOST))

    def _write_seed(self, wish: Mapping[str, Any], spec: CustomSpec, names: Names, contents: Mapping[str, bytes]) -> None:
        if path := self._seeds.path(wish["pool"], wish["name"], wish["custom"]):
            with self._lock:
                pool = self._pools.get(wish["pool"])
            disk = seeds.disk(names, wish["custom"], {name: contents[source] for name, source in spec.seed})
            self._seeds.write(path, disk, pool.access if pool else None)

    def _declared(self, wish: Mapping[str, Any], hint: str = AGAIN) -> tuple[CustomSpec, Names, dict[str, bytes]]:
        """What a run's snapshot gets, and the contents of sources.

        Raises Retryable where manifests or files differ from what the run was opened for, and what ``content`` raises.
        """
        with self._lock:
            image, host = self._images.get(wish["image"]), self._host
        spec = image.custom.get(wish["name"]) if image else None
        if image is None or spec is None:
            raise Retryable(f"snapshot {wish['name']}: the manifests declare no files or size of it any more", hint=hint)
        names, contents = Names(wish["name"], spec.index, image.name, host), {path: content(path) for path in spec.sources}
        sums = {path: sum_of(found) for path, found in contents.items()}
        sizes = {spec.size, *wish.get("sizes", ())}
        if wish["custom"] not in {replace(spec, size=size).digest(names, sums) for size in sizes}:
            raise Retryable(f"snapshot {wish['name']}: its files have changed since they were planned", hint=hint)
        return spec, names, contents


def _edit(spec: CustomSpec, names: Names, contents: Mapping[str, bytes]) -> Edit:
    from reconciler.image.ext4.edit import Edit

    files = tuple(_file(one, names, contents) for one in spec.files)
    return Edit(spec.size, uuid4() if spec.unique_ids else None, spec.unique_ids, files)


def _file(spec: FileSpec, names: Names, contents: Mapping[str, bytes]) -> File:
    from reconciler.image.ext4.edit import File

    found = contents[spec.source] if spec.source else names.fill(spec.content).encode()
    return File(spec.path.encode(), found, spec.mode, spec.uid, spec.gid)


def examine(path: str) -> tuple[str, str]:
    """The ``sum_of`` a file of the host; or an empty one, and why it can't be read."""
    try:
        return sum_of(content(path)), ""
    except (ReconcilerError, OSError) as error:
        return "", str(error)


def content(path: str) -> bytes:
    """What a file holds that snapshots get. Raises PolicyRefused, SourceNotFound, SourceForbidden."""
    force.require_file(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise SourceForbidden(f"{path} may not be read", hint="check its owner and mode") from error
    except OSError as error:
        why = "is a symbolic link" if error.errno == errno.ELOOP else f"can't be opened: {error.strerror}"
        raise SourceNotFound(f"{path} {why}", hint="correct `from` in the manifest, or put the file there") from error
    try:
        return _content(path, fd)
    finally:
        os.close(fd)


def _content(path: str, fd: int) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SourceNotFound(f"{path} is not a regular file", hint="correct `from` in the manifest")
    force.require_opened(path, fd)
    found = b""
    while len(found) <= FILE_BYTES and (piece := os.pread(fd, FILE_BYTES + 1 - len(found), len(found))):
        found += piece
    if len(found) > FILE_BYTES:
        raise SourceForbidden(f"{path} has more than {FILE_BYTES} bytes", hint="put large files into a layer of the image")
    return found
