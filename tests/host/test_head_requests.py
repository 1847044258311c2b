"""How often a source is asked, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.errors import SourceUnavailable
from reconciler.host.calls import Threads
from reconciler.host.head_requests import FAILED_SECONDS, Sources
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Source

ONE = Source("s3://bucket/one.tar")


class Clock(Threads):
    """Time that only the test moves, and threads that run at once."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def start(self, work: Callable[[], None], name: str) -> None:
        work()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_answer_serves_until_it_is_too_old(clock: Clock) -> None:
    asked: list[float] = []

    def ask(source: Source) -> Head:
        asked.append(clock.now)
        return Head("etag", 1)

    sources = Sources(300.0, ask=ask, threads=clock)
    for clock.now in (1000.0, 1001.0, 1299.0, 1301.0):
        sources.answers([ONE])

    assert asked == [1000.0, 1301.0]


def test_a_source_that_failed_is_asked_again_sooner(clock: Clock) -> None:
    asked: list[float] = []

    def ask(source: Source) -> Head:
        asked.append(clock.now)
        if len(asked) == 1:
            raise SourceUnavailable("down")
        return Head("etag", 1)

    sources = Sources(300.0, ask=ask, threads=clock)
    first = sources.answers([ONE])[ONE]
    clock.now += 1
    assert sources.answers([ONE])[ONE] is first, "not by every assessment"
    clock.now += FAILED_SECONDS

    assert sources.answers([ONE])[ONE] == Head("etag", 1)
    assert asked == [1000.0, 1001.0 + FAILED_SECONDS]


def test_a_retry_asks_again_what_was_asked_before_it(clock: Clock) -> None:
    asked: list[float] = []

    def ask(source: Source) -> Head:
        asked.append(clock.now)
        return Head("etag", 1)

    sources = Sources(300.0, ask=ask, threads=clock)
    sources.answers([ONE])
    clock.now += 10
    sources.forget_older([ONE], 20)
    sources.answers([ONE])
    assert len(asked) == 1, "it was asked after the retry"
    sources.forget_older([ONE], 5)
    sources.answers([ONE])

    assert len(asked) == 2
