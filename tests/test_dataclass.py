"""Frozen classes behave as those of the standard library, which is tried beside ours with the same statements."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar

import pytest

from reconciler import dataclass as ours


def make(dataclass: Callable[..., Any], slots: bool) -> tuple[type[Any], type[Any]]:
    @dataclass(frozen=True, slots=slots)
    class Base:
        shared: ClassVar[int] = 7
        first: int
        second: str = "two"
        listed: list[int] = field(default_factory=list)
        hidden: int = field(default=5, repr=False, compare=False)
        derived: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "derived", self.first + 1)

        def doubled(self) -> int:
            return 2 * self.first

    @dataclass(frozen=True, slots=slots)
    class Child(Base):
        third: float = 3.0
        named: bool = field(default=False, kw_only=True)

    return Base, Child


EXPRESSIONS: dict[str, Callable[[Any, Any], object]] = {
    "defaults": lambda base, child: repr(base(1)),
    "all by place": lambda base, child: repr(child(1, "b", [2], 9, 4.0, named=True)),
    "by name": lambda base, child: repr(child(first=1, third=2.0)),
    "own lists": lambda base, child: base(1).listed is base(1).listed,
    "equal": lambda base, child: (base(1) == base(1), base(1) == base(2), base(1) == child(1), child(1) == child(1)),
    "not compared": lambda base, child: base(1, hidden=6) == base(1),
    "another type": lambda base, child: (base(1) == 1, base(1) != 1),
    "replaced": lambda base, child: repr(dataclasses.replace(child(1), second="z", named=True)),
    "as a dictionary": lambda base, child: dataclasses.asdict(child(1, listed=[3])),
    "fields": lambda base, child: [one.name for one in dataclasses.fields(child)],
    "copied": lambda base, child: repr(copy.copy(child(1))) + repr(copy.deepcopy(child(1, listed=[1]))),
    "matched": lambda base, child: child.__match_args__,
    "methods": lambda base, child: (child(4).doubled(), child.shared, child(4).derived),
    "a dataclass": lambda base, child: (dataclasses.is_dataclass(base), dataclasses.is_dataclass(child(1))),
    "hashes": lambda base, child: hash(base(1, listed=())) == hash(base(1, listed=())),
}

MISUSES: dict[str, Callable[[Any, Any], object]] = {
    "assign": lambda base, child: setattr(base(1), "first", 2),
    "assign in a child": lambda base, child: setattr(child(1), "first", 2),
    "delete": lambda base, child: delattr(child(1), "first"),
    "missing": lambda base, child: base(),
    "unknown": lambda base, child: base(1, unknown=2),
    "too many": lambda base, child: child(1, "b", [], 9, 4.0, True),
    "not an argument": lambda base, child: base(1, derived=3),
    "an unhashable value": lambda base, child: hash(base(1)),
}


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("work", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_a_frozen_class_does_what_the_standard_library_s_does(work: Callable[[Any, Any], object], slots: bool) -> None:
    assert work(*make(ours.dataclass, slots)) == work(*make(dataclasses.dataclass, slots))


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("work", MISUSES.values(), ids=MISUSES)
def test_a_misuse_has_the_standard_library_s_error(work: Callable[[Any, Any], object], slots: bool) -> None:
    caught = []
    for dataclass in (ours.dataclass, dataclasses.dataclass):
        with pytest.raises((FrozenInstanceError, TypeError, AttributeError)) as error:
            work(*make(dataclass, slots))
        caught.append(FrozenInstanceError if error.type is FrozenInstanceError else TypeError)
    assert caught[0] is caught[1]


@ours.dataclass(frozen=True, slots=True)
class Sent:
    number: int
    text: str = "text"


@ours.dataclass(frozen=True)
class Own:
    number: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own)

    def __repr__(self) -> str:
        return "own"


def test_values_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Sent(3))) == Sent(3)


def test_methods_of_the_class_stay_and_it_has_a_hash() -> None:
    assert Own(1) == Own(2) and repr(Own(1)) == "own" and hash(Own(3)) == hash(Own(3))
