"""The limits and policies of ``image.spec.Limits`` by their manifest names, and how each one's text is read.

Used by ``documents`` for its fields and by ``cli`` for ``--limit NAME=VALUE``. No state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.dataclass import replace
from reconciler.errors import UsageError
from reconciler.image.spec import POLICIES, Limits
from reconciler.manifests import scalars
from reconciler.manifests.scalars import Scalar

NUMBERS: Mapping[str, Scalar] = {
    "max_unpacked_bytes": scalars.BYTES,
    "max_file_bytes": scalars.BYTES,
    "max_entries": scalars.NUMBER,
    "max_ratio": scalars.NUMBER,
    "max_depth": scalars.NUMBER,
    "ratio_floor_bytes": scalars.BYTES,
    "max_name_bytes": scalars.NAME_BYTES,
    "max_path_bytes": scalars.PATH_BYTES,
    "max_xattr_bytes": scalars.XATTR_BYTES,
    "max_metadata_bytes": scalars.METADATA_BYTES,
    "max_seconds": scalars.SECONDS,
}


def manifest_name(field: str) -> str:
    """``max_entries`` is ``maxEntries``."""
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


FIELDS = {manifest_name(field): field for field in (*NUMBERS, *POLICIES)}


def parse(words: Sequence[str]) -> Limits:
    """``--limit NAME=VALUE`` options, named as in the manifest. Raises UsageError."""
    found = Limits()
    for word in words:
        name, _, value = word.partition("=")
        if name not in FIELDS:
            raise UsageError(f"--limit {word}: no limit is called {name!r}", hint="one of: " + ", ".join(FIELDS))
        try:
            chosen: dict[str, Any] = {FIELDS[name]: _read(FIELDS[name], value)}
            found = replace(found, **chosen)
        except ValueError as error:
            raise UsageError(f"--limit {word}: {error}") from None
    return found


def _read(field: str, value: str) -> object:
    if field in NUMBERS:
        return NUMBERS[field](value)
    if value not in POLICIES[field]:
        raise ValueError(f"{value!r} is not one of {', '.join(POLICIES[field])}")
    return value
