"""Which waiting action is next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.controller.queue import Slot, Todo, room, slot_of
from reconciler.image.spec import Layer, S3Options, Source
from reconciler.model import Action, Kind, Verb
from reconciler.settings import Settings

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


SLOW, OTHER = ("download", "slow:9000"), ("download", "other:9000")


@pytest.mark.parametrize(
    ("downloads", "running", "slow", "other"),
    [
        (4, [], 3, 3),
        (4, [SLOW] * 3, 0, 1),
        (4, [SLOW] * 3 + [OTHER], 0, 0),
        (4, [("download", "other:9000 slow:9000")] * 3, 0, 0),
        (4, [("build", "")] * 9, 3, 3),
        (2, [SLOW], 0, 1),
        (1, [], 1, 1),
        (1, [SLOW], 0, 0),
    ],
)
def test_one_endpoint_leaves_a_download_for_others(downloads: int, running: list[Slot], slow: int, other: int) -> None:
    settings = Settings(Path("/manifests"), Path("/state"), downloads=downloads)
    assert room(SLOW, running, settings) == slow
    assert room(OTHER, running, settings) == other


def test_a_download_is_that_of_the_endpoints_whose_layers_are_missing() -> None:
    layers = tuple(
        Layer(source, digest * 64)
        for source, digest in (
            (Source("s3://b/k", S3Options("http://User@Slow:9000/path")), "1"),
            (Source("oci://registry.example:5000/team/web@sha256:" + "2" * 64), "2"),
            (Source("/layers/a.tar"), "3"),
        )
    )
    whole = replace(volume("web"), layers=layers)

    assert slot_of(whole, ()) == ("download", "registry.example:5000 slow:9000")
    assert slot_of(whole, ("2" * 64,)) == ("download", "slow:9000")
    assert slot_of(whole, ("1" * 64, "2" * 64)) == ("build", "")
    assert slot_of(replace(whole, parent="below"), ()) == ("build", ""), "of a chain only the last layer is transferred"
