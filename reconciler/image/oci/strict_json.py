"""JSON as manifests and configurations are read: one reading of each document, bounded in size and depth.

Called by ``manifest``, ``config``, ``layout`` and ``credentials``. No state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

MOST_BYTES = 4 << 20
"""Bytes of a manifest, an index or a configuration: what registries accept."""

MOST_DEPTH = 64

_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""Texts and brackets. A text without an end is one too, so that each byte is read once."""

Object = Mapping[str, Any]


def parse(data: bytes) -> Object:
    """The object that a document is. Raises ValueError: not UTF-8, not JSON, a key given twice, too deep, too long."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    _check_depth(data)
    try:
        text = data.decode()
        found = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _check_depth(data: bytes) -> None:
    depth = 0
    for match in _BRACKETS.finditer(data):
        mark = match[0]
        depth += (mark in b"[{") - (mark in b"]}") if len(mark) == 1 else 0
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH}")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} is given twice")
        found[key] = value
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# ------------------------------------------------------------------------------------------------------- fields


def text(of: Object, key: str, default: str | None = None) -> str:
    """A text of an object; ``default`` where it is left out or null. Raises ValueError."""
    value = of.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text" if key in of else f"it has no {key}")
    return value


def texts(of: Object, key: str) -> tuple[str, ...]:
    """A list of texts; none where it is left out or null. Raises ValueError."""
    value = of.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} is not a list of texts")
    return tuple(value)


def objects(of: Object, key: str) -> tuple[Object, ...]:
    """A list of objects. Raises ValueError."""
    value = of.get(key)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{key} is not a list of objects" if key in of else f"it has no {key}")
    return tuple(value)


def member(of: Object, key: str) -> Object:
    """An object of an object, empty where it is left out or null. Raises ValueError."""
    value = of.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} is not an object")
    return value


def whole_number(of: Object, key: str) -> int:
    """Raises ValueError."""
    value = of.get(key)
    if type(value) is not int:
        raise ValueError(f"{key} is not a whole number" if key in of else f"it has no {key}")
    return value
