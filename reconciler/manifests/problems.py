"""What is wrong with one document, as faults with their position.

Made by ``fields`` from pydantic's error details (which are plain values: pydantic itself stays there). No state.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from reconciler.manifests.faults import Fault, Loc, Origin, did_you_mean, listed, noun, quoted


class Absent(enum.Enum):
    """The value of a node that has none. No field accepts either."""

    VALUE = enum.auto()
    """There is nothing after the key: an empty ``hosts:`` could mean every host as well as none."""
    REFUSED = enum.auto()
    """The value was refused, and its fault is reported already."""


class DocumentInvalid(ValueError):
    """``faults`` can be iterated once; each is worded when it is asked for, since a hostile document may have a million."""

    def __init__(self, faults: Iterator[Fault]) -> None:
        super().__init__("not a valid document")
        self.faults = faults


def from_details(details: Iterable[Mapping[str, Any]], origin: Origin, fields_at: Callable[[Loc], list[str]]) -> Iterator[Fault]:
    """A fault for each error of pydantic. ``fields_at`` returns the names of the fields of a mapping."""
    for detail in details:
        loc: Loc = detail["loc"]
        kind, value = detail["type"], detail["input"]
        if kind == "extra_forbidden":
            hint = did_you_mean(str(loc[-1]), fields_at(loc[:-1]))
            yield origin.fault(loc, f"is not a known field{hint}", about_key=True)
        elif loc[-1:] == ("[key]",):
            yield origin.fault(loc[:-1], _message(detail), about_key=True)
        elif value is not Absent.REFUSED and not _is_repetition(kind, value):
            yield origin.fault(loc, _message(detail), about_key=value is Absent.VALUE)


def _is_repetition(kind: str, value: object) -> bool:
    """Pydantic counts valid items only, so it calls a list without any "too short"; each invalid item has its own fault."""
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


def not_one_of(value: object, accepted: Sequence[str]) -> str:
    if not isinstance(value, str):
        return f"expected {listed(accepted)}, found {noun(value)}"
    return f"{quoted(value)} is not {listed(accepted)}{did_you_mean(value, accepted)}"
