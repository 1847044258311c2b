"""What is wrong with the manifests, and where: the value and the words that every check of them shares.

Made by ``repository`` (files), ``manifests`` (YAML) and ``desired`` (documents together); ends in ``ManifestsInvalid``. No state.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.model import Where

Loc = tuple[str | int, ...]
"""The way from a document's root to a node: keys and list indexes."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_LONGEST_QUOTE = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that a person has to mend. ``path`` is the node (``spec.layers[1].sha256``), or what was being read."""

    where: Where
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}"

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        return self.where.file, self.where.line, self.where.column, self.path, self.message


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
    """Text of a manifest as it may stand in a message: on one line, escaped, and not without end."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint that is ready to follow a message; empty where nothing is near."""
    plain = {_folded(choice): choice for choice in choices}
    near = difflib.get_close_matches(_folded(word), plain, n=1, cutoff=0.6) if len(word) <= _LONGEST_QUOTE else []
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""


def _folded(word: str) -> str:
    """``deletion_policy``, ``deletion-policy`` and ``DeletionPolicy`` are all meant to be ``deletionPolicy``."""
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
