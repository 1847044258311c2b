"""One manifest file's text to plain values that keep their positions, and values back to YAML text.

Called by ``loader`` and ``host_file``; the only user of PyYAML. The text is read as parser events, under caps: PyYAML's composer
crashes on deep input, multiplies aliases, and guesses the types of scalars. A file's faults are collected, not raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from reconciler.dataclass import dataclass
from reconciler.manifests.faults import MAX_FAULTS, Fault, Loc, path_of, quoted
from reconciler.manifests.problems import Absent
from reconciler.model import Where

MAX_DEPTH = 32
MAX_EVENTS = 200_000
MOST_EVENTS = 8
"""No character makes so many: the three of ``{:}`` make four, a mapping's beginning and end and two empty scalars."""

_Parser: Any = yaml.cyaml.CParser if yaml.__with_libyaml__ else yaml.SafeLoader  # type: ignore[attr-defined]
"""Eight times as fast where PyYAML was built with libyaml."""
_Dumper: Any = yaml.cyaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper
"""The same text, in a fifth of the time where PyYAML was built with libyaml."""
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_DIRECTIVE = re.compile(r"%(?:(?<=\A%)|(?<=[\r\n\x85\u2028\u2029]%))")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def to_yaml(document: Any) -> str:
    """A document, or several, as text that is read back as the same."""
    documents = document if isinstance(document, list) else [document]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=130))


# --------------------------------------------------------------------------------------- values with their positions


class Span(NamedTuple):
    """Line and column, from 1, and the number of characters: 1 where the text goes on over several lines."""

    line: int
    column: int
    length: int = 1


class Entries(dict[str, object]):
    """A mapping. ``marks`` has the marks of each key and of its value."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.start = mark, mark.column
        self.marks: dict[str, tuple[yaml.Mark, int, yaml.Mark, int]] = {}
        """Where the key begins and the column where it ends, and the same of the value."""


class Items(list[object]):
    """A sequence. ``marks`` has where each item begins, and the column where it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[yaml.Mark, int]] = []


@dataclass(frozen=True, slots=True)
class Located:
    """A document's root and the name of its file: makes faults with the position of the node that they are about."""

    file: str
    root: Entries

    def where(self, loc: Loc) -> Where:
        span = span_of(self.root, loc)
        return Where(self.file, span.line, span.column)

    def fault(self, loc: Loc, message: str, about_key: bool = False) -> Fault:
        line, column, length = span_of(self.root, loc, key=about_key)
        return Fault(Where(self.file, line, column), path_of(loc), message, length)


def span_of(root: Entries, loc: Loc, *, key: bool = False) -> Span:
    """The position of a node; of the closest node above it where there is none at ``loc``."""
    node: object = root
    key_mark = value_mark = root.start
    for part in loc:
        if isinstance(node, Entries) and isinstance(part, str) and part in node.marks:
            start, end, value_start, value_end = node.marks[part]
            key_mark, value_mark = (start, end), (value_start, value_end)
            node = node[part]
        elif isinstance(node, Items) and isinstance(part, int):
            key_mark = value_mark = node.marks[part]
            node = node[part]
        else:
            return _span(*key_mark)
    return _span(*(key_mark if key else value_mark))


def _span(start: yaml.Mark, end_column: int) -> Span:
    return Span(start.line + 1, start.column + 1, max(1, end_column - start.column))


def _event_span(event: Any) -> Span:
    return _span(event.start_mark, event.end_mark.column)


# ------------------------------------------------------------------------------------------------------ YAML to values


def _is_bare(event: Any) -> bool:
    """A scalar without properties: most nodes are."""
    return type(event) is yaml.ScalarEvent and event.tag is None and event.anchor is None


def _scalar(event: Any) -> object:
    """The text as it was written; quotes keep ``"null"`` a word."""
    return Absent.VALUE if event.implicit[0] and event.value in _NULLS else event.value


class _Abandoned(Exception):
    """The rest of a file is not read."""


