"""Selectors choose images by their labels, as users of kubectl expect."""

from __future__ import annotations

import pytest

from reconciler.errors import UsageError
from reconciler.manifests.selectors import Selector, parse_labels

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
def test_a_selector_that_is_not_valid_is_a_usage_error(selector: str) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        Selector.parse(selector)


def test_a_host_is_given_its_labels_in_one_line() -> None:
    assert parse_labels("role=builder, arch=amd64,empty=") == {"role": "builder", "arch": "amd64", "empty": ""}
    assert parse_labels("") == {}


@pytest.mark.parametrize("labels", ["role", "=builder", "a=b,c"])
def test_labels_that_are_not_valid_are_a_usage_error(labels: str) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        parse_labels(labels)
