"""The standard library's ``dataclasses``, but that frozen classes are made in a third of the time.

Everything imports it from here. A command makes 150 frozen classes before it does anything. The standard library compiles
six methods of each, up to Python 3.12 one at a time, which was a third of the CPU of ``plan``. Here ``__init__`` alone is
compiled, and the others are closures over the names of the fields. No state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError
from dataclasses import asdict as asdict
from dataclasses import field as field
from dataclasses import fields as fields
from dataclasses import is_dataclass as is_dataclass
from dataclasses import replace as replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

_set = object.__setattr__

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, **other):
        """As ``dataclasses.dataclass``, which makes what is not frozen or has other options.

        ``fields``, ``replace`` and ``asdict`` take its classes. A frozen one has no ``InitVar``, no field with ``hash``, and its
        ``__init__`` has no annotations.
        """
        if cls is None:
            return lambda wrapped: dataclass(wrapped, frozen=frozen, slots=slots, **other)
        if not frozen or other:
            return dataclasses.dataclass(cls, frozen=frozen, slots=slots, **other)
        # Else the standard library writes the signature there, which takes longer than the rest.
        cls.__doc__ = cls.__doc__ or cls.__name__
        own = dict(vars(cls))
        made = dataclasses.dataclass(cls, init=False, repr=False, eq=False, slots=slots)
        found = fields(made)
        for name, method in {"__init__": _initializer(made, found), **_methods(made, found, slots)}.items():
            if own.get(name) is None:  # Python itself sets __hash__ to None in a class that has __eq__
                setattr(made, name, method)
        return made


def _initializer(cls: type, found: Sequence[Field[Any]]) -> Callable[..., None]:
    known: dict[str, Any] = {"_set": _set, "_unset": MISSING}
    known |= {f"_default_{one.name}": one.default for one in found if one.default is not MISSING}
    known |= {f"_make_{one.name}": one.default_factory for one in found if one.default_factory is not MISSING}
    positional = [_parameter(one) for one in found if one.init and not one.kw_only]
    named = [_parameter(one) for one in found if one.init and one.kw_only]
    head = ", ".join(["self", *positional, *(["*", *named] if named else [])])
    body = list(_assignments(found))
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    source = f"def __init__({head}):\n" + "\n".join(f" {line}" for line in body or ["pass"])
    exec(compile(source, f"<__init__ of {cls.__qualname__}>", "exec"), known)  # noqa: S102 (the names in it are those of fields)
    made: Callable[..., None] = known["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return made


def _parameter(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        return f"{one.name}=_unset"
    return one.name if one.default is MISSING else f"{one.name}=_default_{one.name}"


def _assignments(found: Sequence[Field[Any]]) -> Iterator[str]:
    for one in found:
        value = one.name
        if one.default_factory is not MISSING:
            value = f"_make_{value}() if {value} is _unset else {value}" if one.init else f"_make_{value}()"
        elif not one.init:
            if one.default is MISSING:
                continue
            value = f"_default_{value}"
        yield f'_set(self, "{one.name}", {value})'


def _methods(cls: type[Any], found: Sequence[Field[Any]], slots: bool) -> dict[str, Callable[..., Any]]:
    every, shown = tuple(one.name for one in found), [one.name for one in found if one.repr]
    values = _values([one.name for one in found if one.compare])

    def equal(self: object, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: object) -> int:
        return hash(values(self))

    def represented(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def assign(self: object, name: str, value: object) -> None:
        if type(self) is cls or name in every:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def delete(self: object, name: str) -> None:
        if type(self) is cls or name in every:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    def state(self: object) -> list[object]:
        return [getattr(self, name) for name in every]

    def restore(self: object, state: Sequence[object]) -> None:
        for name, value in zip(every, state, strict=True):
            _set(self, name, value)

    made: dict[str, Callable[..., Any]] = {
        "__eq__": equal,
        "__hash__": hashed,
        "__repr__": represented,
        "__setattr__": assign,
        "__delattr__": delete,
    }
    return made | ({"__getstate__": state, "__setstate__": restore} if slots else {})


def _values(names: Sequence[str]) -> Callable[[object], tuple[object, ...]]:
    """What a comparison compares: a tuple even of one field, or none."""
    if len(names) > 1:
        return attrgetter(*names)
    only = [attrgetter(name) for name in names]
    return lambda one: tuple([value(one) for value in only])