class Reader:
    """One file's events, made into values. ``faults`` grow while documents are read. ``file`` is its name in faults."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._left = MAX_EVENTS
        self._loc: list[str | int] = []
        self.faults: list[Fault] = []

    def documents(self) -> Iterator[tuple[object, Span]]:
        """Roots and where they begin, until the end or the first thing that makes the rest unreadable."""
        if not self._is_plain_text():
            return
        parser = _Parser(self._text)
        self._event: Callable[[], Any] = parser.get_event
        # A text of so few characters has no more events than may be read, so they are not counted.
        self._next = self._event if len(self._text) * MOST_EVENTS < MAX_EVENTS else self._counted
        try:
            while not isinstance(event := self._next(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    event = self._next()
                    yield self._node(event), _event_span(event)
        except _Abandoned:
            pass
        except yaml.YAMLError as error:
            self._syntax_fault(error)
        finally:
            parser.dispose()

    def _is_plain_text(self) -> bool:
        """Checked in the text: libyaml names no column for the one, and its time for many of the other is quadratic."""
        for pattern, message in (
            (_UNPRINTABLE, "is a control character, which YAML does not allow"),
            (_DIRECTIVE, "begins a directive, which is not accepted"),
        ):
            if match := pattern.search(self._text):
                line_start = self._text.rfind("\n", 0, match.start()) + 1
                span = Span(self._text.count("\n", 0, match.start()) + 1, match.start() - line_start + 1)
                self._fault(span, f"{quoted(match[0])} {message}; the file was not read")
                return False
        return True

    def _counted(self) -> Any:
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
            self._blame(event, f"tag {quoted(event.tag)} is not accepted (each field has its type)")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if len(self._loc) >= MAX_DEPTH:
            self._abandon(event, f"is nested more than {MAX_DEPTH} levels deep")
        return self._mapping(event) if isinstance(event, yaml.MappingStartEvent) else self._sequence()

    def _sequence(self) -> Items:
        items = Items()
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.marks.append((event.start_mark, event.end_mark.column))
            items.append(self._within(len(items), event))
        return items

    def _mapping(self, start: Any) -> Entries:
        entries = Entries(start.start_mark)
        marks, following = entries.marks, self._next
        while True:
            event = following()
            # What ``_key`` does with a plain new key, without its calls: almost every entry has one.
            if type(event) is yaml.ScalarEvent and event.tag is None and event.anchor is None and event.value not in entries:
                key: str | None = event.value if event.value != "<<" else self._key(event, entries)
            elif isinstance(event, yaml.MappingEndEvent):
                return entries
            else:
                key = self._key(event, entries)
            value_event = following()
            value = _scalar(value_event) if _is_bare(value_event) else self._within(getattr(event, "value", "?"), value_event)
            if key is not None:
                entries[key] = value
                start, value_start = event.start_mark, value_event.start_mark
                marks[key] = start, event.end_mark.column, value_start, value_event.end_mark.column

    def _within(self, part: str | int, event: Any) -> object:
        if _is_bare(event):
            return _scalar(event)
        self._loc.append(part)
        value = self._node(event)
        self._loc.pop()
        return value

    def _key(self, event: Any, entries: Entries) -> str | None:
        """The key, or None where the entry can't be kept: the fault is noted, and its value read only to get past it."""
        if not _is_bare(event):
            if not isinstance(event, yaml.ScalarEvent):
                self._within("?", event)
                self._blame(event, "a key must be text")
                return None
            self._node(event)
        key: str = event.value
        if key == "<<" and event.implicit[0]:
            self._blame(event, "merge key << is not accepted (write the fields out)")
            return None
        if key in entries:
            line, column, _ = _span(*entries.marks[key][:2])
            self._blame(event, f"is already given at line {line}, column {column}", key)
            return None
        return key

    def _blame(self, event: Any, message: str, *below: str) -> None:
        self._fault(_event_span(event), message, *below)

    def _fault(self, span: Span, message: str, *below: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            where = Where(self._file, span.line, span.column)
            self.faults.append(Fault(where, path_of((*self._loc, *below)), message, span.length))

    def _abandon(self, event: Any, message: str) -> None:
        self._blame(event, f"{message}; the rest of the file was not read")
        raise _Abandoned

    def _syntax_fault(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        parts = [str(part) for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part]
        self._loc.clear()
        span = Span(mark.line + 1, mark.column + 1) if mark else Span(1, 1)
        self._fault(span, f"is not valid YAML: {', '.join(parts) or error}; the rest of the file was not read")
