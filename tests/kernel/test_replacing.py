"""A snapshot's name moves from one thin device to another: in one step, never away from somebody, and provably."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.errors import Busy, NameTaken
from reconciler.pool.driver import Condition
from reconciler.pool.thin.pool import ThinPool

from .rig import MIB, A, B, Rig, dmsetup, mappings, read, rig, volume, write


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


@pytest.fixture
def pool(thin: Rig) -> Iterator[ThinPool]:
    """With two bases, and a snapshot ``web`` of the first that somebody has written to."""
    with thin.assembled() as made:
        volume(made, A, data=b"a" * MIB)
        volume(made, B, parent=A, data=b"b" * MIB)
        made.create_snapshot("web", A)
        write(made.snapshot_path("web"), 8 * MIB, b"mine")
        yield made


def identity(pool: ThinPool) -> str:
    (row,) = pool.journal.devices("web").values()
    return row.identity


def test_the_name_shows_the_new_one_and_the_old_one_is_gone(thin: Rig, pool: ThinPool) -> None:
    old = identity(pool)
    new = pool.replace_snapshot("web", B, old)

    assert read(pool.snapshot_path("web"), 0, 4) == b"bbbb"
    assert pool.observe({}, {"web": old}).snapshots["web"].detail == "another device has its name"
    assert pool.observe({}, {"web": new}).snapshots["web"].active
    pool.discard_replaced("web", new)
    assert identity(pool) == new
    assert pool.observe({}, {"web": old}).snapshots["web"].condition is Condition.MISSING
    assert read(pool.snapshot_path("web"), 8 * MIB, 4) == bytes(4), "what was written to the old one is gone"
    assert not [name for name in mappings() if "-." in name]


def test_one_that_is_open_is_left_to_its_user(thin: Rig, pool: ThinPool) -> None:
    """Nothing is made for it that would have to be removed again, and the user notices nothing."""
    old, path = identity(pool), pool.snapshot_path("web")
    with path.open("rb") as user:
        assert set(pool.holders({"web": old})) == {"web"}
        with pytest.raises(Busy, match="snapshot web is in use: /dev/mapper/rig-web is held by"):
            pool.replace_snapshot("web", B, old)
        user.seek(8 * MIB)
        assert user.read(4) == b"mine"
    assert identity(pool) == old
    assert pool.holders({"web": old}) == {}
    assert pool.observe({}, {"web": old}).snapshots["web"].active


def test_one_that_is_opened_at_the_last_moment_stays_too(pool: ThinPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and the switch: the kernel does not take the name away, and what was made is removed again."""
    old = identity(pool)
    monkeypatch.setattr(ThinPool, "holders", lambda self, snapshots: {})
    with pool.snapshot_path("web").open("rb"), pytest.raises(Busy, match="rig-web is"):
        pool.replace_snapshot("web", B, old)

    assert identity(pool) == old
    assert pool.observe({}, {"web": old}).snapshots["web"].active
    assert not [name for name in mappings() if "-." in name]


def test_a_foreign_mapping_under_the_name_is_not_touched(pool: ThinPool) -> None:
    dmsetup("remove", "--retry", "rig-web")
    dmsetup("create", "rig-web", "--table", "0 8 zero")
    try:
        with pytest.raises(NameTaken):
            pool.replace_snapshot("web", B, identity_of_first(pool))
        assert "zero" in dmsetup("table", "rig-web")
    finally:
        dmsetup("remove", "--retry", "rig-web")


def identity_of_first(pool: ThinPool) -> str:
    return min(pool.journal.devices("web").items())[1].identity


def test_readers_see_the_old_or_the_new_one(pool: ThinPool) -> None:
    """They open the name again and again; the name is away for a moment, and never shows anything else."""
    path, over, seen = str(pool.snapshot_path("web")), threading.Event(), set()

    def look() -> None:
        while not over.wait(0.001):
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            with closing(os.fdopen(fd, "rb", buffering=0)) as device:
                seen.add(device.read(4))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for chain in (B, A, B):
            replace(pool, chain)
    finally:
        over.set()
        reader.join()
    assert seen <= {b"aaaa", b"bbbb"}
    assert read(pool.snapshot_path("web"), 0, 4) == b"bbbb"


def replace(pool: ThinPool, chain: str) -> None:
    """Again while the reader holds it."""
    old = identity(pool)
    while True:
        try:
            new = pool.replace_snapshot("web", chain, old)
        except Busy:
            continue
        pool.discard_replaced("web", new)
        return
