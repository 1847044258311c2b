"""Claims in the registry: given out once, durable, expiring by two clocks, in order with the runs that replace snapshots."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.claim import Claim, ClaimState, Moment
from reconciler.engine.definitions import Entry, Result, Run, Status
from reconciler.engine.facts import SnapshotGone, SnapshotMade, VolumeSealed
from reconciler.errors import Busy, ClaimEnded, ClaimForbidden, ClaimNotFound, IdempotencyKeyReused, NoneReady
from reconciler.model import ImageRow, Key, Kind, SnapshotRow, VolumeRow
from reconciler.registry.choice import FOUND_SECONDS, MOST_CANDIDATES, Usable
from reconciler.registry.claims import Caller, Claims, Wanted
from reconciler.registry.writer import Registry

ROOT, ALICE, BOB = Caller(0, True), Caller(1000, False), Caller(1001, False)
NAMES = [f"web-{n}" for n in range(4)]


@dataclass
class Clock:
    """Two clocks of a host: one that the operator sets, and the time since the boot."""

    wall: float = 1e9
    elapsed: float = 50.0
    boot: str = "first"

    def __call__(self) -> Moment:
        return Moment(self.wall, self.elapsed, self.boot)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


def snapshot(name: str, chain: str = "new", identity: str = "") -> SnapshotRow:
    return SnapshotRow("default", name, "web", chain, identity or f"id of {name}")


def wanted(uid: int = 1000, ttl: float = 100.0, **more: str) -> Wanted:
    return Wanted("web", "default", dict.fromkeys(NAMES, ttl), uid, **more)


def there(rows: Sequence[SnapshotRow]) -> Sequence[SnapshotRow]:
    return rows


def only(is_there: Callable[[SnapshotRow], bool]) -> Usable:
    """A pool that is asked for each snapshot."""
    return lambda rows: [row for row in rows if is_there(row)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        registry.record_image(ImageRow("web", "default", "new", 4096, False))
        registry.apply([SnapshotMade(snapshot(name)) for name in NAMES])
        yield registry


@pytest.fixture
def claims(registry: Registry, clock: Clock) -> Iterator[Claims]:
    with Claims.open(registry.path, clock) as claims:
        yield claims


def run(registry: Registry, machine: str, name: str) -> Run:
    now = Run(f"{machine}-{name}", machine, Key(Kind.SNAPSHOT, "default", name), "replacing", "", 1.0, 1.0)
    return registry.open_run(now)


def test_each_snapshot_is_given_out_once(claims: Claims) -> None:
    found = [claims.take(wanted(), there).name for _ in NAMES]

    assert sorted(found) == NAMES
    with pytest.raises(NoneReady, match="no snapshot of it is ready and unclaimed"):
        claims.take(wanted(), there)


def test_a_claim_is_on_disk_when_it_is_answered(registry: Registry, claims: Claims) -> None:
    claim = claims.take(wanted(holder="job 7"), there)

    with closing(sqlite3.connect(registry.path)) as other:
        assert other.execute("SELECT id, name, holder, state FROM claim").fetchall() == [
            (claim.id, claim.name, "job 7", "claimed")
        ]
    assert registry.claims() == {("default", claim.name): claim}


def test_the_newest_chain_is_preferred(registry: Registry, claims: Claims) -> None:
    registry.apply([SnapshotMade(snapshot(name, "old")) for name in NAMES[:3]])

    assert [claims.take(wanted(), there).chain for _ in NAMES] == ["new", "old", "old", "old"]


def test_what_has_the_files_of_now_is_preferred_among_those_of_a_chain(registry: Registry, claims: Claims) -> None:
    registry.apply([SnapshotMade(replace(snapshot("web-2"), custom="now"))])
    registry.apply([SnapshotMade(replace(snapshot("web-1", "old"), custom="now"))])
    asked = replace(wanted(), is_current=lambda row: row.custom == "now")

    found = [claims.take(asked, there) for _ in NAMES]

    assert found[0].name == "web-2"
    assert [one.chain for one in found] == ["new", "new", "new", "old"]


def test_what_is_not_there_is_not_given_out(claims: Claims) -> None:
    assert claims.take(wanted(), only(lambda row: row.name == "web-3")).name == "web-3"


def test_what_a_pool_has_answered_counts_for_a_moment(claims: Claims, clock: Clock) -> None:
    asked = list[list[str]]()

    def asking(rows: Sequence[SnapshotRow]) -> Sequence[SnapshotRow]:
        asked.append([row.name for row in rows])
        return rows

    claims.take(wanted(), asking)
    claims.take(wanted(), asking)
    assert len(asked) == 1
    clock.elapsed += FOUND_SECONDS
    third = claims.take(wanted(), asking)
    assert (len(asked), third.name) == (2, asked[1][0])


def test_a_snapshot_that_was_claimed_since_the_pool_was_asked_is_not_given_out(registry: Registry, claims: Claims) -> None:
    first = claims.take(wanted(), there)
    left = sorted(set(NAMES) - {first.name})
    with Claims.open(registry.path) as other:
        theirs = {other.take(wanted(name=name), there).name for name in left[:2]}

    assert claims.take(wanted(), there).name == left[2]
    assert theirs == set(left[:2])


def test_the_registry_can_be_written_while_a_pool_is_asked(registry: Registry, claims: Claims) -> None:
    def asking(row: SnapshotRow) -> bool:
        registry.event(row.key, "Asked", "")
        return True

    assert claims.take(wanted(), only(asking)).name in NAMES


def test_a_snapshot_that_another_request_gets_meanwhile_is_not_given_out(registry: Registry, claims: Claims) -> None:
    with Claims.open(registry.path) as other:
        others: list[str] = []

        def asking(row: SnapshotRow) -> bool:
            if not others:
                others.append(other.take(replace(wanted(), name=row.name), there).name)
            return True

        mine = claims.take(wanted(), only(asking)).name

    assert [mine] != others
    assert {name for _, name in claims.open_claims()} == {mine, *others}


def test_a_request_asks_for_few_absent_snapshots_and_the_next_one_for_others(registry: Registry, claims: Claims) -> None:
    names = [f"web-{n}" for n in range(40)]
    registry.apply([SnapshotMade(snapshot(name)) for name in names])
    many, asked = replace(wanted(), ttls=dict.fromkeys(names, 100.0)), list[str]()

    def asking(row: SnapshotRow) -> bool:
        asked.append(row.name)
        return row.name == "web-39"

    for before in (0, MOST_CANDIDATES):
        with pytest.raises(NoneReady):
            claims.take(many, only(asking))
        assert len(asked) - before == MOST_CANDIDATES
    assert claims.take(many, only(asking)).name == "web-39"


def test_a_request_that_gets_none_does_not_write(registry: Registry, claims: Claims) -> None:
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NoneReady):
            claims.take(wanted(), lambda rows: [])


def test_undeclared_snapshots_are_not_given_out(claims: Claims) -> None:
    with pytest.raises(NoneReady):
        claims.take(replace(wanted(), ttls={}), there)


def test_one_snapshot_can_be_named(claims: Claims) -> None:
    claim = claims.take(wanted(name="web-2"), there)

    assert claim.name == "web-2"
    with pytest.raises(NoneReady, match=f"it is claimed: claim {claim.id}"):
        claims.take(wanted(name="web-2"), there)


def test_a_released_snapshot_is_not_given_out_before_it_is_made_anew(registry: Registry, claims: Claims) -> None:
    claim = claims.take(wanted(name="web-2"), there)
    claims.release(claim.id, ALICE)

    with pytest.raises(NoneReady, match="its last claim is released"):
        claims.take(wanted(name="web-2"), there)

    now = run(registry, "replacement", "web-2")
    fact = SnapshotMade(snapshot("web-2", identity="another"))
    registry.commit_run(now, replace(now, state="ready", status=Status.DONE), Entry(Result.ADVANCED, "Done", "", {}), [fact])

    assert claims.find(claim.id).state is ClaimState.ENDED
    assert claims.take(wanted(name="web-2"), there).id != claim.id


def test_a_row_that_was_edited_by_hand_ends_no_claim(registry: Registry, claims: Claims) -> None:
    """`import` registers a file that was there before: it may be the used one."""
    claim = claims.take(wanted(name="web-2"), there)
    claims.release(claim.id, ALICE)

    registry.apply([SnapshotGone("default", "web-2"), SnapshotMade(snapshot("web-2", identity="imported"))])

    with pytest.raises(NoneReady, match="its last claim is released"):
        claims.take(wanted(name="web-2"), there)


def test_a_claimed_snapshot_is_neither_replaced_nor_removed(registry: Registry, claims: Claims) -> None:
    claims.take(wanted(name="web-1"), there)

    for machine in ("replacement", "removal"):
        with pytest.raises(Busy, match="web-1 is claimed"):
            run(registry, machine, "web-1")
    assert run(registry, "activation", "web-1")


def test_a_snapshot_that_is_being_replaced_is_not_given_out(registry: Registry, claims: Claims) -> None:
    run(registry, "replacement", "web-1")

    with pytest.raises(NoneReady, match="it is not ready"):
        claims.take(wanted(name="web-1"), there)
    assert {claims.take(wanted(), there).name for _ in range(3)} == {"web-0", "web-2", "web-3"}


@pytest.mark.parametrize("machine", ["replacement", "removal"])
def test_a_snapshot_whose_run_is_being_cancelled_is_not_given_out_before_the_run_has_ended(
    registry: Registry, claims: Claims, machine: str
) -> None:
    """A thread may execute the step at that moment, and finish it."""
    now = run(registry, machine, "web-1")
    registry.request_cancel(now.id, "no longer wanted")

    with pytest.raises(NoneReady, match="it is not ready"):
        claims.take(wanted(name="web-1"), there)

    registry.commit_run(now, replace(now, status=Status.CANCELLED), Entry(Result.CANCELLED, "Cancelled", "", {}))
    assert claims.take(wanted(name="web-1"), there).name == "web-1"


def test_a_repeated_request_gets_the_same_claim(claims: Claims) -> None:
    first = claims.take(wanted(request="job-7", wish="a"), there)

    assert claims.take(wanted(request="job-7", wish="a"), there) == first
    assert claims.take(wanted(1001, request="job-7", wish="a"), there) != first
    with pytest.raises(IdempotencyKeyReused):
        claims.take(wanted(request="job-7", wish="b"), there)


def test_a_repeated_request_whose_claim_is_over_gets_no_claim(registry: Registry, claims: Claims, clock: Clock) -> None:
    """Its snapshot is another user's by now, or becomes so."""
    names = {"web-0": 100.0}
    first = claims.take(replace(wanted(request="job-7"), ttls=names), there)
    claims.release(first.id, ALICE)
    with pytest.raises(ClaimEnded, match=f"Idempotency-Key 'job-7' has got claim {first.id}, which is released"):
        claims.take(replace(wanted(request="job-7"), ttls=names), there)

    now = run(registry, "replacement", "web-0")
    fact = SnapshotMade(snapshot("web-0", identity="another"))
    registry.commit_run(now, replace(now, state="ready", status=Status.DONE), Entry(Result.ADVANCED, "Done", "", {}), [fact])
    claims.take(replace(wanted(1001, request="job-8"), ttls=names), there)
    with pytest.raises(ClaimEnded, match="is ended"):
        claims.take(replace(wanted(request="job-7"), ttls=names), there)

    clock.pass_(100)
    with pytest.raises(ClaimEnded, match="is expired"):
        claims.take(replace(wanted(1001, request="job-8"), ttls=names), there)


