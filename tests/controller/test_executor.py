"""What an invocation tries once, and what may follow on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.controller.executor import Done, Ledger, approval, opposes
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


def volume(verb: Verb, chain: str = CHAIN, parent: str | None = None, pool: str = "thin") -> Action:
    return Action(verb, Kind.VOLUME, chain[:12], "it differs", pool=pool, chain=chain, parent=parent)


def test_what_was_removed_may_be_created_again_in_the_same_invocation() -> None:
    """The layers of an image are resolved after the plan that removed its volume."""
    gone = volume(Verb.REMOVE)

    for ok in (True, False):
        assert not Ledger({gone.key: Done(gone, ok)}).is_done(volume(Verb.BUILD))
        assert Ledger({gone.key: Done(gone, ok)}).is_done(gone)
        assert Ledger({gone.key: Done(volume(Verb.BUILD), ok)}).is_done(gone)


@pytest.mark.parametrize(
    ("kept", "opposed"),
    [
        (volume(Verb.BUILD), True),
        (volume(Verb.REBUILD), True),
        (snapshot(Verb.CREATE), True),
        (snapshot(Verb.REPLACE), True),
        (volume(Verb.BUILD, "d" * 64, parent=CHAIN), True),
        (volume(Verb.BUILD, "d" * 64), False),
        (volume(Verb.BUILD, pool="other"), False),
        (snapshot(Verb.ACTIVATE), False),
        (snapshot(Verb.REMOVE), False),
        (volume(Verb.REMOVE), False),
    ],
)
def test_the_removal_of_a_volume_opposes_what_creates_or_copies_it(kept: Action, opposed: bool) -> None:
    gone = volume(Verb.REMOVE)

    assert opposes(gone, kept) is opposed
    assert opposes(kept, gone) is opposed
    assert bool(Ledger({gone.key: Done(gone, True)}).opposing(kept)) is opposed
