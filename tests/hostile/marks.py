"""Cases as parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hostile.case import Case

SECONDS, SLOW_SECONDS = 10, 60
"""After which a test has hung: the guard, not a measure."""


def marked(case: Case, *, slow: bool = False) -> Any:
    """``slow`` adds to what is slow by itself."""
    marks = [pytest.mark.timeout(SLOW_SECONDS if case.slow else SECONDS)]
    if case.slow or slow:
        marks.append(pytest.mark.slow)
    if case.flaw:
        marks.append(pytest.mark.xfail(strict=True, reason=case.flaw))
    return pytest.param(case, id=case.name, marks=marks)
