"""What an invocation tries once, and what may follow on it."""

from __future__ import annotations

import pytest

from reconciler.controller.executor import Done, Ledger
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
