"""What the status of images takes from runs."""

from __future__ import annotations

from dataclasses import replace

from reconciler.engine.definitions import Run, Status
from reconciler.model import Key, Kind
from reconciler.status.image import under_way

NOW = 1_000.0
RUN = Run("1", "volume", Key(Kind.VOLUME, "fast", "abc"), "downloading", "", opened=NOW - 60, updated=NOW - 1)


def test_a_run_that_waits_for_its_next_attempt_is_not_under_way() -> None:
    assert under_way([RUN], NOW) == {RUN.subject: "downloading"}
    assert under_way([replace(RUN, attempt=1, not_before=NOW + 4)], NOW) == {}
    assert under_way([replace(RUN, attempt=1, not_before=NOW - 4)], NOW) == {RUN.subject: "downloading"}
    assert under_way([replace(RUN, status=Status.NEEDS_OPERATOR)], NOW) == {}
