"""Late, repeated and reordered batches leave the right picture at the sink: that of the newest one, whole."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.fleet import address, rows, statements
from reconciler.fleet.batch import Batch, Picture, changes
from reconciler.fleet.rows import TABLES
from reconciler.fleet.sink import Session, Sink
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow

HOST = rows.Host("a", {"ring": "1"}, "1", 60.0, "git:1", "", True, 1, 1, 0, 0, 0, "", "")
START = datetime(2030, 1, 1, tzinfo=UTC)
IDS = itertools.count(1)

few = st.integers(0, 2)
word = st.sampled_from(("", "x", "NUL \0 and \ud800", "ü"))
images = st.dictionaries(few, st.builds(rows.Image, st.just(""), word, word, word, word, word, few, few, few), max_size=3)
pools = st.dictionaries(few, st.builds(rows.Pool, st.just(""), word, word, few, few, few, few, few, few), max_size=2)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    found = {"image": draw(images), "pool": draw(pools)}
    named = {table: tuple(replace(row, name=str(number)) for number, row in held.items()) for table, held in found.items()}
    host = replace(HOST, revision=draw(st.sampled_from(("git:1", "git:2"))), converged=draw(st.booleans()), message=draw(word))
    return Picture(host, named)


@dataclass(frozen=True)
class Sent:
    """A batch, and what the sink is like once it has taken it."""

    batch: Batch
    picture: Picture


def event(number: int) -> rows.Event:
    return rows.Event(number, START, "Image", "", "web", "Ready", f"number {number}", "")


@st.composite
def reports(draw: st.DrawFn) -> tuple[Sequence[Sent], Sequence[int]]:
    """Batches as a host sends them, whole or as changes, with events that follow those before; and the order they come in."""
    name, sent, cursor = f"host-{next(IDS)}", [], 0
    for number, now in enumerate(draw(st.lists(pictures(), min_size=1, max_size=5)), 1):
        before = sent[-1] if sent and draw(st.booleans()) else None
        put, gone = changes(before.picture, now) if before else (now.rows, {})
        after = draw(st.integers(0, cursor))  # what was not confirmed is sent again
        last = cursor + draw(few)
        events = [event(one) for one in range(after + 1, last + 1)]
        base = before.batch.sequence if before else None
        sent.append(Sent(Batch(name, number * 3, base, now.host, put, gone, events, after), now))
        cursor = last
    return sent, draw(st.lists(st.integers(0, len(sent) - 1), max_size=9))


def stored(session: Session, host: str) -> Mapping[str, Any]:
    """The rows of a host, by table, as the sink has them."""
    found = {}
    for table in (*TABLES, "event"):
        names = ", ".join(f'"{name}"' for name in statements.columns(table))
        kept = session.rows(f"SELECT {names} FROM reconcile.{table} WHERE host = %(host)s", {"host": host})
        found[table] = {tuple(row.values()) for row in kept}
    return found


def clean(value: object) -> object:
    return value.replace("\0", "\ufffd").replace("\ud800", "?") if isinstance(value, str) else value


def wanted(picture: Picture) -> Mapping[str, Any]:
    return {
        table: {tuple(clean(getattr(row, one.name)) for one in fields(row)) for row in picture.rows.get(table, ())}
        for table in TABLES
    }


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports())
def test_the_picture_is_always_the_newest_one_that_came(
    postgres: Postgres, migrated: str, drawn: tuple[Sequence[Sent], Sequence[int]]
) -> None:
    sent, order = drawn
    name, newest = sent[0].batch.id, None
    with Sink(address.parse(postgres.url(migrated))).session(60.0) as session:
        for index in order:
            batch = sent[index].batch
            applicable = batch.sequence > (newest.batch.sequence if newest else 0) and (
                batch.base is None or (newest is not None and newest.batch.sequence == batch.base)
            )
            assert session.apply(batch) is applicable
            newest = sent[index] if applicable else newest
            there = stored(session, name)
            events = {row[0] for row in there.pop("event")}
            assert there == (wanted(newest.picture) if newest else {table: set() for table in TABLES})
            cursor = session.reached(name).cursor
            assert events >= set(range(1, cursor + 1)), "the cursor is behind a gap"

        # The host sends on from what the sink has, as it always does.
        reached, last = session.reached(name), sent[-1]
        every = max((one.seq for held in sent for one in held.batch.events), default=0)
        rest = [event(one) for one in range(reached.cursor + 1, every + 1)]
        final = Batch(name, 10_000, None, last.picture.host, last.picture.rows, {}, rest, reached.cursor)
        assert session.apply(final)
        there = stored(session, name)
        assert {row[0] for row in there.pop("event")} == set(range(1, every + 1))
        assert there == wanted(last.picture)
        assert session.reached(name).cursor == every


def test_a_batch_that_changes_nothing_writes_one_row(postgres: Postgres, database: str) -> None:
    image = rows.Image("web", "p", "Ready", "", "", "c", 1, 1, 1)
    before = Batch("a", 1, None, HOST, {"image": [image]})
    with Sink(address.parse(postgres.url(database))).session(60.0) as session:
        session.apply(before)
        written = session.rows("SELECT xmin, ctid::text FROM reconcile.image")
        session.apply(replace(before, sequence=2))
        assert session.rows("SELECT xmin, ctid::text FROM reconcile.image") == written


def test_the_sink_keeps_a_bounded_number_of_events(postgres: Postgres, database: str) -> None:
    with Sink(address.parse(postgres.url(database))).session(60.0) as session:
        for start in range(0, 3 * statements.EVENTS_KEPT, statements.EVENTS_KEPT):
            events = [event(start + one) for one in range(1, statements.EVENTS_KEPT + 1)]
            session.apply(Batch("a", start + 1, None, HOST, events=events, after=start))
        found = session.rows("SELECT min(seq) AS first, count(*) AS number FROM reconcile.event")[0]
    assert dict(found) == {"first": 2 * statements.EVENTS_KEPT + 1, "number": statements.EVENTS_KEPT}
