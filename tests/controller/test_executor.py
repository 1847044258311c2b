"""What an invocation tries once, and what may follow on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.controller.executor import Done, Ledger, approval
from reconciler.model import Action, Kind, Verb

CHAIN = "c" * 64


def snapshot(verb: Verb, name: str = "web-0", after: tuple[str, ...] = ()) -> Action:
    return Action(verb, Kind.SNAPSHOT, name, "it differs", pool="thin", image="web", chain=CHAIN, after=after)


@pytest.mark.parametrize(
    ("before", "after", "tried"),
    [
        (Verb.ACTIVATE, Verb.REPLACE, True),
        (Verb.ACTIVATE, Verb.RECORD, True),
        (Verb.RECORD, Verb.REPLACE, True),
        (Verb.REPLACE, Verb.REPLACE, False),
        (Verb.REPLACE, Verb.ACTIVATE, False),
        (Verb.CREATE, Verb.CREATE, False),
    ],
)
def test_a_snapshot_that_was_activated_may_still_be_replaced(before: Verb, after: Verb, tried: bool) -> None:
    """Once each, and in this order only: an invocation comes to an end."""
    done = snapshot(before)

    assert Ledger({done.key: Done(done, True)}).is_done(snapshot(after)) is not tried
    assert Ledger({done.key: Done(done, False)}).is_done(snapshot(after))


def test_an_approval_is_of_what_is_built_not_of_a_name() -> None:
    """Another chain under the name of an approved snapshot is not approved."""
    one = Action(Verb.CREATE, Kind.SNAPSHOT, "web-a", "declared for the first time", pool="p", image="web", chain="a" * 64)

    assert approval(one) == approval(replace(one, because="is missing", after=(one.key,)))
    assert approval(one) != approval(replace(one, chain="b" * 64))
    assert approval(one) != approval(replace(one, verb=Verb.REPLACE))
