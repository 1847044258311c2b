"""What is wrong with the manifests, and where: the value and the wording that every check of them shares.

Made by ``files`` (what can't be read), ``parser`` (YAML), ``fields`` (one document) and ``conflicts`` (all documents together);
raised as ``ManifestsInvalid``. No state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.errors import visible
from reconciler.model import Where

Loc = tuple[str | int, ...]
"""The way from a document's root to a node: keys and list indexes."""

MAX_FAULTS = 1000
"""Faults that are reported at once: a hostile file could have a million."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_LONGEST_QUOTE = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``path`` is the node (``spec.layers[1].sha256``), or what was being read.

    ``length`` is the number of characters from ``where`` on that are wrong.
    """

    where: Where
    path: str
    message: str
    length: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}"

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        return self.where.file, self.where.line, self.where.column, self.path, self.message


class Origin(Protocol):
    """Where a document was read: gives a node its position."""

    def where(self, loc: Loc) -> Where: ...

    def fault(self, loc: Loc, message: str, about_key: bool = False) -> Fault:
        """``about_key`` marks the key of the node instead of its value."""
        ...


def report(faults: Iterable[Fault], source: str) -> tuple[Fault, ...]:
    """Faults in order of file and position; above ``MAX_FAULTS`` the last one states that there are more."""
    found = sorted(faults, key=lambda fault: fault.order)
    if len(found) < MAX_FAULTS:
        return tuple(found)
    more = Fault(Where(shown(source), 1, 1), "directory", f"there are more faults than these {MAX_FAULTS}")
    return (*found[:MAX_FAULTS], more)


def ignored_documents(notes: Sequence[Fault]) -> str:
    """One line about documents that are ignored; empty where there are none."""
    if not notes:
        return ""
    count = f"{len(notes)} documents of other tools are ignored" if len(notes) > 1 else "1 document of another tool is ignored"
    return f"note: {count}, the first at {notes[0].where}: `reconcile validate` lists them"


@lru_cache(maxsize=1 << 15)
def shown(path: str) -> str:
    """A path on one printable line: bytes that are not UTF-8 and control characters are escaped."""
    return visible(os.fsencode(path).decode(errors="backslashreplace"))


def path_of(loc: Loc) -> str:
    """
    >>> path_of(("spec", "layers", 1, "sha256"))
    'spec.layers[1].sha256'
    """
    if not loc:
        return "document"
    return "".join(_step(part) for part in loc).removeprefix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN_KEY.fullmatch(part) and len(part) <= _LONGEST_QUOTE else f"[{quoted(part)}]"


def quoted(text: str) -> str:
    """Text of a manifest for use in a message: on one line, escaped, bounded."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint to append to a message; empty where no choice is similar."""
    plain = {_folded(choice): choice for choice in choices}
    import difflib

    near = difflib.get_close_matches(_folded(word), plain, n=1, cutoff=0.6) if len(word) <= _LONGEST_QUOTE else []
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""


def _folded(word: str) -> str:
    """``deletion_policy``, ``deletion-policy`` and ``DeletionPolicy`` all fold to the same as ``deletionPolicy``."""
    return re.sub(r"[-_ ]", "", word).casefold()


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b or c'
    """
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def noun(value: object) -> str:
    """What a node is, for "expected text, found …"."""
    match value:
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return "no value"
