"""Frozen values as plain JSON, and back, by the types of their fields: a field that is added is included.

Called by ``stored``. Values that many others share are in the JSON once, and are one object again when they are read. Pure.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

from reconciler.dataclass import fields, is_dataclass
from reconciler.image.custom import FileSpec
from reconciler.image.spec import Limits, S3Options

SHARED: tuple[type, ...] = (Limits, S3Options, FileSpec)
"""Classes whose values are in the JSON once; their fields are scalars."""

_NETWORKS = (IPv4Network, IPv6Network)

Read = Callable[[Any], Any]


class Encoder:
    """Makes JSON of values. ``shared`` is what it has met of ``SHARED``, and goes into the same document."""

    def __init__(self) -> None:
        self._shared: dict[Any, int] = {}

    @property
    def shared(self) -> list[list[Any]]:
        return [[index, *_fields(SHARED[index])(one)] for one in self._shared for index in (SHARED.index(type(one)),)]

    def encode(self, value: Any) -> Any:
        kind: Any = type(value)
        if kind is str or kind is int or value is None or kind is bool or kind is float:
            return value
        if kind is tuple or kind is list:
            return [self.encode(one) for one in value]
        if kind in SHARED:
            return self._shared.setdefault(value, len(self._shared))
        if "__dataclass_fields__" in vars(kind):
            return [self.encode(one) for one in _fields(kind)(value)]
        if isinstance(value, Mapping):
            return {key: self.encode(one) for key, one in value.items()}
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, _NETWORKS):
            return str(value)
        raise TypeError(f"no JSON for {kind.__name__}")


class Decoder:
    """Makes values of what ``Encoder`` made. Raises TypeError, ValueError, LookupError or AttributeError for what is damaged."""

    def __init__(self, shared: Sequence[Sequence[Any]]) -> None:
        self._shared = [SHARED[kind](*values) for kind, *values in shared]
        self._known: dict[Any, Read | None] = {}

    def decode(self, hint: Any, value: Any) -> Any:
        read = self._of(hint)
        return read(value) if read else value

    def _of(self, hint: Any) -> Read | None:
        """What reads values of a type; None where they are plain already."""
        if hint not in self._known:
            self._known[hint] = self._made(hint)
        return self._known[hint]

    def _made(self, hint: Any) -> Read | None:
        origin, arguments = get_origin(hint), get_args(hint)
        if hint in (str, int, float, bool, Any):
            return None
        if hint in SHARED:
            return self._shared.__getitem__
        if origin in (Union, types.UnionType):
            return _optional([one for one in arguments if one is not types.NoneType], self._of)
        if (origin is tuple or origin is Collection) and len({*arguments} - {...}) == 1:
            return _sequence(self._of(arguments[0]))
        if origin is Mapping:
            return _mapping(self._of(arguments[1]))
        if is_dataclass(hint) and isinstance(hint, type):
            hints = get_type_hints(hint)
            return _dataclass(hint, [self._of(hints[field.name]) for field in fields(hint)])
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return hint
        raise TypeError(f"no values of {hint!r} are read")


def _optional(kinds: Sequence[Any], of: Callable[[Any], Read | None]) -> Read | None:
    if set(kinds) == set(_NETWORKS):
        return lambda value: None if value is None else ip_network(value)
    (kind,) = kinds
    read = of(kind)
    return None if read is None else lambda value: None if value is None else read(value)


def _sequence(read: Read | None) -> Read:
    return tuple if read is None else lambda value: tuple([read(one) for one in value])


def _mapping(read: Read | None) -> Read | None:
    return None if read is None else lambda value: {key: read(one) for key, one in value.items()}


def _dataclass(kind: type, reads: Sequence[Read | None]) -> Read:
    some = [(index, read) for index, read in enumerate(reads) if read is not None]

    def made(value: list[Any]) -> Any:
        if len(value) != len(reads):
            raise ValueError(f"{len(value)} values for the {len(reads)} fields of {kind.__name__}")
        for index, read in some:
            value[index] = read(value[index])
        return kind(*value)

    return made


@cache
def _fields(kind: type) -> Callable[[Any], Sequence[Any]]:
    """The values of a dataclass's fields, in their order."""
    names = [field.name for field in fields(kind)]
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)
