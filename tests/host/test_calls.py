"""Blocking calls: one at most on a resource, and nobody waits longer than it wants to."""

from __future__ import annotations

import threading

import pytest

from reconciler.errors import HostCannot
from reconciler.host.calls import Call, Calls, Unanswered
from tests.support.no_threads import no_threads


def test_a_call_that_hangs_holds_its_resource_and_nothing_else() -> None:
    calls, release = Calls(), threading.Event()

    found = calls.gather({"dead": lambda: str(release.wait(20)), "alive": lambda: "here"}, 0.2)

    assert isinstance(found["dead"], Unanswered)
    assert isinstance(found["alive"], Call)
    assert found["alive"].result() == "here"
    assert calls.begin("dead", lambda: "again") is None, "no second call while the first is out"
    assert [call.resource for call in calls.all_out()] == ["dead"]
    release.set()


def test_a_late_return_is_reported_once_the_resource_is_free() -> None:
    release, reported = threading.Event(), threading.Event()
    calls = Calls(on_late_return=reported.set)
    calls.gather({"slow": lambda: release.wait(20)}, 0.05)
    assert not reported.is_set()

    release.set()

    assert reported.wait(10)
    assert calls.begin("slow", lambda: True) is not None


def test_a_caller_with_a_result_can_call_again_at_once() -> None:
    """The resource is free before the result can be read."""
    calls = Calls()

    for _ in range(500):
        found = calls.gather({"pool": threading.get_ident}, 10)["pool"]
        assert isinstance(found, Call)


def test_an_error_is_raised_where_the_result_is_read() -> None:
    def fail() -> str:
        raise ValueError("odd")

    found = Calls().gather({"pool": fail}, 10)["pool"]

    assert isinstance(found, Call)
    with pytest.raises(ValueError, match="odd"):
        found.result()


def test_a_call_without_a_thread_fails_and_holds_nothing() -> None:
    calls = Calls()
    with no_threads():
        found = calls.gather({"pool": lambda: "here"}, 10)["pool"]

    assert isinstance(found, Call)
    with pytest.raises(HostCannot, match="can't start new thread"):
        found.result()
    assert calls.all_out() == []
    assert calls.begin("pool", lambda: "again") is not None
