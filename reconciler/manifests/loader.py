"""YAML to Desired: the safe loader, and every fault of every file at once.

Called by ``cli`` and ``loop``. A file is read as parser events, under caps, straight into values that remember their places.
PyYAML's composer is never reached: it crashes on deep input, multiplies aliases, and types scalars by their look.
``repository`` finds the files, ``documents`` judges each document, ``desired`` all of them together. No state.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import documents
from reconciler.manifests import files as repository
from reconciler.manifests.desired import Declared, Documents, Taken, assemble, check, fits
from reconciler.manifests.documents import ImageDocument, PoolDocument
from reconciler.manifests.faults import Fault, Loc, path_of, quoted
from reconciler.manifests.files import ManifestFile, shown
from reconciler.manifests.problems import Absent, DocumentInvalid
from reconciler.model import Desired, HostFacts, Where

MAX_DEPTH = 32
MAX_EVENTS = 200_000
MAX_FAULTS = 1000
"""Faults that are put into words: more than anybody reads, fewer than a hostile file has."""

Place = tuple[int, int]
"""Line and column, from 1."""

_Parser: Any = yaml.cyaml.CParser if yaml.__with_libyaml__ else yaml.SafeLoader  # type: ignore[attr-defined]
"""Eight times as fast where PyYAML was built with libyaml."""
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_DIRECTIVE = re.compile(r"%(?:(?<=\A%)|(?<=[\r\n\x85\u2028\u2029]%))")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


EVERY_OTHER = HostFacts()
"""A host of which nothing is known."""


def load(directory: Path, *, host: HostFacts = EVERY_OTHER) -> Desired:
    """What the manifests under ``directory`` say of this host.

    A directory without any manifest gives an empty Desired; one that is missing, or not wholly readable, never does.
    Raises ManifestsInvalid with every fault, in order of file and position.
    """
    with _collection_paused():
        return _read(repository.read_tree(directory), str(directory), host)


def load_paths(paths: Iterable[Path]) -> Desired:
    """What these files and directories say together, of all hosts. Raises ManifestsInvalid."""
    named = list(paths)
    with _collection_paused():
        return _read(repository.read_paths(named), " ".join(map(str, named)), None)


def _read(files: Iterable[ManifestFile | Fault], source: str, host: HostFacts | None) -> Desired:
    desired, faults = judge(files, source, host)
    if faults:
        raise ManifestsInvalid(in_words(faults, source))
    return desired


def judge(
    files: Iterable[ManifestFile | Fault], source: str, host: HostFacts | None, known: Known | None = None
) -> tuple[Desired, list[Fault]]:
    """What files say together, and what is wrong with them; where anything is, what they say counts for nothing."""
    known = known or Known()
    known.judged = None
    with _collection_paused():
        gathered = _gather(files, known)
        documents, taken = gathered.documents, Taken()
        faults = [*gathered.faults, *islice(check(documents, pools_known=gathered.pools_known, taken=taken), MAX_FAULTS)]
        if faults:
            return Desired({}, {}, source), faults
        desired = assemble(documents, source=source, host=host)
        known.judged = Judged(documents.pools, taken, desired, host)
        return desired, []


def glance(few: Sequence[ManifestFile], host: HostFacts, known: Known) -> Desired | None:
    """What is declared where these files are new, or others than when all were judged; None where only all of them can tell."""
    judged = known.judged
    if judged is None or judged.host != host:
        return None
    before = [known.parsed[file.path] for file in few if file.path in known.parsed]
    now = [Parsed(file) for file in few]
    if any(part.faults or part.pools or not part.pools_known for part in now) or any(part.pools for part in before):
        return None
    documents = Documents(judged.pools, tuple(image for part in now for image in part.images))
    replaced = {image for part in before for image in part.images}
    if not fits(documents, judged.taken, replaced):
        return None
    images = dict(judged.desired.images)
    for image in replaced:
        images.pop(image.name, None)
    added = assemble(documents, source=judged.desired.source, host=host)
    return replace(added, images=images | dict(added.images))


def in_words(faults: Iterable[Fault], source: str) -> tuple[str, ...]:
    """One line a fault, in order of file and position."""
    lines = [str(fault) for fault in sorted(faults, key=lambda fault: fault.order)]
    if len(lines) >= MAX_FAULTS:
        return (*lines[:MAX_FAULTS], f"{shown(source)}:1:1: directory: there are more faults than these {MAX_FAULTS}")
    return tuple(lines)


def to_yaml(document: Any) -> str:
    """A document, or several, as text that is read back as the same."""
    documents = document if isinstance(document, list) else [document]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=130)


def load_host(path: Path) -> documents.HostBody:
    """What a host says of itself (``/etc/reconciler/host.yaml``), which is nothing without a file. Raises ManifestsInvalid."""
    if not path.exists():
        return documents.HostBody()
    for item in repository.read_paths([path]):
        if isinstance(item, Fault):
            raise ManifestsInvalid((str(item),))
        reader, name = _Reader(item.text), shown(item.path)
        roots = [root for root, _ in reader.documents()]
        faults = [Fault(Where(name, *place), path_of(loc), message) for place, loc, message in reader.faults]
        if not faults and (len(roots) != 1 or not isinstance(roots[0], Entries)):
            faults = [Fault(Where(name, 1, 1), "document", "is not one mapping with name and labels")]
        if faults:
            raise ManifestsInvalid(in_words(faults, str(path)))
        assert isinstance(roots[0], Entries)
        try:
            return documents.parse_host(roots[0])
        except DocumentInvalid as error:
            told = (
                Fault(Where(name, *_place(roots[0], one.loc, key=one.about_key)), path_of(one.loc), one.message)
                for one in error.problems
            )
            raise ManifestsInvalid(in_words(told, str(path))) from None
    return documents.HostBody()


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Reading makes many objects and no cycles: the cyclic collector would find nothing, for a third of the time."""
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
    """What the first, largest reading has made stays; the collector would look through all of it at once."""
    gc.freeze()


