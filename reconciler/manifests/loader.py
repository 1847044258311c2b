"""Manifest files to ``Desired``, with every fault of every file at once.

Called by ``cli`` and ``last_good``. ``files`` finds the files, ``parser`` reads their YAML, ``documents`` validates each
document, ``conflicts`` checks all of them together, ``desired`` makes the values. State: a ``ManifestCache`` that the caller
keeps, so that a service parses only what changed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from reconciler.dataclass import dataclass, replace
from reconciler.errors import ManifestsInvalid
from reconciler.manifests import documents, files
from reconciler.manifests.cache import ManifestCache
from reconciler.manifests.conflicts import Taken, check, fits
from reconciler.manifests.desired import Declared, Documents, assemble
from reconciler.manifests.faults import MAX_FAULTS, Fault, report, shown
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.parser import Entries, Located, Reader
from reconciler.manifests.pool import PoolDocument
from reconciler.manifests.problems import Absent, DocumentInvalid
from reconciler.model import Desired, HostFacts, Where

EVERY_OTHER = HostFacts()
"""A host without a name and without labels."""


def load(directory: Path, *, host: HostFacts = EVERY_OTHER) -> Desired:
    """What the manifests under ``directory`` declare for this host.

    A directory without any manifest gives an empty Desired; one that is missing, or not wholly readable, never does.
    Raises ManifestsInvalid with every fault, in order of file and position.
    """
    with _collection_paused():
        return _valid(files.read_tree(directory), str(directory), host).desired


def load_paths(paths: Iterable[Path]) -> Combined:
    """What these files and directories declare together, for all hosts. Raises ManifestsInvalid."""
    named = list(paths)
    with _collection_paused():
        return _valid(files.read_paths(named), " ".join(map(str, named)), None)


def _valid(found: Iterable[ManifestFile | Fault], source: str, host: HostFacts | None) -> Combined:
    combined = combine(found, source, host)
    if combined.faults:
        raise ManifestsInvalid(report(combined.faults, source))
    return combined


# --------------------------------------------------------------------------------------------------- all files together


class Combined(NamedTuple):
    """What all files declare together. With any fault ``desired`` is empty; ``notes`` are documents that are ignored."""

    desired: Desired
    faults: Sequence[Fault]
    notes: Sequence[Fault]


def combine(
    found: Iterable[ManifestFile | Fault], source: str, host: HostFacts | None, cached: ManifestCache | None = None
) -> Combined:
    """What files declare together, or what is wrong with them."""
    cached = cached or ManifestCache()
    cached.checked = None
    with _collection_paused():
        gathered = _gather(found, cached)
        documents, taken = gathered.documents, Taken()
        together = check(documents, has_every_pool=gathered.has_every_pool, taken=taken)
        faults = [*gathered.faults, *islice(together, MAX_FAULTS)]
        if faults:
            return Combined(Desired({}, {}, source), faults, tuple(gathered.notes))
        desired = assemble(documents, source=source, host=host)
        cached.checked = Checked(documents.pools, taken, desired, host)
        return Combined(desired, (), tuple(gathered.notes))


def combine_changed(few: Sequence[ManifestFile], host: HostFacts, cached: ManifestCache) -> Desired | None:
    """What is declared with these files in place of their cached state; None where that needs a check of all files."""
    checked: Checked | None = cached.checked
    if checked is None or checked.host != host:
        return None
    before: list[ParsedFile] = [cached.parsed[file.path] for file in few if file.path in cached.parsed]
    now = [ParsedFile(file) for file in few]
    if any(one.faults or one.pools or not one.has_every_pool for one in now) or any(one.pools for one in before):
        return None
    documents = Documents(checked.pools, tuple(image for one in now for image in one.images))
    replaced = {image for one in before for image in one.images}
    if not fits(documents, checked.taken, replaced):
        return None
    images = dict(checked.desired.images)
    for image in replaced:
        images.pop(image.name, None)
    added = assemble(documents, source=checked.desired.source, host=host)
    return replace(added, images=images | dict(added.images))


@dataclass(frozen=True)
class Checked:
    """The last files that had no fault together: a few changed ones are checked against it."""

    pools: tuple[Declared[PoolDocument], ...]
    taken: Taken
    desired: Desired
    host: HostFacts | None


def in_force(cached: ManifestCache) -> Mapping[str, ParsedFile]:
    """The files that Desired was assembled from."""
    if cached.in_force is None:
        cached.in_force = cached.parsed = {path: ParsedFile(file) for path, file in cached.files.items()}
    return cached.in_force


def _gather(found: Iterable[ManifestFile | Fault], cached: ManifestCache) -> _Gathered:
    gathered = _Gathered()
    parsed: dict[str, ParsedFile] = {}
    for file in found:
        if isinstance(file, Fault):
            gathered.blame(file)
        else:
            before: ParsedFile | None = cached.parsed.get(file.path)
            parsed[file.path] = one = before if before and before.file is file else ParsedFile(file)
            gathered.add(one)
        if len(gathered.faults) >= MAX_FAULTS:
            gathered.has_every_pool = False
            break
    cached.parsed = cached.in_force = parsed
    return gathered


class _Gathered:
    """Documents and faults so far. ``has_every_pool`` is false where a fault may hide a Pool."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self.has_every_pool = True
        self.pools: list[Declared[PoolDocument]] = []
        self.images: list[Declared[ImageDocument]] = []

    @property
    def documents(self) -> Documents:
        return Documents(tuple(self.pools), tuple(self.images))

    def blame(self, *faults: Fault) -> None:
        self.has_every_pool = False
        self.faults += faults

    def add(self, parsed: ParsedFile) -> None:
        self.pools += parsed.pools
        self.images += parsed.images
        self.faults += parsed.faults
        self.notes += parsed.notes[: MAX_FAULTS - len(self.notes)]
        self.has_every_pool &= parsed.has_every_pool


# -------------------------------------------------------------------------------------------------------- one file


class ParsedFile(_Gathered):
    """The documents of one file, and the faults that they have by themselves."""

    def __init__(self, file: ManifestFile) -> None:
        super().__init__()
        self.file = file
        name = shown(file.path)
        reader = Reader(file.text, name)
        before = 0
        for root, span in reader.documents():
            if isinstance(root, Entries):
                origin = Located(name, root)
                if why := documents.ignored(root, os.path.basename(name)):  # noqa: PTH119 - thousands of them
                    self.notes.append(origin.fault((), why))
                    del reader.faults[before:]  # YAML that is refused in a document of ours may be right in another tool's
                else:
                    self._add_document(origin)
            elif not isinstance(root, Absent):
                where = Where(name, span.line, span.column)
                message = "is not a mapping (a document begins with apiVersion and kind)"
                self.blame(Fault(where, "document", message, span.length))
            before = len(reader.faults)
        if reader.faults:
            self.blame(*reader.faults)

    def _add_document(self, origin: Located) -> None:
        try:
            document = documents.parse(origin.root, origin)
        except DocumentInvalid as error:
            self.has_every_pool &= origin.root.get("kind") == "Image"
            self.faults += islice(error.faults, MAX_FAULTS)
            return
        if isinstance(document, PoolDocument):
            self.pools.append(Declared(document, self.file.directory, origin))
        else:
            self.images.append(Declared(document, self.file.directory, origin))


# ---------------------------------------------------------------------------------------------- the cyclic collector


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Parsing makes many objects and no cycles: the cyclic collector would find nothing, for a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _freeze()
            gc.enable()


@cache
def _freeze() -> None:
    """Exempt the objects of the first, largest read from collection: they stay."""
    gc.freeze()
