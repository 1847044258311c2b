"""What a service does not try yet: after a failed run, after a success that changed nothing, and what depends on either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.controller.assess import Assessment
from reconciler.controller.executor import Done
from reconciler.controller.withheld import BETWEEN_REPEATS, Withheld
from reconciler.engine.definitions import BETWEEN_RUNS, Run, Status
from reconciler.host.machines import run_input
from reconciler.model import Action, Desired, Key, Kind, Observed, Plan, Verb

NOW = 1_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Withheld:
    return Withheld(clock, clock)


def action(because: str = "", chain: str = "c1") -> Action:
    return Action(Verb.CREATE, Kind.SNAPSHOT, "web-a", because, pool="default", chain=chain, image="web")


def assess(*actions: Action, retried: dict[str, float] | None = None) -> Assessment:
    return Assessment(Observed({}, {}, {}, {}), Plan(actions), Desired({}, {}), retried=retried or {})


def failed(of: Action, status: Status = Status.FAILED, wait: float = 30.0) -> dict[Key, Run]:
    machine, value = run_input(of)
    run = Run("1", machine, of.key, "pending", "", NOW, NOW, value, status=status, not_before=NOW + wait, reason="PoolFull")
    return {of.key: run}


def test_a_failed_run_holds_its_object_until_it_is_due(backoff: Withheld, clock: Clock) -> None:
    last = failed(action("first"))

    found = backoff.withheld(assess(action("again")), last, ())
    assert [done.reason for done in found.values()] == ["PoolFull"]
    assert backoff.next() == NOW + 30
    assert not backoff.withheld(assess(action(chain="c2")), last, ()), "another chain is another attempt"
    clock.now += 30
    assert not backoff.withheld(assess(action("again")), last, ()), "it is due"
    clock.now -= 86_400
    assert not backoff.withheld(assess(action("again")), last, ()), "the clock was set back"


def test_a_retry_counts_for_failures_that_are_older(backoff: Withheld) -> None:
    last = failed(action())

    assert not backoff.withheld(assess(action(), retried={"web": NOW + 1}), last, ())
    assert backoff.withheld(assess(action(), retried={"web": NOW - 1}), last, ())
    assert backoff.withheld(assess(action(), retried={"other": NOW + 1}), last, ())


def test_a_run_that_needs_an_operator_waits_for_one(backoff: Withheld, clock: Clock) -> None:
    last = failed(action(), Status.NEEDS_OPERATOR, 0)
    clock.now += 1e6

    (done,) = backoff.withheld(assess(action()), last, ()).values()
    assert "reconcile retry image/web" in done.message
    assert backoff.next() == float("inf"), "no time ends that"


def test_what_comes_after_it_waits_as_long(backoff: Withheld) -> None:
    later = replace(action(), name="web-b", after=(action().key,))

    found = backoff.withheld(assess(action(), later), failed(action()), ())
    assert not found[later.key].tried
    assert not backoff.withheld(assess(action(), later), failed(action()), {action().key}), "it is under way"


def test_a_success_that_changes_nothing_is_repeated_once_and_then_less_and_less_often(backoff: Withheld, clock: Clock) -> None:
    waits = []
    for _ in range(14):
        backoff.learn(Done(action(), True))
        waits.append(0.0)
        while backoff.withheld(assess(action("still missing")), {}, ()):
            waits[-1] = backoff.next() - clock.now
            clock.now = backoff.next()

    assert waits == [0.0, *(min(BETWEEN_REPEATS.first * 2**n, BETWEEN_REPEATS.longest) for n in range(13))]
    backoff.withheld(assess(), {}, ())
    backoff.learn(Done(action(), True))
    assert not backoff.withheld(assess(action()), {}, ()), "the difference was gone in between"


def test_a_failure_without_a_run_waits_too(backoff: Withheld) -> None:
    """An error of ours before the run was opened, say."""
    backoff.learn(Done(action(), False, "InternalError", "KeyError"))

    assert backoff.withheld(assess(action()), {}, ())[action().key].reason == "InternalError"
    assert 0.8 * BETWEEN_RUNS.first <= backoff.next() - NOW <= 1.2 * BETWEEN_RUNS.first
    assert not backoff.withheld(assess(action(), retried={"web": NOW + 1}), {}, ())


def test_a_partial_plan_forgets_nothing_of_the_rest(backoff: Withheld) -> None:
    backoff.withheld(assess(action()), failed(action()), ())
    backoff.withheld(assess(), {}, (), whole=False)
    assert backoff.next() == NOW + 30
    backoff.withheld(assess(), {}, ())
    assert backoff.next() == float("inf")
