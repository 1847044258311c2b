"""Notes on images: how long they hold, what they keep from being pruned, and what a service does with failures meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from reconciler.controller.assess import prunable
from reconciler.image.spec import Layer, Source
from reconciler.model import Desired, ImageSpec
from reconciler.registry.marks import Mark, What, next_end, spared, suspending
from reconciler.sizes import format_duration, parse_duration

NOW = 1_000_000.0


def marks(*found: Mark) -> dict[tuple[str, What], Mark]:
    return {(mark.image, mark.what): mark for mark in found}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800)])
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds
    assert format_duration(5400) == "1h30m"


@pytest.mark.parametrize("text", ["", "5", "5x", "m", "0s", "1h 5m", "-1s", "1.5h", "999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_suspension_ends_by_itself() -> None:
    image = ImageSpec("web", "default", 1 << 24, (Layer(Source("/1.tar")),))
    desired = Desired({}, {"web": image})
    held = marks(Mark("web", What.SUSPENDED, until=NOW + 10))

    assert suspending(desired, held, NOW).images["web"].suspend
    assert not suspending(desired, held, NOW + 10).images["web"].suspend


def test_an_image_is_scheduled_until_its_time_and_the_service_wakes_then() -> None:
    image = ImageSpec("web", "default", 1 << 24, (Layer(Source("/1.tar")),), not_before=NOW + 10)
    desired = Desired({}, {"web": image, "db": replace(image, name="db", not_before=0.0)})

    before = suspending(desired, {}, NOW).images
    assert before["web"].suspend and before["web"].scheduled
    assert not before["db"].suspend
    assert suspending(desired, {}, NOW + 10) == desired
    assert next_end({}, NOW, 0.0, desired) == NOW + 10
    assert next_end({}, NOW + 10, 0.0, desired) == math.inf


def test_a_scheduled_image_that_is_suspended_by_hand_is_suspended() -> None:
    image = ImageSpec("web", "default", 1 << 24, (Layer(Source("/1.tar")),), not_before=NOW + 10)

    found = suspending(Desired({}, {"web": image}), marks(Mark("web", What.SUSPENDED)), NOW).images["web"]

    assert found.suspend and not found.scheduled


def test_the_arrival_of_its_time_is_no_new_generation_of_an_image() -> None:
    image = ImageSpec("web", "default", 1 << 24, (Layer(Source("/1.tar")),), not_before=NOW + 10)
    waiting = suspending(Desired({}, {"web": image}), {}, NOW).images["web"]

    assert waiting.digest == image.digest != replace(image, not_before=0.0).digest


def test_what_is_protected_suspended_or_in_grace_is_spared() -> None:
    found = spared(
        marks(
            Mark("new", What.UNDECLARED, since=NOW - 10),
            Mark("old", What.UNDECLARED, since=NOW - 1000),
            Mark("dear", What.PROTECTED, "ask Ann"),
            Mark("held", What.SUSPENDED),
            Mark("over", What.SUSPENDED, until=NOW - 1),
        ),
        NOW,
        grace=60,
    )

    assert {name: reason for name, (reason, _) in found.items()} == {
        "new": "GracePeriod",
        "dear": "Protected",
        "held": "Suspended",
    }
    assert "ask Ann" in found["dear"][1]


@pytest.mark.parametrize(
    ("most", "images", "allowed"), [("50%", 100, 50), ("50%", 4, 5), ("20%", 100, 20), ("0%", 100, 5), ("3", 100, 3), ("0", 9, 0)]
)
def test_how_much_may_be_pruned_is_a_number_or_a_share_with_a_handful_always(most: str, images: int, allowed: int) -> None:
    assert prunable(most, images) == allowed