def _gather(files: Iterable[ManifestFile | Fault], known: Known) -> _Gathered:
    gathered, parsed = _Gathered(), {}
    for file in files:
        if isinstance(file, Fault):
            gathered.blame(file)
        else:
            before = known.parsed.get(file.path)
            parsed[file.path] = part = before if before and before.file is file else Parsed(file)
            gathered.add(part)
        if len(gathered.faults) >= MAX_FAULTS:
            gathered.pools_known = False
            break
    known.parsed = parsed
    return gathered


@dataclass(frozen=True)
class Judged:
    """All that was read last, where it had no fault: what a few files can be held against."""

    pools: tuple[Declared[PoolDocument], ...]
    taken: Taken
    desired: Desired
    host: HostFacts | None


@dataclass
class Known:
    """What a reader of the same tree need not read again: files that have not changed, and what they say by themselves."""

    files: Mapping[str, ManifestFile] = field(default_factory=dict)
    parsed: Mapping[str, Parsed] = field(default_factory=dict)
    texts: Mapping[str, str] | None = None
    """The last good text of each, as the registry has it; None before anybody has asked."""
    judged: Judged | None = None


class _Gathered:
    """Documents and faults so far."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.pools_known = True
        self.pools: list[Declared[PoolDocument]] = []
        self.images: list[Declared[ImageDocument]] = []

    @property
    def documents(self) -> Documents:
        return Documents(tuple(self.pools), tuple(self.images))

    def blame(self, fault: Fault) -> None:
        self.pools_known = False
        self.faults.append(fault)

    def add(self, parsed: Parsed) -> None:
        self.pools += parsed.pools
        self.images += parsed.images
        self.faults += parsed.faults
        self.pools_known &= parsed.pools_known


class Parsed(_Gathered):
    """The documents of one file, and the faults that they have by themselves."""

    def __init__(self, file: ManifestFile) -> None:
        super().__init__()
        self.file = file
        reader = _Reader(file.text)
        name = shown(file.path)
        for root, place in reader.documents():
            if isinstance(root, Entries):
                self._add_document(root, name, file.directory)
            elif not isinstance(root, Absent):
                self.blame(
                    Fault(Where(name, *place), "document", "is not a mapping (a document begins with apiVersion and kind)")
                )
        if reader.faults:
            self.pools_known = False
            self.faults += [Fault(Where(name, *place), path_of(loc), message) for place, loc, message in reader.faults]

    def _add_document(self, root: Entries, file: str, directory: str) -> None:
        try:
            document = documents.parse(root)
        except DocumentInvalid as error:
            self.pools_known &= root.get("kind") == "Image"
            for problem in islice(error.problems, MAX_FAULTS):
                place = _place(root, problem.loc, key=problem.about_key)
                self.faults.append(Fault(Where(file, *place), path_of(problem.loc), problem.message))
            return
        locate = partial(_where, file, root)
        if isinstance(document, PoolDocument):
            self.pools.append(Declared(document, directory, locate))
        else:
            self.images.append(Declared(document, directory, locate))


# ---------------------------------------------------------------------------------------- values that know their places


class Entries(dict[str, object]):
    """A mapping. ``marks`` has each key's place and its value's."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: dict[str, tuple[yaml.Mark, yaml.Mark]] = {}


