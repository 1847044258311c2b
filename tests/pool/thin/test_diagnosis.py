"""Whose a thin device is: the registry's sequence of ids and its rows prove it, and the pool's stamp alone does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.pool.thin import diagnosis
from reconciler.pool.thin.assembly import Geometry, Inspection
from reconciler.pool.thin.backing import Backing, Found
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State
from reconciler.pool.thin.label import HEAD
from reconciler.pool.thin.metadata import BLOCK, ThinDevice
from reconciler.pool.thin.recovery import Agreement, Verdict

from .test_recovery import FIRST, STAMP, N, pool

LAST = 20
HERE = Found(Path("/dev/null"), True, 0)


def row(thin_id: int, transaction: int, role: Role = Role.VOLUME) -> DeviceRow:
    return DeviceRow(thin_id, role, "", "", 1, transaction, State.HELD, 1)


ROWS = [row(1, FIRST, Role.LABEL), row(5, FIRST + 5), row(10, FIRST + 10)]


def inspection(device: ThinDevice, rows: list[DeviceRow]) -> Inspection:
    held = {one.id: ThinDevice(one.id, 1, one.transaction, 0, 0) for one in rows} | {device.id: device}
    by_id = {one.id: one for one in rows}
    verdict = Verdict(Agreement.CURRENT)
    return Inspection(HERE, HERE, pool(N, held), None, None, PoolRow(STAMP, N), by_id, LAST, verdict, None, "")


def owner(device: ThinDevice, rows: list[DeviceRow]) -> str:
    seen = inspection(device, rows)
    foreign, orphans = diagnosis.foreign(seen), diagnosis.orphans(seen)
    assert len(foreign) + len(orphans) <= 1
    return "foreign" if foreign else "orphan" if orphans else "ours"


@pytest.mark.parametrize(
    ("thin_id", "transaction", "expected"),
    [
        (5, FIRST + 5, "ours"),
        (7, FIRST + 7, "orphan"),
        (7, FIRST + 5, "orphan"),  # of one batch with its neighbour
        (7, FIRST + 10, "orphan"),
        (15, FIRST + 11, "orphan"),
        (LAST, N, "orphan"),
        (LAST + 1, N, "foreign"),  # the registry has never allocated it
        ((1 << 24) - 1, N, "foreign"),
        (7, FIRST + 11, "foreign"),  # our device 7 is gone, and another program has taken its id later
        (15, FIRST + 9, "foreign"),
        (5, FIRST + 6, "foreign"),  # not the device of the row
        (7, 7, "foreign"),  # no stamp
        (7, (STAMP + 1) << 32 | 7, "foreign"),
    ],
)
def test_ours_is_what_the_sequence_and_the_rows_prove(thin_id: int, transaction: int, expected: str) -> None:
    assert owner(ThinDevice(thin_id, 1, transaction, 0, 0), ROWS) == expected


def test_what_adopt_has_listed_is_an_orphan_whatever_its_id() -> None:
    recorded = row(4000, N, Role.ORPHAN)

    assert owner(ThinDevice(4000, 1, N, 0, 0), [*ROWS, recorded]) == "orphan"
    assert owner(ThinDevice(4000, 1, N + 1, 0, 0), [*ROWS, recorded]) == "foreign", "another one has its id now"


def test_labels_and_orphans_are_no_leftovers() -> None:
    rows = [*ROWS, row(12, FIRST + 12, Role.ORPHAN), row(13, FIRST + 13, Role.SNAPSHOT)]

    left = diagnosis.leftovers(inspection(ThinDevice(1, 1, FIRST, 0, 0), rows), {ROWS[1].identity})

    assert [word.split(" (")[0] for word in left] == ["thin id 10", "thin id 13"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, "no label proves its data"),
        (DeviceRow(1, Role.LABEL, "0" * 32, "", BLOCK, FIRST, State.HELD, mapped=1), "write the ends of its data device"),
        (DeviceRow(1, Role.LABEL, "0" * 32, "", HEAD, FIRST, State.HELD, mapped=1), ""),
    ],
)
def test_a_pool_of_an_earlier_version_is_noted(label: DeviceRow | None, expected: str) -> None:
    rows = [row(5, FIRST + 5), *([label] if label else [])]
    seen = inspection(ThinDevice(5, 1, FIRST + 5, 0, 0), rows)
    geometry = Geometry(Backing(size=1 << 30), Backing(size=1 << 22), 65536)

    found = diagnosis.troubles("thin", seen, geometry)

    assert [one.reason for one in found] == (["PoolLayoutOutdated"] if expected else [])
    assert all(expected in one.message and one.note and not one.halts for one in found)
