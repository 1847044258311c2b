"""Which changes of the registry call for an assessment by the service that has it open."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from reconciler.model import ImageRow
from reconciler.registry.change_counts import ChangeCounts
from reconciler.registry.claims import Caller, Claims
from reconciler.registry.marks import Mark, What
from reconciler.registry.writer import Registry
from tests.registry.test_claims import NAMES, Clock, claims, clock, registry, there, wanted

__all__ = ["claims", "clock", "registry"]
ROOT = Caller(0, True)
QUIET = replace(wanted(), replaced=False)


@pytest.fixture
def counts(registry: Registry, clock: Clock) -> Callable[[], ChangeCounts]:
    return lambda: registry.change_counts(clock())


Look = Callable[[], ChangeCounts]


def test_a_claim_calls_for_no_assessment_where_nothing_is_made_for_it(claims: Claims, counts: Look) -> None:
    before = counts()
    claim = claims.take(QUIET, there)
    claims.renew(claim.id, ROOT)

    assert counts() == before
    assert counts().serial == before.serial + 2, "but it is noticed"


def test_a_claim_that_another_snapshot_is_made_for_calls_for_one(claims: Claims, counts: Look) -> None:
    before = counts()
    claims.take(wanted(), there)

    assert counts() != before


def test_the_end_of_a_claim_calls_for_one(claims: Claims, counts: Look) -> None:
    claim = claims.take(QUIET, there)
    before = counts()
    claims.release(claim.id, ROOT)

    assert counts() != before


def test_a_transaction_calls_for_one_where_any_of_its_changes_does(claims: Claims, counts: Look) -> None:
    claim = claims.take(QUIET, there)
    before = counts()
    with claims.together():
        claims.take(QUIET, there)
        claims.release(claim.id, ROOT)
        claims.take(QUIET, there)
    released = counts()
    with claims.together():
        claims.take(QUIET, there)

    assert before != released == counts()


def test_what_another_process_notes_calls_for_one_and_what_the_service_writes_does_not(registry: Registry, counts: Look) -> None:
    before = counts()
    registry.mark(Mark("web", What.PROTECTED))
    registry.record_image(ImageRow("db", "default", "new", 4096, False))
    assert counts() == before
    assert counts().serial == before.serial

    with Registry.open(registry.path) as another:
        another.mark(Mark("web", What.RETRY))
    assert counts() != before


def test_a_part_of_a_host_that_writes_is_no_other(registry: Registry, counts: Look) -> None:
    before = counts()
    Registry.over(registry).mark(Mark("web", What.RETRY))

    assert counts() == before


def test_every_claim_calls_for_one_where_an_earlier_version_made_the_registry(
    registry: Registry, claims: Claims, counts: Look
) -> None:
    with closing(sqlite3.connect(registry.path)) as db:
        db.execute("DELETE FROM meta WHERE key = 'quiet'")
        db.commit()
    before = counts()
    claims.take(QUIET, there)

    assert counts() != before


def test_what_is_left_is_of_the_claim_that_expires_first(claims: Claims, clock: Clock, counts: Look) -> None:
    assert counts().left == float("inf")
    for ttl in (50.0, 20.0, 80.0):
        claims.take(replace(QUIET, ttls=dict.fromkeys(NAMES, ttl)), there)
    clock.pass_(5)

    assert counts().left == 15.0
