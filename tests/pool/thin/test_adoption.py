"""A registry that is made to agree with the pool that is there keeps what both know, and invents nothing."""

from __future__ import annotations

from dataclasses import replace

from reconciler.pool.thin.adoption import Candidate, adoption
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State

from .test_recovery import FIRST, POOL, STAMP, N, held, pool, thin

BASE = DeviceRow(3, Role.VOLUME, "c" * 64, "c" * 64, 16 << 20, FIRST + 1, State.HELD, mapped=12)
SNAPSHOT = DeviceRow(4, Role.SNAPSHOT, "web-a", "c" * 64, 16 << 20, FIRST + 2, State.DELETING)
ORPHAN = Candidate(9, FIRST + 50, 7, size=16 << 20, filesystem="aa-bb")


def test_what_both_know_is_kept_and_settled() -> None:
    there = pool(N + 20, thin(BASE.transaction, 3) | thin(SNAPSHOT.transaction, 4))

    plan = adoption(there, POOL, {3: BASE, 4: SNAPSHOT}, (), {})

    assert plan.pool == PoolRow(STAMP, N + 20)
    assert plan.keep == (BASE, held(SNAPSHOT))
    assert plan.drop == plan.take == plan.orphans == ()


def test_what_is_gone_or_means_something_else_now_is_dropped() -> None:
    there = pool(N + 20, thin(SNAPSHOT.transaction + 7, 4))

    assert adoption(there, POOL, {3: BASE, 4: SNAPSHOT}, (), {}).drop == (BASE, SNAPSHOT)


def test_a_snapshot_that_has_a_name_is_taken_with_the_chain_that_the_operator_vouches_for() -> None:
    named = replace(ORPHAN, name="web-b")

    plan = adoption(pool(N + 20, thin(FIRST + 50, 9)), POOL, {}, (named,), {"web-b": "d" * 64})

    assert plan.take == (DeviceRow(9, Role.SNAPSHOT, "web-b", "d" * 64, 16 << 20, FIRST + 50, State.HELD),)
    assert plan.orphans == ()


def test_without_a_word_of_the_operator_the_chain_is_unknown() -> None:
    plan = adoption(pool(N, thin(FIRST + 50, 9)), POOL, {}, (replace(ORPHAN, name="web-b"),), {})

    assert [row.chain for row in plan.take] == ["unknown"]
    assert plan.filesystems == {"web-b": "aa-bb"}


def test_only_an_unknown_chain_can_be_named_later() -> None:
    unknown = DeviceRow(9, Role.SNAPSHOT, "web-b", "unknown", 16 << 20, FIRST + 50, State.HELD)
    there = pool(N, thin(FIRST + 50, 9) | thin(SNAPSHOT.transaction, 4))

    plan = adoption(there, POOL, {9: unknown, 4: SNAPSHOT}, (), {"web-b": "d" * 64, "web-a": "d" * 64})

    assert plan.proved == (replace(unknown, chain="d" * 64),)
    assert set(plan.keep) == {*plan.proved, held(SNAPSHOT)}


def test_devices_without_a_name_stay_orphans() -> None:
    nameless, sizeless = ORPHAN, Candidate(10, FIRST + 51, 7, name="web-c")

    plan = adoption(pool(N, thin(FIRST + 50, 9)), POOL, {}, (nameless, sizeless), {})

    assert (plan.take, plan.orphans) == ((), (nameless, sizeless))


def test_the_orphans_of_a_pool_that_differs_are_recorded_as_such() -> None:
    """`gc` deletes what `adopt` has listed, and nothing that another program creates later."""
    recorded = DeviceRow(9, Role.ORPHAN, "", "", 16 << 20, FIRST + 50, State.HELD)
    there = pool(N + 20, thin(FIRST + 50, 9))

    assert adoption(there, POOL, {}, (ORPHAN,), {}).keep == (recorded,)
    assert adoption(there, None, {}, (ORPHAN,), {}).keep == (recorded,)
    assert adoption(there, PoolRow(STAMP, N + 20), {}, (ORPHAN,), {}).keep == ()


def test_an_orphan_that_gets_a_name_is_an_orphan_no_more() -> None:
    recorded = DeviceRow(9, Role.ORPHAN, "", "", 16 << 20, FIRST + 50, State.HELD)

    plan = adoption(pool(N, thin(FIRST + 50, 9)), POOL, {9: recorded}, (replace(ORPHAN, name="web-b"),), {})

    assert [(row.id, row.role) for row in (*plan.keep, *plan.take)] == [(9, Role.SNAPSHOT)]


def test_the_label_of_the_pool_is_recorded() -> None:
    label = DeviceRow(1, Role.LABEL, "0" * 32, "", 65536, FIRST, State.HELD, mapped=1)

    assert adoption(pool(N, thin(FIRST, 1)), None, {}, (), {}, label).keep == (label,)
    assert adoption(pool(N, thin(FIRST, 1)), POOL, {1: label}, (), {}, label).keep == (label,)


def test_a_pool_whose_registry_was_lost_keeps_its_own_identity() -> None:
    assert adoption(pool(N), None, {}, (), {}).pool == PoolRow(STAMP, N)


def test_a_pool_that_is_gone_is_forgotten() -> None:
    plan = adoption(None, POOL, {3: BASE}, (), {})

    assert (plan.pool, plan.drop) == (None, (BASE,))