def test_users_release_and_renew_their_own_claims_and_root_all(claims: Claims) -> None:
    mine, other = claims.take(wanted(1000), there), claims.take(wanted(1001), there)

    with pytest.raises(ClaimForbidden, match="belongs to uid 1001"):
        claims.release(other.id, ALICE)
    with pytest.raises(ClaimForbidden):
        claims.renew(other.id, ALICE)
    assert claims.release(mine.id, ALICE).state is ClaimState.RELEASED
    assert claims.release(mine.id, ALICE).state is ClaimState.RELEASED
    assert claims.release(other.id, ROOT).state is ClaimState.RELEASED
    with pytest.raises(ClaimNotFound):
        claims.release("missing", ROOT)


@pytest.mark.parametrize(
    ("wall", "elapsed", "boot", "expired"),
    [
        (100, 100, "first", True),
        (99, 100, "first", False),
        (100, 99, "first", False),
        (86400, 5, "first", False),  # the clock was set forward
        (-86400, 100, "first", False),  # or back
        (500, -20, "second", False),  # 30 s after a reboot: a full ttl runs anew
        (500, 50, "second", True),
    ],
)
def test_expiry_needs_both_clocks(
    registry: Registry, claims: Claims, clock: Clock, wall: int, elapsed: int, boot: str, expired: bool
) -> None:
    claim = claims.take(wanted(), there)
    clock.wall, clock.elapsed, clock.boot = clock.wall + wall, clock.elapsed + elapsed, boot
    assert registry.change_counts(clock()).left == claim.left(clock()), "a service is woken when it expires"

    registry.expire_claims(clock())

    assert claims.find(claim.id).state is (ClaimState.EXPIRED if expired else ClaimState.CLAIMED)


