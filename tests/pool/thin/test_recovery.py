"""What became of a change that was cut off, cell by cell; and when nobody may touch a pool until a person has looked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State, first_transaction
from reconciler.pool.thin.metadata import Metadata, ThinDevice
from reconciler.pool.thin.recovery import Agreement, Settlement, judge, settle

STAMP = 0x5EED5EED
FIRST = first_transaction(STAMP)
N = FIRST + 41
POOL = PoolRow(STAMP, N)
ROW = DeviceRow(7, Role.SNAPSHOT, "web-a", "c" * 64, 16 << 20, N, State.CREATING)
OLD = replace(ROW, transaction=FIRST + 3, state=State.DELETING)


def thin(transaction: int, thin_id: int = 7) -> dict[int, ThinDevice]:
    return {thin_id: ThinDevice(thin_id, 12, transaction, 0, 0)}


def pool(transaction: int, devices: dict[int, ThinDevice] | None = None) -> Metadata:
    return Metadata(
        transaction=transaction,
        block_size=65536,
        needs_check=False,
        held_root=None,
        data_blocks=1000,
        data_used=10,
        metadata_blocks=512,
        metadata_used=20,
        devices=devices or {},
    )


def held(row: DeviceRow) -> DeviceRow:
    return replace(row, state=State.HELD)


CELLS = [
    pytest.param(ROW, N, {}, Settlement(drop=(7,)), id="creating, the message never came"),
    pytest.param(ROW, N, thin(N), Settlement(put=(held(ROW),), advance=True), id="creating, done but not closed"),
    pytest.param(ROW, N, thin(N - 9), Settlement(drop=(7,)), id="creating, the id is another's"),
    pytest.param(ROW, N + 1, thin(N), Settlement(put=(held(ROW),)), id="creating, closed but not recorded"),
    pytest.param(ROW, N + 1, {}, Settlement(drop=(7,)), id="creating, closed, and gone since"),
    pytest.param(OLD, N, {}, Settlement(drop=(7,), advance=True), id="deleting, done but not closed"),
    pytest.param(OLD, N, thin(OLD.transaction), Settlement(put=(held(OLD),)), id="deleting, the message never came"),
    pytest.param(OLD, N, thin(OLD.transaction + 1), Settlement(drop=(7,)), id="deleting, the id is another's"),
    pytest.param(OLD, N + 1, {}, Settlement(drop=(7,)), id="deleting, closed but not recorded"),
    pytest.param(OLD, N + 1, thin(OLD.transaction), Settlement(put=(held(OLD),)), id="deleting, closed, and still there"),
]


@pytest.mark.parametrize(("row", "tid", "devices", "expected"), CELLS)
def test_each_cell_of_the_table(row: DeviceRow, tid: int, devices: dict[int, ThinDevice], expected: Settlement) -> None:
    assert judge("thin", POOL, {7: row}, pool(tid, devices)).agreement is Agreement.INTERRUPTED
    assert settle(POOL, {7: row}, tid, devices) == expected


@pytest.mark.parametrize(("row", "tid", "devices", "expected"), CELLS)
def test_a_settled_pool_transaction_stays_settled(
    row: DeviceRow, tid: int, devices: dict[int, ThinDevice], expected: Settlement
) -> None:
    """Whatever was decided, the registry and the pool agree afterwards: nothing is open, and nothing is left to do."""
    after = max(tid, N) + expected.advance
    rows = {one.id: one for one in expected.put}

    assert judge("thin", replace(POOL, transaction=after), rows, pool(after, devices)).agreement is Agreement.CURRENT
    assert settle(POOL, rows, after, devices) == Settlement()


def test_devices_that_are_held_are_left_alone() -> None:
    neighbour = held(replace(ROW, id=8))
    devices = thin(N) | thin(N, 8)

    assert settle(POOL, {7: ROW, 8: neighbour}, N, devices).put == (held(ROW),)


def test_a_pool_that_was_never_created_is_new() -> None:
    assert judge("thin", None, {}, None).agreement is Agreement.NEW
    assert judge("thin", PoolRow(STAMP, 0), {}, None).agreement is Agreement.NEW


@pytest.mark.parametrize("tid", [0, FIRST], ids=["formatted", "stamped"])
def test_an_interrupted_creation_of_a_pool_is_finished(tid: int) -> None:
    assert judge("thin", PoolRow(STAMP, 0), {}, pool(tid)).agreement is Agreement.UNSTAMPED


QUARANTINED = [
    pytest.param(POOL, None, "PoolLost", id="its metadata is gone"),
    pytest.param(POOL, pool(0), "PoolSwapped", id="an unstamped pool is in its place"),
    pytest.param(POOL, pool(first_transaction(99) + 41), "PoolSwapped", id="another registry's pool is in its place"),
    pytest.param(POOL, pool(N + 1), "RegistryOutdated", id="the pool is one ahead, and nothing was open"),
    pytest.param(POOL, pool(N + 5, thin(N)), "RegistryOutdated", id="an older registry was restored"),
    pytest.param(POOL, pool(N - 1), "PoolOutdated", id="older metadata was restored"),
    pytest.param(None, pool(N), "PoolForeign", id="the registry was lost"),
    pytest.param(None, pool(0), "PoolForeign", id="somebody else's pool"),
    pytest.param(PoolRow(STAMP, 0), pool(0, thin(0)), "PoolForeign", id="being made, and it holds something"),
]


@pytest.mark.parametrize(("row", "found", "reason"), QUARANTINED)
def test_a_pool_that_differs_from_the_registry_is_halted(row: PoolRow | None, found: Metadata | None, reason: str) -> None:
    verdict = judge("thin", row, {}, found)

    assert verdict.agreement is Agreement.DIFFERENT
    assert verdict.trouble is not None
    assert (verdict.trouble.reason, verdict.trouble.halts, verdict.trouble.removes) == (reason, True, False)
    assert "reconcile adopt thin" in verdict.trouble.message
