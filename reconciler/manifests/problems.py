"""What is wrong with one document, in words for people.

Made by ``documents`` from pydantic's error details (which are plain values: pydantic itself stays there); ``manifests`` gives
each problem its place. No state.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.manifests.faults import Loc, did_you_mean, listed, noun, quoted


class Absent(enum.Enum):
    """What stands where a value is missing. No field accepts either."""

    VALUE = enum.auto()
    """There is nothing after the key: an empty ``hosts:`` could mean every host as well as none."""
    REFUSED = enum.auto()
    """What was there has been refused and told of already."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at ``loc``. ``about_key`` where the key is to blame and not what it holds."""

    loc: Loc
    message: str
    about_key: bool = False


class DocumentInvalid(ValueError):
    """``problems`` can be walked once; they are worded as they are asked for, since a hostile document may have a million."""

    def __init__(self, problems: Iterator[Problem]) -> None:
        super().__init__("not a valid document")
        self.problems = problems


def from_details(details: Iterable[Mapping[str, Any]], fields_at: Callable[[Loc], list[str]]) -> Iterator[Problem]:
    """``fields_at`` names the fields that are known at a place."""
    for detail in details:
        loc: Loc = detail["loc"]
        kind, value = detail["type"], detail["input"]
        if kind == "extra_forbidden":
            hint = did_you_mean(str(loc[-1]), fields_at(loc[:-1]))
            yield Problem(loc, f"is not a known field{hint}", about_key=True)
        elif loc[-1:] == ("[key]",):
            yield Problem(loc[:-1], _message(detail), about_key=True)
        elif value is not Absent.REFUSED and not _says_nothing_new(kind, value):
            yield Problem(loc, _message(detail), about_key=value is Absent.VALUE)


def _says_nothing_new(kind: str, value: object) -> bool:
    """Pydantic counts valid items only: a list without any is "too short", but each of them has had its say."""
    return kind == "too_short" and bool(value)


def _message(detail: Mapping[str, Any]) -> str:
    value = detail["input"]
    if value is Absent.VALUE:
        return "has no value (give it one, {} or [] for an empty one, or leave the field out)"
    match detail["type"]:
        case "missing":
            return "is required"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "literal_error":
            return not_one_of(value, re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        case "model_type" | "dict_type":
            return f"expected a mapping, found {noun(value)}"
        case "tuple_type":
            return f"expected a list, found {noun(value)}"
        case "too_short":
            return "is empty; at least one is needed"
    return str(detail["msg"])


def not_one_of(value: object, known: Sequence[str]) -> str:
    if not isinstance(value, str):
        return f"expected {listed(known)}, found {noun(value)}"
    return f"{quoted(value)} is not {listed(known)}{did_you_mean(value, known)}"
