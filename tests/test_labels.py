"""Selectors choose images by their labels, as users of kubectl expect."""

from __future__ import annotations

import pytest

from reconciler.errors import UsageError
from reconciler.labels import Selector

LABELS = {"team": "build", "ring": "canary"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("team=build", True),
        ("team==build", True),
        ("team=web", False),
        ("team!=web", True),
        ("team!=build", False),
        ("ring", True),
        ("!ring", False),
        ("!gpu", True),
        ("gpu", False),
        ("gpu!=a100", True),
        ("team=build, ring=canary", True),
        ("team=build,ring=stable", False),
    ],
)
def test_all_conditions_must_hold(selector: str, chosen: bool) -> None:
    assert Selector.parse(selector)(LABELS) is chosen


@pytest.mark.parametrize("selector", ["", "team=build,", "=build", "a b=c", "team,,ring", "!=x"])
def test_a_selector_that_is_not_understood_is_a_usage_error(selector: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        Selector.parse(selector)