def test_a_claim_without_a_ttl_never_expires(registry: Registry, claims: Claims, clock: Clock) -> None:
    claim = claims.take(wanted(ttl=0.0), there)
    assert registry.change_counts(clock()).left == float("inf")
    clock.pass_(1e9)
    registry.expire_claims(clock())

    assert claims.find(claim.id).state is ClaimState.CLAIMED


def test_a_renewed_claim_lasts_longer_and_an_expired_one_can_not_be_renewed(claims: Claims, clock: Clock) -> None:
    claim = claims.take(wanted(), there)
    clock.pass_(99)
    assert claims.renew(claim.id, ALICE).expires == clock.wall + 100
    clock.pass_(99)
    assert claims.renew(claim.id, ALICE, 10.0).expires == clock.wall + 10
    clock.pass_(10)

    with pytest.raises(ClaimEnded, match="is expired"):
        claims.renew(claim.id, ALICE)


def test_a_used_snapshot_is_recycled_on_request_and_a_claimed_one_is_not(claims: Claims) -> None:
    claim = claims.take(wanted(name="web-1"), there)
    with pytest.raises(Busy, match="is claimed"):
        claims.recycle(snapshot("web-1"), ROOT)
    claims.release(claim.id, ALICE)

    assert claims.recycle(snapshot("web-1"), ROOT).state is ClaimState.RECYCLING
    assert claims.recycle(snapshot("web-0"), ROOT).state is ClaimState.RECYCLING
    with pytest.raises(NoneReady):
        claims.take(wanted(name="web-0"), there)


