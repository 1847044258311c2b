"""Which waiting action is next."""

from __future__ import annotations

from reconciler.controller.queue import Todo
from reconciler.model import Action, Kind, Verb

BUILD = ("build", "")
DOWNLOAD = ("download", "")


def volume(name: str, image: str = "web", after: tuple[str, ...] = ()) -> Action:
    return Action(Verb.BUILD, Kind.VOLUME, name, "", pool="p", image=image, chain=name, after=after)


def test_an_action_is_ready_once_everything_before_it_has_succeeded() -> None:
    todo, low = Todo(), volume("low")
    high = volume("high", after=(low.key, "running"))
    todo.add(low, BUILD, ())
    todo.add(high, BUILD, ("running",))

    assert todo.next(BUILD, {}) == low
    todo.discard(low.key)
    assert list(todo.finished(low.key, ok=True)) == []
    assert todo.next(BUILD, {}) is None, "what it needs is still running"
    assert list(todo.finished("running", ok=True)) == []
    assert todo.next(BUILD, {}) == high


def test_a_failure_takes_everything_that_needs_it_and_nothing_else() -> None:
    todo, low, other = Todo(), volume("low"), volume("other")
    middle = volume("middle", after=(low.key,))
    high = volume("high", after=(middle.key,))
    for one in (low, middle, high, other):
        todo.add(one, BUILD, ())
    todo.discard(low.key)

    assert list(todo.finished(low.key, ok=False)) == [middle, high]
    assert todo.next(BUILD, {}) == other
    assert len(todo) == 1


def test_an_image_with_many_layers_does_not_hold_up_the_next() -> None:
    todo = Todo()
    for one in (*(volume(f"a{n}", "a") for n in range(50)), volume("b0", "b")):
        todo.add(one, DOWNLOAD, ())

    first = todo.next(DOWNLOAD, {})
    assert first is not None and first.image == "a"
    todo.discard(first.key)
    second = todo.next(DOWNLOAD, {"a": 1})
    assert second is not None and second.image == "b"


def test_slots_are_apart() -> None:
    todo = Todo()
    todo.add(volume("slow"), DOWNLOAD, ())

    assert todo.slots() == (DOWNLOAD,)
    assert todo.next(BUILD, {}) is None
