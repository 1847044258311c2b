"""What of a plan is tried now, and what waits for the next look."""

from __future__ import annotations

import pytest

from reconciler.controller.executor import Done, Ledger
from reconciler.model import Action, Kind, Verb

CHAIN = "c" * 64


def snapshot(verb: Verb, name: str = "web-0", after: tuple[str, ...] = ()) -> Action:
    return Action(verb, Kind.SNAPSHOT, name, "it differs", pool="thin", image="web", chain=CHAIN, after=after)


VOLUME = Action(Verb.BUILD, Kind.VOLUME, CHAIN[:12], "its layers changed", pool="thin", chain=CHAIN)


def test_a_replacement_waits_for_everything_else_so_that_its_users_are_looked_for_just_before() -> None:
    replacement = snapshot(Verb.REPLACE, after=(VOLUME.key,))
    ledger = Ledger()

    assert ledger.fresh((VOLUME, replacement)) == (VOLUME,)
    ledger.done[VOLUME.key] = Done(VOLUME, True)
    assert ledger.fresh((replacement,)) == (replacement,)


def test_what_needs_something_that_failed_is_not_tried() -> None:
    replacement = snapshot(Verb.REPLACE, after=(VOLUME.key,))

    assert Ledger({VOLUME.key: Done(VOLUME, False)}).fresh((VOLUME, replacement)) == ()


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
def test_a_snapshot_that_was_brought_back_may_still_be_replaced(before: Verb, after: Verb, tried: bool) -> None:
    """Once each, and in this order only: an invocation comes to an end."""
    done = snapshot(before)

    assert bool(Ledger({done.key: Done(done, True)}).fresh((snapshot(after),))) is tried
    assert not Ledger({done.key: Done(done, False)}).fresh((snapshot(after),))