class Items(list[object]):
    """A sequence. ``marks`` has each item's place."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[yaml.Mark] = []


def _place(root: Entries, loc: Loc, *, key: bool = False) -> Place:
    """Where a node stands; where what misses one stands (its key, that is, the beginning of what is incomplete)."""
    node: object = root
    key_mark = value_mark = root.mark
    for part in loc:
        if isinstance(node, Entries) and isinstance(part, str) and part in node.marks:
            key_mark, value_mark = node.marks[part]
            node = node[part]
        elif isinstance(node, Items) and isinstance(part, int):
            key_mark = value_mark = node.marks[part]
            node = node[part]
        else:
            return _position(key_mark)
    return _position(key_mark if key else value_mark)


def _position(mark: yaml.Mark) -> Place:
    return mark.line + 1, mark.column + 1


def _where(file: str, root: Entries, loc: Loc) -> Where:
    return Where(file, *_place(root, loc))


# ------------------------------------------------------------------------------------------------------ YAML to values


def _is_bare(event: Any) -> bool:
    """A scalar without properties: most nodes are."""
    return type(event) is yaml.ScalarEvent and event.tag is None and event.anchor is None


def _scalar(event: Any) -> object:
    """The text as it was written; quotes keep ``"null"`` a word."""
    return Absent.VALUE if event.implicit[0] and event.value in _NULLS else event.value


class _Abandoned(Exception):
    """The rest of a file is not read."""


class _Reader:
    """One file's events, made into values. ``faults`` grow while documents are read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = MAX_EVENTS
        self._loc: list[str | int] = []
        self.faults: list[tuple[Place, Loc, str]] = []

    def documents(self) -> Iterator[tuple[object, Place]]:
        """Roots and where they begin, until the end or the first thing that makes the rest unreadable."""
        if not self._is_plain_text():
            return
        parser = _Parser(self._text)
        self._event: Callable[[], Any] = parser.get_event
        try:
            while not isinstance(event := self._next(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    event = self._next()
                    yield self._node(event), _position(event.start_mark)
        except _Abandoned:
            pass
        except yaml.YAMLError as error:
            self._syntax_fault(error)
        finally:
            parser.dispose()

    def _is_plain_text(self) -> bool:
        """Looked for in the text: libyaml names no column for the one, and its time for many of the other is quadratic."""
        for pattern, message in (
            (_UNPRINTABLE, "is a control character, which YAML does not allow"),
            (_DIRECTIVE, "begins a directive, which is not accepted"),
        ):
            if match := pattern.search(self._text):
                line_start = self._text.rfind("\n", 0, match.start()) + 1
                place = self._text.count("\n", 0, match.start()) + 1, match.start() - line_start + 1
                self._fault(place, f"{quoted(match[0])} {message}; the file was not read")
                return False
        return True

    def _next(self) -> Any:
        event = self._event()
        self._left = left = self._left - 1
        if left < 0:
            self._abandon(event, f"the file has more than {MAX_EVENTS} nodes (split it)")
        return event

    def _node(self, event: Any) -> object:
        if isinstance(event, yaml.AliasEvent):
            self._blame(event, "alias " + quoted(f"*{event.anchor}") + " is not accepted (write the value out)")
            return Absent.REFUSED
        if event.anchor is not None:
            self._blame(event, "anchor " + quoted(f"&{event.anchor}") + " is not accepted (write each value out)")
        if event.tag is not None:
            self._blame(event, f"tag {quoted(event.tag)} is not accepted (a field's type is known)")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if len(self._loc) >= MAX_DEPTH:
            self._abandon(event, f"is nested more than {MAX_DEPTH} levels deep")
        return self._mapping(event) if isinstance(event, yaml.MappingStartEvent) else self._sequence()

    def _sequence(self) -> Items:
        items = Items()
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.marks.append(event.start_mark)
            items.append(self._within(len(items), event))
        return items

    def _mapping(self, start: Any) -> Entries:
        entries = Entries(start.start_mark)
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, entries)
            value_event = self._next()
            value = self._within(getattr(event, "value", "?"), value_event)
            if key is not None:
                entries[key] = value
                entries.marks[key] = event.start_mark, value_event.start_mark
        return entries

    def _within(self, part: str | int, event: Any) -> object:
        if _is_bare(event):
            return _scalar(event)
        self._loc.append(part)
        value = self._node(event)
        self._loc.pop()
        return value

    def _key(self, event: Any, entries: Entries) -> str | None:
        """The key, or None where the entry can't be kept: the fault is noted, and its value read only to get past it."""
        if not isinstance(event, yaml.ScalarEvent):
            self._within("?", event)
            self._blame(event, "a key must be text")
            return None
        if not _is_bare(event):
            self._node(event)
        key: str = event.value
        if key == "<<" and event.implicit[0]:
            self._blame(event, "merge key << is not accepted (write the fields out)")
            return None
        if key in entries:
            line, column = _position(entries.marks[key][0])
            self._blame(event, f"is already given at line {line}, column {column}", key)
            return None
        return key

    def _blame(self, event: Any, message: str, *below: str) -> None:
        self._fault(_position(event.start_mark), message, *below)

    def _fault(self, place: Place, message: str, *below: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append((place, (*self._loc, *below), message))

    def _abandon(self, event: Any, message: str) -> None:
        self._blame(event, f"{message}; the rest of the file was not read")
        raise _Abandoned

    def _syntax_fault(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        parts = [str(part) for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part]
        self._loc.clear()
        place = _position(mark) if mark else (1, 1)
        self._fault(place, f"is not valid YAML: {', '.join(parts) or error}; the rest of the file was not read")
