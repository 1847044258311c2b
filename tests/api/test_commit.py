"""Changes that share a transaction: an error of one fails that one alone, and an error of SQLite fails all of them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.commit import Committer
from reconciler.claim import Claim
from reconciler.engine.facts import SnapshotMade
from reconciler.errors import HostCannot
from reconciler.model import ImageRow, SnapshotRow
from reconciler.registry.claims import Claims, Wanted
from reconciler.registry.writer import Registry

WANTED = Wanted("web", "default", dict.fromkeys(["web-0", "web-1", "web-2"], 100.0), 1000)


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[Claims]:
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        registry.record_image(ImageRow("web", "default", "new", 4096, False))
        registry.apply([SnapshotMade(SnapshotRow("default", name, "web", "new", name)) for name in WANTED.ttls])
        with Claims.open(registry.path) as claims:
            yield claims


def together(claims: Claims, works: list[Callable[[], Any]]) -> list[Any]:
    """What the changes of one transaction return or raise: they wait while the first one is under way."""
    committer, begun, go_on = Committer(claims), threading.Event(), threading.Event()
    found: dict[int, Any] = {}

    def hold() -> None:
        begun.set()
        go_on.wait(10)

    def one(number: int, work: Callable[[], Any]) -> None:
        try:
            found[number] = committer.commit(work)
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=(-1, hold))]
    threads[0].start()
    begun.wait(10)
    threads += [threading.Thread(target=one, args=each) for each in enumerate(works)]
    for thread in threads[1:]:
        thread.start()
    while len(committer._waiting) < len(works):
        threading.Event().wait(0.01)
    go_on.set()
    for thread in threads:
        thread.join(10)
    committer.stop()
    return [found[number] for number in range(len(works))]


def take(claims: Claims) -> Claim:
    return claims.take(WANTED, lambda rows: rows)


def failing(claims: Claims, error: Exception) -> Any:
    take(claims)
    raise error


def test_an_unexpected_error_fails_its_own_change_and_rolls_it_back(claims: Claims) -> None:
    bad = ValueError("year 2739871 is out of range")

    found = together(claims, [lambda: take(claims), lambda: failing(claims, bad), lambda: take(claims)])

    assert [one for one in found if not isinstance(one, Claim)] == [bad]
    assert {one.name for one in claims.open_claims().values()} == {one.name for one in found if isinstance(one, Claim)}


def test_an_error_of_sqlite_fails_every_change_of_the_transaction(claims: Claims) -> None:
    full = sqlite3.OperationalError("database or disk is full")

    found = together(claims, [lambda: take(claims), lambda: failing(claims, full), lambda: take(claims)])

    assert [type(one) for one in found] == [HostCannot] * 3
    assert claims.open_claims() == {}