def test_each_change_is_an_event_with_the_uid(registry: Registry, claims: Claims, clock: Clock) -> None:
    claim = claims.take(wanted(holder="job 7"), there)
    claims.release(claim.id, ALICE)
    claims.take(wanted(ttl=5.0), there)
    clock.pass_(5)
    registry.expire_claims(clock())

    reasons = [event.reason for event in registry.events()]
    assert reasons == ["Claimed", "ClaimReleased", "Claimed", "ClaimExpired"]
    assert registry.events()[0].message.startswith(f"claim {claim.id} of job 7, uid 1000, until 2001-09-09T")


def test_threads_and_processes_that_claim_at_once_get_different_snapshots(registry: Registry, tmp_path: Path) -> None:
    registry.apply([SnapshotMade(snapshot(f"more-{n}")) for n in range(100)])
    names = {f"more-{n}": 60.0 for n in range(100)}
    found: list[Claim] = []

    def claim_many() -> None:
        with Claims.open(registry.path) as claims:
            found.extend(claims.take(replace(wanted(), ttls=names), there) for _ in range(25))

    threads = [threading.Thread(target=claim_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claim.name for claim in found) == sorted(names)


def test_one_that_fails_leaves_no_transaction_open(claims: Claims) -> None:
    with pytest.raises(NoneReady):
        claims.take(replace(wanted(), ttls={}), there)

    assert claims.take(wanted(), there)


def test_many_are_committed_together(registry: Registry, claims: Claims) -> None:
    before = registry.serial
    with claims.together():
        for _ in NAMES:
            claims.take(wanted(), there)

    assert registry.serial == before + 1
    assert len(registry.claims()) == 4


def test_the_size_of_a_claim_is_that_of_its_snapshot(registry: Registry, claims: Claims) -> None:
    registry.apply([VolumeSealed(VolumeRow("default", "new", None, 4096, (), "id"))])
    registry.apply([SnapshotMade(replace(snapshot("web-1"), size=8192))])

    assert claims.recorded(claims.take(wanted(name="web-0"), there))[:2] == (4096, 0)
    assert claims.recorded(claims.take(wanted(name="web-1"), there))[:2] == (8192, 0)
